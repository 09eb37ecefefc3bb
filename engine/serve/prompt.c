/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - a prompt's text into the tokens of a request. */
#include "prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../model/arch.h"

#define CONTEXT_MAX (1u << 24)

kvw_err kve_prompts_open(struct kve_prompts *p, const char *model_path, char why[KVE_WHY_BYTES])
{
    const struct kve_arch *arch;
    char key[64];
    uint64_t context;
    kvw_err err = kve_gguf_open(&p->gguf, model_path, why);

    if (err == KVW_OK)
        err = kve_arch_of(&arch, p->gguf, why);
    if (err == KVW_OK)
        err = kve_tok_open(&p->tok, p->gguf, why);
    if (err != KVW_OK)
        return err;
    snprintf(key, sizeof(key), "%s.context_length", arch->name);
    if (kve_gguf_u64(p->gguf, key, &context) != KVW_OK || context < 2 || context > CONTEXT_MAX) {
        snprintf(why, KVE_WHY_BYTES, "%s: %s is missing or absurd", model_path, key);
        return KVW_E_FORMAT;
    }
    p->context = (uint32_t)context;
    return KVW_OK;
}

void kve_prompts_close(struct kve_prompts *p)
{
    kve_tok_close(p->tok);
    kve_gguf_close(p->gguf);
    *p = (struct kve_prompts){0};
}

kvw_err kve_prompt_fits(const struct kve_prompts *p, size_t count, char why[KVE_WHY_BYTES])
{
    if (count < p->context)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "the prompt has %zu tokens, the model's context is %u", count,
             p->context);
    return KVW_E_INVALID;
}

kvw_err kve_prompt_encode(const struct kve_prompts *p, const char *system, const char *text,
                          bool raw, struct kve_request *q, char why[KVE_WHY_BYTES])
{
    const struct kve_chat_message messages[2] = {
        {.role = "system", .content = system},
        {.role = "user", .content = text},
    };
    size_t count = 0;
    kvw_err err;

    if (raw)
        err = kve_tok_encode(p->tok, text, strlen(text), false, true, &q->tokens, &count);
    else
        err =
            kve_prompt_chat(p, messages + (system != NULL ? 0 : 1), system != NULL ? 2 : 1, q, why);
    if (raw)
        q->count = (uint32_t)count;
    else
        count = q->count;
    if (err == KVW_OK && count == 0) {
        snprintf(why, KVE_WHY_BYTES, "the prompt is empty");
        err = KVW_E_INVALID;
    }
    if (err == KVW_OK)
        err = kve_prompt_fits(p, count, why);
    if (err != KVW_OK && why[0] == '\0')
        snprintf(why, KVE_WHY_BYTES, "the prompt: %s", kvw_strerror(err));
    return err;
}

void kve_prompt_clip(const struct kve_prompts *p, struct kve_request *q)
{
    if (q->count < p->context && q->max_tokens > p->context - q->count)
        q->max_tokens = p->context - q->count;
}

char *kve_prompt_read_file(const char *path)
{
    const size_t max = 64u << 20;
    FILE *f = fopen(path, "rb");
    char *text = f != NULL ? malloc(max + 1) : NULL;
    size_t n = text != NULL ? fread(text, 1, max + 1, f) : 0;

    const char *nul = n > 0 && n <= max ? memchr(text, '\0', n) : NULL;

    if (f == NULL || text == NULL || ferror(f) || n > max) {
        fprintf(stderr, "kvserve: --prompt-file %s: %s\n", path,
                n > max ? "longer than 64 MiB" : strerror(errno));
        free(text);
        text = NULL;
    } else if (nul != NULL) {
        fprintf(stderr, "kvserve: --prompt-file %s: byte %zu: a NUL can't be part of a text\n",
                path, (size_t)(nul - text) + 1);
        free(text);
        text = NULL;
    } else {
        text[n] = '\0';
    }
    if (f != NULL)
        fclose(f);
    return text;
}
