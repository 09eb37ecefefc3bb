/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_decode.cu - E8's and E4's units back, a CTA each: find and check the block, symbols from its
 * planes, values channel by channel, digest, scatter.
 * The stream is from the wire: no length in it is used before it is held against what there is.
 */
#include "e_parts.h"

struct decode_shared {
    uint4 tile[KVG_PIECES];
    uint4 symbols[KVG_UNIT_MAX / 16];
    uint32_t in[E_WORDS + 8];
    struct kvg_scan<1> scan;
    uint32_t bad;
};
static_assert(sizeof(struct decode_shared) <= KVG_E_DECODE_SHARED, "e.h");

/* A block as its entry has it: `bytes` at `from`, or nowhere. */
struct found {
    const unsigned char *from;
    uint32_t bytes, wide, exact;
    bool sound;
};

static __device__ struct found find(const struct kvg_chunk &c, const struct e_cut &k,
                                    uint32_t block)
{
    const uint2 *entries = reinterpret_cast<const uint2 *>(c.stream + e_entries_at(c));
    const uint32_t first = e_first_at(c, k), all = c.stream_bytes - first;
    const uint32_t before = block > 0 ? entries[block - 1].x : 0, end = entries[block].x;

    if (before > all || end > all || kvg_aligned(before) > end || kvg_aligned(end) > all)
        return {NULL, 0, 0, 0, false};

    const uint32_t counts = entries[block].y, begin = kvg_aligned(before);
    bool sound = block + 1 < k.blocks || kvg_aligned(end) == all;

    for (uint32_t i = end; i < kvg_aligned(end); ++i)
        sound = sound && c.stream[first + i] == 0;
    return {c.stream + first + begin, end - begin, counts & 0xffff, counts >> 16, sound};
}

/* A byte of the block, of which shared memory may have only the beginning. */
static __device__ __forceinline__ uint32_t byte_of(const struct decode_shared &s,
                                                   const struct found &f, uint32_t at)
{
    return at < 4 * E_WORDS ? kvg_byte_at(s.in, at) : f.from[at];
}

/* ---- symbols --------------------------------------------------------------------------------- */

/* Group 0, of every value; k.past: what pads it and the lows. */
static __device__ __forceinline__ void take_words(const struct decode_shared &s, uint32_t n,
                                                  uint32_t low_bits, struct kvg_codes &k)
{
    const uint32_t t = threadIdx.x, plane = kvg_first_plane(n), lows = kvg_ceil8(low_bits);
    const uint32_t at = kvg_aligned(lows);

    k.plane[0] = 4 * t < plane ? s.in[at / 4 + t] : 0;
    k.plane[1] = 4 * t < plane ? s.in[(at + plane) / 4 + t] : 0;
    k.past = (k.plane[0] | k.plane[1]) & ~kvg_valid(n);
    for (uint32_t i = lows + t; i < at; i += KVG_THREADS)
        k.past |= kvg_byte_at(s.in, i);
    if (t == 0 && low_bits % 8 != 0)
        k.past |= kvg_byte_at(s.in, low_bits / 8) >> low_bits % 8;
    k.at = at + 2 * plane;
    k.alive = k.plane[0] & k.plane[1] & kvg_valid(n);
}

/* The ranks of this thread's values, four to a word: bits are added plane by plane for all 32. */
static __device__ __forceinline__ void ranks_of(const uint32_t (&plane)[8], uint32_t (&rank)[8])
{
    const uint32_t a = plane[0] ^ plane[2], b = plane[4] ^ plane[6];
    const uint32_t c = plane[1] ^ plane[3], d = plane[5] ^ plane[7];
    const uint32_t ones = a ^ b; /* of a rank: those of the groups' low bits .. */
    const uint32_t twos = (plane[0] & plane[2]) ^ (plane[4] & plane[6]) ^ (a & b);
    const uint32_t fours = plane[0] & plane[2] & plane[4] & plane[6];
    const uint32_t high = c ^ d; /* .. and twice those of the high ones */
    const uint32_t high2 = (plane[1] & plane[3]) ^ (plane[5] & plane[7]) ^ (c & d);
    const uint32_t high4 = plane[1] & plane[3] & plane[5] & plane[7];
    const uint32_t carry = twos & high, sum4 = fours ^ high2;

    rank[0] = ones;
    rank[1] = twos ^ high;
    rank[2] = sum4 ^ carry;
    rank[3] = high4 ^ ((fours & high2) | (sum4 & carry));
    rank[4] = rank[5] = rank[6] = rank[7] = 0;
    kvg_turn(rank);
#pragma unroll
    for (int g = 0; g < 8; ++g) {
        uint32_t four = 0;

#pragma unroll
        for (int p = 0; p < 4; ++p)
            four |= kvg_of_nibble(rank[g] >> 4 * p & 15) << p;
        rank[g] = four;
    }
}

