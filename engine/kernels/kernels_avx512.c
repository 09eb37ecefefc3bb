/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_avx512.c - AVX-512 F, BW, DQ and VL. What all CPUs share is in *_body.h; here are the
 * matrix-vector products of the 32-value types, which is where decode spends its time.
 */
#define KVE_VL 16

#include <immintrin.h>

#include "attend_body.h"
#include "kernels_body.h"

/* A block's 32 values in order. */
struct values32 {
    __m512 low, high;
};

typedef struct values32 (*load32)(const uint8_t *block);

#define INLINE static inline __attribute__((always_inline))

INLINE __m512 iota(void)
{
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

INLINE __m512 scale_at(const uint8_t *p)
{
    return _mm512_set1_ps(F16(quant_u16(p)));
}

/* A table of the sixteen values that a nibble can stand for, looked up by the nibbles themselves:
 * the permutation heeds only the low four bits of an index. */
INLINE struct values32 look_up(const uint8_t *nibbles, __m512 table)
{
    const __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)nibbles));

    return (struct values32){_mm512_permutexvar_ps(q, table),
                             _mm512_permutexvar_ps(_mm512_srli_epi32(q, 4), table)};
}

INLINE struct values32 load_q4_0(const uint8_t *b)
{
    return look_up(b + 2, _mm512_mul_ps(_mm512_sub_ps(iota(), _mm512_set1_ps(8)), scale_at(b)));
}

INLINE struct values32 load_q4_1(const uint8_t *b)
{
    return look_up(b + 4, _mm512_fmadd_ps(iota(), scale_at(b), scale_at(b + 2)));
}

/* As look_up() with 32 values in two tables; bit i of high is value i's fifth. */
INLINE struct values32 look_up5(const uint8_t *nibbles, uint32_t high, __m512 table, __m512 table16)
{
    const __m512i nibble = _mm512_set1_epi32(15), bit = _mm512_set1_epi32(16);
    const __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)nibbles));
    const __m512i lo = _mm512_and_si512(q, nibble), hi = _mm512_srli_epi32(q, 4);

    return (struct values32){
        _mm512_permutex2var_ps(table, _mm512_mask_or_epi32(lo, (__mmask16)high, lo, bit), table16),
        _mm512_permutex2var_ps(table, _mm512_mask_or_epi32(hi, (__mmask16)(high >> 16), hi, bit),
                               table16)};
}

INLINE struct values32 load_q5_0(const uint8_t *b)
{
    const __m512 d = scale_at(b);

    return look_up5(b + 6, quant_u32(b + 2),
                    _mm512_mul_ps(_mm512_sub_ps(iota(), _mm512_set1_ps(16)), d),
                    _mm512_mul_ps(iota(), d));
}

INLINE struct values32 load_q5_1(const uint8_t *b)
{
    const __m512 d = scale_at(b), m = scale_at(b + 2);

    return look_up5(b + 8, quant_u32(b + 4), _mm512_fmadd_ps(iota(), d, m),
                    _mm512_fmadd_ps(_mm512_add_ps(iota(), _mm512_set1_ps(16)), d, m));
}

INLINE struct values32 load_q8_0(const uint8_t *b)
{
    const __m128i *q = (const __m128i *)(const void *)(b + 2);
    const __m512 d = scale_at(b);

    return (struct values32){
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q))), d),
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + 1))), d)};
}

/* n rows side by side, so that their chains of additions overlap and x is loaded once. A row's
 * additions come in the same order whatever n is. */
INLINE void rows32(const uint8_t *w, uint64_t row_bytes, uint32_t n, uint32_t blocks,
                   uint32_t block_bytes, load32 load, const float *x, float *y)
{
    __m512 low[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                     _mm512_setzero_ps()};
    __m512 high[4] = {low[0], low[0], low[0], low[0]};

    for (uint32_t b = 0; b < blocks; ++b, x += 32) {
        const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);

        for (uint32_t r = 0; r < n; ++r) {
            const struct values32 v = load(w + r * row_bytes + (size_t)b * block_bytes);

            low[r] = _mm512_fmadd_ps(v.low, x0, low[r]);
            high[r] = _mm512_fmadd_ps(v.high, x1, high[r]);
        }
    }
    for (uint32_t r = 0; r < n; ++r)
        y[r] = _mm512_reduce_add_ps(_mm512_add_ps(low[r], high[r]));
}

