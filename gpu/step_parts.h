/* SPDX-License-Identifier: Apache-2.0 */
/* step_parts.h - for the kernels of a forward pass: bf16, sums over a warp, which head of which
 * token, where it lies. */
#ifndef KVG_STEP_PARTS_H
#define KVG_STEP_PARTS_H

#include "dev.h"
#include "steps.h"

#define KVG_ALL_LANES 0xffffffffu

static __device__ __forceinline__ float kvg_wide(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
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
static __device__ __forceinline__ uint16_t *kvg_row(const struct kvg_paged &kv, unsigned char *base,
                                                    uint32_t position, uint32_t head)
{
    const uint32_t block = position / kv.block_tokens, slot = position - block * kv.block_tokens;

    return reinterpret_cast<uint16_t *>(base + kv.blocks[block] * kv.block_stride +
                                        slot * kv.token_stride + head * kv.head_stride);
}
#endif
