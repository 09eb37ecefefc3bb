/* SPDX-License-Identifier: Apache-2.0 */
/* toys_wrong.cpp - planted mistakes, one a kernel. */
#include "gpu/dev.h"
#include "toys.h"

static uint32_t *words(void)
{
    return (uint32_t *)simt_now->shared;
}

/* ---- races --------------------------------------------------------------------------------- */

static void shared_no_barrier(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    words()[t] = t;
    g[t] = words()[t ^ 33];
}

static void shared_write_after_read(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    words()[t] = t;
    __syncthreads();
    g[t] = words()[0];
    if (t == 40)
        words()[0] = 1;
}

static void shared_shuffle_for_barrier(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    words()[t] = t;
    (void)__shfl_xor_sync(SIMT_FULL_WARP, t, 1);
    g[t] = words()[t ^ 1];
}

static void shared_barrier_for_one_warp(uint32_t *g)
{
    const unsigned t = threadIdx.x;

    words()[t] = t;
    __syncwarp();
    g[t] = words()[t ^ 32];
}

static void shared_plain_beside_atomic(uint32_t *g)
{
    if (threadIdx.x == 0)
        words()[0] = 0;
    __syncthreads();
    if (threadIdx.x == 7)
        words()[0] += 1;
    else
        atomicAdd(words(), 1u);
    g[threadIdx.x] = 0;
}

static void shared_bytes_of_a_word(uint32_t *g)
{
    unsigned char *b = simt_now->shared;
    const unsigned t = threadIdx.x;

    b[t] = (unsigned char)t;
    if (t == 9) /* its own and its neighbour's */
        *(volatile uint16_t *)(b + 8) = 3;
    g[t] = 0;
}

static void global_between_blocks(uint32_t *g)
{
    if (threadIdx.x == 0)
        g[0] = blockIdx.x;
}

static void global_read_of_other_block(uint32_t *g)
{
    if (threadIdx.x == 0)
        g[blockIdx.x] = g[(blockIdx.x + 1) % gridDim.x] + 1;
}

static uint32_t relaxed(const uint32_t *p)
{
    const uint32_t v = __atomic_load_n(p, __ATOMIC_RELAXED);

    simt_give_way(v == 0);
    return v;
}

static void publish_relaxed(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x == 0) {
        g[1] = 5;
        atomicExch(&g[0], 1u);
    } else {
        while (kvg_load_acquire(&g[0]) == 0) {
        }
        g[2] = g[1];
    }
}

static void publish_not_acquired(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x == 0) {
        g[1] = 5;
        kvg_store_release(&g[0], 1);
    } else {
        while (relaxed(&g[0]) == 0) {
        }
        g[2] = g[1];
    }
}

/* Thread 0 publishes what thread 1 wrote, without a barrier between the two. */
static void publish_of_another_thread(uint32_t *g)
{
    if (blockIdx.x == 0) {
        if (threadIdx.x == 1)
            g[1] = 5;
        if (threadIdx.x == 0)
            kvg_store_release(&g[0], 1);
    } else if (threadIdx.x == 0) {
        while (kvg_load_acquire(&g[0]) == 0) {
        }
        g[2] = g[1];
    }
}

/* Written behind the release, so not part of it. */
static void publish_too_early(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x == 0) {
        kvg_store_release(&g[0], 1);
        g[1] = 5;
    } else {
        while (kvg_load_acquire(&g[0]) == 0) {
        }
        g[2] = g[1];
    }
}

/* The last block to come sums what the others wrote; the counter is relaxed. */
static void last_block_relaxed(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    g[1 + blockIdx.x] = blockIdx.x;
    if (atomicAdd(&g[0], 1u) + 1 == gridDim.x)
        for (unsigned i = 0; i < gridDim.x; ++i)
            g[100] += g[1 + i];
}

/* ---- waits --------------------------------------------------------------------------------- */

static void lane_left_before_shuffle(uint32_t *g)
{
    if (threadIdx.x == 5)
        return;
    g[threadIdx.x] = __shfl_xor_sync(SIMT_FULL_WARP, threadIdx.x, 1);
}

