/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_avx512_body.h - the loops of the error-bounded codecs, 64 channels at a time; same bytes as
 * e_scalar.c. For the files that have defined NATIVE_BF16: whether the CPU rounds to bf16 itself.
 * Floats are in the order that unpacking 16-bit lanes within each 128 bits gives, so that packing
 * them restores the channels' order.
 */
#include "e_avx512_values.h"

/* Symbols of 32 channels as bytes, their low bits as bytes, which are exact, what they
 * decode to. */
static ALWAYS __m256i symbols_of(const struct kvc_e_plan *p, const struct kvc_e_block *b,
                                 struct kind kind, uint32_t c, const uint16_t *row,
                                 uint16_t *decoded, __m256i *low, __mmask32 *exact)
{
    const __m512i x = _mm512_loadu_si512(row), shift = _mm512_load_si512(p->low + c);
    const __m512i base = _mm512_load_si512(p->base + c);
    const __m512 inverse = _mm512_set1_ps(p->inverse);
    const struct pair f = floats_of(kind, x);
    const __m512i q_low = _mm512_cvtps_epi32(_mm512_mul_ps(f.low, inverse));
    const __m512i q_high = _mm512_cvtps_epi32(_mm512_mul_ps(f.high, inverse));
    const __m512i q = _mm512_packs_epi32(q_low, q_high), r = _mm512_sub_epi16(q, base);
    const __m512i lifted = _mm512_add_epi16(_mm512_sub_epi16(r, foretold(kind, p, b, c)),
                                            _mm512_load_si512(p->lift + c));
    const __m512i h = _mm512_srav_epi16(lifted, shift);
    const __m512i u = _mm512_xor_si512(_mm512_add_epi16(h, h), _mm512_srai_epi16(h, 15));
    const __m512i bits = _mm512_sub_epi16(lifted, _mm512_sllv_epi16(h, shift));
    const __mmask32 no =
        _mm512_cmpge_epu16_mask(_mm512_and_si512(x, _mm512_set1_epi16(0x7fff)),
                                _mm512_set1_epi16((short)p->huge)) |
        _mm512_cmpgt_epu16_mask(_mm512_abs_epi16(q), _mm512_set1_epi16(KVC_E_Q_MAX)) |
        _mm512_cmpge_epu16_mask(u, _mm512_set1_epi16(KVC_E_U_EXACT));

    *exact = no;
    _mm512_store_si512(b->last + c, _mm512_maskz_mov_epi16((__mmask32)~no, r));
    _mm512_storeu_si512(
        decoded,
        _mm512_mask_mov_epi16(values_of(kind, _mm512_set1_ps(p->step), q_low, q_high), no, x));
    *low = _mm512_cvtepi16_epi8(_mm512_maskz_mov_epi16((__mmask32)~no, bits));
    return _mm512_cvtepi16_epi8(_mm512_mask_mov_epi16(u, no, _mm512_set1_epi16(KVC_E_U_EXACT)));
}

static ALWAYS __m512i join(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static ALWAYS void put_bits(struct kvc_e_bits *b, uint64_t bits, uint32_t n)
{
    const uint64_t whole = b->held | bits << b->count;
    const uint32_t count = b->count + n;

    memcpy(b->at, &whole, 8);
    b->at += count / 64 * 8;
    /* In two shifts: by 64 isn't one. */
    b->held = count >= 64 ? bits >> 1 >> (63 - b->count) : whole;
    b->count = count % 64;
}

static ALWAYS uint64_t get_bits(struct kvc_e_bits *b, uint32_t n)
{
    uint64_t low, high;

    memcpy(&low, b->at, 8);
    memcpy(&high, b->at + 8, 8);
    low = low >> b->count | high << 1 << (63 - b->count);
    b->count += n;
    b->at += b->count / 64 * 8;
    b->count %= 64;
    return low; /* what lies above the n bits, deposit ignores */
}

static ALWAYS __m512i code_table(void)
{
    return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(const void *)kvc_e_codes));
}

