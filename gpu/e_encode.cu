/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_encode.cu - E8's and E4's units, a CTA each: gather, symbols and raw low bits channel by
 * channel, what the values will decode to and its digest, planes, the place in the stream
 * (look-back over the units before), and the block there.
 */
#include "e_parts.h"

/* A code byte (compress/SPEC.md 2, 2-2-2-2), a bit in each field of four. */
#define CODE(b)                                                                                    \
    (((b)&1u) | ((b)&2u) << 3 | ((b)&4u) << 6 | ((b)&8u) << 9 | ((b)&16u) << 12 |                  \
     ((b)&32u) << 15 | ((b)&64u) << 18 | ((b)&128u) << 21)

/* By rank: two bits, two more for what they can't name, and so on. */
static __device__ const uint32_t planes_of[16] = {
    CODE(0),  CODE(1),  CODE(2),   CODE(3),   CODE(7),   CODE(11),  CODE(15),  CODE(31),
    CODE(47), CODE(63), CODE(127), CODE(191), CODE(255), CODE(255), CODE(255), CODE(255),
};

struct encode_shared {
    uint4 tile[KVG_PIECES];
    uint4 symbols[KVG_UNIT_MAX / 16];
    uint32_t out[E_WORDS + 8];
    uint32_t planes_of[16];
    struct kvg_scan<3> scan;
    unsigned long long digest;
    uint32_t offset, ticket, last;
};
static_assert(sizeof(struct encode_shared) <= KVG_E_ENCODE_SHARED, "e.h");

/* ---- symbols --------------------------------------------------------------------------------- */

/* A value's symbol; *low: its raw low bits; *last: its distance from base in steps. */
template <uint32_t D>
static __device__ __forceinline__ uint32_t symbol_of(const struct e_channel &k, uint32_t bits,
                                                     float inverse, int *last, uint32_t *low)
{
    const int foretold = e_foretold(k.follow, *last);
    const float q =
        e_dtype<D>::is_huge(bits) ? E_Q_MAX + 1 : __fmul_rn(e_dtype<D>::value(bits), inverse);
    const bool far = !(fabsf(q) < E_Q_MAX + 0.5f);
    const int r = __float2int_rn(far ? 0 : q) - k.base, lift = (1 << k.low) >> 1;
    const int lifted = r - foretold + lift, h = lifted >> k.low;
    const uint32_t u = h >= 0 ? 2 * (uint32_t)h : 2 * (uint32_t)-h - 1;
    const bool exact = far || u >= E_U_EXACT;

    *low = exact ? 0 : (uint32_t)lifted & ((1u << k.low) - 1);
    *last = exact ? 0 : (int16_t)r;
    return exact ? E_U_EXACT : u;
}

/* A warp's share (e_share) of the coded tokens, the first of which has value `first` of the tile:
 * symbols, low bits to the block, and in the tile what each value decodes to. */
template <uint32_t D>
static __device__ __noinline__ void split_share(struct encode_shared &s, const struct kvg_chunk &c,
                                                uint32_t first, uint32_t half, uint32_t from,
                                                uint32_t to)
{
    const float step =
        __uint_as_float(reinterpret_cast<const uint32_t *>(c.stream)[0] & 0xffff0000u);
    const float inverse = __fdiv_rn(1, step);
    const struct e_channel k = e_channel_of(c, half);
    const struct e_lows lows = e_lows_of(c, k, half);
    const uint32_t lane = threadIdx.x % 32;
    uint32_t plane = 0;
    int last = 0;

#pragma unroll 1
    for (uint32_t t = from; t < to; ++t) {
        const uint32_t i = t * c.columns + k.index, turn = (t - from) % E_TOKENS;
        uint32_t low = 0;

        if (k.there) {
            uint16_t *value = e_value(s.tile, first + i);
            const uint32_t u = symbol_of<D>(k, *value, inverse, &last, &low);

            *e_symbol(s.symbols, i) = (uint8_t)u;
            if (u != E_U_EXACT)
                *value = e_dtype<D>::bits(__fmul_rn(__int2float_rn(k.base + last), step));
        }
        for (uint32_t p = 0; p < lows.planes; ++p) {
            const uint32_t word = __ballot_sync(KVG_ALL, low >> p & 1);

            plane = lane == turn * E_TURN + p ? word : plane;
        }
        if (turn + 1 == E_TOKENS || t + 1 == to) {
            kvg_put_bits(s.out, (t - turn + lane / E_TURN) * lows.row + lows.place,
                         kvg_close_bits(lows.moves, plane));
            plane = 0;
        }
    }
}

