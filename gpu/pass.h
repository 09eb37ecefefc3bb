/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pass.h - a model's forward pass on a GPU: which steps (steps.h) and which matrix products come
 * one after the other. It launches nothing itself: a struct kvg_runner does, on one stream, in the
 * order of the calls.
 *
 * A layer's K and V are in their pages when the runner is told written(), before its attention; and
 * wait() comes before attention reads what a pass before this one, or another process, has put
 * there.
 *
 * threads  a pass is one thread's at a time
 * memory   weights, scratch and pages are the caller's, reached by the GPU; scratch is one pass's
 *          until what was enqueued has run
 * time     enqueues only; nothing here waits
 */
#ifndef KVG_PASS_H
#define KVG_PASS_H

#include <stdbool.h>

#include "../kvwire/mem.h"
#include "blas.h"
#include "steps.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvg_step {
    KVG_STEP_EMBED,
    KVG_STEP_NORM,
    KVG_STEP_ATTEND_JOIN,
    KVG_STEP_TURN, /* these touch pages in bf16, */
    KVG_STEP_ATTEND,
    KVG_STEP_ATTEND_64,
    KVG_STEP_ATTEND_128,
    KVG_STEP_ATTEND_PART,
    KVG_STEP_TURN_E4M3, /* and the same number further on are those for fp8 */
    KVG_STEP_ATTEND_E4M3,
    KVG_STEP_ATTEND_64_E4M3,
    KVG_STEP_ATTEND_128_E4M3,
    KVG_STEP_ATTEND_PART_E4M3,
    KVG_STEP_GATE,
    KVG_STEP_PICK,
    KVG_STEPS,
};

/* A kernel's name, and the dynamic shared memory of a CTA. */
struct kvg_step_kernel {
    const char *name;
    uint32_t shared_bytes;
};
extern const struct kvg_step_kernel kvg_step_kernels[KVG_STEPS];

/* Who does it. Other than KVW_OK ends the pass with that. written and wait may be NULL. */
struct kvg_runner {
    void *arg;
    kvw_err (*launch)(void *arg, enum kvg_step step, uint32_t grid, const void *params);
    kvw_err (*multiply)(void *arg, const struct kvg_product *p);
    kvw_err (*written)(void *arg, uint32_t layer);
    kvw_err (*wait)(void *arg, uint32_t layer);
};

/* NULL where the architecture has none: biases, norms of heads, post norms. */
struct kvg_layer {
    const uint16_t *qkv;     /* [(heads + 2 * kv_heads) * dim][hidden] */
    const uint16_t *output;  /* [hidden][heads * dim] */
    const uint16_t *gate_up; /* [2 * ffn][hidden] */
    const uint16_t *down;    /* [hidden][ffn] */
    const float *attn_norm, *ffn_norm;
    const float *bias; /* of Q, K and V, as wide as they */
    const float *norm_q, *norm_k;
    const float *post_attn_norm, *post_ffn_norm;
    const float *turn; /* [context][pairs], cos and sin */
    uint32_t window;
    float k_scale, v_scale; /* of pages in fp8: a value is what is stored times that; above 0 */
};

struct kvg_model {
    uint32_t layers, hidden, heads, kv_heads, dim, ffn, vocab, pairs;
    bool halves, gelu;
    float eps, embd_scale, attn_scale, softcap;
    const uint16_t *embd;   /* [vocab][hidden] */
    const uint16_t *logits; /* [vocab][hidden]; may be embd */
    const float *output_norm;
    const struct kvg_layer *layer; /* [layers], the host's */
};

/* Of tokens_max tokens a pass and sequences of up to seq_tokens_max. */
struct kvg_scratch {
    float *x;                              /* [tokens][hidden] */
    float *wide;                           /* [tokens][kvg_pass_wide()] */
    uint16_t *q;                           /* [tokens][heads * dim] */
    uint16_t *half;                        /* [tokens][kvg_pass_half()] */
    float *part_max, *part_sum, *part_out; /* [kvg_pass_parts()], part_out times dim */
    uint32_t tokens_max, seq_tokens_max;
};

/* Values a token of scratch, at least. */
uint32_t kvg_pass_wide(const struct kvg_model *m);
uint32_t kvg_pass_half(const struct kvg_model *m);
uint32_t kvg_pass_parts(const struct kvg_model *m, uint32_t seq_tokens_max);

/* The next token of one of several sequences. */
struct kvg_row {
    const uint32_t *blocks; /* the GPU's */
    uint32_t first;         /* position */
};

struct kvg_pass {
    const struct kvg_model *m;
    const struct kvg_runner *runner;
    struct kvg_scratch scratch;
    const struct kvw_pool *pool; /* bf16 or fp8 e4m3 */
    const uint32_t *blocks;      /* the GPU's: ids of the sequence's blocks */
    const uint32_t *tokens;      /* the GPU's: count of them */
    uint32_t count;
    uint32_t first;             /* position of the first */
    const struct kvg_row *rows; /* [count], the host's: each token is another sequence's, and blocks
                                 * and first are there. NULL: all are of one */
    float *logits; /* [vocab] after the last token, and which is the largest; NULL: K and V only. Of
                    * rows: [count][vocab], [count] */
    uint32_t *token;
};

/*
 * Enqueue the pass. The last layer's attention and feed-forward are the last token's only, of rows
 * all tokens'.
 *   KVW_E_INVALID  no tokens, more than scratch is for, a pool or a head of another shape, a
 *                  scale of fp8 that isn't above 0
 *   others         the runner's
 */
KVW_NODISCARD kvw_err kvg_pass_run(const struct kvg_pass *p);

#ifdef __cplusplus
}
#endif
#endif