static void flag_that_nobody_sets(uint32_t *g)
{
    while (threadIdx.x == 0 && kvg_load_acquire(&g[0]) == 0) {
    }
}

/* Block 0 waits for the last block, which can't begin before a resident one ends. */
static void waits_for_a_later_block(uint32_t *g)
{
    if (threadIdx.x != 0)
        return;
    if (blockIdx.x + 1 == gridDim.x)
        kvg_store_release(&g[0], 1);
    while (kvg_load_acquire(&g[0]) == 0) {
    }
}

static void barrier_in_two_branches(uint32_t *g)
{
    if (threadIdx.x < 16)
        __syncthreads();
    else
        __syncthreads();
    g[threadIdx.x] = 1;
}

static void barrier_beside_shuffle(uint32_t *g)
{
    if (threadIdx.x < 16)
        __syncthreads();
    g[threadIdx.x] = __ballot_sync(SIMT_FULL_WARP, 1);
}

static void votes_in_two_branches(uint32_t *g)
{
    if (threadIdx.x < 16)
        g[threadIdx.x] = __ballot_sync(SIMT_FULL_WARP, 1);
    else
        g[threadIdx.x] = __ballot_sync(SIMT_FULL_WARP, 0);
}

static void shuffle_outside_mask(uint32_t *g)
{
    if (threadIdx.x < 16)
        g[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 16);
}

static void lane_not_in_its_mask(uint32_t *g)
{
    if (threadIdx.x < 17)
        g[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 0);
}

