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

/* body_matvec() of each vector: a piece of a row is dequantised once for all of them. */
static inline void body_matvecs(const struct kve_product *p)
{
    const struct kve_matrix *w = p->w;
    const uint64_t piece_bytes = w->row_bytes * BODY_PIECE / w->cols;
    float piece[BODY_PIECE];

    for (uint32_t r = 0; r < p->rows; ++r) {
        const unsigned char *at = kve_matrix_row(w, p->first + r);

        body_look_ahead(at, w->row_bytes);
        for (uint32_t t = 0; t < p->n; ++t)
            p->y[t * p->stride + r] = 0;
        for (uint32_t c = 0; c < w->cols; c += BODY_PIECE, at += piece_bytes) {
            const uint32_t n = w->cols - c < BODY_PIECE ? w->cols - c : BODY_PIECE;

            quant_values(w->type, at, piece, n);
            for (uint32_t t = 0; t < p->n; ++t)
                p->y[t * p->stride + r] += body_dot(piece, p->x + (size_t)t * w->cols + c, n);
        }
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

/* (1 + tanh(u)) / 2 is 1 / (1 + e^(-2u)), with u = sqrt(2/pi) (g + 0.044715 g^3). */
#define GELU_LINEAR -1.5957691216057308f
#define GELU_CUBIC  (GELU_LINEAR * 0.044715f)

static inline void body_gelu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;

    for (; i + KVE_VL <= n; i += KVE_VL) {
        const vf g = vf_load(gate + i);
        const vf e = vf_exp(g * (GELU_LINEAR + GELU_CUBIC * g * g));

        vf_store(gate + i, g / (1.0f + e) * vf_load(up + i));
    }
    for (; i < n; ++i) {
        const float g = gate[i];

        gate[i] = g / (1.0f + expf(g * (GELU_LINEAR + GELU_CUBIC * g * g))) * up[i];
    }
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

#endif