static ALWAYS void encode_rows(const struct kvc_e_plan *plan, struct kvc_e_block *block,
                               struct kind kind, const uint16_t *row, uint16_t *decoded,
                               uint32_t tokens)
{
    /* Copies that no store through a pointer can change, so that they stay in registers. */
    const struct kvc_e_plan own = *plan, *const p = &own;
    struct kvc_e_block now = *block, *const b = &now;
    const __m512i table = code_table(), ranks = _mm512_set1_epi8(KVC_E_RANKS);
    struct kvc_e_bits lows = b->lows;
    const uint32_t count = tokens * p->groups;
    uint32_t g = 0, left = p->channels;

    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t c = g * KVC_E_LANES;
        const uint64_t *lanes = p->low_lanes + (size_t)g * KVC_E_LOW_MAX;
        __mmask32 exact[2];
        __m256i low[2];
        const __m256i u_low = symbols_of(p, b, kind, c, row + c, decoded + c, &low[0], &exact[0]);
        const __m256i u_high =
            symbols_of(p, b, kind, c + 32, row + c + 32, decoded + c + 32, &low[1], &exact[1]);
        const __m512i u = join(u_low, u_high), bits = join(low[0], low[1]);
        const __mmask64 wide = _mm512_cmpge_epu8_mask(u, ranks);

        _mm512_storeu_si512(b->codes, _mm512_shuffle_epi8(table, _mm512_min_epu8(u, ranks)));
        b->codes += left < KVC_E_LANES ? left : KVC_E_LANES;
        _mm512_storeu_si512(b->wide, compress(wide, _mm512_sub_epi8(u, ranks)));
        b->wide += __builtin_popcountll(wide);
        for (uint64_t at = exact[0] | (uint64_t)exact[1] << 32; at != 0; at &= at - 1) {
            memcpy(b->exact, row + c + __builtin_ctzll(at), 2);
            b->exact += 2;
        }
        for (uint32_t k = 0; k < p->low_count[g]; ++k)
            put_bits(
                &lows,
                _pext_u64(_mm512_test_epi8_mask(bits, _mm512_set1_epi8((char)(1 << k))), lanes[k]),
                (uint32_t)__builtin_popcountll(lanes[k]));
        left -= KVC_E_LANES;
        if (++g == p->groups) { /* the next token */
            g = 0;
            left = p->channels;
            row += left;
            decoded += left;
        }
    }
    now.lows = lows;
    *block = now;
}

static void encode(const struct kvc_e_plan *p, struct kvc_e_block *b, const uint16_t *row,
                   uint16_t *decoded, uint32_t tokens)
{
    if (p->half_floats)
        encode_rows(p, b, (struct kind){true, true}, row, decoded, tokens);
    else if (p->follows)
        encode_rows(p, b, (struct kind){false, true}, row, decoded, tokens);
    else
        encode_rows(p, b, (struct kind){false, false}, row, decoded, tokens);
}

/* 32 channels from their symbols and low bits; exact ones get rubbish. */
static ALWAYS void rebuild(const struct kvc_e_plan *p, const struct kvc_e_block *b,
                           struct kind kind, uint32_t c, __m256i u8, __m256i low, __mmask32 exact,
                           uint16_t *decoded)
{
    const __m512i u = _mm512_cvtepu8_epi16(u8), zero = _mm512_setzero_si512();
    const __m512i sign = _mm512_sub_epi16(zero, _mm512_and_si512(u, _mm512_set1_epi16(1)));
    const __m512i h = _mm512_xor_si512(_mm512_srli_epi16(u, 1), sign);
    const __m512i bits =
        _mm512_sub_epi16(_mm512_cvtepu8_epi16(low), _mm512_load_si512(p->lift + c));
    const __m512i r = _mm512_add_epi16(
        _mm512_add_epi16(_mm512_sllv_epi16(h, _mm512_load_si512(p->low + c)), bits),
        foretold(kind, p, b, c));
    const __m512i last = _mm512_maskz_mov_epi16((__mmask32)~exact, r);
    const __m512i q = _mm512_add_epi16(last, _mm512_load_si512(p->base + c));

    _mm512_store_si512(b->last + c, last);
    _mm512_storeu_si512(decoded, values_of(kind, _mm512_set1_ps(p->step),
                                           _mm512_srai_epi32(_mm512_unpacklo_epi16(q, q), 16),
                                           _mm512_srai_epi32(_mm512_unpackhi_epi16(q, q), 16)));
}

