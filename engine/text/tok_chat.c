/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_chat.c - which chat template a model has.
 *
 * A template is a program in Jinja. We run none: a template is one that is known, letter by letter,
 * or there is no chat. Known ones are told by a hash of their text. Two things may differ in it:
 * whether a line's end is itself or its escape, and what a system turn says that a template has as
 * a plain text, which is cut out before hashing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "tok_render.h"

#define TEMPLATE_MAX (1u << 16)

static const struct kind {
    uint64_t high, low; /* XXH3-128 of what is left of the template */
    const char *name;
    kve_render *render;
    bool bos; /* the template puts BOS before the first turn */
} kinds[] = {
    {0x214702a813e0fbed, 0x0d6850922b3e41b2, "chatml with a system turn", kve_render_chatml, false},
    {0xf0a6a8278439fdb0, 0x56191e205a440263, "chatml", kve_render_chatml, false},
    {0x40c69605e35ecaea, 0x154680ef3fdb59d9, "Qwen2.5", kve_render_qwen25, false},
    {0x39df3fa40a20c760, 0x5a33498785c53d45, "Qwen3", kve_render_qwen3, false},
    {0x24b726d4a5f4731b, 0x6d23022eb1773ed6, "Gemma 3", kve_render_gemma, true},
    {0x09facc0e4aa94318, 0x9799ad6e2dea0594, "Llama 3", kve_render_llama3, true},
};

static const char *find(struct kve_str in, const char *what)
{
    return memmem(in.at, in.bytes, what, strlen(what));
}

/*
 * The text of a system turn that stands in the template as it is: between its start and its end
 * lies nothing that a template would compute (a quote would end the literal, a brace the text).
 */
static struct kve_str literal_system(struct kve_str text)
{
    static const char begin[] = "<|im_start|>system\n";
    const char *const stop = text.at + text.bytes;
    const char *at, *last;

    while ((at = find(text, begin)) != NULL) {
        size_t plain = 0;

        at += strlen(begin);
        text = (struct kve_str){at, (uint64_t)(stop - at)};
        last = find(text, "<|im_end|>");
        while (last != NULL && at + plain < last && strchr("'\"{}\\", at[plain]) == NULL)
            ++plain;
        if (last != NULL && at + plain == last && plain > 0)
            return (struct kve_str){at, plain};
    }
    return (struct kve_str){NULL, 0};
}

/* Each escape of a line's end made one; returns the length. */
static size_t unescape(struct kve_str text, char *out)
{
    size_t n = 0;

    for (uint64_t i = 0; i < text.bytes; ++i) {
        const bool escape = text.at[i] == '\\' && i + 1 < text.bytes && text.at[i + 1] == 'n';

        out[n++] = escape ? '\n' : text.at[i];
        i += escape;
    }
    return n;
}

static const struct kind *kind_of(const struct kve_chat *chat)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i)
        if (kinds[i].high == chat->high && kinds[i].low == chat->low)
            return &kinds[i];
    return NULL;
}

kvw_err kve_chat_open(struct kve_chat *chat, struct kve_str text)
{
    char *plain = NULL;

    *chat = (struct kve_chat){.bytes = text.bytes};
    if (text.bytes == 0 || text.bytes > TEMPLATE_MAX)
        return KVW_OK;
    plain = malloc(text.bytes);
    if (plain == NULL)
        return KVW_E_NOMEM;

    size_t n = unescape(text, plain);
    const struct kve_str system = literal_system((struct kve_str){plain, n});

    if (system.at != NULL) {
        chat->system = malloc(system.bytes + 1);
        if (chat->system == NULL) {
            free(plain);
            return KVW_E_NOMEM;
        }
        memcpy(chat->system, system.at, system.bytes);
        chat->system[system.bytes] = '\0';
        char *at = plain + (system.at - plain);

        memmove(at, at + system.bytes, n - (size_t)(at - plain) - system.bytes);
        n -= system.bytes;
    }
    const XXH128_hash_t hash = XXH3_128bits(plain, n);

    chat->high = hash.high64;
    chat->low = hash.low64;
    free(plain);
    return KVW_OK;
}

void kve_chat_close(struct kve_chat *chat)
{
    free(chat->system);
    *chat = (struct kve_chat){0};
}

const char *kve_chat_name(const struct kve_chat *chat)
{
    const struct kind *kind = kind_of(chat);

    return kind == NULL ? NULL : kind->name;
}

static kvw_err refuse(const struct kve_chat *chat, char why[KVE_WHY_BYTES])
{
    if (chat->bytes == 0) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.chat_template is missing");
        return KVW_E_UNSUPPORTED;
    }
    int n = snprintf(why, KVE_WHY_BYTES,
                     "tokenizer.chat_template (%" PRIu64 " bytes, hash %016" PRIx64 "%016" PRIx64
                     ") is none that is known:",
                     chat->bytes, chat->high, chat->low);

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && n < KVE_WHY_BYTES; ++i)
        n += snprintf(why + n, (size_t)(KVE_WHY_BYTES - n), "%s %s", i == 0 ? "" : ",",
                      kinds[i].name);
    return KVW_E_UNSUPPORTED;
}

kvw_err kve_chat_prompt(const struct kve_chat *chat, struct kve_str bos,
                        const struct kve_chat_messages *m, char **text, char why[KVE_WHY_BYTES])
{
    const struct kind *kind = kind_of(chat);
    struct kve_text out = {0};

    if (kind == NULL)
        return refuse(chat, why);
    if (kind->bos && m->count > 0)
        kve_text_put(&out, bos.at, bos.bytes);

    const char *reason = kind->render(&out, chat->system, m);

    kve_text_put(&out, "", 1);
    if (reason == NULL && !out.failed) {
        *text = out.at;
        return KVW_OK;
    }
    free(out.at);
    if (out.failed) {
        snprintf(why, KVE_WHY_BYTES, "no memory for a prompt of %zu messages", m->count);
        return KVW_E_NOMEM;
    }
    snprintf(why, KVE_WHY_BYTES, "the chat template (%s) refuses the messages: %s", kind->name,
             reason);
    return KVW_E_INVALID;
}
