/* SPDX-License-Identifier: Apache-2.0 */
/*
 * half.h - one 16-bit float to 32 bits and back.
 *
 * threads  pure functions    memory  none    time  none
 */
#ifndef KVE_HALF_H
#define KVE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float kve_float_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t kve_bits_of_float(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* IEEE binary16, subnormals, infinities and NaNs included. */
static inline float kve_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t rest = h & 0x7fffu;

    if (rest >= 0x7c00u) /* infinity or NaN: the exponent becomes all ones again */
        return kve_float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x0400u) { /* subnormal or zero: a count of 2^-24 */
        const float f = (float)rest * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    return kve_float_of_bits(sign | ((rest << 13) + ((127u - 15u) << 23)));
}

static inline float kve_bf16_to_f32(uint16_t b)
{
    return kve_float_of_bits((uint32_t)b << 16);
}

/* To nearest, ties to even; a NaN stays a NaN. */
static inline uint16_t kve_f32_to_bf16(float f)
{
    const uint32_t bits = kve_bits_of_float(f);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
