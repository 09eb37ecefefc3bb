/* SPDX-License-Identifier: Apache-2.0 */
/* step_dequantise.cu - weights as a GGUF has them to bf16, when a model is loaded. */
#include "step_parts.h"

static __device__ __forceinline__ float half_at(const unsigned char *p)
{
    return kvg_from_half((uint16_t)(p[0] | p[1] << 8));
}

struct type_f32 {
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const p = from + 4 * i;

        return __uint_as_float(p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24);
    }
};
struct type_f16 {
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        return half_at(from + 2 * i);
    }
};
struct type_q8_0 { /* a scale, 32 bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 32 * 34;

        return half_at(b) * (float)(int8_t)b[2 + i % 32];
    }
};
/* The lower halves of 16 bytes are a block's first values, the upper ones its last. */
static __device__ __forceinline__ int nibble(const unsigned char *bytes, uint32_t i)
{
    return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4;
}
struct type_q4_0 { /* a scale, 32 halves of bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 32 * 18;

        return half_at(b) * (float)(nibble(b + 2, (uint32_t)(i % 32)) - 8);
    }
};
struct type_q4_1 { /* a scale, the least, 32 halves of bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 32 * 20;

        return half_at(b) * (float)nibble(b + 4, (uint32_t)(i % 32)) + half_at(b + 2);
    }
};
/* Bit i of 32 that four bytes have is a value's fifth one. */
static __device__ __forceinline__ int fifth(const unsigned char *bytes, uint32_t i)
{
    return (bytes[i / 8] >> i % 8 & 1) << 4;
}
struct type_q5_0 { /* a scale, fifth bits, 32 halves of bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 32 * 22;
        const uint32_t at = (uint32_t)(i % 32);

        return half_at(b) * (float)((nibble(b + 6, at) | fifth(b + 2, at)) - 16);
    }
};
struct type_q5_1 { /* a scale, the least, fifth bits, 32 halves of bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 32 * 24;
        const uint32_t at = (uint32_t)(i % 32);

        return half_at(b) * (float)(nibble(b + 8, at) | fifth(b + 4, at)) + half_at(b + 2);
    }
};
/* Blocks of 256 in eight parts, each with a scale and a least of 6 bits; 12 bytes have them all. */
static __device__ __forceinline__ float part_scale(const unsigned char *s, uint32_t part)
{
    return (float)(part < 4 ? s[part] & 63 : (s[part + 4] & 15) | s[part - 4] >> 6 << 4);
}
static __device__ __forceinline__ float part_least(const unsigned char *s, uint32_t part)
{
    return (float)(part < 4 ? s[part + 4] & 63 : s[part + 4] >> 4 | s[part] >> 6 << 4);
}
/* The lower halves of 32 bytes are a part, the upper ones the next. */
static __device__ __forceinline__ int half_of(const unsigned char *bytes, uint32_t at)
{
    const unsigned char byte = bytes[at / 64 * 32 + at % 32];

    return at / 32 % 2 == 0 ? byte & 15 : byte >> 4;
}
struct type_q4_k { /* scales of scales and of leasts, scales, halves of bytes */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 256 * 144;
        const uint32_t at = (uint32_t)(i % 256), part = at / 32;
        const float scale = half_at(b) * part_scale(b + 4, part);

        return scale * (float)half_of(b + 16, at) - half_at(b + 2) * part_least(b + 4, part);
    }
};
struct type_q5_k { /* the same; before the halves 32 bytes, a bit of each for a part */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 256 * 176;
        const uint32_t at = (uint32_t)(i % 256), part = at / 32;
        const int v = half_of(b + 48, at) | (b[16 + at % 32] >> part & 1) << 4;
        const float scale = half_at(b) * part_scale(b + 4, part);

        return scale * (float)v - half_at(b + 2) * part_least(b + 4, part);
    }
};
struct type_q6_k { /* halves of bytes, quarters of bytes, 16 scales, their scale */
    static __device__ float value(const unsigned char *from, uint64_t i)
    {
        const unsigned char *const b = from + i / 256 * 210;
        const uint32_t at = (uint32_t)(i % 256), half = at / 128, in = at % 128;
        const unsigned char low = b[64 * half + in % 64];
        const int high = b[128 + 32 * half + in % 32] >> in / 32 * 2 & 3;
        const int v = (in < 64 ? low & 15 : low >> 4) | high << 4;

        return half_at(b + 208) * (float)(int8_t)b[192 + at / 16] * (float)(v - 32);
    }
};

template <typename T> static __device__ __forceinline__ void widen(const struct kvg_dequantise &p)
{
    const uint64_t i = (uint64_t)blockIdx.x * KVG_STEP_THREADS + threadIdx.x;

    if (i < p.count)
        p.to[i] = kvg_to_bf16(T::value(p.from, i));
}

#define WIDEN(type)                                                                                \
    KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS)                                            \
        kvg_dequantise_##type(const struct kvg_dequantise p)                                       \
    {                                                                                              \
        widen<type_##type>(p);                                                                     \
    }
WIDEN(f32)
WIDEN(f16)
WIDEN(q8_0)
WIDEN(q4_0)
WIDEN(q4_1)
WIDEN(q5_0)
WIDEN(q5_1)
WIDEN(q4_k)
WIDEN(q5_k)
WIDEN(q6_k)
