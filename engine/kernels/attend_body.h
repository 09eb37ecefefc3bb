/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attend_body.h - one query token's attention over a run of keys, in plain vector C; goes with
 * kernels_body.h, which says how.
 */
#ifndef KVE_ATTEND_BODY_H
#define KVE_ATTEND_BODY_H

#include "kernels_body.h"

/* y += a x */
static inline void body_add_scaled(float *y, const float *x, float a, uint32_t n)
{
    uint32_t i = 0;

    for (; i + KVE_VL <= n; i += KVE_VL)
        vf_store(y + i, vf_load(y + i) + vf_load(x + i) * a);
    for (; i < n; ++i)
        y[i] += x[i] * a;
}

/* Where the K or V row of position p lies. */
static inline const uint16_t *body_row(const struct kve_attend *a, const unsigned char *base,
                                       uint32_t p)
{
    return (const uint16_t *)(const void *)(base +
                                            a->blocks[p / a->block_tokens] * a->block_stride +
                                            p % a->block_tokens * a->token_stride);
}

/* The row of position p + 1, given p's: mostly the next slot of the same block. */
static inline const uint16_t *body_next(const struct kve_attend *a, const unsigned char *base,
                                        uint32_t p, const uint16_t *row)
{
    if ((p + 1) % a->block_tokens != 0)
        return row + a->token_stride / sizeof(*row);
    return p + 1 < a->last ? body_row(a, base, p + 1) : row;
}

static inline void body_softmax(const struct kve_attend *a)
{
    const uint32_t n = a->last - a->first;

    for (uint32_t g = 0; g < a->group; ++g) {
        a->max[g] = body_max(a->scores + g * n, n);
        a->sum[g] = body_exp_sum(a->scores + g * n, n, a->max[g]);
    }
}

static inline void body_widen(const struct kve_attend *a, const uint16_t *row)
{
    if (a->f32)
        memcpy(a->row, row, a->head_dim * sizeof(*a->row));
    else
        body_from_bf16(a->row, row, a->head_dim);
}

/* Any head_dim and type: each row is widened into a->row first. */
static inline void body_attend_any(const struct kve_attend *a)
{
    const uint32_t n = a->last - a->first, dim = a->head_dim;
    const uint16_t *row = body_row(a, a->k, a->first);

    for (uint32_t i = 0; i < n; row = body_next(a, a->k, a->first + i, row), ++i) {
        body_widen(a, row);
        for (uint32_t g = 0; g < a->group; ++g)
            a->scores[g * n + i] = body_dot(a->q + g * dim, a->row, dim);
    }
    body_softmax(a);
    memset(a->out, 0, (size_t)a->group * dim * sizeof(*a->out));
    row = body_row(a, a->v, a->first);
    for (uint32_t i = 0; i < n; row = body_next(a, a->v, a->first + i, row), ++i) {
        body_widen(a, row);
        for (uint32_t g = 0; g < a->group; ++g)
            body_add_scaled(a->out + g * dim, a->row, a->scores[g * n + i], dim);
    }
}

#define BODY_INLINE static inline __attribute__((always_inline))

/* The next two do heads g .. g+heads-1 with everything in registers; heads and vectors (head_dim /
 * KVE_VL) are constants where they are called. */
BODY_INLINE void body_scores(const struct kve_attend *a, uint32_t g, const uint32_t heads,
                             const uint32_t vectors)
{
    const uint32_t n = a->last - a->first, dim = vectors * KVE_VL;
    const float *q = a->q + (size_t)g * dim;
    float *scores = a->scores + (size_t)g * n;
    const uint16_t *row = body_row(a, a->k, a->first);
    const uint16_t *value = body_row(a, a->v, a->first);

    for (uint32_t i = 0; i < n; row = body_next(a, a->k, a->first + i, row),
                  value = body_next(a, a->v, a->first + i, value), ++i) {
        for (uint32_t at = 0; g == 0 && at < a->fetch_bytes; at += 64) {
            __builtin_prefetch((const char *)value + at);
            __builtin_prefetch((const char *)row + a->fetch_ahead + at);
        }
        vf sum[4] = {{0}, {0}, {0}, {0}};

        for (uint32_t j = 0; j < vectors; ++j) {
            const vf k = vf_load_bf16(row + j * KVE_VL);

            for (uint32_t h = 0; h < heads; ++h)
                sum[h] += k * vf_load(q + h * dim + j * KVE_VL);
        }
        for (uint32_t h = 0; h < heads; ++h)
            scores[h * n + i] = vf_sum(sum[h]);
    }
}

BODY_INLINE void body_weigh(const struct kve_attend *a, uint32_t g, const uint32_t heads,
                            const uint32_t vectors)
{
    const uint32_t n = a->last - a->first, dim = vectors * KVE_VL;
    const float *weights = a->scores + (size_t)g * n;
    const uint16_t *row = body_row(a, a->v, a->first);
    vf out[4][128 / KVE_VL] = {0};

    for (uint32_t i = 0; i < n; row = body_next(a, a->v, a->first + i, row), ++i) {
        for (uint32_t j = 0; j < vectors; ++j) {
            const vf v = vf_load_bf16(row + j * KVE_VL);

            for (uint32_t h = 0; h < heads; ++h)
                out[h][j] += v * weights[h * n + i];
        }
    }
    for (uint32_t h = 0; h < heads; ++h) {
        for (uint32_t j = 0; j < vectors; ++j)
            vf_store(a->out + (g + h) * dim + j * KVE_VL, out[h][j]);
    }
}

BODY_INLINE void body_attend_vectors(const struct kve_attend *a, const uint32_t vectors)
{
    uint32_t g = 0;

    for (; g + 3 <= a->group; g += 3)
        body_scores(a, g, 3, vectors);
    for (; g < a->group; ++g)
        body_scores(a, g, 1, vectors);
    body_softmax(a);
    for (g = 0; g + 3 <= a->group; g += 3)
        body_weigh(a, g, 3, vectors);
    for (; g < a->group; ++g)
        body_weigh(a, g, 1, vectors);
}

static void body_attend(const struct kve_attend *a)
{
    switch (a->f32 ? 0 : a->head_dim) {
    case 64:
        body_attend_vectors(a, 64 / KVE_VL);
        break;
    case 128:
        body_attend_vectors(a, 128 / KVE_VL);
        break;
    default:
        body_attend_any(a);
        break;
    }
}

#endif
