/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_body.h - every kernel in plain vector C. A kernels_*.c sets KVE_VL, includes this, puts
 * its own faster versions in place where it has them, and fills a struct kve_kernels.
 */
#ifndef KVE_KERNELS_BODY_H
#define KVE_KERNELS_BODY_H

#include <math.h>

#include "kernels.h"
#include "quant_body.h"
#include "vec.h"

/* Values that are dequantised at a time: whole blocks of every type, and little enough for L1. */
#define BODY_PIECE 256u

/* Rows come from a file's map in small pages, where the hardware stops looking ahead at each page's
 * end; so ask for what is BODY_AHEAD bytes on. Past the end of the map this does nothing. */
#define BODY_AHEAD 4096u

static inline void body_look_ahead(const unsigned char *w, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(w + BODY_AHEAD + i);
}

static inline float body_dot(const float *a, const float *b, uint32_t n)
{
    vf acc[4] = {{0}, {0}, {0}, {0}};
    uint32_t i = 0;
    float sum;

    for (; i + 4 * KVE_VL <= n; i += 4 * KVE_VL) {
        for (uint32_t j = 0; j < 4; ++j)
            acc[j] += vf_load(a + i + j * KVE_VL) * vf_load(b + i + j * KVE_VL);
    }
    for (; i + KVE_VL <= n; i += KVE_VL)
        acc[0] += vf_load(a + i) * vf_load(b + i);
    sum = vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; i < n; ++i)
        sum += a[i] * b[i];
    return sum;
}

static inline void body_dequantise(kve_type type, const void *blocks, float *values, size_t count)
{
    quant_values(type, blocks, values, count);
}

static inline void body_matvec(const struct kve_matrix *w, uint32_t first, uint32_t rows,
                               const float *x, float *y)
{
    const uint64_t piece_bytes = w->row_bytes * BODY_PIECE / w->cols;
    float piece[BODY_PIECE];

    for (uint32_t r = 0; r < rows; ++r) {
        const unsigned char *p = kve_matrix_row(w, first + r);
        float sum = 0;

        body_look_ahead(p, w->row_bytes);
        for (uint32_t c = 0; c < w->cols; c += BODY_PIECE, p += piece_bytes) {
            const uint32_t n = w->cols - c < BODY_PIECE ? w->cols - c : BODY_PIECE;

            quant_values(w->type, p, piece, n);
            sum += body_dot(piece, x + c, n);
        }
        y[r] = sum;
    }
}

static inline void body_rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps)
{
    const float scale = 1.0f / sqrtf(body_dot(x, x, n) / (float)n + eps);

    for (uint32_t i = 0; i < n; ++i)
        y[i] = x[i] * scale * w[i];
}

static inline void body_silu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;

    for (; i + KVE_VL <= n; i += KVE_VL) {
        const vf g = vf_load(gate + i);

        vf_store(gate + i, g / (1.0f + vf_exp(-g)) * vf_load(up + i));
    }
    for (; i < n; ++i)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static inline void body_to_bf16(uint16_t *to, const float *from, size_t n)
{
    size_t i = 0;

    for (; i + KVE_VL <= n; i += KVE_VL)
        vf_store_bf16(to + i, vf_load(from + i));
    for (; i < n; ++i)
        to[i] = kve_f32_to_bf16(from[i]);
}

static inline void body_from_bf16(float *to, const uint16_t *from, size_t n)
{
    size_t i = 0;

    for (; i + KVE_VL <= n; i += KVE_VL)
        vf_store(to + i, vf_load_bf16(from + i));
    for (; i < n; ++i)
        to[i] = kve_bf16_to_f32(from[i]);
}

static inline float body_max(const float *s, uint32_t n)
{
    float max = -INFINITY;
    uint32_t i = 0;

    if (n >= KVE_VL) {
        vf m = vf_load(s);

        for (i = KVE_VL; i + KVE_VL <= n; i += KVE_VL)
            m = vf_max(m, vf_load(s + i));
        for (int j = 0; j < KVE_VL; ++j)
            max = m[j] > max ? m[j] : max;
    }
    for (; i < n; ++i)
        max = s[i] > max ? s[i] : max;
    return max;
}

/* s = exp(s - max); returns the sum. */
static inline float body_exp_sum(float *s, uint32_t n, float max)
{
    vf sums = {0};
    uint32_t i = 0;
    float sum;

    for (; i + KVE_VL <= n; i += KVE_VL) {
        const vf e = vf_exp(vf_load(s + i) - max);

        vf_store(s + i, e);
        sums += e;
    }
    sum = vf_sum(sums);
    for (; i < n; ++i) {
        s[i] = expf(s[i] - max);
        sum += s[i];
    }
    return sum;
}

static inline float body_softmax_part(float *s, uint32_t n, uint32_t valid, float *max, float *sum)
{
    const float part_max = body_max(s, valid);
    const float new_max = part_max > *max ? part_max : *max;
    const float keep = valid == 0 ? 1.0f : expf(*max - new_max);

    if (valid > 0) {
        *sum = *sum * keep + body_exp_sum(s, valid, new_max);
        *max = new_max;
    }
    memset(s + valid, 0, (n - valid) * sizeof(*s));
    return keep;
}

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