/* This thread's symbols as planes; bits of values that there are. */
static __device__ __forceinline__ void split(struct encode_shared &s, uint32_t n,
                                             uint32_t (&plane)[8])
{
    const uint32_t valid = kvg_valid(n);

#pragma unroll
    for (int piece = 0; piece < 2; ++piece) {
        const uint4 q = s.symbols[kvg_slot(threadIdx.x * 2 + piece)];
        const uint32_t w[4] = {q.x, q.y, q.z, q.w};

#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint32_t sum = 0;

#pragma unroll
            for (int b = 0; b < 4; ++b)
                sum += s.planes_of[min(w[i] >> 8 * b & 0xff, E_RANKS)] << b;
            plane[piece * 4 + i] = sum;
        }
    }
    kvg_turn(plane);
#pragma unroll
    for (int p = 0; p < 8; ++p)
        plane[p] &= valid;
}

/* ---- a block --------------------------------------------------------------------------------- */

/*
 * A block and this thread's part of it: its planes, the values that go on to groups 1 to 3 and
 * beyond, and how many of each kind the threads before have, and all. Two counts to a word: groups
 * 1 and 2; group 3 and wide symbols; exact values.
 */
struct mine {
    uint32_t plane[8], sent[4];
    uint32_t before[3], total[3];
    struct e_layout at;
};

/* A byte of the block: to its words in shared memory, or, behind those, to the stream. */
static __device__ __forceinline__ void put_byte(struct encode_shared &s, unsigned char *stream,
                                                uint32_t at, uint32_t byte)
{
    if (at < 4 * E_WORDS)
        kvg_put_bits(s.out, at * 8, byte);
    else
        stream[at] = (unsigned char)byte;
}

/* Wide symbols and exact values; first: the block's first value in the tile. */
static __device__ void put_wide(struct encode_shared &s, const struct mine &m, uint32_t first,
                                unsigned char *stream)
{
    uint32_t wide = m.at.wide + (m.before[1] >> 16), exact = m.at.exact + 2 * m.before[2];

#pragma unroll 1
    for (uint32_t left = m.sent[3]; left != 0; left &= left - 1, ++wide) {
        const uint32_t i = threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1;
        const uint32_t u = *e_symbol(s.symbols, i);

        put_byte(s, stream, wide, u - E_RANKS);
        if (u == E_U_EXACT) {
            const uint32_t bits = *e_value(s.tile, first + i);

            put_byte(s, stream, exact++, bits & 0xff);
            put_byte(s, stream, exact++, bits >> 8);
        }
    }
}

static __device__ __forceinline__ void put_planes(struct encode_shared &s, const struct mine &m,
                                                  uint32_t n)
{
    const uint32_t t = threadIdx.x, plane = kvg_first_plane(n);
    uint32_t at = m.at.planes + 2 * plane;

    if (4 * t < plane) {
        s.out[m.at.planes / 4 + t] = m.plane[0];
        s.out[(m.at.planes + plane) / 4 + t] = m.plane[1];
    }
#pragma unroll
    for (int g = 0; g < 3; ++g) {
        const struct kvg_moves moves = kvg_moves_of(m.sent[g]);
        const uint32_t before = m.before[g / 2] >> 16 * (g % 2) & 0xffff;

#pragma unroll
        for (int b = 0; b < 2; ++b) {
            kvg_put_bits(s.out, at * 8 + before, kvg_close_bits(moves, m.plane[2 * g + 2 + b]));
            at += kvg_ceil8(m.total[g / 2] >> 16 * (g % 2) & 0xffff);
        }
    }
}

