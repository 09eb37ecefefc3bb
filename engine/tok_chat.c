/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_chat.c - messages into a prompt.
 *
 * A template is a program in Jinja. We run none: chatml is recognised by its text, and so is the
 * one thing in which chatml templates differ that matters, a system turn added when the messages
 * don't begin with one.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tok_impl.h"

static const char start[] = "<|im_start|>", end[] = "<|im_end|>";

static const char *find(struct kve_str in, const char *what)
{
    return memmem(in.at, in.bytes, what, strlen(what));
}

/* A line's end in a template: itself, or the two letters of its escape. */
static size_t line_end(const char *at, const char *stop)
{
    if (at < stop && *at == '\n')
        return 1;
    return stop - at >= 2 && at[0] == '\\' && at[1] == 'n' ? 2 : 0;
}

/*
 * The text of a system turn that stands in the template as it is: between its start and its end
 * lies nothing that a template would compute (a quote would end the literal, a brace the text).
 */
static struct kve_str literal_system(struct kve_str text)
{
    const char *const stop = text.at + text.bytes;
    const struct kve_str none = {NULL, 0};

    for (;;) {
        const char *at = find(text, "<|im_start|>system");

        if (at == NULL)
            return none;
        at += strlen("<|im_start|>system");
        text = (struct kve_str){at, (uint64_t)(stop - at)};
        const size_t skip = line_end(at, stop);
        const char *last = find(text, end);
        if (skip == 0 || last == NULL)
            continue;
        at += skip;
        size_t plain = 0;
        while (at + plain < last && strchr("'\"{}\\", at[plain]) == NULL)
            ++plain;
        if (at + plain == last && plain > 0)
            return (struct kve_str){at, plain};
    }
}

kvw_err kve_chat_open(struct kve_chat *chat, struct kve_str text)
{
    *chat = (struct kve_chat){0};
    chat->chatml = find(text, start) != NULL && find(text, "<|im_sep|>") == NULL;
    if (!chat->chatml)
        return KVW_OK;
    const struct kve_str system = literal_system(text);
    if (system.at == NULL)
        return KVW_OK;
    chat->system = malloc(system.bytes + 1);
    if (chat->system == NULL)
        return KVW_E_NOMEM;
    memcpy(chat->system, system.at, system.bytes);
    chat->system[system.bytes] = '\0';
    return KVW_OK;
}

void kve_chat_close(struct kve_chat *chat)
{
    free(chat->system);
    *chat = (struct kve_chat){0};
}

/* One turn, appended at *at; with out NULL, only measured. */
static void turn(char *out, size_t *at, const char *role, const char *content)
{
    const char *const parts[] = {start, role, "\n", content, end, "\n"};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); ++i) {
        const size_t n = strlen(parts[i]);
        if (out != NULL)
            memcpy(out + *at, parts[i], n);
        *at += n;
    }
}

/* The whole prompt into out, or with NULL its length. */
static size_t chatml(char *out, const struct kve_chat *chat,
                     const struct kve_chat_message *messages, size_t count)
{
    static const char answer[] = "<|im_start|>assistant\n";
    size_t at = 0;

    if (count > 0 && chat->system != NULL && strcmp(messages[0].role, "system") != 0)
        turn(out, &at, "system", chat->system);
    for (size_t i = 0; i < count; ++i)
        turn(out, &at, messages[i].role, messages[i].content);
    if (out != NULL)
        memcpy(out + at, answer, sizeof(answer));
    return at + sizeof(answer) - 1;
}

kvw_err kve_tok_chat(const struct kve_tok *t, const struct kve_chat_message *messages, size_t count,
                     char **text, char why[KVE_WHY_BYTES])
{
    const struct kve_chat *chat = kve_tok_chat_of(t);

    if (!chat->chatml) {
        snprintf(why, KVE_WHY_BYTES,
                 "tokenizer.chat_template is missing or not chatml, the one format known");
        return KVW_E_UNSUPPORTED;
    }
    char *out = malloc(chatml(NULL, chat, messages, count) + 1);
    if (out == NULL) {
        snprintf(why, KVE_WHY_BYTES, "no memory for a prompt of %zu messages", count);
        return KVW_E_NOMEM;
    }
    chatml(out, chat, messages, count);
    *text = out;
    return KVW_OK;
}
