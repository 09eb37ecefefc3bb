/* SPDX-License-Identifier: Apache-2.0 */
/* tok_render.c - what each known template makes of messages. tests/oracle/templates.py runs the
 * templates themselves beside it. */
#include "tok_render.h"

#include <stdlib.h>

void kve_text_put(struct kve_text *t, const char *text, size_t bytes)
{
    if (t->failed)
        return;
    if (bytes > t->room - t->bytes) {
        const size_t room = 2 * t->room + bytes + 256;
        char *at = realloc(t->at, room);

        if (at == NULL) {
            t->failed = true;
            return;
        }
        t->at = at;
        t->room = room;
    }
    memcpy(t->at + t->bytes, text, bytes);
    t->bytes += bytes;
}

static void put(struct kve_text *t, const char *text)
{
    kve_text_put(t, text, strlen(text));
}

static void put_str(struct kve_text *t, struct kve_str s)
{
    kve_text_put(t, s.at, s.bytes);
}

static struct kve_str str(const char *text)
{
    return (struct kve_str){text, strlen(text)};
}

static bool is(const struct kve_chat_message *m, const char *role)
{
    return strcmp(m->role, role) == 0;
}

/* ---- chatml ---- */

static void open_turn(struct kve_text *out, const char *role)
{
    put(out, "<|im_start|>");
    put(out, role);
    put(out, "\n");
}

static void turn(struct kve_text *out, const char *role, struct kve_str content)
{
    open_turn(out, role);
    put_str(out, content);
    put(out, "<|im_end|>\n");
}

const char *kve_render_chatml(struct kve_text *out, const char *system,
                              const struct kve_chat_messages *m)
{
    if (m->count > 0 && system != NULL && !is(&m->at[0], "system"))
        turn(out, "system", str(system));
    for (size_t i = 0; i < m->count; ++i)
        turn(out, m->at[i].role, str(m->at[i].content));
    open_turn(out, "assistant");
    return NULL;
}

/* Answers of tools that follow one another are one turn of the user's. */
static void tool_turn(struct kve_text *out, const struct kve_chat_messages *m, size_t i)
{
    if (i == 0 || !is(&m->at[i - 1], "tool"))
        put(out, "<|im_start|>user");
    put(out, "\n<tool_response>\n");
    put(out, m->at[i].content);
    put(out, "\n</tool_response>");
    if (i + 1 == m->count || !is(&m->at[i + 1], "tool"))
        put(out, "<|im_end|>\n");
}

static const char no_messages[] = "there are none";

const char *kve_render_qwen25(struct kve_text *out, const char *system,
                              const struct kve_chat_messages *m)
{
    if (m->count == 0)
        return no_messages;
    if (is(&m->at[0], "system") || system != NULL)
        turn(out, "system", str(is(&m->at[0], "system") ? m->at[0].content : system));
    for (size_t i = 0; i < m->count; ++i) {
        const struct kve_chat_message *one = &m->at[i];

        if (is(one, "user") || is(one, "assistant") || (is(one, "system") && i > 0))
            turn(out, one->role, str(one->content));
        else if (is(one, "tool"))
            tool_turn(out, m, i);
    }
    open_turn(out, "assistant");
    return NULL;
}

/* ---- qwen3 ---- */

static struct kve_str strip_lines(struct kve_str s, bool left, bool right)
{
    for (; left && s.bytes > 0 && s.at[0] == '\n'; ++s.at)
        --s.bytes;
    while (right && s.bytes > 0 && s.at[s.bytes - 1] == '\n')
        --s.bytes;
    return s;
}

/* What lies before the first, or behind the last, of the words in s; s if they aren't there. */
static struct kve_str part(struct kve_str s, const char *words, bool before)
{
    const size_t n = strlen(words);
    const char *at = memmem(s.at, s.bytes, words, n);

    if (at == NULL)
        return s;
    if (before)
        return (struct kve_str){s.at, (uint64_t)(at - s.at)};
    while (at != NULL) {
        const char *const behind = at + n;

        s = (struct kve_str){behind, s.bytes - (uint64_t)(behind - s.at)};
        at = memmem(s.at, s.bytes, words, n);
    }
    return s;
}