static __device__ __forceinline__ void put_ranks(struct decode_shared &s,
                                                 const uint32_t (&plane)[8])
{
    uint32_t rank[8];

    ranks_of(plane, rank);
#pragma unroll
    for (int p = 0; p < 2; ++p)
        s.symbols[kvg_slot(threadIdx.x * 2 + p)] =
            make_uint4(rank[4 * p], rank[4 * p + 1], rank[4 * p + 2], rank[4 * p + 3]);
}

/* The symbols of this thread's escapes, whose bytes begin at `at`. Returns how many are exact. */
static __device__ uint32_t take_wide(struct decode_shared &s, const struct found &f,
                                     uint32_t escapes, uint32_t at)
{
    uint32_t exact = 0, bad = 0;

    for (uint32_t left = escapes; left != 0; left &= left - 1, ++at) {
        const uint32_t i = threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1;
        const uint32_t wide = byte_of(s, f, at);

        bad |= wide > E_WIDE_MAX;
        exact += wide == E_WIDE_MAX;
        *e_symbol(s.symbols, i) = (uint8_t)(E_RANKS + wide);
    }
    if (bad != 0)
        atomicOr(&s.bad, 1u);
    return exact;
}

/* The exact ones among them, to the tile. */
static __device__ void take_exact(struct decode_shared &s, const struct found &f, uint32_t escapes,
                                  uint32_t at, uint32_t first)
{
    for (uint32_t left = escapes; left != 0; left &= left - 1) {
        const uint32_t i = threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1;

        if (*e_symbol(s.symbols, i) != E_U_EXACT)
            continue;
        *e_value(s.tile, first + i) = (uint16_t)(byte_of(s, f, at) | byte_of(s, f, at + 1) << 8);
        at += 2;
    }
}

/* All n symbols of the block, which the other threads see then, and its exact values in the tile.
 * Whether it is sound: the same for all threads, but for s.bad. */
