/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rows.h - for L0's kernels: a tile out of a pool and into it, where a warp finds a few rows and
 * not each 16 bytes. (E's have no registers left for it.)
 */
#ifndef KVG_ROWS_H
#define KVG_ROWS_H

#include "planes.h"

/*
 * A warp's pieces of a tile lie side by side, so they are of a few rows (a token's values of one
 * head), and each lane finds where one of those begins in the pool: lane r the r-th from the warp's
 * first on, or the last of the n bytes. Where a head has so little, or bytes lie so oddly, that 32
 * rows aren't enough, each piece is looked for by itself.
 */
#define KVG_WARP_PIECES (KVG_PIECES / KVG_WARPS)
struct kvg_rows {
    uint32_t first, begin; /* the warp's first row; this lane's first byte of the chunk */
    uint32_t low, high;    /* where this lane's row begins */
    bool found;            /* the same for the warp */
};

static __device__ __forceinline__ struct kvg_rows kvg_rows_of(const struct kvg_chunk &c,
                                                              uint32_t at, uint32_t n)
{
    const uint32_t lane = threadIdx.x % 32, head = c.by_head.by;
    const uint32_t begin = at + threadIdx.x / 32 * KVG_WARP_PIECES * 16;
    struct kvg_rows r;

    r.first = kvg_divide(begin, c.by_head);
    r.begin = begin + lane * 16;
    r.found = c.grain == 16 && begin - r.first * head + KVG_WARP_PIECES * 16 <= 32 * (uint64_t)head;
    r.low = r.high = 0;
    if (r.found) {
        const uint32_t row = min(r.first + lane, kvg_divide(at + n - 1, c.by_head));
        const uint64_t there = (uint64_t)(uintptr_t)kvg_at(c, row * head);

        r.low = (uint32_t)there;
        r.high = (uint32_t)(there >> 32);
    }
    return r;
}

/* Where byte `at` lies, of the warp's; all lanes ask at once. */
static __device__ __forceinline__ uint4 *kvg_in_row(const struct kvg_rows &r,
                                                    const struct kvg_div &by_head, uint32_t at)
{
    const uint32_t row = kvg_divide(at, by_head), lane = row - r.first;
    const uint64_t there =
        __shfl_sync(KVG_ALL, r.low, lane) | (uint64_t)__shfl_sync(KVG_ALL, r.high, lane) << 32;

    return reinterpret_cast<uint4 *>((uintptr_t)(there + (at - row * by_head.by)));
}

/* As kvg_gather(). */
static __device__ void kvg_gather_rows(uint4 *tile, const struct kvg_chunk &c, uint32_t at,
                                       uint32_t n)
{
    const struct kvg_rows r = kvg_rows_of(c, at, n);
    uint4 *const mine = tile + kvg_slot((r.begin - at) / 16); /* and 512 bytes on, 32 on */

    if (!r.found) {
        kvg_gather(tile, c, at, n);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < KVG_WARP_PIECES / 32; ++i) {
        const uint32_t from = r.begin + i * 512;
        const uint4 *there = kvg_in_row(r, c.by_head, from);

        mine[i * 32] = from - at < n ? *there : make_uint4(0, 0, 0, 0);
    }
}

/* As kvg_scatter(). */
static __device__ void kvg_scatter_rows(const uint4 *tile, const struct kvg_chunk &c, uint32_t at,
                                        uint32_t n)
{
    const struct kvg_rows r = kvg_rows_of(c, at, n);
    const uint4 *const mine = tile + kvg_slot((r.begin - at) / 16);

    if (!r.found) {
        kvg_scatter(tile, c, at, n);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < KVG_WARP_PIECES / 32; ++i) {
        const uint32_t to = r.begin + i * 512;
        uint4 *there = kvg_in_row(r, c.by_head, to);

        if (to - at < n)
            *there = mine[i * 32];
    }
}
#endif
