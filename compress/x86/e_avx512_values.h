/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_avx512_values.h - 32 values of a chunk as two vectors of floats, and whole steps back to
 * values. For e_avx512_body.h alone, which is compiled once for each NATIVE_BF16.
 */
#ifndef KVC_E_AVX512_VALUES_H
#define KVC_E_AVX512_VALUES_H

#include <immintrin.h>
#include <string.h>

#include "../e.h"
#include "expand_avx512.h"

#define ALWAYS inline __attribute__((always_inline))

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* What a chunk's loops are compiled for apart. */
struct kind {
    bool half_floats, follows;
};

/* 32 values of either type as two vectors of floats. */
struct pair {
    __m512 low, high;
};

static ALWAYS __m512i quads(void)
{
    return _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
}

static ALWAYS struct pair floats_of(struct kind kind, __m512i x)
{
    if (kind.half_floats) {
        const __m512i q = _mm512_permutexvar_epi64(quads(), x);

        return (struct pair){_mm512_cvtph_ps(_mm512_castsi512_si256(q)),
                             _mm512_cvtph_ps(_mm512_extracti64x4_epi64(q, 1))};
    }

    const __m512i zero = _mm512_setzero_si512();

    return (struct pair){_mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, x)),
                         _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, x))};
}

#if !NATIVE_BF16
static ALWAYS __m512i round_bf16(__m512 v)
{
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));

    return _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd),
                             16);
}
#endif

/* Whole steps to values of the chunk's type. */
static ALWAYS __m512i values_of(struct kind kind, __m512 step, __m512i q_low, __m512i q_high)
{
    const __m512 low = _mm512_mul_ps(_mm512_cvtepi32_ps(q_low), step);
    const __m512 high = _mm512_mul_ps(_mm512_cvtepi32_ps(q_high), step);

    if (kind.half_floats) {
        const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, NEAREST)),
                                             _mm512_cvtps_ph(high, NEAREST), 1);

        return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), q);
    }
#if NATIVE_BF16 /* it flushes denormals, of which there are none: steps are 2^-60 at least */
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7),
                                    (__m512i)_mm512_cvtne2ps_pbh(high, low));
#else
    return _mm512_packus_epi32(round_bf16(low), round_bf16(high));
#endif
}

static ALWAYS __m512i foretold(struct kind kind, const struct kvc_e_plan *p,
                               const struct kvc_e_block *b, uint32_t c)
{
    if (!kind.follows)
        return _mm512_setzero_si512();

    const __m512i product =
        _mm512_mullo_epi16(_mm512_load_si512(p->follow + c), _mm512_load_si512(b->last + c));

    return _mm512_srai_epi16(_mm512_add_epi16(product, _mm512_set1_epi16(2)), 2);
}

#endif
