/* SPDX-License-Identifier: Apache-2.0 */
/* 64 lanes at a time: lanes.h for AVX-512 with VBMI, whose byte permutations are tables of 64. */
#include <immintrin.h>

#include "../kvwire/digest.h"
#include "../kvwire/mem.h"
#include "kernels_impl.h"

/* The columns of the next 64 lanes. */
struct walk {
    uint32_t column, step, columns;
};

static inline struct walk walk_of(const struct kvc_block *b)
{
    return (struct walk){b->phase, 64 % b->columns, b->columns};
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

static inline __m512i exponents_of(const struct kvc_block *b, uint32_t column, const uint8_t *ranks,
                                   __m512i table)
{
    const __m512i row = _mm512_loadu_si512(b->class_row + column);
    const __m512i at = _mm512_or_si512(_mm512_loadu_si512(ranks), row);

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

/* After an even number of rows. */
static inline void digest_store(const struct digest *d, uint32_t *lanes)
{
    if (lanes == NULL)
        return;
    _mm512_storeu_si512(lanes, d->now[0]);
    _mm512_storeu_si512(lanes + 16, d->now[1]);
    _mm512_storeu_si512(lanes + 32, d->after[0]);
    _mm512_storeu_si512(lanes + 48, d->after[1]);
}

static uint32_t split_bf16(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *low,
                           uint8_t *codes, uint8_t *escaped, uint32_t *digest)
{
    const __m512i even = evens(), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.code);
    const uint32_t words = (b->n + 63) / 64;
    struct digest d = digest_load(digest);
    struct walk k = walk_of(b);
    uint32_t escapes = 0;

    for (uint32_t w = 0; w < words; ++w, walk_on(&k)) {
        const __m512i v = _mm512_loadu_si512(rows[w]);
        const __m512i u = _mm512_loadu_si512(rows[w] + 64);
        /* Rotated left by one, the exponent is the high byte. */
        const __m512i x = _mm512_shldi_epi16(v, v, 1), y = _mm512_shldi_epi16(u, u, 1);
        const __m512i e = _mm512_permutex2var_epi8(x, odd, y);
        const __m512i code = codes_of(b, k.column, e, table);
        uint64_t m = _mm512_cmpeq_epi8_mask(code, _mm512_set1_epi8(-1));

        digest_row(&d, v, u);
        m &= w + 1 < words || b->n % 64 == 0 ? ~0ull : (1ull << b->n % 64) - 1;
        _mm512_storeu_si512(low + 64 * w, _mm512_permutex2var_epi8(x, even, y));
        _mm512_storeu_si512(codes + 64 * w, code);
        _mm512_storeu_si512(escaped + escapes, _mm512_maskz_compress_epi8(m, e));
        escapes += (uint32_t)__builtin_popcountll(m);
    }
    digest_store(&d, digest);
    return escapes;
}

static void join_bf16(const struct kvc_block *b, const uint8_t *low, const uint8_t *ranks,
                      const uint64_t *escapes, const uint8_t *escaped, uint8_t *const *rows,
                      uint32_t *digest)
{
    const __m512i first = interleave(), second = _mm512_add_epi8(first, _mm512_set1_epi8(32));
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.place);
    struct digest d = digest_load(digest);
    struct walk k = walk_of(b);

    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const __m512i e = _mm512_mask_expand_epi8(exponents_of(b, k.column, ranks + 64 * w, table),
                                                  escapes[w], _mm512_loadu_si512(escaped));
        const __m512i l = _mm512_loadu_si512(low + 64 * w);
        __m512i x = _mm512_permutex2var_epi8(l, first, e);
        __m512i y = _mm512_permutex2var_epi8(l, second, e);

        x = _mm512_shrdi_epi16(x, x, 1);
        y = _mm512_shrdi_epi16(y, y, 1);
        digest_row(&d, x, y);
        _mm512_storeu_si512(rows[w], x);
        _mm512_storeu_si512(rows[w] + 64, y);
        escaped += (uint32_t)__builtin_popcountll(escapes[w]);
    }
    digest_store(&d, digest);
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

static void join_bytes(const struct kvc_block *b, uint32_t exponent_bits,
                       const uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], const uint8_t *ranks,
                       uint8_t *values)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    const __m512i table = _mm512_loadu_si512(kvc_exponent_codes.place);
    const __m512i field = _mm512_set1_epi8((char)((1u << exponent_bits) - 1));
    const __m128i up = _mm_cvtsi32_si128((int)mantissa_bits);
    struct walk k = walk_of(b);

    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const __m512i e = exponents_of(b, k.column, ranks + 64 * w, table);
        __m512i v = _mm512_sll_epi16(_mm512_and_si512(e, field), up);

        v = _mm512_mask_add_epi8(v, kept[0][w], v, bit_mask(7));
        for (uint32_t p = 0; p < mantissa_bits; ++p)
            v = _mm512_mask_add_epi8(v, kept[1 + p][w], v, bit_mask(mantissa_bits - 1 - p));
        _mm512_storeu_si512(values + 64 * w, v);
    }
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

static void narrow(const struct kvc_block *b, uint64_t words[KVC_BLOCK_WORDS])
{
    struct walk k = walk_of(b);

    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const __m512i row = _mm512_loadu_si512(b->class_row + k.column);

        words[w] = _mm512_testn_epi8_mask(row, row);
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

static const struct kvc_lanes lanes = {split_bf16, join_bf16, split_bytes, join_bytes,
                                       unzip,      zip,       narrow,      exponents};

const struct kvc_kernels kvc_kernels_avx512 = {"avx512", &kvc_planes_avx512, &lanes, &kvc_e_avx512};
