/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steps.h - the kernels that a model's forward pass is made of beside its matrix products, and what
 * each is given. pass.h puts them in order. Activations are floats where they are added up, bf16
 * where a product reads them; weights are bf16. K and V are bf16, or fp8 e4m3 for the kernels that
 * are named so: those are like their namesakes but for the pages, where a value is what is stored
 * times its tensor's scale.
 *
 * threads  plain data
 * memory   every pointer is reached by the GPU; what a step writes overlaps nothing that it reads,
 *          but where its comment says so
 * time     none
 */
#ifndef KVG_STEPS_H
#define KVG_STEPS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVG_STEP_THREADS 128u /* of a CTA of every step */
#define KVG_STEP_WARPS   (KVG_STEP_THREADS / 32)
#define KVG_DIM_MAX      256u /* of a head */
#define KVG_KEY_SEGMENT  64u  /* keys of a warp in decode's attention */
#define KVG_TILE_ROWS    64u  /* of a CTA in a prompt's: heads of queries */
#define KVG_TILE_KEYS    32u  /* that it takes at a time */

/* K and V of one layer, and where a sequence's tokens lie in them. */
struct kvg_paged {
    unsigned char *k, *v; /* of block 0, slot 0, head 0 */
    const uint32_t *blocks;
    uint64_t block_stride, token_stride, head_stride; /* bytes */
    uint32_t block_tokens;
};

/* kvg_embed, a CTA a token: x[t] = table[tokens[t]] * scale */
struct kvg_embed {
    const uint32_t *tokens;
    const uint16_t *table; /* [vocab][width] */
    float *x;              /* [tokens][width] */
    uint32_t width;
    float scale;
};

/*
 * kvg_norm, a CTA a row: x += add, each row of add normed before that if there is add_norm; then y
 * = x normed, unless y is NULL. A row normed is row / sqrt(mean(row^2) + eps) * norm.
 */
struct kvg_norm {
    float *x;              /* [rows][width] */
    const float *add;      /* [rows][width], or NULL: x stays */
    const float *add_norm; /* [width], or NULL */
    const float *norm;     /* [width] */
    uint16_t *y;           /* [rows][width], bf16 */
    uint32_t width;
    float eps;
};

/*
 * kvg_turn and kvg_turn_e4m3, a warp a head of a token: biases, norms of heads, rotation; then Q to
 * q, in bf16, and K and V to their places among the pages, in e4m3 to the nearest that there is,
 * +-448 times the scale at most. Grid: kvg_warps_grid().
 */
struct kvg_turn {
    const float *qkv;             /* [tokens][heads + 2 * kv_heads][dim] */
    const float *bias;            /* [heads + 2 * kv_heads][dim], or NULL */
    const float *norm_q, *norm_k; /* [dim], or NULL, both */
    const float *turn;            /* [position][pairs], cos and sin of each */
    uint16_t *q;                  /* [tokens][heads][dim] */
    struct kvg_paged kv;
    uint32_t tokens, first;                       /* first: position of token 0 */
    uint32_t heads, kv_heads, dim, pairs, halves; /* halves: pairs are (i, i + pairs) */
    float eps;
    float k_scale, v_scale; /* kvg_turn_e4m3's */
};

/*
 * kvg_attend_64 and kvg_attend_128, a CTA KVG_TILE_ROWS rows of one head of K and V: kvg_attend by
 * tensor cores, for heads of up to so many values, of which there are a multiple of 8, and pages
 * whose rows are aligned to 8 values. Grid: kvg_tiles_grid().
 *
 * kvg_attend, a warp a head of a query: causal attention over the pages, an online softmax, out in
 * bf16. kvg_attend_part, a warp a head and KVG_KEY_SEGMENT keys of one query: parts of that, which
 * kvg_attend_join, a warp a head, adds up.
 *
 * Of each but the last there is one for pages in e4m3: kvg_attend_e4m3, kvg_attend_64_e4m3 ..
 */
struct kvg_attend {
    const uint16_t *q; /* [tokens][heads][dim] */
    uint16_t *out;     /* as q; may be q */
    struct kvg_paged kv;
    uint32_t tokens, first; /* first: position of query 0 */
    uint32_t heads, group;  /* group: query heads that share one of K and V */
    uint32_t dim, window;   /* window: positions seen, the query's own included; 0: all */
    float scale, out_scale; /* of scores, and of V's sum: scales of pages in them */
    /* parts: of segment s and head h, part_max[s * heads + h], part_out[(s * heads + h) * dim] */
    float *part_max, *part_sum, *part_out;
};

/* kvg_gate, a thread a value: y[t][i] = activation(in[t][i]) * in[t][width + i] */
struct kvg_gate {
    const float *in; /* [tokens][2 * width] */
    uint16_t *y;     /* [tokens][width], bf16 */
    uint32_t tokens, width;
    uint32_t gelu; /* by tanh; else SiLU */
};

/* kvg_pick, a CTA a row: logits capped to cap * tanh(logit / cap) where cap isn't 0, in place;
 * *token = which is largest, the first of equals. */
struct kvg_pick {
    float *logits; /* [rows][count] */
    uint32_t *token;
    uint32_t count;
    float cap;
};

/* kvg_dequantise_TYPE, a thread a value: blocks as a GGUF has them to bf16. TYPE: f32, f16, q8_0,
 * q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k. */
struct kvg_dequantise {
    const unsigned char *from; /* of any alignment */
    uint16_t *to;
    uint64_t count; /* a multiple of the type's block */
};

static inline uint32_t kvg_warps_grid(uint32_t warps)
{
    return (warps + KVG_STEP_WARPS - 1) / KVG_STEP_WARPS;
}
static inline uint32_t kvg_tiles_grid(uint32_t tokens, uint32_t heads, uint32_t group)
{
    return (tokens * group + KVG_TILE_ROWS - 1) / KVG_TILE_ROWS * (heads / group);
}
static inline uint32_t kvg_threads_grid(uint64_t values)
{
    return (uint32_t)((values + KVG_STEP_THREADS - 1) / KVG_STEP_THREADS);
}

/* Dynamic shared memory of a CTA. */
#define KVG_NORM_SHARED      (4 * KVG_STEP_WARPS)
#define KVG_TURN_SHARED      (4 * KVG_STEP_WARPS * KVG_DIM_MAX)
#define KVG_ATTEND_SHARED    (4 * KVG_STEP_WARPS * (KVG_DIM_MAX + 32))
#define KVG_TILE_SHARED(dim) (2 * (KVG_TILE_KEYS * ((dim) + 8u) + (dim) * (KVG_TILE_KEYS + 8u)))
#define KVG_PICK_SHARED      (8 * KVG_STEP_WARPS)

#ifdef __cplusplus
}
#endif
#endif
