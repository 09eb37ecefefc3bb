/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.h - for the kernels of L0, L8 and E, which have a CTA a block: the loops over a launch's
 * blocks, and which CTA says that a chunk is done. S is a kernel's shared memory.
 */
#ifndef KVG_BLOCKS_H
#define KVG_BLOCKS_H

#include "parts.h"

/* Of encode: blocks begin in this order, so that look-backs end. one(chunk, its block's index). */
template <typename S, typename F>
static __device__ __forceinline__ void kvg_encode_blocks(S &s, const struct kvg_batch &b, F one)
{
    for (;;) {
        if (threadIdx.x == 0)
            s.ticket = atomicAdd(b.ticket, 1u);
        __syncthreads();

        uint32_t index = s.ticket;

        if (index >= b.blocks)
            return;

        const struct kvg_chunk &c = kvg_chunk_of(b, &index);

        one(c, index);
    }
}

/* Whether this CTA is the one of the chunk that ends last: all threads return the same. */
template <typename S>
static __device__ __forceinline__ bool kvg_ends_last(S &s, const struct kvg_chunk &c)
{
    __syncthreads();
    if (threadIdx.x == 0)
        s.last = kvg_add_acq_rel(&c.state->done, 1) + 1 == c.blocks;
    __syncthreads();
    return s.last != 0;
}

/* Of decode: land(chunk, its block's index) says whether the block is sound. */
template <typename S, typename F>
static __device__ __forceinline__ void kvg_decode_blocks(S &s, const struct kvg_batch &b, F land)
{
    const uint32_t t = threadIdx.x;

    for (uint32_t i = blockIdx.x; i < b.blocks; i += gridDim.x) {
        uint32_t index = i;
        const struct kvg_chunk &c = kvg_chunk_of(b, &index);

        if (t == 0) /* for all: another block may find a fault between two threads' looks */
            s.bad = kvg_load_relaxed(&c.state->faults);
        __syncthreads();

        /* Not so: the head is damaged, or a block is. */
        if (s.bad == 0 && !land(c, index) && t == 0)
            atomicOr(&c.state->faults, 1u);
        __syncthreads();
        if (t == 0 && kvg_add_acq_rel(&c.state->done, 1) + 1 == c.blocks) /* the last one */
            kvg_say_done(c, c.stream_bytes, c.state->faults);
    }
}
#endif
