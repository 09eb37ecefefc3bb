/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_avx2.c - AVX2, FMA and F16C. What all CPUs share is in *_body.h; here are the
 * matrix-vector products of the 32-value types, as in kernels_avx512.c.
 */
#define KVE_VL 8

#include <immintrin.h>

#include "attend_body.h"
#include "kernels_body.h"

#define INLINE static inline __attribute__((always_inline))

/* A block's 32 values in order. */
struct values32 {
    __m256 v[4];
};

typedef struct values32 (*load32)(const uint8_t *block);

INLINE __m256 scale_at(const uint8_t *p)
{
    return _mm256_set1_ps(F16(quant_u16(p)));
}

/* Sixteen bytes, two halves of eight whole numbers, times d plus m; an m of -0 changes nothing. */
INLINE void widen16(__m128i bytes, __m256 d, __m256 m, __m256 *v)
{
    const __m256i low = _mm256_cvtepi8_epi32(bytes);
    const __m256i high = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));

    v[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), d, m);
    v[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), d, m);
}

/* Nibbles, with bit i of fifth added as 16 to value i, minus less, times d plus m. */
INLINE struct values32 load_nibbles(const uint8_t *nibbles, uint32_t fifth, int8_t less, __m256 d,
                                    __m256 m)
{
    const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)nibbles);
    const __m128i mask = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(q, mask), high = _mm_and_si128(_mm_srli_epi16(q, 4), mask);
    struct values32 r;

    if (fifth != 0) { /* byte i: all ones where bit i is set */
        const __m256i spread =
            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)fifth), spread);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        const __m256i add = _mm256_and_si256(set, _mm256_set1_epi8(16));

        low = _mm_or_si128(low, _mm256_castsi256_si128(add));
        high = _mm_or_si128(high, _mm256_extracti128_si256(add, 1));
    }
    widen16(_mm_sub_epi8(low, _mm_set1_epi8(less)), d, m, r.v);
    widen16(_mm_sub_epi8(high, _mm_set1_epi8(less)), d, m, r.v + 2);
    return r;
}

INLINE struct values32 load_q4_0(const uint8_t *b)
{
    return load_nibbles(b + 2, 0, 8, scale_at(b), _mm256_set1_ps(-0.0f));
}

INLINE struct values32 load_q4_1(const uint8_t *b)
{
    return load_nibbles(b + 4, 0, 0, scale_at(b), scale_at(b + 2));
}

INLINE struct values32 load_q5_0(const uint8_t *b)
{
    return load_nibbles(b + 6, quant_u32(b + 2), 16, scale_at(b), _mm256_set1_ps(-0.0f));
}

INLINE struct values32 load_q5_1(const uint8_t *b)
{
    return load_nibbles(b + 8, quant_u32(b + 4), 0, scale_at(b), scale_at(b + 2));
}

INLINE struct values32 load_q8_0(const uint8_t *b)
{
    const __m128i *q = (const __m128i *)(const void *)(b + 2);
    const __m256 d = scale_at(b), m = _mm256_set1_ps(-0.0f);
    struct values32 r;

    widen16(_mm_loadu_si128(q), d, m, r.v);
    widen16(_mm_loadu_si128(q + 1), d, m, r.v + 2);
    return r;
}

/* n rows side by side; a row's additions come in the same order whatever n is. */
INLINE void rows32(const uint8_t *w, uint64_t row_bytes, uint32_t n, uint32_t blocks,
                   uint32_t block_bytes, load32 load, const float *x, float *y)
{
    __m256 sum[2][2] = {{_mm256_setzero_ps(), _mm256_setzero_ps()},
                        {_mm256_setzero_ps(), _mm256_setzero_ps()}};

    for (uint32_t b = 0; b < blocks; ++b, x += 32) {
        for (uint32_t r = 0; r < n; ++r) {
            const struct values32 v = load(w + r * row_bytes + (size_t)b * block_bytes);

            for (int j = 0; j < 4; ++j)
                sum[r][j & 1] = _mm256_fmadd_ps(v.v[j], _mm256_loadu_ps(x + 8 * j), sum[r][j & 1]);
        }
    }
    for (uint32_t r = 0; r < n; ++r)
        y[r] = vf_sum((vf)_mm256_add_ps(sum[r][0], sum[r][1]));
}

INLINE void matvec32(const struct kve_matrix *w, uint32_t first, uint32_t rows,
                     uint32_t block_bytes, load32 load, const float *x, float *y)
{
    const uint8_t *p = kve_matrix_row(w, first);
    const uint32_t blocks = w->cols / 32;
    uint32_t r = 0;

    for (; r + 2 <= rows; r += 2, p += 2 * w->row_bytes) {
        body_look_ahead(p, 2 * w->row_bytes);
        rows32(p, w->row_bytes, 2, blocks, block_bytes, load, x, y + r);
    }
    if (r < rows)
        rows32(p, w->row_bytes, 1, blocks, block_bytes, load, x, y + r);
}

/* A row times vectors first .. first+m-1, m <= 4; its additions come in the order of rows32(). */
INLINE void row32(const struct kve_product *p, uint32_t row, uint32_t first, uint32_t m,
                  uint32_t block_bytes, load32 load)
{
    const uint8_t *w = kve_matrix_row(p->w, p->first + row);
    const float *x = p->x + (size_t)first * p->w->cols;
    const uint32_t blocks = p->w->cols / 32;
    __m256 sum[4][2];

    body_look_ahead(w, p->w->row_bytes);
    for (uint32_t t = 0; t < m; ++t)
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b, x += 32) {
        const struct values32 v = load(w + (size_t)b * block_bytes);

        for (uint32_t t = 0; t < m; ++t) {
            const float *at = x + (size_t)t * p->w->cols;

            for (int j = 0; j < 4; ++j)
                sum[t][j & 1] = _mm256_fmadd_ps(v.v[j], _mm256_loadu_ps(at + 8 * j), sum[t][j & 1]);
        }
    }
    for (uint32_t t = 0; t < m; ++t)
        p->y[(first + t) * p->stride + row] = vf_sum((vf)_mm256_add_ps(sum[t][0], sum[t][1]));
}

/* All rows of vectors first .. first+m-1. */
INLINE void some32(const struct kve_product *p, uint32_t first, uint32_t m, uint32_t block_bytes,
                   load32 load)
{
    for (uint32_t r = 0; r < p->rows; ++r)
        row32(p, r, first, m, block_bytes, load);
}

INLINE void matvecs32(const struct kve_product *p, uint32_t block_bytes, load32 load)
{
    uint32_t t = 0;

    for (; t + 4 <= p->n; t += 4)
        some32(p, t, 4, block_bytes, load);
    if (t + 2 <= p->n) {
        some32(p, t, 2, block_bytes, load);
        t += 2;
    }
    if (t < p->n)
        matvec32(p->w, p->first, p->rows, block_bytes, load, p->x + (size_t)t * p->w->cols,
                 p->y + t * p->stride);
}

INLINE void blocks32(const uint8_t *b, size_t count, uint32_t block_bytes, load32 load, float *y)
{
    for (size_t i = 0; i < count / 32; ++i) {
        const struct values32 v = load(b + i * block_bytes);

        for (int j = 0; j < 4; ++j)
            _mm256_storeu_ps(y + 32 * i + 8 * j, v.v[j]);
    }
}

#define KVE_LEVEL avx2
#include "kernels_table.h"
