/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block_values.h - the value of one weight, straight from GGUF's formulas, in double: value i of a
 * row is worked out alone, bit by bit, so that it shares nothing with engine/kernels/quant_body.h.
 */
#ifndef TESTS_BLOCK_VALUES_H
#define TESTS_BLOCK_VALUES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/gguf/gguf.h"

static const kve_type bv_types[] = {KVE_TYPE_F32,  KVE_TYPE_F16,  KVE_TYPE_BF16, KVE_TYPE_Q4_0,
                                    KVE_TYPE_Q4_1, KVE_TYPE_Q5_0, KVE_TYPE_Q5_1, KVE_TYPE_Q8_0,
                                    KVE_TYPE_Q4_K, KVE_TYPE_Q5_K, KVE_TYPE_Q6_K};
#define BV_TYPES (sizeof(bv_types) / sizeof(bv_types[0]))

static inline double bv_half(const uint8_t *p)
{
    const int sign = p[1] >> 7, exponent = p[1] >> 2 & 31, fraction = (p[1] & 3) * 256 + p[0];
    const double v = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

    if (exponent == 31)
        return fraction != 0 ? NAN : sign ? -INFINITY : INFINITY;
    return sign ? -v : v;
}

static inline int bv_bit(const uint8_t *p, int i)
{
    return p[i / 8] >> (i % 8) & 1;
}

/* A run of bits inside little-endian bytes. */
static inline int bv_bits(const uint8_t *p, int first, int count)
{
    int v = 0;

    for (int i = 0; i < count; ++i)
        v |= bv_bit(p, first + i) << i;
    return v;
}

/* The 6-bit scale (or minimum) j of Q4_K and Q5_K: 0..3 lie in the low bits of bytes 0..3 (4..7),
 * 4..7 have their low four bits in bytes 8..11 and their high two on top of those bytes. */
static inline int bv_k6(const uint8_t *s, int j, int is_min)
{
    if (j < 4)
        return bv_bits(s, 8 * (j + (is_min ? 4 : 0)), 6);
    return bv_bits(s, 8 * (j + 4) + (is_min ? 4 : 0), 4) |
           bv_bits(s, 8 * (j - 4 + (is_min ? 4 : 0)) + 6, 2) << 4;
}

static inline double bv_small(kve_type type, const uint8_t *b, int i)
{
    const int five = type == KVE_TYPE_Q5_0 || type == KVE_TYPE_Q5_1;
    const int has_min = type == KVE_TYPE_Q4_1 || type == KVE_TYPE_Q5_1;
    const uint8_t *high = b + 2 + 2 * has_min, *q = high + 4 * five;
    int v = bv_bits(q, 8 * (i % 16) + 4 * (i / 16), 4);

    if (type == KVE_TYPE_Q8_0)
        return bv_half(b) * (int8_t)b[2 + i];
    if (five)
        v += 16 * bv_bit(high, i);
    if (has_min)
        return bv_half(b) * v + bv_half(b + 2);
    return bv_half(b) * (v - (five ? 16 : 8));
}

static inline double bv_k(kve_type type, const uint8_t *b, int i)
{
    const int pair = i / 64, upper = i / 32 % 2, l = i % 32, sub = i / 32;

    if (type == KVE_TYPE_Q6_K) {
        const int half = i / 128, quarter = i / 32 % 4;
        const int low = bv_bits(b + 64 * half, 8 * (l + 32 * (quarter % 2)) + 4 * (quarter / 2), 4);
        const int high = bv_bits(b + 128 + 32 * half, 8 * l + 2 * quarter, 2);

        return bv_half(b + 208) * (int8_t)b[192 + i / 16] * (low + 16 * high - 32);
    }

    const uint8_t *q = b + (type == KVE_TYPE_Q5_K ? 48 : 16);
    int v = bv_bits(q, 8 * (32 * pair + l) + 4 * upper, 4);

    if (type == KVE_TYPE_Q5_K)
        v += 16 * bv_bit(b + 16, 8 * l + sub);
    return bv_half(b) * bv_k6(b + 4, sub, 0) * v - bv_half(b + 2) * bv_k6(b + 4, sub, 1);
}

static inline double bv_value(kve_type type, const uint8_t *row, size_t i)
{
    const struct kve_type_info *t = kve_type_info(type);
    const uint8_t *b = row + i / t->block_values * t->block_bytes;
    uint8_t wide[4] = {0};
    float f;

    if (type == KVE_TYPE_F16)
        return bv_half(b);
    if (type == KVE_TYPE_F32 || type == KVE_TYPE_BF16) {
        memcpy(wide + (type == KVE_TYPE_BF16 ? 2 : 0), b, t->block_bytes);
        memcpy(&f, wide, sizeof(f));
        return (double)f;
    }
    return t->block_values == 32 ? bv_small(type, b, (int)(i % 32)) : bv_k(type, b, (int)(i % 256));
}

static inline uint32_t bv_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* A finite fp16 of moderate size, of either sign, sometimes subnormal or zero. */
static inline void bv_half_random(uint8_t *p, uint32_t *state)
{
    const uint32_t kind = bv_random(state) % 16;

    p[0] = (uint8_t)bv_random(state);
    p[1] = (uint8_t)((bv_random(state) & 0x83) | (7 + bv_random(state) % 8) << 2);
    if (kind == 0)
        p[1] &= 0x83; /* subnormal */
    if (kind == 1)
        p[0] = p[1] = 0;
}

/* n values of random bits, every scale finite. */
static inline void bv_fill(kve_type type, uint8_t *row, size_t n, uint32_t *state)
{
    const struct kve_type_info *t = kve_type_info(type);

    for (size_t i = 0; i < n / t->block_values; ++i) {
        uint8_t *b = row + i * t->block_bytes;

        for (uint32_t j = 0; j < t->block_bytes; ++j)
            b[j] = (uint8_t)bv_random(state);
        if (type == KVE_TYPE_F32 || type == KVE_TYPE_BF16) {
            const float f = (float)(bv_random(state) % 4001) / 1000 - 2;
            memcpy(b, (const uint8_t *)&f + 4 - t->block_bytes, t->block_bytes);
        } else if (type == KVE_TYPE_Q6_K) {
            bv_half_random(b + 208, state);
        } else {
            bv_half_random(b, state);
            if (type == KVE_TYPE_Q4_1 || type == KVE_TYPE_Q5_1 || t->block_values == 256)
                bv_half_random(b + 2, state);
        }
    }
}

#endif
