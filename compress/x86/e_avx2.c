/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_avx2.c - the loops of the error-bounded codecs for AVX2, BMI2 and F16C; same bytes as
 * e_scalar.c. Floats are in the order that unpacking 16-bit lanes within each 128 bits gives.
 */
#include <immintrin.h>
#include <string.h>

#include "../e.h"

#define ALWAYS inline __attribute__((always_inline))

#define IN_ORDER 0xd8 /* permute4x64: quads 0 2 1 3 */

/* What a chunk's loops are compiled for apart. */
struct kind {
    bool half_floats, follows;
};

struct pair {
    __m256 low, high;
};

static ALWAYS __m256i load16(const void *at)
{
    return _mm256_loadu_si256((const __m256i *)at);
}

static ALWAYS void store16(void *at, __m256i v)
{
    _mm256_storeu_si256((__m256i *)at, v);
}

static ALWAYS struct pair floats_of(struct kind kind, __m256i x)
{
    if (kind.half_floats) {
        const __m256i q = _mm256_permute4x64_epi64(x, IN_ORDER);

        return (struct pair){_mm256_cvtph_ps(_mm256_castsi256_si128(q)),
                             _mm256_cvtph_ps(_mm256_extracti128_si256(q, 1))};
    }

    const __m256i zero = _mm256_setzero_si256();

    return (struct pair){_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, x)),
                         _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, x))};
}

static ALWAYS __m256i round_bf16(__m256 v)
{
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));

    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd),
                             16);
}

static ALWAYS __m256i values_of(struct kind kind, __m256 step, __m256i q_low, __m256i q_high)
{
    const __m256 low = _mm256_mul_ps(_mm256_cvtepi32_ps(q_low), step);
    const __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(q_high), step);

    if (kind.half_floats) {
        const __m256i q = _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                                           _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));

        return _mm256_permute4x64_epi64(q, IN_ORDER);
    }
    return _mm256_packus_epi32(round_bf16(low), round_bf16(high));
}

static ALWAYS __m256i foretold(struct kind kind, const struct kvc_e_plan *p,
                               const struct kvc_e_block *b, uint32_t c)
{
    if (!kind.follows)
        return _mm256_setzero_si256();

    const __m256i product = _mm256_mullo_epi16(load16(p->follow + c), load16(b->last + c));

    return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(2)), 2);
}

/* 2^low */
static ALWAYS __m256i scale_of(__m256i lift)
{
    const __m256i none = _mm256_cmpeq_epi16(lift, _mm256_setzero_si256());

    return _mm256_sub_epi16(_mm256_add_epi16(lift, lift), none);
}

/* x >> low: as unsigned numbers 2^15 higher, by the high half of a product. */
static ALWAYS __m256i shrunk(__m256i x, __m256i shrink)
{
    const __m256i top = _mm256_set1_epi16(INT16_MIN);
    const __m256i none = _mm256_cmpeq_epi16(shrink, _mm256_setzero_si256());
    const __m256i high = _mm256_xor_si256(x, top);
    const __m256i shifted = _mm256_blendv_epi8(_mm256_mulhi_epu16(high, shrink), high, none);

    return _mm256_sub_epi16(shifted, _mm256_blendv_epi8(_mm256_srli_epi16(shrink, 1), top, none));
}

/* What 16 channels become. */
struct sixteen {
    __m256i symbols, low, exact;
};

