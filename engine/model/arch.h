/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch.h - the table of architectures. They share the configuration's common keys (config.c), the
 * tensors (weights.c) and a layer (layer.c), which do what the numbers say; an architecture is what
 * it has beside a llama. A new one is a file like qwen2.c, a line in arch.c, and rules for its keys
 * in ../gguf/keys.c.
 *
 * threads  read-only tables
 * memory   static
 * time     none
 */
#ifndef KVE_ARCH_H
#define KVE_ARCH_H

#include "opening.h"
#include "run_scratch.h"

/* Tensors of a layer that a llama hasn't. Each layer has them all, and no others. */
enum kve_part {
    KVE_PART_BIAS = 1,      /* attn_q.bias, attn_k.bias, attn_v.bias */
    KVE_PART_QK_NORM = 2,   /* attn_q_norm, attn_k_norm */
    KVE_PART_POST_NORM = 4, /* post_attention_norm, post_ffw_norm */
};

struct kve_arch {
    const char *name; /* as general.architecture has it; its keys begin with it and a dot */
    uint32_t parts;   /* of enum kve_part */
    bool rope_halves; /* see struct kve_model_config */
    bool rope_freqs;  /* a tensor rope_freqs.weight is read */
    bool gelu;
    bool windows; /* finish() honours attention.sliding_window; else one that cuts is refused */
    /* What the common keys don't say, once they and the weights have been read: windows, scales,
     * caps, a second rotation. NULL: nothing. */
    kvw_err (*finish)(const struct kve_opening *o);
};

extern const struct kve_arch *const kve_archs[]; /* ends with NULL */

/* The one that the file names. KVW_E_FORMAT; KVW_E_UNSUPPORTED, with a sentence in why that lists
 * those that there are. */
KVW_NODISCARD kvw_err kve_arch_of(const struct kve_arch **arch, const struct kve_gguf *g,
                                  char why[KVE_WHY_BYTES]);

/* ---- config.c ---- */

/* Fill o->m->config, but for vocab; refuse what a layer doesn't do. */
KVW_NODISCARD kvw_err kve_config_read(const struct kve_opening *o);
/* The speeds of rotation `rope`: base^(-2i/rope_dims), over the file's own divisors where there is
 * such a tensor, over scale. KVW_E_FORMAT, KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_config_rope(const struct kve_opening *o, uint32_t rope, float base,
                                      float scale);

/* ---- weights.c ---- */

/* Fill the rest of *o->m and config.vocab; refuse tensors that nobody would use. What was allocated
 * before an error is kve_model_close()'s. */
KVW_NODISCARD kvw_err kve_weights_find(const struct kve_opening *o);

/* ---- layer.c ---- */

/* K and V of the chunk, from r->x, into the cache, and the queries of tokens from .. count-1 into
 * r->q. Attention follows, from r->q into r->q. */
void kve_layer_begin(struct kve_pass *p, uint32_t from);
/* Attention's output and what follows it, added to r->x of tokens first .. first+tokens-1. */
void kve_layer_end(struct kve_pass *p, uint32_t first, uint32_t tokens);

#endif
