/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CRC is the remainder of the message, read as a polynomial over GF(2), by a fixed one. So 128
 * bits may be replaced by others of the same remainder further on: with D bits in between,
 *
 *   (hi, lo) * x^D  ==  hi * (x^(D + 64) mod P)  +  lo * (x^D mod P),
 *
 * two carry-less products of 64 by 32 bits, which are added to the 128 bits that lie there. Sixteen
 * such lanes at a time (four vectors) walk through the message, then one vector, then one lane.
 * Bits are reflected, as everywhere in CRC32C, so the lower half is the higher power, and a product
 * comes out one bit short, for which the constants are shifted by one; both exponents count from
 * the 32 bits that the CRC itself will append.
 *
 * V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel, 2009.
 */
#include "crc32c_fold.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define KVN_POLY 0x82f63b78u /* reflected */
#define TARGET   __attribute__((target("avx512f,avx512vl,avx512bw,vpclmulqdq,pclmul,sse4.2")))

/* For distances of 2048, 512 and 128 bits: the factor of the lower half, and of the higher. */
static uint64_t by_2048[2], by_512[2], by_128[2];

/* x^n mod P, reflected: bit 31 is x^0. */
static uint32_t power(uint32_t n)
{
    uint32_t c = 0x80000000u;

    for (; n > 0; --n)
        c = c & 1 ? c >> 1 ^ KVN_POLY : c >> 1;
    return c;
}

static void factors(uint64_t k[2], uint32_t bits)
{
    k[0] = (uint64_t)power(bits + 32) << 1;
    k[1] = (uint64_t)power(bits - 32) << 1;
}

bool kvn_crc32c_fold_begin(void)
{
    factors(by_2048, 2048);
    factors(by_512, 512);
    factors(by_128, 128);
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("vpclmulqdq") &&
           __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
}

TARGET static inline __m512i fold512(__m512i x, __m512i k, __m512i next)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, k, 0x00),
                                     _mm512_clmulepi64_epi128(x, k, 0x11), next, 0x96);
}

TARGET static inline __m128i fold128(__m128i x, __m128i k, __m128i next)
{
    return _mm_xor_si128(
        _mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next);
}

TARGET static inline __m512i load(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

TARGET size_t kvn_crc32c_fold(uint8_t out[16], uint32_t crc, const uint8_t *p, size_t n,
                              const uint8_t *next, size_t next_bytes)
{
    const __m512i k4 = _mm512_set_epi64(
        (long long)by_2048[1], (long long)by_2048[0], (long long)by_2048[1], (long long)by_2048[0],
        (long long)by_2048[1], (long long)by_2048[0], (long long)by_2048[1], (long long)by_2048[0]);
    const __m512i k1 = _mm512_set_epi64(
        (long long)by_512[1], (long long)by_512[0], (long long)by_512[1], (long long)by_512[0],
        (long long)by_512[1], (long long)by_512[0], (long long)by_512[1], (long long)by_512[0]);
    const __m128i k0 = _mm_set_epi64x((long long)by_128[1], (long long)by_128[0]);
    __m512i a = load(p), b = load(p + 64), c = load(p + 128), d = load(p + 192);
    const uint8_t *const next_end = next + (next_bytes < n ? next_bytes : n);
    size_t at = 256;
    __m128i x;

    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (; n - at >= 256; at += 256) {
        for (uint32_t line = 0; line < 5 && next < next_end; ++line, next += 64)
            __builtin_prefetch(next);
        a = fold512(a, k4, load(p + at));
        b = fold512(b, k4, load(p + at + 64));
        c = fold512(c, k4, load(p + at + 128));
        d = fold512(d, k4, load(p + at + 192));
    }
    a = fold512(fold512(fold512(a, k1, b), k1, c), k1, d);
    for (; n - at >= 64; at += 64)
        a = fold512(a, k1, load(p + at));
    x = fold128(_mm512_castsi512_si128(a), k0, _mm512_extracti32x4_epi32(a, 1));
    x = fold128(x, k0, _mm512_extracti32x4_epi32(a, 2));
    x = fold128(x, k0, _mm512_extracti32x4_epi32(a, 3));
    _mm_storeu_si128((__m128i *)(void *)out, x);
    return at;
}

#else

bool kvn_crc32c_fold_begin(void)
{
    return false;
}

size_t kvn_crc32c_fold(uint8_t out[16], uint32_t crc, const uint8_t *p, size_t n,
                       const uint8_t *next, size_t next_bytes)
{
    (void)out, (void)crc, (void)p, (void)n, (void)next, (void)next_bytes;
    return 0;
}

#endif
