/* SPDX-License-Identifier: Apache-2.0 */
/* toys_right.cpp - the twins of toys_wrong.cpp, and what CUDA's functions are to compute. */
#include <stdio.h>

#include "gpu/dev.h"
#include "toys.h"

static uint32_t *words(void)
{
    return (uint32_t *)simt_now->shared;
}

/* ---- ordered ------------------------------------------------------------------------------- */

static void shared_barrier(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    for (unsigned round = 0; round < 3; ++round) {
        words()[t] = t + round;
        __syncthreads();
        g[blockIdx.x * 64 + t] = words()[t ^ 33];
        __syncthreads();
    }
}
static bool shared_barrier_holds(const uint32_t *g)
{
    for (unsigned t = 0; t < 128; ++t)
        if (g[t] != (t % 64 ^ 33) + 2)
            return false;
    return true;
}

static void shared_syncwarp(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    words()[t] = t;
    __syncwarp();
    g[t] = words()[t ^ 1];
    __syncwarp();
    words()[t ^ 2] = 0;
}

/* Lane 0's write reaches lane 2 through lane 1: two meetings of two lanes. */
static void shared_syncwarp_chain(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    if (t == 0)
        words()[0] = 7;
    if (t <= 1)
        __syncwarp(3u);
    if (t == 1 || t == 2)
        __syncwarp(6u);
    if (t == 2)
        g[0] = words()[0];
}

static void atomics_of_all(uint32_t *g)
{
    if (threadIdx.x == 0)
        words()[0] = 0;
    __syncthreads();
    atomicAdd(words(), 1u);
    atomicAdd(&g[0], 2u);
    atomicOr(&g[1], 1u << threadIdx.x % 32);
    atomicMax(&g[2], threadIdx.x + 100 * blockIdx.x);
    __syncthreads();
    if (threadIdx.x == 0)
        g[3 + blockIdx.x] = words()[0];
}
static bool atomics_hold(const uint32_t *g)
{
    return g[0] == 256 && g[1] == 0xffffffff && g[2] == 163 && g[3] == 64 && g[4] == 64;
}

static void bytes_of_a_word(uint32_t *g)
{
    unsigned char *b = (unsigned char *)g;

    b[threadIdx.x] = (unsigned char)threadIdx.x; /* eight threads a granule */
}

static void publish(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x == 0) {
        g[1] = 5;
        kvg_store_release(&g[0], 1);
    } else {
        while (kvg_load_acquire(&g[0]) == 0) {
        }
        g[1 + blockIdx.x] = g[1];
    }
}
static bool publish_holds(const uint32_t *g)
{
    return g[2] == 5 && g[3] == 5;
}

/* All threads of block 0 write, one publishes; one of block 1 takes it, all read. */
static void publish_through_barriers(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    if (blockIdx.x == 0) {
        g[64 + t] = t;
        __syncthreads();
        if (t == 0)
            kvg_store_release(&g[0], 1);
    } else {
        while (t == 0 && kvg_load_acquire(&g[0]) == 0) {
        }
        __syncthreads();
        g[128 + t] = g[64 + (t ^ 3)];
    }
}

static void publish_through_warps(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    if (blockIdx.x == 0) {
        g[64 + t] = t;
        __syncwarp();
        if (t == 3)
            kvg_store_release(&g[0], 1);
    } else {
        while (t == 4 && kvg_load_acquire(&g[0]) == 0) {
        }
        __syncwarp();
        g[128 + t] = g[64 + (t ^ 3)];
    }
}
static bool through_holds(const uint32_t *g)
{
    for (unsigned t = 0; t < 32; ++t)
        if (g[128 + t] != (t ^ 3))
            return false;
    return true;
}

/* Block 0's write reaches block 2 through block 1. */
static void publish_in_turns(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x == 0)
        g[10] = 5;
    else
        while (kvg_load_acquire(&g[blockIdx.x]) == 0) {
        }
    if (blockIdx.x == 2)
        g[11] = g[10];
    else
        kvg_store_release(&g[blockIdx.x + 1], 1);
}

static void last_block(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    g[1 + blockIdx.x] = blockIdx.x;
    if (kvg_add_acq_rel(&g[0], 1) + 1 == gridDim.x)
        for (unsigned i = 0; i < gridDim.x; ++i)
            g[100] += g[1 + i];
}
static bool last_block_holds(const uint32_t *g)
{
    return g[100] == 28;
}

/* ---- waits and values ---------------------------------------------------------------------- */

static void some_return_before_the_barrier(uint32_t *g)
{
    if (threadIdx.x >= 40)
        return;
    words()[threadIdx.x] = 2;
    __syncthreads();
    g[threadIdx.x] = words()[39 - threadIdx.x];
}

static void halves_of_a_warp(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    if (t < 16)
        g[t] = __shfl_xor_sync(0xffffu, t, 15);
    else
        g[t] = __shfl_xor_sync(0xffff0000u, t, 15);
}
static bool halves_hold(const uint32_t *g)
{
    for (unsigned t = 0; t < 32; ++t)
        if (g[t] != (t ^ 15))
            return false;
    return true;
}