static __device__ __forceinline__ bool take_symbols(struct decode_shared &s, const struct found &f,
                                                    uint32_t n, uint32_t low_bits, uint32_t first)
{
    uint32_t count[1], before[1], total[1];
    struct kvg_codes k;
    bool sound;

    take_words(s, n, low_bits, k);
    sound = kvg_take_groups<2>(s.scan, s.in, f.bytes, k);
    if (k.past != 0)
        atomicOr(&s.bad, 1u);
    put_ranks(s, k.plane);
    count[0] = (uint32_t)__popc(k.alive);
    kvg_before(s.scan, count, before, total);
    if (!sound || total[0] != f.wide || k.at + f.wide + 2 * f.exact != f.bytes)
        return false;
    count[0] = take_wide(s, f, k.alive, k.at + before[0]);
    kvg_before(s.scan, count, before, total);
    if (total[0] != f.exact)
        return false;
    take_exact(s, f, k.alive, k.at + f.wide + 2 * before[0], first);
    return true;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* A warp's share: from symbols and low bits to values in the tile. */
template <uint32_t D>
static __device__ __forceinline__ void join_share(struct decode_shared &s,
                                                  const struct kvg_chunk &c, uint32_t first,
                                                  const struct e_share &share)
{
    const float step =
        __uint_as_float(reinterpret_cast<const uint32_t *>(c.stream)[0] & 0xffff0000u);
    const struct e_channel k = e_channel_of(c, share.half);
    const struct e_lows lows = e_lows_of(c, k, share.half);
    const uint32_t lane = threadIdx.x % 32;
    const int lift = (1 << k.low) >> 1;
    uint32_t bad = 0, plane = 0;
    int last = 0;

#pragma unroll 1
    for (uint32_t t = share.from; t < share.to; ++t) {
        const uint32_t i = t * c.columns + k.index, turn = (t - share.from) % E_TOKENS;
        uint32_t low = 0;

        if (turn == 0) {
            const uint32_t token = min(t + lane / E_TURN, share.to - 1);

            plane = kvg_spread_bits(lows.moves, kvg_get_bits(s.in, token * lows.row + lows.place));
        }
        for (uint32_t p = 0; p < lows.planes; ++p)
            low |= (__shfl_sync(KVG_ALL, plane, turn * E_TURN + p) >> lane & 1) << p;
        if (!k.there)
            continue;

        const int u = *e_symbol(s.symbols, i);
        const int h = u % 2 == 0 ? u / 2 : -(u / 2) - 1;
        const int r = h * (1 << k.low) + (int)low - lift + e_foretold(k.follow, last);

        last = u == (int)E_U_EXACT ? 0 : (int16_t)r;
        if (u == (int)E_U_EXACT)
            bad |= low;
        else
            *e_value(s.tile, first + i) =
                e_dtype<D>::bits(__fmul_rn(__int2float_rn((int16_t)(k.base + last)), step));
    }
    if (bad != 0)
        atomicOr(&s.bad, 1u);
}

/* The block's words to shared memory, and zeros to the tile's. */
static __device__ void load(struct decode_shared &s, const struct found &f)
{
    for (uint32_t i = threadIdx.x; i * 16 < min(f.bytes, 4 * E_WORDS); i += KVG_THREADS)
        reinterpret_cast<uint4 *>(s.in)[i] = reinterpret_cast<const uint4 *>(f.from)[i];
}

/* The unit's block, of whose tokens the first has value `first` of the tile. */
template <uint32_t D>
static __device__ bool decode_block(struct decode_shared &s, const struct kvg_chunk &c,
                                    const struct found &f, uint32_t tokens, uint32_t first)
{
    const uint32_t low_bits = tokens * e_table(c)[e_groups(c)];
    struct e_share share;

    if (!f.sound || kvg_aligned(kvg_ceil8(low_bits)) > f.bytes)
        return false;
    load(s, f);
    __syncthreads();
    if (!take_symbols(s, f, tokens * c.columns, low_bits, first))
        return false;
    for (uint32_t round = 0; e_share_of(c, tokens, round, &share); ++round)
        join_share<D>(s, c, first, share);
    return true;
}

/* ---- a unit ---------------------------------------------------------------------------------- */

/* Tokens [from, to) of the unit, which are exact, from their place. */
static __device__ void take_exact_tokens(struct decode_shared &s, const struct kvg_chunk &c,
                                         const struct e_cut &k, const struct e_range &r,
                                         uint32_t from, uint32_t to)
{
    const uint16_t *stream =
        reinterpret_cast<const uint16_t *>(c.stream + e_exact_token(c, k, from));

    for (uint32_t i = threadIdx.x; i < (to - from) * c.columns; i += KVG_THREADS)
        *e_value(s.tile, (from - r.at) * c.columns + i) = stream[i];
}

/* A coded chunk's unit to the tile, zeros behind it. */
template <uint32_t D>
static __device__ bool decode_unit(struct decode_shared &s, const struct kvg_chunk &c,
                                   uint32_t index)
{
    const uint32_t *head = reinterpret_cast<const uint32_t *>(c.stream);
    const struct e_cut k = e_cut_of(c, head[3], head[4]);
    const struct e_range r = e_range_of(c, k, index);

    for (uint32_t p = threadIdx.x; p < KVG_PIECES; p += KVG_THREADS)
        s.tile[p] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    take_exact_tokens(s, c, k, r, r.at, r.from);
    take_exact_tokens(s, c, k, r, r.to, r.end);
    return r.from == r.to || decode_block<D>(s, c, find(c, k, index - k.first_unit), r.to - r.from,
                                             (r.from - r.at) * c.columns);
}

/* One unit from the stream to the pool, unless it is damaged. */
template <uint32_t D>
static __device__ bool land(struct decode_shared &s, const struct kvg_chunk &c, uint32_t index)
{
    const uint32_t at = index * c.unit * c.value_bytes;
    const uint32_t n = min(c.values * c.value_bytes - at, c.unit * c.value_bytes);
    bool sound = true;

    if (c.stream[0] == E_STORED)
        kvg_load(s.tile, c, c.stream + KVG_E_HEAD + at, n);
    else
        sound = decode_unit<D>(s, c, index);
    __syncthreads();
    if (!sound || s.bad != 0)
        return false;
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, n, index, &c.state->digest);
    kvg_scatter(s.tile, c, at, n);
    return true;
}

template <uint32_t D> static __device__ void decode_all(const struct kvg_batch &b)
{
    KVG_SHARED(struct decode_shared, s);

    kvg_decode_blocks(
        s, b, [&](const struct kvg_chunk &c, uint32_t index) { return land<D>(s, c, index); });
}

#define DECODE(name, dtype)                                                                        \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS, 4)                                              \
        kvg_e_decode_##name(const struct kvg_batch b)                                              \
    {                                                                                              \
        decode_all<dtype>(b);                                                                      \
    }
E_DTYPES(DECODE)
#undef DECODE