static ALWAYS bool decode_rows(const struct kvc_e_plan *plan, struct kvc_e_block *block,
                               struct kind kind, uint16_t *decoded, uint32_t tokens)
{
    /* Copies that no store through a pointer can change, so that they stay in registers. */
    const struct kvc_e_plan own = *plan, *const p = &own;
    struct kvc_e_block now = *block, *const b = &now;
    const __m512i ranks = _mm512_set1_epi8(KVC_E_RANKS);
    struct kvc_e_bits lows = b->lows;
    const uint32_t count = tokens * p->groups;
    uint32_t g = 0, left = p->channels;

    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t c = g * KVC_E_LANES;
        const uint64_t *lanes = p->low_lanes + (size_t)g * KVC_E_LOW_MAX;
        __m512i u = _mm512_maskz_loadu_epi8(p->valid[g], b->ranks), bits = _mm512_setzero_si512();
        const __mmask64 wide = _mm512_cmpeq_epi8_mask(u, ranks);
        const ptrdiff_t found = __builtin_popcountll(wide);

        b->ranks += left < KVC_E_LANES ? left : KVC_E_LANES;
        if (b->wide_end - b->wide < found)
            return false;
        u = _mm512_add_epi8(u, expand(wide, _mm512_loadu_si512(b->wide)));
        b->wide += found;
        for (uint32_t k = 0; k < p->low_count[g]; ++k) {
            const uint64_t plane = get_bits(&lows, (uint32_t)__builtin_popcountll(lanes[k]));

            bits = _mm512_mask_add_epi8(bits, _pdep_u64(plane, lanes[k]), bits,
                                        _mm512_set1_epi8((char)(1 << k)));
        }

        uint64_t exact = _mm512_cmpeq_epi8_mask(u, _mm512_set1_epi8((char)KVC_E_U_EXACT));

        if (b->exact_end - b->exact < 2 * __builtin_popcountll(exact) ||
            _mm512_mask_test_epi8_mask(exact, bits, bits) != 0)
            return false;
        rebuild(p, b, kind, c, _mm512_castsi512_si256(u), _mm512_castsi512_si256(bits),
                (__mmask32)exact, decoded + c);
        rebuild(p, b, kind, c + 32, _mm512_extracti64x4_epi64(u, 1),
                _mm512_extracti64x4_epi64(bits, 1), (__mmask32)(exact >> 32), decoded + c + 32);
        for (; exact != 0; exact &= exact - 1) {
            memcpy(decoded + c + __builtin_ctzll(exact), b->exact, 2);
            b->exact += 2;
        }
        left -= KVC_E_LANES;
        if (++g == p->groups) { /* the next token */
            g = 0;
            left = p->channels;
            decoded += left;
        }
    }
    now.lows = lows;
    *block = now;
    return true;
}

static bool decode(const struct kvc_e_plan *p, struct kvc_e_block *b, uint16_t *decoded,
                   uint32_t tokens)
{
    if (p->half_floats)
        return decode_rows(p, b, (struct kind){true, true}, decoded, tokens);
    return p->follows ? decode_rows(p, b, (struct kind){false, true}, decoded, tokens)
                      : decode_rows(p, b, (struct kind){false, false}, decoded, tokens);
}

/* 16 values in order; huge ones are 0. */
static ALWAYS __m512 sixteen(const struct kvc_e_plan *p, const uint16_t *at)
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)at);
    const __mmask16 small = _mm256_cmplt_epu16_mask(_mm256_and_si256(x, _mm256_set1_epi16(0x7fff)),
                                                    _mm256_set1_epi16((short)p->huge));

    if (p->half_floats)
        return _mm512_maskz_cvtph_ps(small, x);
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_mov_epi16(small, x)), 16));
}

static void sums(const struct kvc_e_plan *p, const uint16_t *row, const uint16_t *before,
                 float *sum, float *square, float *cross)
{
    for (uint32_t c = 0; c < p->groups * KVC_E_LANES; c += 16) {
        const __m512 v = sixteen(p, row + c);

        _mm512_store_ps(sum + c, _mm512_add_ps(_mm512_load_ps(sum + c), v));
        _mm512_store_ps(square + c, _mm512_add_ps(_mm512_load_ps(square + c), _mm512_mul_ps(v, v)));
        if (before != NULL)
            _mm512_store_ps(cross + c, _mm512_add_ps(_mm512_load_ps(cross + c),
                                                     _mm512_mul_ps(v, sixteen(p, before + c))));
    }
}