static ALWAYS struct sixteen symbols_of(const struct kvc_e_plan *p, const struct kvc_e_block *b,
                                        struct kind kind, uint32_t c, const uint16_t *row,
                                        uint16_t *decoded)
{
    const __m256i x = load16(row), lift = load16(p->lift + c);
    const __m256 inverse = _mm256_set1_ps(p->inverse);
    const struct pair f = floats_of(kind, x);
    const __m256i q_low = _mm256_cvtps_epi32(_mm256_mul_ps(f.low, inverse));
    const __m256i q_high = _mm256_cvtps_epi32(_mm256_mul_ps(f.high, inverse));
    const __m256i q = _mm256_packs_epi32(q_low, q_high);
    const __m256i r = _mm256_sub_epi16(q, load16(p->base + c));
    const __m256i lifted = _mm256_add_epi16(_mm256_sub_epi16(r, foretold(kind, p, b, c)), lift);
    const __m256i h = shrunk(lifted, load16(p->shrink + c));
    const __m256i u = _mm256_xor_si256(_mm256_add_epi16(h, h), _mm256_srai_epi16(h, 15));
    const __m256i bits = _mm256_sub_epi16(lifted, _mm256_mullo_epi16(h, scale_of(lift)));
    const __m256i most = _mm256_set1_epi16(KVC_E_Q_MAX), least = _mm256_set1_epi16(-KVC_E_Q_MAX);
    __m256i no = _mm256_cmpgt_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x7fff)),
                                    _mm256_set1_epi16((short)(p->huge - 1)));

    no = _mm256_or_si256(no, _mm256_cmpgt_epi16(q, most));
    no = _mm256_or_si256(no, _mm256_cmpgt_epi16(least, q));
    no = _mm256_or_si256(no, _mm256_cmpgt_epi16(u, _mm256_set1_epi16(KVC_E_U_EXACT - 1)));
    store16(b->last + c, _mm256_andnot_si256(no, r));
    store16(decoded,
            _mm256_blendv_epi8(values_of(kind, _mm256_set1_ps(p->step), q_low, q_high), x, no));
    return (struct sixteen){_mm256_blendv_epi8(u, _mm256_set1_epi16(KVC_E_U_EXACT), no),
                            _mm256_andnot_si256(no, bits), no};
}

/* 16-bit lanes, none above 255, to bytes in their order. */
static ALWAYS __m256i bytes_of(__m256i low, __m256i high)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), IN_ORDER);
}

static ALWAYS uint32_t tops_of(__m256i bytes)
{
    return (uint32_t)_mm256_movemask_epi8(bytes);
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

static ALWAYS __m256i code_table(void)
{
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)kvc_e_codes));
}

/* 32 channels on their way: where values and what they become lie; which symbols are wide, which
 * values exact, and the low bits. */
struct half {
    const uint16_t *row;
    uint16_t *decoded;
    uint8_t *codes, *symbols;
    uint32_t wide, exact;
    __m256i low;
};

static ALWAYS void encode_half(const struct kvc_e_plan *p, const struct kvc_e_block *b,
                               struct kind kind, uint32_t c, struct half *h)
{
    const __m256i ranks = _mm256_set1_epi8(KVC_E_RANKS);
    const struct sixteen a = symbols_of(p, b, kind, c, h->row, h->decoded);
    const struct sixteen z = symbols_of(p, b, kind, c + 16, h->row + 16, h->decoded + 16);
    const __m256i u = bytes_of(a.symbols, z.symbols);

    store16(h->codes, _mm256_shuffle_epi8(code_table(), _mm256_min_epu8(u, ranks)));
    store16(h->symbols, _mm256_sub_epi8(u, ranks));
    h->wide = tops_of(_mm256_cmpeq_epi8(_mm256_max_epu8(u, ranks), u));
    h->exact = tops_of(_mm256_permute4x64_epi64(_mm256_packs_epi16(a.exact, z.exact), IN_ORDER));
    h->low = bytes_of(a.low, z.low);
}

