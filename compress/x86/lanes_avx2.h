/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes_avx2.h - 32 lanes in vectors of AVX2, whose byte tables hold 16, so that each class has its
 * own: exponents from codes, bytes together, bits to bytes, the digest's lanes.
 *
 * threads  pure functions      memory  the caller's      time  none
 */
#ifndef KVC_LANES_AVX2_H
#define KVC_LANES_AVX2_H

#include <immintrin.h>

#include "../../kvwire/digest.h"
#include "../lanes.h"

struct tables {
    __m256i of[KVC_CLASSES];
};

static inline __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void store(uint8_t *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)p, v);
}

static inline struct tables tables_of(const uint8_t *rows)
{
    struct tables t;

    for (uint32_t i = 0; i < KVC_CLASSES; ++i)
        t.of[i] =
            _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(rows + i * KVC_WINDOW)));
    return t;
}

/* t.of[class][index]; an index of 128 or more gives 0. */
static inline __m256i look_up(const struct tables *t, __m256i index, __m256i row)
{
    const __m256i a = _mm256_shuffle_epi8(t->of[0], index);
    const __m256i b = _mm256_shuffle_epi8(t->of[1], index);

    /* Rows are 0 and 16: shifted up, bit 4 is a byte's highest. */
    return _mm256_blendv_epi8(a, b, _mm256_slli_epi16(row, 3));
}

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

/* 32 bits to 32 bytes, 0 or weight. */
static inline __m256i spread(uint32_t bits, __m256i weight)
{
    const __m256i pick = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101,
                                            0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i v =
        _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), pick), bit);

    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), weight);
}

static inline __m256i exponents_of(const struct kvc_block *b, uint32_t column, __m256i ranks,
                                   const struct tables *t)
{
    return _mm256_add_epi8(look_up(t, ranks, load(b->class_row + column)), load(b->start + column));
}

static inline void zip32(__m256i low, __m256i high, __m256i *v, __m256i *u)
{
    const __m256i l = _mm256_permute4x64_epi64(low, 0xd8);
    const __m256i h = _mm256_permute4x64_epi64(high, 0xd8);

    *v = _mm256_unpacklo_epi8(l, h);
    *u = _mm256_unpackhi_epi8(l, h);
}

static inline __m256i rotate_right(__m256i v)
{
    return _mm256_or_si256(_mm256_srli_epi16(v, 1), _mm256_slli_epi16(v, 15));
}

static inline __m256i digest_eight(__m256i lanes, const uint8_t *words)
{
    const __m256i turned = _mm256_or_si256(_mm256_slli_epi32(lanes, KVW_DIGEST_LANE_TURN),
                                           _mm256_srli_epi32(lanes, 32 - KVW_DIGEST_LANE_TURN));

    return _mm256_mullo_epi32(_mm256_xor_si256(turned, load(words)),
                              _mm256_set1_epi32((int)KVW_DIGEST_LANE_FACTOR));
}

/* The digest in a loop of its own: its lanes take eight registers, half of all. */
static inline void digest_rows(const uint8_t *const *rows, uint32_t count, uint32_t *lanes)
{
    __m256i a[8];
    uint32_t w = 0;

    for (uint32_t i = 0; i < 8; ++i)
        a[i] = load((const uint8_t *)(lanes + 8 * i));
    for (; w + 2 <= count; w += 2)
        for (uint32_t i = 0; i < 8; ++i) /* eight times 8 lanes: unrolled */
            a[i] = digest_eight(a[i], rows[w + i / 4] + 32 * (i % 4));
    for (uint32_t i = 0; w < count && i < 4; ++i) /* half a row */
        a[i] = digest_eight(a[i], rows[w] + 32 * i);
    for (uint32_t i = 0; i < 8; ++i)
        store((uint8_t *)(lanes + 8 * i), a[i]);
}

#endif
