/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.cu - codec raw: gather a view into its canonical bytes, or scatter them, a CTA a block. Each
 * 16 bytes go to where they belong and to a tile, from which one warp digests them.
 */
#include "parts.h"
#include "raw.h"

struct raw_shared {
    uint4 tile[1]; /* as many as a unit of the dtype has */
};
static_assert(sizeof(struct raw_shared) <= KVG_RAW_SHARED(1), "raw.h");

/* Block `index`, one way or the other. */
template <bool encode> static __device__ void move(const struct kvg_chunk &c, uint32_t index)
{
    KVG_SHARED(struct raw_shared, s);
    uint4 *const tile = s.tile; /* without it a compiler knows that there is one piece */
    const uint32_t at = index * c.unit * c.value_bytes;
    const uint32_t n = min((c.values - index * c.unit) * c.value_bytes, c.unit * c.value_bytes);

    for (uint32_t p = threadIdx.x; p < (n + 255) / 256 * 16; p += KVG_THREADS) {
        const uint32_t i = p * 16;
        uint4 q = make_uint4(0, 0, 0, 0);

        if (i < n) {
            q = kvg_take<encode>(c, at + i, c.stream + at + i, n - i);
            kvg_put<!encode>(c, at + i, c.stream + at + i, n - i, q);
        }
        tile[kvg_slot(p)] = q;
    }
    __syncthreads();
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(tile, n, index, &c.state->digest);
}

template <bool encode> static __device__ void move_all(const struct kvg_batch &b)
{
    for (uint32_t i = blockIdx.x; i < b.blocks; i += gridDim.x) {
        uint32_t index = i;
        const struct kvg_chunk &c = kvg_chunk_of(b, &index);
        const uint32_t raw = c.values * c.value_bytes;
        const bool sound = encode ? c.stream_bytes >= raw : c.stream_bytes == raw;

        if (sound)
            move<encode>(c, index);
        __syncthreads();
        if (threadIdx.x == 0 && kvg_add_acq_rel(&c.state->done, 1) + 1 == c.blocks)
            kvg_say_done(c, encode ? raw : c.stream_bytes, !sound);
    }
}

KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_raw_encode(const struct kvg_batch b)
{
    move_all<true>(b);
}

KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_raw_decode(const struct kvg_batch b)
{
    move_all<false>(b);
}
