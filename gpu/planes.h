/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planes.h - for the kernels of L0, L8 and E: codes in planes (compress/SPEC.md 2). A thread has 32
 * values of a block, so that its bits of a plane are one word; sums over a block's threads, bits
 * that close ranks, tiles, where in a stream a block goes.
 */
#ifndef KVG_PLANES_H
#define KVG_PLANES_H

#include "parts.h"

#define KVG_MINE   32u /* values of a thread */
#define KVG_PIECES (KVG_UNIT_MAX * 2 / 16)

static __device__ __forceinline__ uint32_t kvg_ceil8(uint32_t bits)
{
    return (bits + 7) / 8;
}

static __device__ __forceinline__ uint32_t kvg_aligned(uint32_t bytes)
{
    return (bytes + 15) & ~15u;
}

/* Bytes of a plane of group 0. */
static __device__ __forceinline__ uint32_t kvg_first_plane(uint32_t n)
{
    return (n + 127) / 128 * 16;
}

/* A thread's values that there are, a bit each. */
static __device__ __forceinline__ uint32_t kvg_valid(uint32_t n)
{
    const uint32_t first = threadIdx.x * KVG_MINE;

    return n >= first + KVG_MINE ? KVG_ALL : n > first ? (1u << (n - first)) - 1 : 0;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* Bytes [at, at + n) of the chunk to the tile, and zeros to its end. */
static __device__ void kvg_gather(uint4 *tile, const struct kvg_chunk &c, uint32_t at, uint32_t n)
{
    for (uint32_t p = threadIdx.x; p < KVG_PIECES; p += KVG_THREADS)
        tile[kvg_slot(p)] =
            p * 16 < n ? kvg_take<true>(c, at + p * 16, NULL, n - p * 16) : make_uint4(0, 0, 0, 0);
}

/* n bytes of a stream to the tile. Zeros fill its last row. */
static __device__ void kvg_load(uint4 *tile, const struct kvg_chunk &c, const unsigned char *from,
                                uint32_t n)
{
    for (uint32_t p = threadIdx.x; p < KVG_PIECES; p += KVG_THREADS)
        tile[kvg_slot(p)] =
            p * 16 < n ? kvg_take<false>(c, 0, from + p * 16, n - p * 16) : make_uint4(0, 0, 0, 0);
}

/* The tile's first n bytes to [at, at + n) of the chunk. */
static __device__ void kvg_scatter(const uint4 *tile, const struct kvg_chunk &c, uint32_t at,
                                   uint32_t n)
{
    for (uint32_t p = threadIdx.x; p * 16 < n; p += KVG_THREADS)
        kvg_put<true>(c, at + p * 16, NULL, n - p * 16, tile[kvg_slot(p)]);
}

/* ---- sums over threads ----------------------------------------------------------------------- */

/* Of up to N sums at once. */
template <int N> struct kvg_scan {
    uint32_t warp[N][KVG_WARPS];
};

/* Of each v, the sum over the threads before, and over all. A word can hold two counts of 16 bits.
 * Two barriers. */
template <int N, int M>
static __device__ __forceinline__ void kvg_before(struct kvg_scan<M> &s, const uint32_t (&v)[N],
                                                  uint32_t (&before)[N], uint32_t (&total)[N])
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum[N];

#pragma unroll
    for (int k = 0; k < N; ++k) {
        sum[k] = v[k];
#pragma unroll
        for (int d = 1; d < 32; d *= 2)
            sum[k] = kvg_add_from_below(sum[k], d);
        if (lane == 31)
            s.warp[k][warp] = sum[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) { /* a lane has the sum of one warp */
        const uint32_t there = lane < KVG_WARPS ? s.warp[k][lane] : 0;

        total[k] = kvg_add_lanes(there);
        before[k] = sum[k] - v[k] + kvg_add_lanes(lane < warp ? there : 0);
    }
    __syncthreads();
}

/* ---- bits ------------------------------------------------------------------------------------ */

/* 32 bits from bit `at` on; reads a word past them. */
static __device__ __forceinline__ uint32_t kvg_get_bits(const uint32_t *words, uint32_t at)
{
    return __funnelshift_r(words[at / 32], words[at / 32 + 1], at % 32);
}

/* Bits to bit `at` of words that are zero there. */
static __device__ __forceinline__ void kvg_put_bits(uint32_t *words, uint32_t at, uint32_t bits)
{
    if (bits == 0)
        return;
    atomicOr(&words[at / 32], bits << at % 32);
    if (at % 32 != 0 && bits >> (32 - at % 32) != 0)
        atomicOr(&words[at / 32 + 1], bits >> (32 - at % 32));
}

/* How to move the bits of a word that are in mask side by side, and back. */
struct kvg_moves {
    uint32_t mask, move[5];
};

/* Each bit moves right by the number of zeros of the mask below it: by 1, 2, 4, 8, 16 in turn. The
 * parity of the zeros below each bit is a prefix XOR; what it leaves is the next power's. */
static __device__ __forceinline__ struct kvg_moves kvg_moves_of(uint32_t mask)
{
    struct kvg_moves m = {mask, {0}};
    uint32_t left = mask, zeros = ~mask << 1;

#pragma unroll
    for (int i = 0; i < 5; ++i) {
        uint32_t p = zeros ^ zeros << 1;

        p ^= p << 2;
        p ^= p << 4;
        p ^= p << 8;
        p ^= p << 16;
        if (i == 4) /* of 31 zeros at most one is left */
            p = 0 - zeros;
        m.move[i] = p & left;
        left = (left ^ m.move[i]) | m.move[i] >> (1 << i);
        zeros &= ~p;
    }
    return m;
}

static __device__ __forceinline__ uint32_t kvg_close_bits(const struct kvg_moves &m, uint32_t x)
{
    x &= m.mask;
#pragma unroll
    for (int i = 0; i < 5; ++i) {
        const uint32_t t = x & m.move[i];

        x = (x ^ t) | t >> (1 << i);
    }
    return x;
}

static __device__ __forceinline__ uint32_t kvg_spread_bits(const struct kvg_moves &m, uint32_t x)
{
#pragma unroll
    for (int i = 4; i >= 0; --i) {
        const uint32_t t = x << (1 << i);

        x = (x & ~m.move[i]) | (t & m.move[i]);
    }
    return x & m.mask;
}

/* Eight words of eight 4-bit fields, turned: field p of word f to field f of word p. */
static __device__ __forceinline__ void kvg_turn(uint32_t (&w)[8])
{
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t a = w[i], b = w[i + 4];

        w[i] = __byte_perm(a, b, 0x5410);
        w[i + 4] = __byte_perm(a, b, 0x7632);
    }
#pragma unroll
    for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) {
        const uint32_t a = w[i], b = w[i + 2];

        w[i] = __byte_perm(a, b, 0x6240);
        w[i + 2] = __byte_perm(a, b, 0x7351);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const uint32_t t = (w[i] >> 4 ^ w[i + 1]) & 0x0f0f0f0fu;

        w[i + 1] ^= t;
        w[i] ^= t << 4;
    }
}

