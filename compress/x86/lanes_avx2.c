/* SPDX-License-Identifier: Apache-2.0 */
/* 32 lanes at a time: lanes.h for AVX2, whose byte tables hold 16, so that each class has
 * its own. */
#include <immintrin.h>

#include "../../kvwire/wire/le.h"
#include "../../kvwire/mem.h"
#include "../kernels_impl.h"
#include "lanes_avx2.h"

static inline __m256i codes_of(const struct kvc_block *b, uint32_t column, __m256i exponents,
                               const struct tables *t)
{
    const __m256i place = _mm256_sub_epi8(exponents, load(b->start + column));
    const __m256i row = load(b->class_row + column), last = _mm256_set1_epi8(KVC_WINDOW - 1);
    const __m256i inside = _mm256_cmpeq_epi8(_mm256_max_epu8(place, last), last);

    return _mm256_or_si256(look_up(t, place, row),
                           _mm256_andnot_si256(inside, _mm256_set1_epi8(-1)));
}

/* Low bytes of 32 words, high bytes of them. */
static inline void unzip32(__m256i v, __m256i u, __m256i *low, __m256i *high)
{
    const __m256i byte = _mm256_set1_epi16(0xff);
    const __m256i l = _mm256_packus_epi16(_mm256_and_si256(v, byte), _mm256_and_si256(u, byte));
    const __m256i h = _mm256_packus_epi16(_mm256_srli_epi16(v, 8), _mm256_srli_epi16(u, 8));

    *low = _mm256_permute4x64_epi64(l, 0xd8);
    *high = _mm256_permute4x64_epi64(h, 0xd8);
}

static inline __m256i rotate_left(__m256i v)
{
    return _mm256_or_si256(_mm256_slli_epi16(v, 1), _mm256_srli_epi16(v, 15));
}

static uint32_t split_bf16(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *low,
                           uint8_t *codes, uint8_t *escaped, uint32_t *digest)
{
    const struct tables t = tables_of(kvc_exponent_codes.code);
    struct walk k = walk_of(b);
    uint32_t escapes = 0;

    if (digest != NULL)
        digest_rows(rows, b->n / 64, digest);
    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        uint64_t m = 0;

        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t at = 64 * w + 32 * i;
            const __m256i v = load(rows[w] + 64 * i), u = load(rows[w] + 64 * i + 32);
            __m256i l, e, code;

            /* Rotated left by one, the exponent is the high byte. */
            unzip32(rotate_left(v), rotate_left(u), &l, &e);
            code = codes_of(b, k.column + 32 * i, e, &t);
            store(low + at, l);
            store(codes + at, code);
            m |= (uint64_t)(uint32_t)_mm256_movemask_epi8(
                     _mm256_cmpeq_epi8(code, _mm256_set1_epi8(-1)))
                 << 32 * i;
        }
        for (; m != 0; m &= m - 1) {
            const uint32_t i = (uint32_t)__builtin_ctzll(m);

            if (64 * w + i < b->n)
                escaped[escapes++] = (uint8_t)(kvw_load_le16(rows[w] + 2 * i) >> 7);
        }
    }
    return escapes;
}

/* Bit p of 32 bytes. */
static inline uint32_t bits_at(__m256i v, uint32_t p)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_sll_epi16(v, _mm_cvtsi32_si128((int)(7 - p))));
}

