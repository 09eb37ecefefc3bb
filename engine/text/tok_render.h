/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_render.h - messages into a prompt, by one function for each template that is known; for
 * tok_chat.c.
 *
 * threads  pure functions on the caller's memory    memory  a kve_text grows    time  none
 */
#ifndef KVE_TOK_RENDER_H
#define KVE_TOK_RENDER_H

#include "tok_impl.h"

/* A text that grows. The caller frees at. */
struct kve_text {
    char *at;
    size_t bytes, room;
    bool failed; /* out of memory; what was put since is lost */
};

void kve_text_put(struct kve_text *t, const char *text, size_t bytes);

/*
 * Append the prompt, without BOS, ending where the assistant's answer begins. system: the system
 * turn that the template adds by itself; NULL: none. NULL, or the reason for which the template
 * refuses such messages.
 */
typedef const char *kve_render(struct kve_text *out, const char *system,
                               const struct kve_chat_messages *m);

kve_render kve_render_chatml; /* all roles alike: SmolLM2, Qwen2, and plain ones */
kve_render kve_render_qwen25; /* tools' answers are a user's turn */
kve_render kve_render_qwen3;  /* and thoughts of earlier turns are left out */
kve_render kve_render_gemma;  /* the system's words begin the first user's turn */
kve_render kve_render_llama3;

#endif
