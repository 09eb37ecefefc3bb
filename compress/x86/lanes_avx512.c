/* SPDX-License-Identifier: Apache-2.0 */
/* 64 lanes at a time: lanes.h for AVX-512 with VBMI, whose byte permutations are tables of 64. */
#include <immintrin.h>

#include "../../kvwire/mem.h"
#include "../kernels_impl.h"
#include "lanes_avx512.h"

static inline uint64_t lanes_left(uint32_t n)
{
    return n >= 64 ? ~0ull : (1ull << n) - 1;
}

static inline __m512i bit_mask(uint32_t bit)
{
    return _mm512_set1_epi8((char)(1u << bit));
}

static void split_bytes(const struct kvc_block *b, uint32_t exponent_bits, const uint8_t *values,
                        uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], uint8_t *codes)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.code);
    const __m512i field = _mm512_set1_epi8((char)((1u << exponent_bits) - 1));
    const __m128i down = _mm_cvtsi32_si128((int)mantissa_bits);
    struct walk k = walk_of(b);

    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const __m512i v = _mm512_loadu_si512(values + 64 * w);
        const __m512i e = _mm512_and_si512(_mm512_srl_epi16(v, down), field);

        kept[0][w] = _mm512_movepi8_mask(v);
        for (uint32_t p = 0; p < mantissa_bits; ++p)
            kept[1 + p][w] = _mm512_test_epi8_mask(v, bit_mask(mantissa_bits - 1 - p));
        _mm512_storeu_si512(codes + 64 * w, codes_of(b, k.column, e, table));
    }
}

static bool join_bytes(const struct kvc_block *b, uint32_t exponent_bits,
                       const uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], const uint8_t *ranks,
                       const uint64_t *escapes, uint8_t *values)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.place);
    const __m512i field = _mm512_set1_epi8((char)((1u << exponent_bits) - 1));
    const __m128i up = _mm_cvtsi32_si128((int)mantissa_bits);
    struct walk k = walk_of(b);
    uint64_t outside = 0;

    for (uint32_t at = 0; at < b->n; at += 64, walk_on(&k)) {
        const __m512i e = exponents_of(b, k.column, _mm512_loadu_si512(ranks + at), table);
        const uint32_t w = at / 64;
        __m512i v = _mm512_sll_epi16(_mm512_and_si512(e, field), up);

        outside |= _mm512_cmpgt_epu8_mask(e, field) & ~escapes[w] & lanes_left(b->n - at);
        v = _mm512_mask_add_epi8(v, kept[0][w], v, bit_mask(7));
        for (uint32_t p = 0; p < mantissa_bits; ++p)
            v = _mm512_mask_add_epi8(v, kept[1 + p][w], v, bit_mask(mantissa_bits - 1 - p));
        _mm512_storeu_si512(values + at, v);
    }
    return outside == 0;
}

static void unzip(const uint8_t *values, uint32_t n, uint8_t *low, uint8_t *high)
{
    const __m512i even = evens(), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));

    for (uint32_t w = 0; w < (n + 63) / 64; ++w) {
        const __m512i v = _mm512_loadu_si512(values + 128 * w);
        const __m512i u = _mm512_loadu_si512(values + 128 * w + 64);

        _mm512_storeu_si512(low + 64 * w, _mm512_permutex2var_epi8(v, even, u));
        _mm512_storeu_si512(high + 64 * w, _mm512_permutex2var_epi8(v, odd, u));
    }
}

static void zip(const uint8_t *low, const uint8_t *high, uint32_t n, uint8_t *values)
{
    const __m512i first = interleave(), second = _mm512_add_epi8(first, _mm512_set1_epi8(32));

    for (uint32_t w = 0; w < (n + 63) / 64; ++w) {
        const __m512i l = _mm512_loadu_si512(low + 64 * w);
        const __m512i h = _mm512_loadu_si512(high + 64 * w);

        _mm512_storeu_si512(values + 128 * w, _mm512_permutex2var_epi8(l, first, h));
        _mm512_storeu_si512(values + 128 * w + 64, _mm512_permutex2var_epi8(l, second, h));
    }
}

static void exponents(uint32_t dtype, const uint8_t *values, uint32_t n, uint8_t *to)
{
    uint32_t i = 0;

    if (dtype == KVW_DTYPE_BF16)
        for (; i + 32 <= n; i += 32) {
            const __m512i v = _mm512_loadu_si512(values + 2 * i);

            _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(v, 7)));
        }
    kvc_kernels_scalar.lanes->exponents(
        dtype, values + (size_t)i * (dtype == KVW_DTYPE_BF16 || dtype == KVW_DTYPE_F16 ? 2 : 1),
        n - i, to + i);
}

/* bf16 goes by kvc_bf16_avx512. */
static const struct kvc_lanes lanes = {NULL, NULL, split_bytes, join_bytes, unzip, zip, exponents};

const struct kvc_kernels kvc_kernels_avx512 = {"avx512", &kvc_planes_avx512, &lanes, &kvc_e_avx512,
                                               &kvc_bf16_avx512};
