/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_scalar.c - the loops of the error-bounded codecs one value at a time: what SPEC.md means.
 *
 * Floats are binary32, rounded to nearest even after every operation; this file and its faster
 * twins are compiled without contraction to fused multiply-add.
 */
#include <math.h>
#include <string.h>

#include "e.h"

static float from_half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 31, man = h & 0x3ffu;
    union {
        uint32_t u;
        float f;
    } v;

    if (exp == 0) {
        v.f = (float)man * 0x1p-24f;
        v.u |= sign;
    } else {
        v.u = sign | (exp + 112) << 23 | man << 13; /* infinities and NaNs never come here */
    }
    return v.f;
}

/* To nearest, ties to even. */
static uint16_t to_half(float f)
{
    union {
        uint32_t u;
        float f;
    } v = {.f = f};
    const uint16_t sign = (uint16_t)(v.u >> 16 & 0x8000u);

    v.u &= 0x7fffffffu;
    if (v.u >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* a damaged stream's */
    if (v.u < 0x38800000u) {               /* below 2^-14: multiples of 2^-24 */
        const union {
            float f;
            uint32_t u;
        } sum = {.f = v.f + 0.5f}; /* 0.5's unit in the last place is 2^-24 */

        return (uint16_t)(sign | (sum.u - 0x3f000000u));
    }
    return (uint16_t)(sign | ((v.u - 0x38000000u + 0xfffu + (v.u >> 13 & 1)) >> 13));
}

static uint16_t to_bf16(float f)
{
    const union {
        float f;
        uint32_t u;
    } v = {.f = f};

    return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1)) >> 16);
}

static bool is_huge(const struct kvc_e_plan *p, uint16_t bits)
{
    return (bits & 0x7fffu) >= p->huge;
}

static float value_of(const struct kvc_e_plan *p, uint16_t bits)
{
    return p->half_floats ? from_half(bits) : kvc_e_bf16(bits);
}

static uint16_t rebuilt(const struct kvc_e_plan *p, int32_t q)
{
    const float v = (float)q * p->step;

    return p->half_floats ? to_half(v) : to_bf16(v);
}

/* Two bits, two more for what they can't name, and so on. */
const uint8_t kvc_e_codes[16] __attribute__((aligned(16))) = {
    0,           1,           2,  3,           3 | 1 << 2,  3 | 2 << 2, 15,
    15 | 1 << 4, 15 | 2 << 4, 63, 63 | 1 << 6, 63 | 2 << 6, 255,
};

static void put_bits(struct kvc_e_bits *b, uint64_t bits, uint32_t n)
{
    uint64_t whole = b->held | bits << b->count;

    if (n == 0)
        return;
    if (b->count + n >= 64) {
        memcpy(b->at, &whole, 8);
        b->at += 8;
        whole = b->count > 0 ? bits >> (64 - b->count) : 0;
    }
    b->held = whole;
    b->count = (b->count + n) % 64;
}

/* Two loads at most: bits may lie across a word. */
static uint64_t get_bits(struct kvc_e_bits *b, uint32_t n)
{
    uint64_t low, high = 0;

    if (n == 0)
        return 0;
    memcpy(&low, b->at, 8);
    low >>= b->count;
    if (b->count + n > 64) {
        memcpy(&high, b->at + 8, 8);
        low |= high << (64 - b->count);
    }
    b->count += n;
    b->at += b->count / 64 * 8;
    b->count %= 64;
    return n < 64 ? low & ((1ull << n) - 1) : low;
}

static void sums(const struct kvc_e_plan *p, const uint16_t *row, const uint16_t *before,
                 float *sum, float *square, float *cross)
{
    for (uint32_t c = 0; c < p->channels; ++c) {
        const float v = is_huge(p, row[c]) ? 0 : value_of(p, row[c]);

        sum[c] += v;
        square[c] += v * v;
        if (before != NULL)
            cross[c] += v * (is_huge(p, before[c]) ? 0 : value_of(p, before[c]));
    }
}

/* 16 bits are enough for all that an encoder makes; a damaged stream's are cut. */
static int32_t follow(int32_t quarters, int32_t last)
{
    return (int16_t)(quarters * last + 2) >> 2;
}

/* A value's distance from its base in steps, and its symbol; low gets its raw low bits. */
static uint32_t symbol_of(const struct kvc_e_plan *p, int16_t *last, uint32_t c, uint16_t bits,
                          uint32_t *low)
{
    const int32_t foretold = follow(p->follow[c], *last);
    const float y = is_huge(p, bits) ? 0 : value_of(p, bits) * p->inverse;

    *low = 0;
    *last = 0;
    if (is_huge(p, bits) || !(fabsf(y) < KVC_E_Q_MAX + 0.5f))
        return KVC_E_U_EXACT;

    const int32_t r = (int32_t)lrintf(y) - p->base[c]; /* to nearest, ties to even */
    const int32_t lifted = r - foretold + p->lift[c], h = lifted >> p->low[c];
    const uint32_t u = h >= 0 ? 2 * (uint32_t)h : 2 * (uint32_t)-h - 1;

    if (u >= KVC_E_U_EXACT)
        return KVC_E_U_EXACT;
    *low = (uint32_t)lifted & ((1u << p->low[c]) - 1);
    *last = (int16_t)r;
    return u;
}