static void shuffles_and_votes(uint32_t *g)
{
    const unsigned t = threadIdx.x, l = t % 32, w = t / 32 * 8;
    unsigned ok = __shfl_sync(SIMT_FULL_WARP, t, 7) == t - l + 7;

    ok &= __shfl_up_sync(SIMT_FULL_WARP, t, 4) == (l < 4 ? t : t - 4);
    ok &= __shfl_down_sync(SIMT_FULL_WARP, t, 5) == (l > 26 ? t : t + 5);
    ok &= __shfl_xor_sync(SIMT_FULL_WARP, 0x100000000ull + t, 9) == 0x100000000ull + (t ^ 9);
    ok &= __ballot_sync(SIMT_FULL_WARP, l % 3 == 0) == 0x49249249u;
    ok &= __any_sync(SIMT_FULL_WARP, l == 31) && !__any_sync(SIMT_FULL_WARP, 0);
    ok &= __all_sync(SIMT_FULL_WARP, 2) && !__all_sync(SIMT_FULL_WARP, l != 30);
    atomicAdd(&g[w], ok);
    ok = __popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4;
    ok &= __umulhi(0x80000000u, 6) == 3 && __funnelshift_r(0x12345678, 0x9abcdef0, 8) == 0xf0123456;
    ok &= __funnelshift_l(0x12345678, 0x9abcdef0, 8) == 0xbcdef012;
    ok &= __byte_perm(0x33221100, 0x77665544, 0x7041) == 0x77004411;
    ok &= __vminu2(0x0005ffff, 0x00060001) == 0x00050001;
    atomicAdd(&g[w + 1], ok);
}
static bool shuffles_hold(const uint32_t *g)
{
    return g[0] == 32 && g[1] == 32 && g[8] == 32 && g[9] == 32;
}

static void vectors_in_place(uint32_t *g)
{
    const uint4 v = *reinterpret_cast<const uint4 *>(g + 4 * threadIdx.x);

    *reinterpret_cast<uint4 *>(g + 4 * threadIdx.x) = make_uint4(v.x + 1, v.y + 2, v.z + 3, v.w);
    *reinterpret_cast<uint2 *>(g + 512 + 2 * threadIdx.x) = make_uint2(8, 9);
}
static bool vectors_hold(const uint32_t *g)
{
    return g[124] == 1 && g[125] == 2 && g[126] == 3 && g[127] == 0 && g[574] == 8 && g[575] == 9;
}

/* Each as IEEE 754 has it; g[0] says which isn't. */
static void floats(uint32_t *g)
{
    const float third = __fdiv_rn(1, 3);
    const bool holds[] = {
        __float_as_uint(third) == 0x3eaaaaab,
        __float_as_uint(__fsqrt_rn(2)) == 0x3fb504f3,
        /* not contracted: the product is rounded before the sum */
        __fadd_rn(__fmul_rn(third, 3), -1) == 0,
        __fsub_rn(0x1p24f, -1) == 0x1p24f && __fsub_rn(0x1p24f, -3) == 0x1p24f + 4,
        __float2int_rn(2.5f) == 2 && __float2int_rn(-3.5f) == -4 && __float2int_rn(0.49f) == 0,
        __int2float_rn(0x1000001) == 0x1p24f && __uint_as_float(0x40490fdb) > 3.14159f,
        kvg_to_bf16(__uint_as_float(0x3f808000)) == 0x3f80 &&
            kvg_to_bf16(__uint_as_float(0x3f818000)) == 0x3f82,
        kvg_from_half(0x3c00) == 1 && kvg_from_half(0x8001) == -0x1p-24f &&
            kvg_from_half(0x7bff) == 65504,
        kvg_to_half(65519.99f) == 0x7bff && kvg_to_half(-65520.0f) == 0xfc00 &&
            kvg_to_half(0x1.8p-25f) == 1 && kvg_to_half(0x1p-25f) == 0,
    };

    for (uint32_t i = 0; i < sizeof(holds) / sizeof(holds[0]); ++i)
        if (!holds[i])
            g[0] |= 1u << i;
    g[1] = 1;
}
static bool floats_hold(const uint32_t *g)
{
    if (g[0] != 0)
        printf("# floats: %x\n", g[0]);
    return g[0] == 0 && g[1] == 1;
}

static void last_words(uint32_t *g)
{
    words()[threadIdx.x] = 1;
    g[TOY_WORDS - 64 + threadIdx.x] = 1;
}

const toy toys_right[] = {
    {"shared: a barrier", SIMT_ANY, 0, 2, 64, 256, shared_barrier, shared_barrier_holds},
    {"shared: __syncwarp", SIMT_ANY, 0, 1, 64, 256, shared_syncwarp, 0},
    {"shared: __syncwarp by way of a third lane", SIMT_ANY, 0, 1, 32, 4, shared_syncwarp_chain, 0},
    {"atomics", SIMT_ANY, 0, 2, 64, 4, atomics_of_all, atomics_hold},
    {"bytes of one word by eight threads", SIMT_ANY, 0, 1, 64, 0, bytes_of_a_word, 0},
    {"publish: release and acquire", SIMT_ANY, 0, 3, 32, 0, publish, publish_holds},
    {"publish: through barriers", SIMT_ANY, 0, 2, 32, 0, publish_through_barriers, through_holds},
    {"publish: through __syncwarp", SIMT_ANY, 0, 2, 32, 0, publish_through_warps, through_holds},
    {"publish: by way of a third block", SIMT_ANY, 0, 3, 32, 0, publish_in_turns, 0},
    {"last block: acquire and release", SIMT_ANY, 0, 8, 32, 0, last_block, last_block_holds},
    {"some return before the barrier", SIMT_ANY, 0, 1, 64, 256, some_return_before_the_barrier, 0},
    {"halves of a warp shuffle apart", SIMT_ANY, 0, 1, 32, 0, halves_of_a_warp, halves_hold},
    {"shuffles, votes and bit functions", SIMT_ANY, 0, 1, 64, 0, shuffles_and_votes, shuffles_hold},
    {"floats", SIMT_ANY, 0, 1, 1, 0, floats, floats_hold},
    {"vectors where they may lie", SIMT_ANY, 0, 1, 32, 0, vectors_in_place, vectors_hold},
    {"the last words of both memories", SIMT_ANY, 0, 1, 64, 256, last_words, 0},
    {},
};