/* The lowest bit of each byte, side by side, and back. */
static __device__ __forceinline__ uint32_t kvg_nibble(uint32_t bytes)
{
    return (bytes & 0x01010101u) * 0x01020408u >> 24 & 15;
}
static __device__ __forceinline__ uint32_t kvg_of_nibble(uint32_t nibble)
{
    return nibble * 0x00204081u & 0x01010101u;
}

/* ---- planes ---------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t kvg_byte_at(const uint32_t *words, uint32_t at)
{
    return words[at / 4] >> at % 4 * 8 & 0xff;
}

/* What a thread knows of its values' codes. */
struct kvg_codes {
    uint32_t plane[8];
    uint32_t alive; /* the values that the planes so far send on; at last, the escapes */
    uint32_t at;    /* where the planes so far end in the block */
    uint32_t past;  /* not 0: what pads a plane isn't zero; for one thread to see */
};

/*
 * Groups 1 to 3 of this thread's values, group 1 of `second` bits, the others of 2: where a plane
 * begins depends on how many values the one before sent on. k has group 0 already. All threads
 * return the same: whether the planes lie within the block.
 */
template <int second, int M>
static __device__ __forceinline__ bool kvg_take_groups(struct kvg_scan<M> &s, const uint32_t *in,
                                                       uint32_t bytes, struct kvg_codes &k)
{
    uint32_t count[1], before[1], total[1], end = 0;
    bool sound = k.at <= bytes;

#pragma unroll
    for (int g = 0; g < 3; ++g) {
        const struct kvg_moves moves = kvg_moves_of(k.alive);
        const int p = g == 0 ? 2 : second + 2 * g, bits = g == 0 ? second : 2;

        count[0] = (uint32_t)__popc(k.alive);
        kvg_before(s, count, before, total);
#pragma unroll
        for (int b = 0; b < bits; ++b) {
            const uint32_t to = k.at + kvg_ceil8(total[0]);

            sound = sound && to <= bytes;
            k.plane[p + b] =
                kvg_spread_bits(moves, sound ? kvg_get_bits(in, k.at * 8 + before[0]) : 0);
            if (sound && threadIdx.x == (uint32_t)(p + b)) /* a thread looks at a plane's end */
                end = k.at * 8 + total[0];
            k.at = to;
            k.alive &= k.plane[p + b];
        }
    }
    if (end % 8 != 0)
        k.past |= kvg_byte_at(in, end / 8) >> end % 8;
    return sound;
}

/* ---- the stream ------------------------------------------------------------------------------ */

/* Where block `index` begins, counted from the first, by one warp: the blocks before have said
 * their bytes (1 << 30), or where they end (2 << 30); that far or farther, where it is 2^30 - 1. */
static __device__ uint32_t kvg_look_back(uint32_t *said, uint32_t index, uint32_t mine)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t before = 0;

    if (lane == 0)
        kvg_store_release(&said[index], (index == 0 ? 2u : 1u) << 30 | mine);
    for (uint32_t end = index; end > 0;) {
        const uint32_t window = min(end, 32u);
        uint32_t word = 0;

        if (lane < window)
            while ((word = kvg_load_acquire(&said[end - 1 - lane])) == 0) {
            }

        const uint32_t whole = __ballot_sync(KVG_ALL, word >> 31);
        const uint32_t last = whole != 0 ? (uint32_t)__ffs((int)whole) - 1 : 31;
        uint32_t sum = lane <= last ? word & 0x3fffffff : 0;

        for (int d = 16; d > 0; d /= 2)
            sum += __shfl_xor_sync(KVG_ALL, sum, d);
        before += sum;
        end = whole != 0 ? 0 : end - window;
    }
    if (lane == 0 && index > 0)
        kvg_store_release(&said[index], 2u << 30 | min(before + mine, 0x3fffffffu));
    return before;
}
#endif