/* The block to shared memory, but its wide symbols and exact values. */
static __device__ __forceinline__ void code(struct encode_shared &s, uint32_t n, uint32_t low_bits,
                                            struct mine &m)
{
    uint32_t alive = KVG_ALL, exact = 0;

    split(s, n, m.plane);
#pragma unroll
    for (int g = 0; g < 4; ++g) {
        alive &= m.plane[2 * g] & m.plane[2 * g + 1];
        m.sent[g] = alive;
    }
#pragma unroll 1
    for (uint32_t left = m.sent[3]; left != 0; left &= left - 1)
        exact += *e_symbol(s.symbols, threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1) ==
                 E_U_EXACT;

    const uint32_t counts[3] = {(uint32_t)__popc(m.sent[0]) | (uint32_t)__popc(m.sent[1]) << 16,
                                (uint32_t)__popc(m.sent[2]) | (uint32_t)__popc(m.sent[3]) << 16,
                                exact};

    kvg_before(s.scan, counts, m.before, m.total);
    m.at = e_layout_of(n, low_bits, m.total);
    put_planes(s, m, n);
}

/* The unit's block at its place in the stream, with what pads it, and its entry. */
static __device__ void copy_out(struct encode_shared &s, const struct kvg_chunk &c, uint32_t index,
                                const struct mine &m)
{
    /* Anew: registers are dearer. */
    const struct e_cut k = e_cut_of(c, c.exact_first, c.exact_last);
    const struct e_range r = e_range_of(c, k, index);
    const uint32_t at = e_first_at(c, k) + s.offset, bytes = m.at.bytes;
    unsigned char *to = c.stream + at;

    if (index + 1 == c.blocks && threadIdx.x == 0)
        c.state->bytes = at + kvg_aligned(bytes);
    if (r.from == r.to)
        return;

    if (at + kvg_aligned(bytes) > c.stream_bytes)
        return; /* the chunk will be stored */
    if (m.total[1] >> 16 != 0) {
        put_wide(s, m, (r.from - r.at) * c.columns, to);
        for (uint32_t i = max(bytes, 4 * E_WORDS) + threadIdx.x; i < kvg_aligned(bytes);
             i += KVG_THREADS)
            to[i] = 0;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *reinterpret_cast<uint2 *>(c.stream + e_entries_at(c) + 8 * (index - k.first_unit)) =
            make_uint2(s.offset + bytes, m.total[1] >> 16 | m.total[2] << 16);
    for (uint32_t i = threadIdx.x; i * 16 < min(bytes, 4 * E_WORDS); i += KVG_THREADS)
        reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(s.out)[i];
}

/* ---- a unit ---------------------------------------------------------------------------------- */

/* Tokens [from, to) of the unit, which are exact, to their place. */
static __device__ void put_exact_tokens(struct encode_shared &s, const struct kvg_chunk &c,
                                        const struct e_cut &k, const struct e_range &r,
                                        uint32_t from, uint32_t to)
{
    uint16_t *stream = reinterpret_cast<uint16_t *>(c.stream + e_exact_token(c, k, from));

    for (uint32_t i = threadIdx.x; i < (to - from) * c.columns; i += KVG_THREADS)
        stream[i] = *e_value(s.tile, (from - r.at) * c.columns + i);
}

/* The unit in the tile, where what it decodes to takes its place. */
template <uint32_t D>
static __device__ void encode_unit(struct encode_shared &s, const struct kvg_chunk &c,
                                   uint32_t index)
{
    const struct e_cut k = e_cut_of(c, c.exact_first, c.exact_last);
    const struct e_range r = e_range_of(c, k, index);
    const uint32_t tokens = r.to - r.from, n = tokens * c.columns;
    struct e_share share;
    struct mine m;

    m.sent[3] = m.total[1] = m.total[2] = m.at.bytes = 0; /* no block */
    put_exact_tokens(s, c, k, r, r.at, r.from);
    put_exact_tokens(s, c, k, r, r.to, r.end);
    for (uint32_t round = 0; n > 0 && e_share_of(c, tokens, round, &share); ++round)
        split_share<D>(s, c, (r.from - r.at) * c.columns, share.half, share.from, share.to);
    __syncthreads();
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, (r.end - r.at) * e_row_bytes(c), index, &c.state->digest);
    if (n > 0)
        code(s, n, tokens * e_table(c)[e_groups(c)], m);
    if (threadIdx.x < 32) {
        const uint32_t offset = kvg_look_back(c.state->said, index, kvg_aligned(m.at.bytes));

        if (threadIdx.x == 0)
            s.offset = offset;
    }
    __syncthreads();
    copy_out(s, c, index, m);
}