static void masks_that_disagree(uint32_t *g)
{
    const uint32_t mask = threadIdx.x < 16 ? SIMT_FULL_WARP : 0xffff0001u;

    g[threadIdx.x] = __shfl_sync(mask, threadIdx.x, threadIdx.x);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void shared_one_too_far(uint32_t *g)
{
    words()[threadIdx.x + 1] = 1;
    g[threadIdx.x] = 1;
}

static void global_one_too_far(uint32_t *g)
{
    g[TOY_WORDS - 63 + threadIdx.x] = 1;
}

static void global_before_the_first(uint32_t *g)
{
    g[threadIdx.x] = g[(int)threadIdx.x - 1];
}

static void uint4_at_8(uint32_t *g)
{
    *reinterpret_cast<uint4 *>(g + 4 * threadIdx.x + 2) = make_uint4(1, 2, 3, 4);
}

static void uint4_read_at_4(uint32_t *g)
{
    const uint4 v = *reinterpret_cast<const uint4 *>(g + 4 * threadIdx.x + 1);

    g[512 + threadIdx.x] = v.x;
}

static void uint2_at_4(uint32_t *g)
{
    *reinterpret_cast<uint2 *>(g + 4 * threadIdx.x + 1) = make_uint2(1, 2);
}

static void shift_of_32(uint32_t *g)
{
    g[threadIdx.x] = 1u << (threadIdx.x % 32 + 1);
}

static void shared_too_little(uint32_t *g)
{
    struct much {
        uint32_t of[65];
    };
    KVG_SHARED(much, m);

    g[threadIdx.x] = m.of[threadIdx.x];
}

static void says_trap(uint32_t *)
{
    if (threadIdx.x == 3)
        __trap();
}

static void nothing(uint32_t *)
{
}

#define R "nothing orders the two"
const toy toys_wrong[] = {
    {"shared: no barrier between write and read", SIMT_RACE, R, 2, 64, 256, shared_no_barrier, 0},
    {"shared: written while others still read", SIMT_RACE, R, 1, 64, 256, shared_write_after_read,
     0},
    {"shared: a shuffle taken for a barrier", SIMT_RACE, R, 1, 64, 256, shared_shuffle_for_barrier,
     0},
    {"shared: __syncwarp between two warps", SIMT_RACE, R, 1, 64, 256, shared_barrier_for_one_warp,
     0},
    {"shared: plain beside atomic", SIMT_RACE, R, 1, 64, 256, shared_plain_beside_atomic, 0},
    {"shared: two bytes over a neighbour's one", SIMT_RACE, R, 1, 64, 256, shared_bytes_of_a_word,
     0},
    {"global: two blocks write one word", SIMT_RACE, R, 2, 32, 0, global_between_blocks, 0},
    {"global: reads what another block writes", SIMT_RACE, R, 3, 32, 0, global_read_of_other_block,
     0},
    {"publish: relaxed store", SIMT_RACE, R, 2, 32, 0, publish_relaxed, 0},
    {"publish: relaxed load", SIMT_RACE, R, 2, 32, 0, publish_not_acquired, 0},
    {"publish: another thread's write", SIMT_RACE, R, 2, 32, 0, publish_of_another_thread, 0},
    {"publish: written behind the release", SIMT_RACE, R, 2, 32, 0, publish_too_early, 0},
    {"last block: relaxed counter", SIMT_RACE, R, 4, 32, 0, last_block_relaxed, 0},

    {"a lane returned before a shuffle", SIMT_ANY, "lanes ffffffdf of mask ffffffff wait at", 1, 32,
     0, lane_left_before_shuffle, 0},
    {"a flag that nobody sets", SIMT_ANY, "no progress", 1, 32, 0, flag_that_nobody_sets, 0},
    {"a block waits for one that can't begin", SIMT_ANY | SIMT_SOME_SEEDS, "no progress", 9, 32, 0,
     waits_for_a_later_block, 0},
    {"barriers in two branches", SIMT_ANY, "threads of the block wait at the one of", 1, 32, 0,
     barrier_in_two_branches, 0},
    {"a barrier beside a vote", SIMT_ANY, "deadlock", 1, 32, 0, barrier_beside_shuffle, 0},
    {"one mask at two lines", SIMT_ANY, "of mask ffffffff are at", 1, 32, 0, votes_in_two_branches,
     0},
    {"a shuffle from outside its mask", SIMT_ANY,
     "reads from lane 16, which isn't in the mask 0000ffff", 1, 32, 0, shuffle_outside_mask, 0},
    {"a lane that isn't in its mask", SIMT_ANY, "lane 16 isn't in its mask 0000ffff", 1, 32, 0,
     lane_not_in_its_mask, 0},
    {"masks that disagree", SIMT_ANY, "wait at", 1, 32, 0, masks_that_disagree, 0},

    {"shared: one word too far", SIMT_ASAN, "heap-buffer-overflow", 1, 64, 256, shared_one_too_far,
     0},
    {"global: one word too far", SIMT_ASAN, "heap-buffer-overflow", 1, 64, 0, global_one_too_far,
     0},
    {"global: one word before", SIMT_ASAN, "heap-buffer-overflow", 1, 1, 0, global_before_the_first,
     0},
    {"a shift by 32", SIMT_ASAN, "shift exponent 32 is too large", 1, 32, 0, shift_of_32, 0},
#define BY_US SIMT_PLAIN | SIMT_RACE
    {"uint4 written at 8", BY_US, "a vector of 16 bytes", 1, 32, 0, uint4_at_8, 0},
    {"uint4 read at 4", BY_US, "a vector of 16 bytes", 1, 32, 0, uint4_read_at_4, 0},
    {"uint2 written at 4", BY_US, "a vector of 8 bytes", 1, 32, 0, uint2_at_4, 0},
    {"uint4 written at 8", SIMT_ASAN, "requires 16 byte alignment", 1, 32, 0, uint4_at_8, 0},
    {"uint4 read at 4", SIMT_ASAN, "requires 16 byte alignment", 1, 32, 0, uint4_read_at_4, 0},
    {"uint2 written at 4", SIMT_ASAN, "requires 8 byte alignment", 1, 32, 0, uint2_at_4, 0},
    {"too little shared memory", SIMT_ANY, "256 bytes of shared memory where 260 are needed", 1, 32,
     256, shared_too_little, 0},
    {"too much shared memory", SIMT_ANY, "a block has at most 232448", 1, 32, 232449, nothing, 0},
    {"a block of 1025 threads", SIMT_ANY, "1 to 1024 can be", 1, 1025, 0, nothing, 0},
    {"an empty grid", SIMT_ANY, "a grid of 0 x 1 x 1 blocks", 0, 32, 0, nothing, 0},
    {"__trap()", SIMT_ANY, "the kernel says __trap(); block 0, thread 3", 1, 32, 0, says_trap, 0},
    {},
};
