/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prompt.h - texts into a request's tokens, as the workers' model has them: its vocabulary, its
 * chat format, its context.
 *
 * threads  one
 * memory   a struct kve_prompts has the model file mapped until it is closed; a request's tokens
 *          are malloc'ed, kve_request_free() gives them back
 * time     none
 */
#ifndef KVE_PROMPT_H
#define KVE_PROMPT_H

#include "../gguf/gguf.h"
#include "../text/tok.h"
#include "request.h"

struct kve_prompts {
    struct kve_gguf *gguf; /* for its vocabulary; the workers map the weights */
    struct kve_tok *tok;
    uint32_t context;
};

/* Zeroed before; kve_prompts_close() is due in any case. An error of gguf.h or tok.h, with a
 * sentence in why. */
KVW_NODISCARD kvw_err kve_prompts_open(struct kve_prompts *p, const char *model_path,
                                       char why[KVE_WHY_BYTES]);
void kve_prompts_close(struct kve_prompts *p);

/* Does a prompt of count tokens leave room for an answer? KVW_E_INVALID with a sentence in why. */
KVW_NODISCARD kvw_err kve_prompt_fits(const struct kve_prompts *p, size_t count,
                                      char why[KVE_WHY_BYTES]);
/*
 * Tokens of a prompt into q->tokens and q->count. raw: as it is; otherwise one user turn of the
 * model's chat format, system (NULL: the model's own) before it.
 *   KVW_E_INVALID  it is empty or too long     and the errors of tok.h
 * with a sentence in why, if why was "".
 */
KVW_NODISCARD kvw_err kve_prompt_encode(const struct kve_prompts *p, const char *system,
                                        const char *text, bool raw, struct kve_request *q,
                                        char why[KVE_WHY_BYTES]);
/*
 * Tokens of a conversation, ending where the assistant's answer begins. What messages say is plain
 * text: control tokens come from the model's chat format alone. The length isn't checked.
 *   KVW_E_UNSUPPORTED  the format isn't known, or changes what messages say    and KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kve_prompt_chat(const struct kve_prompts *p,
                                      const struct kve_chat_message *messages, size_t count,
                                      struct kve_request *q, char why[KVE_WHY_BYTES]);
/* What is left of the context bounds the answer; asking for more is no error. */
void kve_prompt_clip(const struct kve_prompts *p, struct kve_request *q);

/* The text of --prompt-file, the caller's (free). NULL: a sentence on stderr has said why. */
char *kve_prompt_read_file(const char *path);

#endif
