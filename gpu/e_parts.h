/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_parts.h - for the kernels of E8 and E4: where a stream's parts begin, what a unit has of the
 * coded tokens, a channel's numbers and its raw low bits.
 *
 * A token's values depend on the token's before, so that a thread has a channel and goes from token
 * to token; a warp has 32 channels side by side, a half of a group of 64.
 */
#ifndef KVG_E_PARTS_H
#define KVG_E_PARTS_H

#include "e.h"
#include "blocks.h"
#include "planes.h"

#define E_FORMAT   2u
#define E_LANES    64u /* channels of a group */
#define E_LOW_MAX  7u
#define E_Q_MAX    2047
#define E_U_EXACT  255u
#define E_RANKS    12u
#define E_WIDE_MAX (E_U_EXACT - E_RANKS)
#define E_GROUPS   (KVG_UNIT_MAX / E_LANES)
/* Of a block, what is at most lows and planes; wide symbols and exact values may lie behind. */
#define E_WORDS (15360u / 4)

enum { E_STORED = 0, E_CODED = 1 }; /* modes of a stream */

/* What dtypes differ in. */
template <uint32_t D> struct e_dtype {
    static constexpr bool is_half = D == KVW_DTYPE_F16;
    static constexpr uint32_t huge = is_half ? 0x7800 : 0x5880; /* of |x|: exact from here on */

    static __device__ __forceinline__ float value(uint32_t bits)
    {
        return is_half ? kvg_from_half((uint16_t)bits) : __uint_as_float(bits << 16);
    }
    static __device__ __forceinline__ bool is_huge(uint32_t bits)
    {
        return (bits & 0x7fff) >= huge;
    }
    static __device__ __forceinline__ uint16_t bits(float f)
    {
        return is_half ? kvg_to_half(f) : kvg_to_bf16(f);
    }
};
#define E_DTYPES(X)                                                                                \
    X(bf16, KVW_DTYPE_BF16)                                                                        \
    X(f16, KVW_DTYPE_F16)

/* ---- where parts lie ------------------------------------------------------------------------- */

/* Tokens of a chunk: exact, coded, exact; the unit that the first block belongs to; blocks. */
struct e_cut {
    uint32_t first, coded, last, first_unit, blocks;
};

static __device__ __forceinline__ struct e_cut e_cut_of(const struct kvg_chunk &c, uint32_t first,
                                                        uint32_t last)
{
    const uint32_t tokens = c.view.tokens;
    struct e_cut k;

    k.first = min(first, tokens);
    k.last = min(last, tokens - k.first);
    k.coded = tokens - k.first - k.last;
    k.first_unit = kvg_divide(k.first, c.by_unit);
    k.blocks = k.coded == 0 ? 0 : kvg_divide(tokens - k.last - 1, c.by_unit) + 1 - k.first_unit;
    return k;
}

static __device__ __forceinline__ uint32_t e_row_bytes(const struct kvg_chunk &c)
{
    return c.by_token.by;
}
static __device__ __forceinline__ uint32_t e_bits_at(const struct kvg_chunk &c)
{
    return KVG_E_HEAD + kvg_aligned(2 * c.columns);
}
static __device__ __forceinline__ uint32_t e_entries_at(const struct kvg_chunk &c)
{
    return e_bits_at(c) + kvg_aligned(c.columns);
}
static __device__ __forceinline__ uint32_t e_exact_at(const struct kvg_chunk &c,
                                                      const struct e_cut &k)
{
    return e_entries_at(c) + kvg_aligned(8 * k.blocks);
}
/* Where the first block begins. */
static __device__ __forceinline__ uint32_t e_first_at(const struct kvg_chunk &c,
                                                      const struct e_cut &k)
{
    return e_exact_at(c, k) + kvg_aligned((k.first + k.last) * e_row_bytes(c));
}

/* A unit's tokens [at, end), of which [from, to) are coded; those before are of the chunk's first
 * exact ones, those behind of its last. */
struct e_range {
    uint32_t at, from, to, end;
};

static __device__ __forceinline__ struct e_range e_range_of(const struct kvg_chunk &c,
                                                            const struct e_cut &k, uint32_t unit)
{
    struct e_range r;

    r.at = unit * c.by_unit.by;
    r.end = min(r.at + c.by_unit.by, c.view.tokens);
    r.from = min(max(k.first, r.at), r.end);
    r.to = max(min(k.first + k.coded, r.end), r.from);
    return r;
}

/* Where the exact token is in the stream. */
static __device__ __forceinline__ uint32_t e_exact_token(const struct kvg_chunk &c,
                                                         const struct e_cut &k, uint32_t token)
{
    return e_exact_at(c, k) + (token < k.first ? token : token - k.coded) * e_row_bytes(c);
}

/* Where a block's planes begin, behind its lows, and what follows them. */
struct e_layout {
    uint32_t planes, wide, exact, bytes;
};

/* Counts, two to a word: values in groups 1 and 2; in group 3, and wide symbols; exact values. */
static __device__ __forceinline__ struct e_layout e_layout_of(uint32_t n, uint32_t low_bits,
                                                              const uint32_t (&count)[3])
{
    struct e_layout l;

    l.planes = kvg_aligned(kvg_ceil8(low_bits));
    l.wide = l.planes + 2 * (kvg_first_plane(n) + kvg_ceil8(count[0] & 0xffff) +
                             kvg_ceil8(count[0] >> 16) + kvg_ceil8(count[1] & 0xffff));
    l.exact = l.wide + (count[1] >> 16);
    l.bytes = l.exact + 2 * count[2];
    return l;
}

/* ---- values and symbols in shared memory ----------------------------------------------------- */