static bool is_tool_answer(const char *content)
{
    static const char begin[] = "<tool_response>", end[] = "</tool_response>";
    const size_t n = strlen(content), tail = sizeof(end) - 1;

    return strncmp(content, begin, sizeof(begin) - 1) == 0 && n >= tail &&
           strcmp(content + n - tail, end) == 0;
}

/* The last message that is a user's question; the last of all if there is none. */
static size_t last_query(const struct kve_chat_messages *m)
{
    for (size_t i = m->count; i-- > 0;)
        if (is(&m->at[i], "user") && !is_tool_answer(m->at[i].content))
            return i;
    return m->count - 1;
}

/* Thoughts are kept behind the last question only. */
static void thinking_turn(struct kve_text *out, const struct kve_chat_messages *m, size_t i,
                          size_t query)
{
    struct kve_str content = str(m->at[i].content), thoughts = {"", 0};

    if (strstr(content.at, "</think>") != NULL) {
        thoughts = strip_lines(part(content, "</think>", true), false, true);
        thoughts = strip_lines(part(thoughts, "<think>", false), true, false);
        content = strip_lines(part(content, "</think>", false), true, false);
    }
    open_turn(out, "assistant");
    if (i > query && (i + 1 == m->count || thoughts.bytes > 0)) {
        put(out, "<think>\n");
        put_str(out, strip_lines(thoughts, true, true));
        put(out, "\n</think>\n\n");
        content = strip_lines(content, true, false);
    }
    put_str(out, content);
    put(out, "<|im_end|>\n");
}

const char *kve_render_qwen3(struct kve_text *out, const char *system,
                             const struct kve_chat_messages *m)
{
    (void)system;
    if (m->count == 0)
        return no_messages;

    const size_t query = last_query(m);

    for (size_t i = 0; i < m->count; ++i) {
        const struct kve_chat_message *one = &m->at[i];

        if (is(one, "user") || is(one, "system"))
            turn(out, one->role, str(one->content));
        else if (is(one, "assistant"))
            thinking_turn(out, m, i, query);
        else if (is(one, "tool"))
            tool_turn(out, m, i);
    }
    open_turn(out, "assistant");
    return NULL;
}

/* ---- gemma, llama3 ---- */

/* What Python's strip() takes away. */
static bool is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static struct kve_str trimmed(const char *text)
{
    struct kve_str s = str(text);
    uint64_t end = 0;
    uint32_t cp;
    size_t n;

    while (s.bytes > 0 && (n = kve_utf8_get(s.at, s.bytes, &cp)) > 0 && is_space(cp)) {
        s.at += n;
        s.bytes -= n;
    }
    for (uint64_t at = 0; at < s.bytes; at += n) {
        n = kve_utf8_get(s.at + at, s.bytes - at, &cp);
        if (n == 0 || !is_space(cp))
            end = at + (n == 0 ? 1 : n);
        n = n == 0 ? 1 : n;
    }
    s.bytes = end;
    return s;
}

const char *kve_render_gemma(struct kve_text *out, const char *system,
                             const struct kve_chat_messages *m)
{
    const size_t first = m->count > 0 && is(&m->at[0], "system") ? 1 : 0;

    (void)system;
    if (m->count == 0)
        return no_messages;
    for (size_t i = first; i < m->count; ++i) {
        const struct kve_chat_message *one = &m->at[i];

        if (is(one, "user") != ((i - first) % 2 == 0))
            return "the user and the assistant must take turns, the user first";
        put(out, "<start_of_turn>");
        put(out, is(one, "assistant") ? "model" : one->role);
        put(out, "\n");
        if (i == first && first == 1) {
            put(out, m->at[0].content);
            put(out, "\n\n");
        }
        put_str(out, trimmed(one->content));
        put(out, "<end_of_turn>\n");
    }
    put(out, "<start_of_turn>model\n");
    return NULL;
}

const char *kve_render_llama3(struct kve_text *out, const char *system,
                              const struct kve_chat_messages *m)
{
    (void)system;
    for (size_t i = 0; i < m->count; ++i) {
        put(out, "<|start_header_id|>");
        put(out, m->at[i].role);
        put(out, "<|end_header_id|>\n\n");
        put_str(out, trimmed(m->at[i].content));
        put(out, "<|eot_id|>");
    }
    put(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return NULL;
}
