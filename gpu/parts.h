/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts.h - for all kernels: where a chunk's bytes lie, which block of which chunk, tiles in shared
 * memory, the digest of a piece, the record of a chunk that is done.
 */
#ifndef KVG_PARTS_H
#define KVG_PARTS_H

#include "chunk.h"
#include "dev.h"

#define KVG_ALL   0xffffffffu
#define KVG_WARPS (KVG_THREADS / 32)

static __device__ __forceinline__ uint32_t kvg_divide(uint32_t n, const struct kvg_div &d)
{
    return __umulhi(2 * n, d.mul) >> d.shift;
}

/* ---- where bytes lie ------------------------------------------------------------------------- */

/* Canonical byte `at` of a chunk. */
static __device__ __forceinline__ unsigned char *kvg_at(const struct kvg_chunk &c, uint32_t at)
{
    const struct kvw_view &v = c.view;
    const uint32_t token = kvg_divide(at, c.by_token), in = at - token * c.by_token.by;
    const uint32_t p = v.first_token + token, head = kvg_divide(in, c.by_head);
    const uint32_t block = kvg_divide(p, c.by_block);

    return v.base + v.blocks[block] * v.block_stride +
           (p - block * v.block_tokens) * v.token_stride + head * v.head_stride +
           (in - head * v.head_bytes);
}

/* One grain less than 16 bytes. */
static __device__ __forceinline__ uint64_t kvg_grain(const unsigned char *p, uint32_t grain)
{
    switch (grain) {
    case 8:
        return *reinterpret_cast<const uint64_t *>(p);
    case 4:
        return *reinterpret_cast<const uint32_t *>(p);
    case 2:
        return *reinterpret_cast<const uint16_t *>(p);
    default:
        return *p;
    }
}
static __device__ __forceinline__ void kvg_put_grain(unsigned char *p, uint32_t grain, uint64_t v)
{
    switch (grain) {
    case 8:
        *reinterpret_cast<uint64_t *>(p) = v;
        break;
    case 4:
        *reinterpret_cast<uint32_t *>(p) = (uint32_t)v;
        break;
    case 2:
        *reinterpret_cast<uint16_t *>(p) = (uint16_t)v;
        break;
    default:
        *p = (unsigned char)v;
    }
}

/*
 * 16 bytes, or the n that there are and zeros behind them; n is a multiple of the chunk's grain, as
 * are `at` and the address. In the view: each grain lies where it lies; in a stream: side by side.
 */
template <bool in_view>
static __device__ __forceinline__ uint4 kvg_take(const struct kvg_chunk &c, uint32_t at,
                                                 const unsigned char *stream, uint32_t n)
{
    if (c.grain == 16)
        return *reinterpret_cast<const uint4 *>(in_view ? kvg_at(c, at) : stream);

    uint64_t low = 0, high = 0;

    for (uint32_t i = 0; i < min(n, 16u); i += c.grain) {
        const uint64_t v = kvg_grain(in_view ? kvg_at(c, at + i) : stream + i, c.grain);

        low |= i < 8 ? v << i * 8 : 0;
        high |= i < 8 ? 0 : v << (i - 8) * 8;
    }
    return make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}
template <bool in_view>
static __device__ __forceinline__ void kvg_put(const struct kvg_chunk &c, uint32_t at,
                                               unsigned char *stream, uint32_t n, const uint4 &q)
{
    if (c.grain == 16) {
        *reinterpret_cast<uint4 *>(in_view ? kvg_at(c, at) : stream) = q;
        return;
    }

    const uint64_t low = q.x | (uint64_t)q.y << 32, high = q.z | (uint64_t)q.w << 32;

    for (uint32_t i = 0; i < min(n, 16u); i += c.grain)
        kvg_put_grain(in_view ? kvg_at(c, at + i) : stream + i, c.grain,
                      i < 8 ? low >> i * 8 : high >> (i - 8) * 8);
}