/* Unit `index` of a chunk that is stored; *digest: of all of them. */
static __device__ __noinline__ void store_unit(struct encode_shared &s, const struct kvg_chunk &c,
                                               uint32_t index, unsigned long long *digest)
{
    const uint32_t at = index * c.unit * c.value_bytes;
    const uint32_t n = min(c.values * c.value_bytes - at, c.unit * c.value_bytes);

    for (uint32_t p = threadIdx.x; p * 16 < n; p += KVG_THREADS)
        kvg_put<false>(c, 0, c.stream + KVG_E_HEAD + at + p * 16, n - p * 16, s.tile[kvg_slot(p)]);
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, n, index, digest);
}

/* A chunk that would not get shorter is stored after all: its digest, too, is another. */
static __device__ __noinline__ void store(struct encode_shared &s, const struct kvg_chunk &c)
{
    uint4 *head = reinterpret_cast<uint4 *>(c.stream);
    const uint32_t bytes = c.unit * c.value_bytes, all = c.values * c.value_bytes;

    if (threadIdx.x == 0) {
        head[0] = make_uint4(E_STORED | (uint32_t)c.view.dtype << 8, 0, 0, 0);
        head[1] = make_uint4(0, 0, E_FORMAT, 0);
        s.digest = 0;
    }
    for (uint32_t i = 0; i < c.blocks; ++i) {
        kvg_gather(s.tile, c, i * bytes, min(all - i * bytes, bytes));
        __syncthreads();
        store_unit(s, c, i, &s.digest);
        __syncthreads();
    }
    if (threadIdx.x == 0)
        c.state->digest = s.digest;
}

/* The CTA of the chunk that ends last knows the length, and says that the chunk is done. */
static __device__ void finish(struct encode_shared &s, const struct kvg_chunk &c, bool coded)
{
    if (!kvg_ends_last(s, c))
        return;

    const uint32_t raw = c.values * c.value_bytes, bytes = coded ? c.state->bytes : raw;

    if (coded && bytes >= raw)
        store(s, c); /* ends with a barrier */
    if (threadIdx.x == 0)
        kvg_say_done(c, bytes >= raw ? KVG_E_HEAD + raw : bytes, 0);
}

template <uint32_t D>
static __device__ void encode_any(struct encode_shared &s, const struct kvg_chunk &c,
                                  uint32_t index)
{
    const bool coded = c.stream[0] == E_CODED; /* as the plan has found */
    const uint32_t at = index * c.unit * c.value_bytes;

    kvg_gather(s.tile, c, at, min(c.values * c.value_bytes - at, c.unit * c.value_bytes));
    for (uint32_t i = threadIdx.x; i < E_WORDS + 8; i += KVG_THREADS)
        s.out[i] = 0;
    __syncthreads();
    if (coded)
        encode_unit<D>(s, c, index);
    else
        store_unit(s, c, index, &c.state->digest);
    finish(s, c, coded);
}

template <uint32_t D> static __device__ void encode_all(const struct kvg_batch &b)
{
    KVG_SHARED(struct encode_shared, s);
    const uint32_t t = threadIdx.x;

    if (t < 16)
        s.planes_of[t] = planes_of[t];
    kvg_encode_blocks(
        s, b, [&](const struct kvg_chunk &c, uint32_t index) { encode_any<D>(s, c, index); });
}

#define ENCODE(name, dtype)                                                                        \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS, 4)                                              \
        kvg_e_encode_##name(const struct kvg_batch b)                                              \
    {                                                                                              \
        encode_all<dtype>(b);                                                                      \
    }
E_DTYPES(ENCODE)
#undef ENCODE