static void split_bytes(const struct kvc_block *b, uint32_t exponent_bits, const uint8_t *values,
                        uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], uint8_t *codes)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    const struct tables t = tables_of(kvc_exponent_codes.code);
    const __m256i field = _mm256_set1_epi8((char)((1u << exponent_bits) - 1));
    const __m128i down = _mm_cvtsi32_si128((int)mantissa_bits);
    struct walk k = walk_of(b);

    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const __m256i v = load(values + 64 * w), u = load(values + 64 * w + 32);
        kept[0][w] = bits_at(v, 7) | (uint64_t)bits_at(u, 7) << 32;
        for (uint32_t p = 0; p < mantissa_bits; ++p)
            kept[1 + p][w] = bits_at(v, mantissa_bits - 1 - p) |
                             (uint64_t)bits_at(u, mantissa_bits - 1 - p) << 32;
        store(codes + 64 * w,
              codes_of(b, k.column, _mm256_and_si256(_mm256_srl_epi16(v, down), field), &t));
        store(codes + 64 * w + 32,
              codes_of(b, k.column + 32, _mm256_and_si256(_mm256_srl_epi16(u, down), field), &t));
    }
}

static bool join_bytes(const struct kvc_block *b, uint32_t exponent_bits,
                       const uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], const uint8_t *ranks,
                       const uint64_t *escapes, uint8_t *values)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    const struct tables t = tables_of(kvc_exponent_codes.place);
    const __m256i field = _mm256_set1_epi8((char)((1u << exponent_bits) - 1));
    const __m128i up = _mm_cvtsi32_si128((int)mantissa_bits);
    struct walk k = walk_of(b);
    uint32_t outside = 0;

    for (uint32_t at = 0; at < b->n; at += 32) {
        const uint32_t w = at / 64, in = at % 64, left = b->n - at;
        const __m256i e = exponents_of(b, k.column + in, load(ranks + at), &t);
        const __m256i bits = _mm256_and_si256(e, field);
        const uint32_t fits = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(e, bits));
        __m256i v = _mm256_sll_epi16(bits, up);

        outside |= ~fits & ~(uint32_t)(escapes[w] >> in) & (left < 32 ? (1u << left) - 1 : ~0u);
        v = _mm256_or_si256(v, spread((uint32_t)(kept[0][w] >> in), _mm256_set1_epi8((char)0x80)));
        for (uint32_t p = 0; p < mantissa_bits; ++p)
            v = _mm256_or_si256(v, spread((uint32_t)(kept[1 + p][w] >> in),
                                          _mm256_set1_epi8((char)(1u << (mantissa_bits - 1 - p)))));
        store(values + at, v);
        if (in != 0)
            walk_on(&k);
    }
    return outside == 0;
}

static void unzip(const uint8_t *values, uint32_t n, uint8_t *low, uint8_t *high)
{
    for (uint32_t at = 0; at < n; at += 32) {
        __m256i l, h;

        unzip32(load(values + 2 * at), load(values + 2 * at + 32), &l, &h);
        store(low + at, l);
        store(high + at, h);
    }
}

static void zip(const uint8_t *low, const uint8_t *high, uint32_t n, uint8_t *values)
{
    for (uint32_t at = 0; at < n; at += 32) {
        __m256i v, u;

        zip32(load(low + at), load(high + at), &v, &u);
        store(values + 2 * at, v);
        store(values + 2 * at + 32, u);
    }
}

static void exponents(uint32_t dtype, const uint8_t *values, uint32_t n, uint8_t *to)
{
    uint32_t i = 0;

    if (dtype == KVW_DTYPE_BF16)
        for (; i + 32 <= n; i += 32) {
            __m256i l, e;

            unzip32(rotate_left(load(values + 2 * i)), rotate_left(load(values + 2 * i + 32)), &l,
                    &e);
            store(to + i, e);
        }
    kvc_kernels_scalar.lanes->exponents(
        dtype, values + (size_t)i * (dtype == KVW_DTYPE_BF16 || dtype == KVW_DTYPE_F16 ? 2 : 1),
        n - i, to + i);
}

/* bf16 is put together by kvc_bf16_avx2. */
static const struct kvc_lanes lanes = {split_bf16, NULL, split_bytes, join_bytes,
                                       unzip,      zip,  exponents};

const struct kvc_kernels kvc_kernels_avx2 = {"avx2", &kvc_planes_avx2, &lanes, &kvc_e_avx2,
                                             &kvc_bf16_avx2};