/* Pieces of 16 bytes of a tile lie crosswise, so that neither 64 bytes a thread nor 256 a warp meet
 * in one bank. */
static __device__ __forceinline__ uint32_t kvg_slot(uint32_t piece)
{
    return piece ^ (piece >> 3 & 3);
}
/* The same of a byte. */
static __device__ __forceinline__ uint32_t kvg_in_tile(uint32_t at)
{
    return at ^ (at >> 3 & 0x30);
}

/* ---- which block ----------------------------------------------------------------------------- */

/* Blocks of all chunks of a launch are numbered through. *index: of the block in its chunk. */
static __device__ __forceinline__ const struct kvg_chunk &kvg_chunk_of(const struct kvg_batch &b,
                                                                       uint32_t *index)
{
    uint32_t first = 0, past = b.count;

    while (past - first > 1) {
        const uint32_t middle = (first + past) / 2;

        if (b.chunks[middle].first_block <= *index)
            first = middle;
        else
            past = middle;
    }
    *index -= b.chunks[first].first_block;
    return b.chunks[first];
}

/* ---- digest ---------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint64_t kvg_mix(uint64_t v)
{
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return v ^ v >> 31;
}

/* One row more: this lane's two words of it are at p, or behind the first two. */
static __device__ __forceinline__ void kvg_digest_row(const uint4 *p, uint32_t *a, uint32_t *b)
{
    const uint2 w = reinterpret_cast<const uint2 *>(p)[threadIdx.x % 2];

    *a = (__funnelshift_l(*a, *a, 13) ^ w.x) * 0x85ebca77u;
    *b = (__funnelshift_l(*b, *b, 13) ^ w.y) * 0x85ebca77u;
}

/* One warp: the digest of the tile's bytes as piece `index`. Zeros fill the tile's last row. */
static __device__ void kvg_digest(const uint4 *tile, uint32_t bytes, uint32_t index,
                                  unsigned long long *sum)
{
    const uint64_t golden = 0x9e3779b97f4a7c15ull;
    const uint32_t t = threadIdx.x % 32, rows = (bytes + 255) / 256;
    /* kvg_slot() of this lane's piece of an even row and of an odd one; two rows on it is 32 on. */
    const uint4 *even = tile + kvg_slot(t / 2), *odd = tile + kvg_slot(16 + t / 2);
    uint32_t a = (2 * t + 1) * 0x9e3779b1u, b = (2 * t + 2) * 0x9e3779b1u, r = 0;

#pragma unroll 1
    for (; r + 8 <= rows; r += 8, even += 128, odd += 128)
#pragma unroll
        for (int i = 0; i < 8; ++i)
            kvg_digest_row((i % 2 == 0 ? even : odd) + i / 2 * 32, &a, &b);
#pragma unroll 1
    for (; r < rows; ++r, even += r % 2 == 0 ? 32 : 0, odd += r % 2 == 0 ? 32 : 0)
        kvg_digest_row(r % 2 == 0 ? even : odd, &a, &b);

    unsigned long long s = kvg_mix((a | (uint64_t)b << 32) + (t + 1) * golden);

    for (int d = 16; d > 0; d /= 2)
        s += __shfl_xor_sync(KVG_ALL, s, d);
    if (t == 0)
        atomicAdd(sum, (unsigned long long)kvg_mix(kvg_mix(bytes + s) + (index + 1) * golden));
}

/* ---- done ------------------------------------------------------------------------------------ */

/* By one thread of the chunk's last CTA, when its other threads have met it. */
static __device__ __forceinline__ void kvg_say_done(const struct kvg_chunk &c, uint32_t bytes,
                                                    uint32_t fault)
{
    c.done->digest = c.state->digest;
    c.done->bytes = bytes;
    c.done->fault = fault;
    kvg_store_release_sys(&c.done->epoch, c.epoch);
}
#endif
