/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block of bf16 in one pass for AVX-512: group 0 of the planes, which has every lane, is written
 * and read where the values are in registers; only the lanes that go on are packed for the next.
 */
#include <immintrin.h>
#include <string.h>

#include "bf16_open.h"
#include "../kernels_impl.h"
#include "lanes_avx512.h"

_Static_assert(KVC_BLOCK_VALUES % 64 == 0, "whole words");

static inline void store64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static uint32_t encode(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *to,
                       uint8_t *escaped, uint32_t *escapes, uint32_t *digest)
{
    const __m512i even = evens(), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.code);
    const uint32_t n = b->n, plane = kvc_first_plane(n);
    uint8_t *const first = to + kvc_aligned(n), *const second = first + plane;
    uint8_t next[KVC_AVX512_PACKED], *on_to = next, *const escaped_begin = escaped;
    struct digest d = digest_load(digest);
    struct walk k = walk_of(b);

    if (n % 128 != 0) { /* of a pair of words, the second */
        store64(second - 8, 0);
        store64(second + plane - 8, 0);
    }
    for (uint32_t at = 0; at < n; at += 64, walk_on(&k)) {
        const uint64_t lanes = lanes_left(n - at);
        const __m512i v = _mm512_loadu_si512(rows[at / 64]);
        const __m512i u = _mm512_loadu_si512(rows[at / 64] + 64);
        /* Rotated left by one, the exponent is the high byte. */
        const __m512i x = _mm512_shldi_epi16(v, v, 1), y = _mm512_shldi_epi16(u, u, 1);
        const __m512i e = _mm512_permutex2var_epi8(x, odd, y);
        const __m512i low = _mm512_permutex2var_epi8(x, even, y);
        const __m512i code = codes_of(b, k.column, e, table);
        const uint64_t out = _mm512_movepi8_mask(code) & lanes; /* no code has bit 7 set */
        const uint64_t m0 = _mm512_test_epi8_mask(code, _mm512_set1_epi8(1)) & lanes;
        const uint64_t m1 = _mm512_test_epi8_mask(code, _mm512_set1_epi8(2)) & lanes;
        const uint64_t on = m0 & m1;

        digest_row(&d, v, u);
        if (n - at >= 64)
            _mm512_storeu_si512(to + at, low);
        else /* zeros up to a multiple of 16 */
            _mm512_mask_storeu_epi8(to + at, lanes_left(kvc_aligned(n - at)),
                                    _mm512_maskz_mov_epi8(lanes, low));
        store64(first + at / 8, m0);
        store64(second + at / 8, m1);
        _mm512_storeu_si512(on_to, compress(on, code));
        on_to += __builtin_popcountll(on);
        _mm512_storeu_si512(escaped, compress(out, e));
        escaped += __builtin_popcountll(out);
    }
    digest_store(&d, n, digest);
    *escapes = (uint32_t)(escaped - escaped_begin);
    return (uint32_t)(kvc_avx512_close(&kvc_exponent_codes.shape, next, (uint32_t)(on_to - next),
                                       second + plane) -
                      to);
}

/* Ranks of n lanes of a group of one or two planes; an escape, in the last group, has bit 7. */
static inline void join_group(const uint8_t *low, const uint8_t *high, uint32_t n,
                              const uint8_t *deeper, uint8_t *ranks)
{
    for (uint32_t at = 0; at < n; at += 64) {
        const uint64_t l = load64(low + at / 8), h = load64(high + at / 8), on = l & h;
        __m512i rank = _mm512_maskz_mov_epi8(on, _mm512_set1_epi8(-128));

        if (deeper != NULL) {
            rank = expand(on, _mm512_loadu_si512(deeper));
            deeper += __builtin_popcountll(on);
        }
        rank = _mm512_mask_add_epi8(rank, l, rank, _mm512_set1_epi8(1));
        if (high != low)
            rank = _mm512_mask_add_epi8(rank, h, rank, _mm512_set1_epi8(2));
        _mm512_storeu_si512(ranks + at, rank);
    }
}

/* Every value from its low byte, its plane in group 0, and what was opened. */
static inline void join_values(const struct kvc_block *block, const uint8_t *from,
                               const struct opened *o, const uint8_t *ranks, uint8_t *const *rows,
                               uint32_t *digest)
{
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.place);
    /* Unpacking takes the halves of each 128 bits: first those of all 64 in turn to
     * their places. */
    const __m512i halves = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const struct kvc_block own = *block, *const b = &own;
    const uint8_t *const low = o->first[0], *const high = o->first[1];
    const uint8_t *next = ranks, *escaped = o->escaped;
    const size_t words = (b->n + 63) / 64;
    struct digest d = digest_load(digest);
    struct walk k = walk_of(b);

    for (size_t w = 0; w < words; ++w, walk_on(&k)) {
        const uint64_t bit0 = load64(low + 8 * w), bit1 = load64(high + 8 * w), on = bit0 & bit1;
        __m512i rank = expand(on, _mm512_loadu_si512(next)), e, l, x, y;
        uint64_t out;

        next += __builtin_popcountll(on);
        rank = _mm512_mask_add_epi8(rank, bit0, rank, _mm512_set1_epi8(1));
        rank = _mm512_mask_add_epi8(rank, bit1, rank, _mm512_set1_epi8(2));
        out = _mm512_movepi8_mask(rank);
        e = _mm512_mask_expand_epi8(exponents_of(b, k.column, rank, table), out,
                                    _mm512_loadu_si512(escaped));
        escaped += __builtin_popcountll(out);
        e = _mm512_permutexvar_epi64(halves, e);
        l = _mm512_permutexvar_epi64(halves, _mm512_loadu_si512(from + 64 * w));
        x = _mm512_unpacklo_epi8(l, e);
        y = _mm512_unpackhi_epi8(l, e);
        x = _mm512_shrdi_epi16(x, x, 1);
        y = _mm512_shrdi_epi16(y, y, 1);
        digest_row(&d, x, y);
        _mm512_storeu_si512(rows[w], x);
        _mm512_storeu_si512(rows[w] + 64, y);
    }
    digest_store(&d, b->n, digest);
}

static bool decode(const struct kvc_block *b, const uint8_t *from, uint32_t bytes,
                   uint8_t *const *rows, uint32_t *digest)
{
    uint8_t ranks[KVC_AVX512_PACKED], other[KVC_AVX512_PACKED];
    struct opened o;

    if (!open_block(from, bytes, b->n, &o))
        return false;
    join_group(o.pair[1][0], o.pair[1][1], o.n[2], NULL, ranks);
    join_group(o.pair[0][0], o.pair[0][1], o.n[1], ranks, other);
    join_group(o.plane, o.plane, o.n[0], other, ranks);
    join_values(b, from, &o, ranks, rows, digest);
    return true;
}

const struct kvc_bf16 kvc_bf16_avx512 = {encode, decode};
