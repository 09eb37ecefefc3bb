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