static ALWAYS void encode_rows(const struct kvc_e_plan *plan, struct kvc_e_block *block,
                               struct kind kind, const uint16_t *row, uint16_t *decoded,
                               uint32_t tokens)
{
    /* Copies that no store through a pointer can change, so that they stay in registers. */
    const struct kvc_e_plan own = *plan, *const p = &own;
    struct kvc_e_block now = *block, *const b = &now;
    struct kvc_e_bits lows = b->lows;
    const uint32_t count = tokens * p->groups;
    uint32_t g = 0, left = p->channels;

    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t c = g * KVC_E_LANES;
        const uint64_t *lanes = p->low_lanes + (size_t)g * KVC_E_LOW_MAX;
        uint8_t symbols[KVC_E_LANES];
        struct half low = {row + c, decoded + c, b->codes, symbols, .wide = 0};
        struct half high = {row + c + 32, decoded + c + 32, b->codes + 32, symbols + 32, .wide = 0};

        encode_half(p, b, kind, c, &low);
        encode_half(p, b, kind, c + 32, &high);
        b->codes += left < KVC_E_LANES ? left : KVC_E_LANES;
        for (uint64_t at = low.wide | (uint64_t)high.wide << 32; at != 0; at &= at - 1)
            *b->wide++ = symbols[__builtin_ctzll(at)];
        for (uint64_t at = low.exact | (uint64_t)high.exact << 32; at != 0; at &= at - 1) {
            memcpy(b->exact, row + c + __builtin_ctzll(at), 2);
            b->exact += 2;
        }
        for (uint32_t k = 0; k < p->low_count[g]; ++k) {
            const __m128i shift = _mm_cvtsi32_si128(7 - (int)k);
            const uint64_t plane = tops_of(_mm256_sll_epi16(low.low, shift)) |
                                   (uint64_t)tops_of(_mm256_sll_epi16(high.low, shift)) << 32;

            put_bits(&lows, _pext_u64(plane, lanes[k]), (uint32_t)__builtin_popcountll(lanes[k]));
        }
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

/* A byte of ones for each bit that is set. */
static ALWAYS __m256i spread(uint32_t bits)
{
    const __m256i byte =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    const __m256i all = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);

    return _mm256_cmpeq_epi8(_mm256_and_si256(all, bit), bit);
}

/* 16 channels from their symbols and low bits; exact ones get rubbish. */
static ALWAYS void rebuild(const struct kvc_e_plan *p, const struct kvc_e_block *b,
                           struct kind kind, uint32_t c, const uint8_t *symbols,
                           const uint8_t *lows, uint16_t *decoded)
{
    const __m256i u = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)symbols));
    const __m256i low = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)lows));
    const __m256i no = _mm256_cmpeq_epi16(u, _mm256_set1_epi16(KVC_E_U_EXACT));
    const __m256i lift = load16(p->lift + c), zero = _mm256_setzero_si256();
    const __m256i sign = _mm256_sub_epi16(zero, _mm256_and_si256(u, _mm256_set1_epi16(1)));
    const __m256i h = _mm256_xor_si256(_mm256_srli_epi16(u, 1), sign);
    const __m256i d =
        _mm256_add_epi16(_mm256_mullo_epi16(h, scale_of(lift)), _mm256_sub_epi16(low, lift));
    const __m256i last = _mm256_andnot_si256(no, _mm256_add_epi16(d, foretold(kind, p, b, c)));
    const __m256i q = _mm256_add_epi16(last, load16(p->base + c));

    store16(b->last + c, last);
    store16(decoded, values_of(kind, _mm256_set1_ps(p->step),
                               _mm256_srai_epi32(_mm256_unpacklo_epi16(q, q), 16),
                               _mm256_srai_epi32(_mm256_unpackhi_epi16(q, q), 16)));
}

/* The group's symbols: ranks, and what is wide from its own list. */
static ALWAYS bool symbols_in(const struct kvc_e_plan *p, struct kvc_e_block *b, uint32_t g,
                              uint8_t symbols[KVC_E_LANES])
{
    const __m256i ranks = _mm256_set1_epi8(KVC_E_RANKS);
    const __m256i low = _mm256_and_si256(load16(b->ranks), spread((uint32_t)p->valid[g]));
    const __m256i high =
        _mm256_and_si256(load16(b->ranks + 32), spread((uint32_t)(p->valid[g] >> 32)));
    uint64_t wide = tops_of(_mm256_cmpeq_epi8(low, ranks)) |
                    (uint64_t)tops_of(_mm256_cmpeq_epi8(high, ranks)) << 32;

    if (b->wide_end - b->wide < __builtin_popcountll(wide))
        return false;
    store16(symbols, low);
    store16(symbols + 32, high);
    for (; wide != 0; wide &= wide - 1)
        symbols[__builtin_ctzll(wide)] = (uint8_t)(KVC_E_RANKS + *b->wide++);
    return true;
}