static unsigned char *put_exact(unsigned char *at, uint16_t bits)
{
    at[0] = (unsigned char)bits;
    at[1] = (unsigned char)(bits >> 8);
    return at + 2;
}

static void encode_token(const struct kvc_e_plan *p, struct kvc_e_block *b, const uint16_t *row,
                         uint16_t *decoded)
{
    for (uint32_t first = 0; first < p->channels; first += KVC_E_LANES) {
        const uint32_t lanes =
            p->channels - first < KVC_E_LANES ? p->channels - first : KVC_E_LANES;
        uint64_t lows[KVC_E_LOW_MAX] = {0};
        uint32_t low_bits[KVC_E_LOW_MAX] = {0};

        for (uint32_t i = 0; i < lanes; ++i) {
            const uint32_t c = first + i;
            uint32_t low;
            const uint32_t u = symbol_of(p, &b->last[c], c, row[c], &low);

            decoded[c] = u == KVC_E_U_EXACT ? row[c] : rebuilt(p, p->base[c] + b->last[c]);
            if (u == KVC_E_U_EXACT)
                b->exact = put_exact(b->exact, row[c]);
            *b->codes++ = kvc_e_codes[u < KVC_E_RANKS ? u : KVC_E_RANKS];
            if (u >= KVC_E_RANKS)
                *b->wide++ = (uint8_t)(u - KVC_E_RANKS);
            for (int16_t k = 0; k < p->low[c]; ++k)
                lows[k] |= (uint64_t)(low >> k & 1) << low_bits[k]++;
        }
        for (uint32_t k = 0; k < KVC_E_LOW_MAX; ++k)
            put_bits(&b->lows, lows[k], low_bits[k]);
    }
}

static bool decode_token(const struct kvc_e_plan *p, struct kvc_e_block *b, uint16_t *decoded)
{
    for (uint32_t first = 0; first < p->channels; first += KVC_E_LANES) {
        const uint32_t lanes =
            p->channels - first < KVC_E_LANES ? p->channels - first : KVC_E_LANES;
        uint64_t lows[KVC_E_LOW_MAX];

        for (uint32_t k = 0; k < KVC_E_LOW_MAX; ++k) {
            const uint64_t mask = p->low_lanes[first / KVC_E_LANES * KVC_E_LOW_MAX + k];

            lows[k] = get_bits(&b->lows, (uint32_t)__builtin_popcountll(mask));
        }
        for (uint32_t i = 0; i < lanes; ++i) {
            const uint32_t c = first + i;
            const int32_t foretold = follow(p->follow[c], b->last[c]);
            uint32_t u = *b->ranks++, low = 0;

            for (int16_t k = 0; k < p->low[c]; ++k) {
                low |= (uint32_t)(lows[k] & 1) << k;
                lows[k] >>= 1;
            }
            if (u == KVC_E_RANKS) {
                if (b->wide == b->wide_end)
                    return false;
                u += *b->wide++;
            }
            if (u == KVC_E_U_EXACT) {
                if (b->exact == b->exact_end || low != 0)
                    return false;
                b->last[c] = 0;
                decoded[c] = (uint16_t)(b->exact[0] | b->exact[1] << 8);
                b->exact += 2;
                continue;
            }

            const int32_t h = u % 2 == 0 ? (int32_t)(u / 2) : -(int32_t)(u / 2) - 1;
            const int32_t r = h * (1 << p->low[c]) + (int32_t)low - p->lift[c] + foretold;

            b->last[c] = (int16_t)r;
            decoded[c] = rebuilt(p, (int16_t)(p->base[c] + b->last[c]));
        }
    }
    return true;
}

static void encode(const struct kvc_e_plan *p, struct kvc_e_block *b, const uint16_t *row,
                   uint16_t *decoded, uint32_t tokens)
{
    for (uint32_t t = 0; t < tokens; ++t)
        encode_token(p, b, row + (size_t)t * p->channels, decoded + (size_t)t * p->channels);
}

static bool decode(const struct kvc_e_plan *p, struct kvc_e_block *b, uint16_t *decoded,
                   uint32_t tokens)
{
    for (uint32_t t = 0; t < tokens; ++t) {
        if (!decode_token(p, b, decoded + (size_t)t * p->channels))
            return false;
    }
    return true;
}

const struct kvc_e_kernels kvc_e_scalar = {
    .sums = sums,
    .encode = encode,
    .decode = decode,
};
