/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block of bf16 in one pass for AVX-512: group 0 of the planes, which has every lane, is written
 * and read where the values are in registers; only the lanes that go on are packed for the next.
 */
#include <immintrin.h>
#include <string.h>

#include "kernels_impl.h"
#include "lanes_avx512.h"

_Static_assert(KVC_BLOCK_VALUES % 64 == 0, "whole words");

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static inline void store64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static inline uint64_t lanes_left(uint32_t n)
{
    return n >= 64 ? ~0ull : (1ull << n) - 1;
}

static uint32_t encode(const struct kvc_block *b, const uint64_t *narrow,
                       const uint8_t *const *rows, uint8_t *to, uint8_t *escaped, uint32_t *escapes,
                       uint32_t *digest)
{
    const __m512i even = evens(), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.code);
    const uint32_t n = b->n, plane = (n + 7) / 8;
    uint8_t *const first = to + n, *second = first + plane;
    uint8_t next[KVC_AVX512_PACKED], *on_to = next, *const escaped_begin = escaped;
    uint64_t part = 0, m0 = 0;
    uint32_t fill = 0;
    struct digest d = digest_load(digest);
    struct walk k = walk_of(b);

    for (uint32_t at = 0; at < n; at += 64, walk_on(&k)) {
        const uint64_t lanes = lanes_left(n - at);
        const __m512i v = _mm512_loadu_si512(rows[at / 64]);
        const __m512i u = _mm512_loadu_si512(rows[at / 64] + 64);
        /* Rotated left by one, the exponent is the high byte. */
        const __m512i x = _mm512_shldi_epi16(v, v, 1), y = _mm512_shldi_epi16(u, u, 1);
        const __m512i e = _mm512_permutex2var_epi8(x, odd, y);
        const __m512i code = codes_of(b, k.column, e, table);
        const uint64_t out = _mm512_movepi8_mask(code) & lanes; /* no code has bit 7 set */
        const uint64_t m1 = _mm512_test_epi8_mask(code, _mm512_set1_epi8(2)) & lanes;
        const uint64_t wide = ~narrow[at / 64] & lanes;
        const uint64_t bits = _pext_u64(m1, wide), rest = bits >> 1 >> (63 - fill);
        uint64_t on;

        m0 = _mm512_test_epi8_mask(code, _mm512_set1_epi8(1)) & lanes;
        on = m0 & (m1 | narrow[at / 64]);
        digest_row(&d, v, u);
        if (n - at >= 64) {
            _mm512_storeu_si512(to + at, _mm512_permutex2var_epi8(x, even, y));
            store64(first + at / 8, m0);
        } else {
            _mm512_mask_storeu_epi8(to + at, lanes, _mm512_permutex2var_epi8(x, even, y));
        }
        part |= bits << fill;
        store64(second, part);
        fill += (uint32_t)__builtin_popcountll(wide);
        part = fill >= 64 ? rest : part;
        second += fill / 64 * 8;
        fill %= 64;
        _mm512_storeu_si512(on_to, _mm512_maskz_compress_epi8(on, code));
        on_to += __builtin_popcountll(on);
        _mm512_storeu_si512(escaped, _mm512_maskz_compress_epi8(out, e));
        escaped += __builtin_popcountll(out);
    }
    digest_store(&d, digest);
    if (n % 64 != 0) /* a whole word would have reached into the second plane */
        memcpy(first + n / 64 * 8, &m0, plane - n / 64 * 8);
    store64(second, part);
    second += (fill + 7) / 8;
    *escapes = (uint32_t)(escaped - escaped_begin);
    return (uint32_t)(kvc_avx512_close(&kvc_exponent_codes.shape, next, (uint32_t)(on_to - next),
                                       second) -
                      to);
}

static bool decode(const struct kvc_block *b, const uint64_t *narrow, const uint8_t *from,
                   uint32_t bytes, uint8_t *const *rows, uint32_t *digest)
{
    const __m512i first = interleave(), second = _mm512_add_epi8(first, _mm512_set1_epi8(32));
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.place);
    const __m512i one = _mm512_set1_epi8(1), two = _mm512_set1_epi8(2);
    const uint32_t n = b->n;
    struct kvc_avx512_opened o;
    uint8_t exponents[KVC_BLOCK_VALUES];
    struct digest d;
    struct walk k = walk_of(b);
    const uint8_t *next, *escaped;

    if (bytes <= n)
        return false;
    next = kvc_avx512_open(&kvc_exponent_codes.shape, from + n, bytes - n, narrow, n, &o);
    if (next == NULL || bytes - n - o.taken != o.escapes)
        return false;
    escaped = from + n + o.taken;
    for (uint32_t at = 0; at < n; at += 64, walk_on(&k)) {
        const uint64_t low = load64(from + n + at / 8) & lanes_left(n - at);
        const uint64_t top = o.top[at / 64], on = low & top;
        __m512i rank = _mm512_maskz_expand_epi8(on, load_apart(next));
        uint64_t out;

        rank = _mm512_mask_add_epi8(rank, low, rank, one);
        rank = _mm512_mask_add_epi8(rank, top & ~narrow[at / 64], rank, two);
        next += __builtin_popcountll(on);
        out = _mm512_movepi8_mask(rank);
        _mm512_storeu_si512(exponents + at,
                            _mm512_mask_expand_epi8(exponents_of(b, k.column, rank, table), out,
                                                    load_apart(escaped)));
        escaped += __builtin_popcountll(out);
    }
    d = digest_load(digest);
    for (uint32_t at = 0; at < n; at += 64) {
        const __m512i l = _mm512_loadu_si512(from + at), e = _mm512_loadu_si512(exponents + at);
        __m512i x = _mm512_permutex2var_epi8(l, first, e);
        __m512i y = _mm512_permutex2var_epi8(l, second, e);

        x = _mm512_shrdi_epi16(x, x, 1);
        y = _mm512_shrdi_epi16(y, y, 1);
        digest_row(&d, x, y);
        _mm512_storeu_si512(rows[at / 64], x);
        _mm512_storeu_si512(rows[at / 64] + 64, y);
    }
    digest_store(&d, digest);
    return true;
}

const struct kvc_bf16 kvc_bf16_avx512 = {encode, decode};