static ALWAYS bool decode_rows(const struct kvc_e_plan *plan, struct kvc_e_block *block,
                               struct kind kind, uint16_t *decoded, uint32_t tokens)
{
    const __m256i none = _mm256_set1_epi8((char)KVC_E_U_EXACT);
    /* Copies that no store through a pointer can change, so that they stay in registers. */
    const struct kvc_e_plan own = *plan, *const p = &own;
    struct kvc_e_block now = *block, *const b = &now;
    struct kvc_e_bits lows = b->lows;
    const uint32_t count = tokens * p->groups;
    uint32_t g = 0, left = p->channels;

    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t c = g * KVC_E_LANES;
        const uint64_t *lanes = p->low_lanes + (size_t)g * KVC_E_LOW_MAX;
        __m256i low = _mm256_setzero_si256(), high = low;
        uint8_t symbols[KVC_E_LANES], bits[KVC_E_LANES];
        uint64_t exact;

        if (!symbols_in(p, b, g, symbols))
            return false;
        b->ranks += left < KVC_E_LANES ? left : KVC_E_LANES;
        for (uint32_t k = 0; k < p->low_count[g]; ++k) {
            const uint64_t plane =
                _pdep_u64(get_bits(&lows, (uint32_t)__builtin_popcountll(lanes[k])), lanes[k]);
            const __m256i one = _mm256_set1_epi8((char)(1 << k));

            low = _mm256_or_si256(low, _mm256_and_si256(spread((uint32_t)plane), one));
            high = _mm256_or_si256(high, _mm256_and_si256(spread((uint32_t)(plane >> 32)), one));
        }
        store16(bits, low);
        store16(bits + 32, high);
        exact = tops_of(_mm256_cmpeq_epi8(load16(symbols), none)) |
                (uint64_t)tops_of(_mm256_cmpeq_epi8(load16(symbols + 32), none)) << 32;
        if (b->exact_end - b->exact < 2 * __builtin_popcountll(exact))
            return false;
        for (uint32_t j = 0; j < KVC_E_LANES; j += 16)
            rebuild(p, b, kind, c + j, symbols + j, bits + j, decoded + c + j);
        for (; exact != 0; exact &= exact - 1) {
            if (bits[__builtin_ctzll(exact)] != 0)
                return false;
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

/* 8 values in order; huge ones are 0. */
static ALWAYS __m256 eight(const struct kvc_e_plan *p, const uint16_t *at)
{
    const __m128i x = _mm_loadu_si128((const __m128i *)(const void *)at);
    const __m128i huge = _mm_cmpgt_epi16(_mm_and_si128(x, _mm_set1_epi16(0x7fff)),
                                         _mm_set1_epi16((short)(p->huge - 1)));
    const __m128i small = _mm_andnot_si128(huge, x);

    if (p->half_floats)
        return _mm256_cvtph_ps(small);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(small), 16));
}

static ALWAYS void add_to(float *at, __m256 v)
{
    _mm256_store_ps(at, _mm256_add_ps(_mm256_load_ps(at), v));
}

static void sums(const struct kvc_e_plan *p, const uint16_t *row, const uint16_t *before,
                 float *sum, float *square, float *cross)
{
    for (uint32_t c = 0; c < p->groups * KVC_E_LANES; c += 8) {
        const __m256 v = eight(p, row + c);

        add_to(sum + c, v);
        add_to(square + c, _mm256_mul_ps(v, v));
        if (before != NULL)
            add_to(cross + c, _mm256_mul_ps(v, eight(p, before + c)));
    }
}

const struct kvc_e_kernels kvc_e_avx2 = {
    .sums = sums,
    .encode = encode,
    .decode = decode,
};
