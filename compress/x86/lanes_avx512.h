/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes_avx512.h - 64 lanes in vectors of AVX-512 VBMI: which column each is in, exponents to codes
 * and back, bytes apart and together, the digest's lanes in four registers.
 *
 * threads  pure functions      memory  the caller's      time  none
 */
#ifndef KVC_LANES_AVX512_H
#define KVC_LANES_AVX512_H

#include <immintrin.h>

#include "../../kvwire/digest.h"
#include "expand_avx512.h"
#include "../lanes.h"

/* The columns of the next 64 lanes. */
struct walk {
    uint32_t column, step, columns;
};

static inline struct walk walk_of(const struct kvc_block *b)
{
    return (struct walk){0, 64 % b->columns, b->columns};
}

static inline void walk_on(struct walk *w)
{
    w->column += w->step;
    w->column -= w->column >= w->columns ? w->columns : 0;
}

static inline __m512i codes_of(const struct kvc_block *b, uint32_t column, __m512i exponents,
                               __m512i table)
{
    const __m512i place = _mm512_sub_epi8(exponents, _mm512_loadu_si512(b->start + column));
    const __m512i row = _mm512_loadu_si512(b->class_row + column);
    const __mmask64 outside = _mm512_cmpgt_epu8_mask(place, _mm512_set1_epi8(KVC_WINDOW - 1));
    const __m512i codes = _mm512_permutexvar_epi8(_mm512_or_si512(place, row), table);

    return _mm512_mask_mov_epi8(codes, outside, _mm512_set1_epi8(-1));
}

/* Only the lowest four bits of a rank and one of its class are looked at. */
static inline __m512i exponents_of(const struct kvc_block *b, uint32_t column, __m512i ranks,
                                   __m512i table)
{
    const __m512i at = _mm512_or_si512(ranks, _mm512_loadu_si512(b->class_row + column));

    return _mm512_add_epi8(_mm512_permutexvar_epi8(at, table),
                           _mm512_loadu_si512(b->start + column));
}

/* 0, 2, 4 .. of a pair of vectors; 1, 3, 5 .. with 1 added. */
static inline __m512i evens(void)
{
    const __m512i lanes = _mm512_set_epi8(
        63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41,
        40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18,
        17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);

    return _mm512_add_epi8(lanes, lanes);
}

/* 0, 64, 1, 65 ..: what interleaves the first halves of two vectors. */
static inline __m512i interleave(void)
{
    __m512i words = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                     15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);

    return _mm512_or_si512(_mm512_or_si512(words, _mm512_slli_epi16(words, 8)),
                           _mm512_set1_epi16(0x4000));
}

/* The digest's lanes: now takes the next 64 values, which are half a row of it, then after. */
struct digest {
    __m512i now[2], after[2];
};

static inline void digest_row(struct digest *d, __m512i v, __m512i u)
{
    const __m512i factor = _mm512_set1_epi32((int)KVW_DIGEST_LANE_FACTOR);
    const __m512i x = _mm512_mullo_epi32(
        _mm512_xor_si512(_mm512_rol_epi32(d->now[0], KVW_DIGEST_LANE_TURN), v), factor);
    const __m512i y = _mm512_mullo_epi32(
        _mm512_xor_si512(_mm512_rol_epi32(d->now[1], KVW_DIGEST_LANE_TURN), u), factor);

    d->now[0] = d->after[0];
    d->now[1] = d->after[1];
    d->after[0] = x;
    d->after[1] = y;
}

static inline struct digest digest_load(const uint32_t *lanes)
{
    static const uint32_t none[KVW_DIGEST_LANE_COUNT];
    const uint32_t *p = lanes != NULL ? lanes : none;

    return (struct digest){{_mm512_loadu_si512(p), _mm512_loadu_si512(p + 16)},
                           {_mm512_loadu_si512(p + 32), _mm512_loadu_si512(p + 48)}};
}

/* After n values: after an odd number of rows of 64, the halves are exchanged. */
static inline void digest_store(const struct digest *d, uint32_t n, uint32_t *lanes)
{
    const __m512i *first = n % 128 == 0 ? d->now : d->after;
    const __m512i *second = n % 128 == 0 ? d->after : d->now;

    if (lanes == NULL)
        return;
    _mm512_storeu_si512(lanes, first[0]);
    _mm512_storeu_si512(lanes + 16, first[1]);
    _mm512_storeu_si512(lanes + 32, second[0]);
    _mm512_storeu_si512(lanes + 48, second[1]);
}

#endif