static __device__ __forceinline__ uint16_t *e_value(uint4 *tile, uint32_t i)
{
    return reinterpret_cast<uint16_t *>(reinterpret_cast<unsigned char *>(tile) +
                                        kvg_in_tile(2 * i));
}
static __device__ __forceinline__ uint8_t *e_symbol(uint4 *symbols, uint32_t i)
{
    return reinterpret_cast<uint8_t *>(symbols) + kvg_in_tile(i);
}

/* ---- channels -------------------------------------------------------------------------------- */

/*
 * A chunk's table: of each group of 64 channels the raw low bits that a token has before it, at
 * last those of all, then whether any channel foretells.
 */
static __device__ __forceinline__ uint32_t *e_table(const struct kvg_chunk &c)
{
    return reinterpret_cast<uint32_t *>(c.table);
}
static __device__ __forceinline__ uint32_t e_groups(const struct kvg_chunk &c)
{
    return (c.columns + E_LANES - 1) / E_LANES;
}

/* By a whole block, from the channels' bytes in the stream; group: E_GROUPS words. Barriers before
 * and after are the caller's. */
static __device__ void e_write_table(const struct kvg_chunk &c, uint32_t *group, uint32_t *follows)
{
    const uint8_t *bits = c.stream + e_bits_at(c);
    const uint32_t groups = e_groups(c);
    uint32_t any = 0;

    for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) {
        uint32_t sum = 0;

        for (uint32_t i = g * E_LANES; i < min(g * E_LANES + E_LANES, c.columns); ++i) {
            sum += bits[i] & 15;
            any |= bits[i] >> 4;
        }
        group[g] = sum;
    }
    atomicOr(follows, any);
    __syncthreads();
    for (uint32_t g = threadIdx.x; g <= groups; g += blockDim.x) {
        uint32_t before = 0;

        for (uint32_t i = 0; i < g; ++i)
            before += group[i];
        e_table(c)[g] = before;
    }
    if (threadIdx.x == 0)
        e_table(c)[groups + 1] = *follows;
}

/* What a thread's warp does at a time: 32 channels, tokens [from, to) of the block's. */
struct e_share {
    uint32_t half, from, to;
};

/* Where no token depends on the one before, warps that few channels leave idle share the tokens.
 * Of round 0, 1 ..; false: there is no more. */
static __device__ __forceinline__ bool e_share_of(const struct kvg_chunk &c, uint32_t tokens,
                                                  uint32_t round, struct e_share *s)
{
    const uint32_t halves = (c.columns + 31) / 32, warp = round * KVG_WARPS + threadIdx.x / 32;
    uint32_t slices = 1;

    s->half = warp;
    s->from = 0;
    s->to = tokens;
    if (halves < KVG_WARPS && e_table(c)[e_groups(c) + 1] == 0) {
        slices = KVG_WARPS / halves;
        s->half = warp % halves;
        s->from = tokens * (warp / halves) / slices;
        s->to = tokens * (warp / halves + 1) / slices;
    }
    return warp < halves * slices;
}

/* A lane's channel; where it has none, all is 0. */
struct e_channel {
    uint32_t index;
    bool there;
    int base, low, follow;
};

static __device__ __forceinline__ struct e_channel e_channel_of(const struct kvg_chunk &c,
                                                                uint32_t half)
{
    struct e_channel k;
    uint32_t bits = 0;

    k.index = half * 32 + threadIdx.x % 32;
    k.there = k.index < c.columns;
    k.base = 0;
    if (k.there) {
        bits = c.stream[e_bits_at(c) + k.index];
        k.base = *reinterpret_cast<const int16_t *>(c.stream + KVG_E_HEAD + 2 * k.index);
    }
    k.low = (int)(bits & 15);
    k.follow = (int)(bits >> 4);
    return k;
}

/*
 * The low bits of a warp's channels, as a token has them: `planes` of them; a lane's own are those
 * of plane lane % E_TURN, at bit `place` of a token's, which has `row` in all. So a warp moves the
 * bits of E_TOKENS tokens at once: lane k those of token k / E_TURN of them.
 */
#define E_TURN   8u /* > E_LOW_MAX */
#define E_TOKENS (32 / E_TURN)

struct e_lows {
    uint32_t planes, place, row;
    struct kvg_moves moves;
};

static __device__ __forceinline__ struct e_lows e_lows_of(const struct kvg_chunk &c,
                                                          const struct e_channel &k, uint32_t half)
{
    const uint32_t lane = threadIdx.x % 32, other = k.index ^ 32;
    const int theirs = other < c.columns ? c.stream[e_bits_at(c) + other] & 15 : 0;
    uint32_t at = e_table(c)[half / 2], mask = 0;
    struct e_lows l;

    l.planes = 0;
    l.place = 0;
    l.row = e_table(c)[e_groups(c)];
#pragma unroll 1
    for (int p = 0; p < (int)E_LOW_MAX; ++p) {
        const uint32_t here = __ballot_sync(KVG_ALL, k.low > p);
        const uint32_t there = __ballot_sync(KVG_ALL, theirs > p);

        if ((here | there) == 0)
            break; /* nor are there higher bits */
        l.planes += here != 0;
        if (lane % E_TURN == (uint32_t)p) {
            mask = here;
            l.place = at + (half % 2 != 0 ? (uint32_t)__popc(there) : 0);
        }
        at += (uint32_t)(__popc(here) + __popc(there));
    }
    l.moves = kvg_moves_of(mask);
    return l;
}

/* 16 bits are enough for all that an encoder makes; a damaged stream's are cut. */
static __device__ __forceinline__ int e_foretold(int quarters, int last)
{
    return (int16_t)(quarters * last + 2) >> 2;
}
#endif
