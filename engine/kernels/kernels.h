/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - the inner loops, compiled for several CPUs and chosen once: plain C (the reference),
 * AVX2+FMA+F16C, AVX-512 F/BW/DQ/VL.
 *
 * The environment variable KVE_CPU = scalar | avx2 | avx512 forces a level; one that this CPU
 * doesn't have falls back to the best that it has. Levels differ in the last bits of sums, so both
 * ends of a comparison bit for bit must use the same one.
 *
 * threads  pure functions on the caller's memory; choosing is safe from any thread
 * memory   none
 * time     none
 */
#ifndef KVE_KERNELS_H
#define KVE_KERNELS_H

#include <stdbool.h>

#include "quant.h"

#define KVE_GROUP_MAX 64u /* query heads that share one K/V head */

/* One query token against a run of keys of one K/V head, bf16 (or f32), through a block table. */
struct kve_attend {
    const unsigned char *k, *v; /* element (block 0, token 0, this head, dim 0) */
    const uint32_t *blocks;
    uint64_t block_stride, token_stride; /* bytes */
    uint32_t block_tokens;
    uint32_t first, last; /* positions first .. last-1 */
    bool f32;             /* K and V are floats */
    uint32_t fetch_bytes; /* of each row, ask the cache for so many: 0 if another head has */
    uint32_t fetch_ahead; /* for K, so many bytes on */
    uint32_t head_dim;
    uint32_t group;   /* query heads, 1 .. KVE_GROUP_MAX */
    const float *q;   /* [group][head_dim], already scaled */
    float *scores;    /* scratch, [group][last - first] */
    float *row;       /* scratch, [head_dim] */
    float *max, *sum; /* out, [group]: the largest score; sum of exp(score - max) */
    float *out;       /* out, [group][head_dim]: sum of exp(score - max) * v */
};

/* Rows of a matrix times several vectors. */
struct kve_product {
    const struct kve_matrix *w;
    uint32_t first, rows; /* rows first .. first+rows-1 of w */
    const float *x;       /* [n][w->cols] */
    uint32_t n;
    float *y; /* y[t * stride + i] is row first + i times vector t */
    size_t stride;
};

struct kve_kernels {
    const char *name;
    /* kve_dequantise(), the same bits */
    void (*dequantise)(kve_type type, const void *blocks, float *values, size_t count);
    /* y[0 .. rows-1] = rows first .. of w times x; a row's result doesn't depend on the others */
    void (*matvec)(const struct kve_matrix *w, uint32_t first, uint32_t rows, const float *x,
                   float *y);
    /* The same for several vectors, the same bits for each; a weight is widened once for up to
     * eight of them */
    void (*matvecs)(const struct kve_product *p);
    /* y = x / sqrt(mean(x^2) + eps) * w; y may be x */
    void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* gate = silu(gate) * up */
    void (*silu_mul)(float *gate, const float *up, size_t n);
    /* gate = gelu(gate) * up, with GELU's form by tanh */
    void (*gelu_mul)(float *gate, const float *up, size_t n);
    void (*to_bf16)(uint16_t *to, const float *from, size_t n);
    void (*from_bf16)(float *to, const uint16_t *from, size_t n);
    /* Scores to weights of an online softmax: s[i] = exp(s[i] - m) for i < valid, 0 up to n, with
     * m the largest seen so far, which goes to *max; *sum is brought along. Returns what earlier
     * outputs are to be multiplied by. *max starts at -INFINITY, *sum at 0. */
    float (*softmax_part)(float *s, uint32_t n, uint32_t valid, float *max, float *sum);
    void (*attend)(const struct kve_attend *a);
};

extern const struct kve_kernels kve_kernels_scalar;
extern const struct kve_kernels kve_kernels_avx2;
extern const struct kve_kernels kve_kernels_avx512;

/* The best for this CPU, KVE_CPU heeded; the same at every call. */
const struct kve_kernels *kve_kernels(void);
/* By name, for tests; NULL: not built in, or this CPU can't. */
const struct kve_kernels *kve_kernels_named(const char *name);

#endif