INLINE void matvec32(const struct kve_matrix *w, uint32_t first, uint32_t rows,
                     uint32_t block_bytes, load32 load, const float *x, float *y)
{
    const uint8_t *p = kve_matrix_row(w, first);
    const uint32_t blocks = w->cols / 32;
    uint32_t r = 0;

    for (; r + 4 <= rows; r += 4, p += 4 * w->row_bytes) {
        body_look_ahead(p, 4 * w->row_bytes);
        rows32(p, w->row_bytes, 4, blocks, block_bytes, load, x, y + r);
    }
    for (; r < rows; ++r, p += w->row_bytes)
        rows32(p, w->row_bytes, 1, blocks, block_bytes, load, x, y + r);
}

/* Where a tile of a product begins: at this row of its rows, at this vector. */
struct corner {
    const struct kve_product *p;
    uint32_t row, vector;
};

/* n rows times m vectors, n * m <= 8, so that all sums stay in registers. Each row's additions come
 * in the order of rows32(). */
INLINE void tile32(struct corner c, uint32_t n, uint32_t m, uint32_t block_bytes, load32 load)
{
    const struct kve_matrix *w = c.p->w;
    const uint8_t *at = kve_matrix_row(w, c.p->first + c.row);
    const float *x = c.p->x + (size_t)c.vector * w->cols;
    float *y = c.p->y + c.vector * c.p->stride + c.row;
    const uint32_t blocks = w->cols / 32;
    __m512 low[8], high[8];

    for (uint32_t i = 0; i < n * m; ++i)
        low[i] = high[i] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b, x += 32) {
        for (uint32_t r = 0; r < n; ++r) {
            const struct values32 v = load(at + r * w->row_bytes + (size_t)b * block_bytes);

            for (uint32_t t = 0; t < m; ++t) {
                const float *x0 = x + (size_t)t * w->cols;

                low[r * m + t] = _mm512_fmadd_ps(v.low, _mm512_loadu_ps(x0), low[r * m + t]);
                high[r * m + t] =
                    _mm512_fmadd_ps(v.high, _mm512_loadu_ps(x0 + 16), high[r * m + t]);
            }
        }
    }
    for (uint32_t i = 0; i < n * m; ++i)
        y[i % m * c.p->stride + i / m] = _mm512_reduce_add_ps(_mm512_add_ps(low[i], high[i]));
}

/* Vectors first .. first+m-1 of the product, n rows at a time. */
INLINE void tiles32(const struct kve_product *p, uint32_t first, uint32_t n, uint32_t m,
                    uint32_t block_bytes, load32 load)
{
    struct corner c = {p, 0, first};

    for (; c.row + n <= p->rows; c.row += n) {
        body_look_ahead(kve_matrix_row(p->w, p->first + c.row), n * p->w->row_bytes);
        tile32(c, n, m, block_bytes, load);
    }
    for (; c.row < p->rows; ++c.row)
        tile32(c, 1, m, block_bytes, load);
}

INLINE void matvecs32(const struct kve_product *p, uint32_t block_bytes, load32 load)
{
    uint32_t t = 0;

    for (; t + 8 <= p->n; t += 8)
        tiles32(p, t, 1, 8, block_bytes, load);
    if (t + 4 <= p->n) {
        tiles32(p, t, 2, 4, block_bytes, load);
        t += 4;
    }
    if (t + 2 <= p->n) {
        tiles32(p, t, 4, 2, block_bytes, load);
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

        _mm512_storeu_ps(y + 32 * i, v.low);
        _mm512_storeu_ps(y + 32 * i + 16, v.high);
    }
}

#define KVE_LEVEL avx512
#include "kernels_table.h"
