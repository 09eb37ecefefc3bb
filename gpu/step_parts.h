/* SPDX-License-Identifier: Apache-2.0 */
/* step_parts.h - for the kernels of a forward pass: bf16 and fp8, sums over a warp, which head of
 * which token, where it lies. K and V have a type: uint16_t is bf16, uint8_t is e4m3. */
#ifndef KVG_STEP_PARTS_H
#define KVG_STEP_PARTS_H

#include "dev.h"
#include "steps.h"

#define KVG_ALL_LANES 0xffffffffu

static __device__ __forceinline__ float kvg_wide(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}
/* e4m3: its bits are a float's whose exponent is 120 too small. */
static __device__ __forceinline__ float kvg_wide(uint8_t bits)
{
    const uint32_t is = bits & 0x7fu, sign = (uint32_t)(bits & 0x80u) << 24;
    const float v = __uint_as_float(is << 20 | sign) * 0x1p120f;

    return is == 0x7fu ? __uint_as_float(0x7fc00000u) : v;
}

/* The nearest e4m3, ties to even; what is beyond the largest is that, and not a NaN. */
static __device__ __forceinline__ uint8_t kvg_to_e4m3(float f)
{
    const uint32_t all = __float_as_uint(f), sign = all >> 24 & 0x80u, u = all & 0x7fffffffu;

    if (u > 0x7f800000u)
        return 0x7f;
    if (u >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (u < 0x3c800000u) /* below 2^-6: 16384's unit in the last place is 2^-9 */
        return (uint8_t)(sign | (__float_as_uint(__uint_as_float(u) + 0x1p14f) - 0x46800000u));
    return (uint8_t)(sign | (u - 0x3c000000u + 0x7ffffu + (u >> 20 & 1)) >> 20);
}

/* To a page: bf16 has no scale. */
static __device__ __forceinline__ void kvg_put(uint16_t *to, float v, float)
{
    *to = kvg_to_bf16(v);
}
static __device__ __forceinline__ void kvg_put(uint8_t *to, float v, float scale)
{
    *to = kvg_to_e4m3(v / scale);
}

/* All lanes return the same. */
static __device__ __forceinline__ float kvg_warp_sum(float v)
{
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(KVG_ALL_LANES, v, d);
    return v;
}
static __device__ __forceinline__ float kvg_warp_max(float v)
{
    for (int d = 16; d > 0; d /= 2)
        v = fmaxf(v, __shfl_xor_sync(KVG_ALL_LANES, v, d));
    return v;
}

/* This warp among all of the launch. */
static __device__ __forceinline__ uint32_t kvg_warp(void)
{
    return blockIdx.x * KVG_STEP_WARPS + threadIdx.x / 32;
}

/* The first position that a query at `at` sees. */
static __device__ __forceinline__ uint32_t kvg_first_seen(uint32_t window, uint32_t at)
{
    return window == 0 || at < window ? 0 : at - window + 1;
}

/* A head's row of the token at that position, of kv.k or kv.v. */
template <typename KV>
static __device__ __forceinline__ KV *kvg_row(const struct kvg_paged &kv, unsigned char *base,
                                              uint32_t position, uint32_t head)
{
    const uint32_t block = position / kv.block_tokens, slot = position - block * kv.block_tokens;

    return reinterpret_cast<KV *>(base + kv.blocks[block] * kv.block_stride +
                                  slot * kv.token_stride + head * kv.head_stride);
}
#endif
