/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l0_encode.cu - L0's and L8's blocks, a CTA each: gather, digest, split into low bytes and
 * planes, find
 * where in the stream the block goes (look-back over the blocks before), write it there.
 */
#include "l0_parts.h"

#define OUT_WORDS (KVG_UNIT_MAX * 2 / 4)
#define NOWHERE   0xffffffffu /* the chunk will be stored */

/* Of a class and a place, the bits of its code, as fields that add up: field p, bit i is plane p of
 * the i-th of four values. Planes: a0 b0 a1 g2.0 g2.1 g3.0 g3.1, and the escapes. */
#define PL(a0, b0, a1, g20, g21, g30, g31, esc)                                                    \
    ((a0) | (b0) << 4 | (a1) << 8 | (g20) << 12 | (g21) << 16 | (g30) << 20 | (g31) << 24 |        \
     (uint32_t)(esc) << 28)
#define R0  0
#define R1  PL(1, 0, 0, 0, 0, 0, 0, 0)
#define R2  PL(0, 1, 0, 0, 0, 0, 0, 0)
#define R3  PL(1, 1, 0, 0, 0, 0, 0, 0)
#define R4  PL(1, 1, 1, 0, 0, 0, 0, 0)
#define R5  PL(1, 1, 1, 1, 0, 0, 0, 0)
#define R6  PL(1, 1, 1, 0, 1, 0, 0, 0)
#define R7  PL(1, 1, 1, 1, 1, 0, 0, 0)
#define R8  PL(1, 1, 1, 1, 1, 1, 0, 0)
#define R9  PL(1, 1, 1, 1, 1, 0, 1, 0)
#define ESC PL(1, 1, 1, 1, 1, 1, 1, 1)

/* SPEC.md 3.3, the other way round: [class][place]; any other place is an escape. */
#define PLACES 14u
static __device__ const uint32_t fields_of[2][PLACES] = {
    {ESC, ESC, ESC, ESC, R9, R7, R6, R5, R4, R2, R1, R0, R3, R8},
    {ESC, ESC, ESC, ESC, R9, R8, R7, R6, R4, R3, R2, R0, R1, R5},
};
#define FIELDS (2 * L0_PLACES + L0_ASIDE)

struct encode_shared {
    uint4 tile[KVG_PIECES];
    uint32_t out[OUT_WORDS + 8];
    uint32_t fields[FIELDS]; /* of a class and of an exponent less a start, and 256 */
    struct kvg_scan<2> scan;
    uint32_t at, ticket, last;
};
static_assert(sizeof(struct encode_shared) <= KVG_L0_ENCODE_SHARED, "l0.h");

/* This thread's values, split. */
struct mine {
    uint32_t low[8];   /* of two-byte values */
    uint32_t kept[8];  /* of all but bf16: its first l0_dtype<D>::kept words are planes */
    uint32_t plane[8]; /* a0 b0 a1 g2.0 g2.1 g3.0 g3.1 escape; bits of values that there are */
};

/* Where a block's parts begin, and its length. */
struct parts {
    uint32_t kept, a0, b0, a1, g20, g21, g30, g31, escapes;
    uint32_t bytes; /* raw if it would not be shorter */
    bool coded;
};

/* The fields of two values' codes, the first of the two at bit `shift` of them. exponents: each
 * times 4, in halves of a word; column: of l0_encode_columns(). */
static __device__ __forceinline__ uint32_t fields(const struct encode_shared &s, uint32_t exponents,
                                                  uint32_t column, int shift)
{
    const uint32_t at = exponents + column;
    const unsigned char *const all = reinterpret_cast<const unsigned char *>(s.fields);
    const uint32_t first = *reinterpret_cast<const uint32_t *>(all + (at & 0xffff));
    const uint32_t second = *reinterpret_cast<const uint32_t *>(all + (at >> 16));

    return (first << shift) + (second << (shift + 1));
}

static __device__ __forceinline__ void split_bf16(const struct encode_shared &s,
                                                  const uint32_t (&columns)[16], struct mine &m)
{
#pragma unroll
    for (int piece = 0; piece < 4; ++piece) {
        const uint4 q = s.tile[kvg_slot(threadIdx.x * 4 + piece)];
        const uint32_t w[4] = {q.x, q.y, q.z, q.w};

#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t two = w[half * 2], more = w[half * 2 + 1];
            const uint32_t low = __byte_perm(two, more, 0x6420);
            const uint32_t high = __byte_perm(two, more, 0x7531);
            const int g = piece * 2 + half;

            m.low[g] = kvg_choose(0xfefefefeu, low << 1, high >> 7); /* mantissa, sign */
            m.plane[g] = fields(s, two >> 5 & 0x03fc03fcu, columns[2 * g], 0) +
                         fields(s, more >> 5 & 0x03fc03fcu, columns[2 * g + 1], 2);
        }
    }
}

/* All others: four values' high bytes (fp8: the values) are split at once. */
template <uint32_t D>
static __device__ __forceinline__ void split_bytes(const struct encode_shared &s,
                                                   const uint32_t (&columns)[16], struct mine &m)
{
    typedef l0_dtype<D> d;
    constexpr int words = d::has_low ? 2 : 4; /* of four values, in a piece */

#pragma unroll
    for (int piece = 0; piece < 8 / words; ++piece) {
        const uint4 q = s.tile[kvg_slot(threadIdx.x * (8 / words) + piece)];
        const uint32_t w[4] = {q.x, q.y, q.z, q.w};

#pragma unroll
        for (int i = 0; i < words; ++i) {
            const int g = piece * words + i;
            const uint32_t high =
                d::has_low ? __byte_perm(w[2 * i % 4], w[2 * i % 4 + 1], 0x7531) : w[i];
            const uint32_t e = high >> d::high_mantissa & d::exponent_most * 0x01010101u;

            if (d::has_low)
                m.low[g] = __byte_perm(w[2 * i % 4], w[2 * i % 4 + 1], 0x6420);
            m.plane[g] = fields(s, __byte_perm(e << 2, 0, 0x4140), columns[2 * g], 0) +
                         fields(s, __byte_perm(e << 2, 0, 0x4342), columns[2 * g + 1], 2);
            m.kept[g] = kvg_nibble(high >> 7);
#pragma unroll
            for (int k = 0; k < d::high_mantissa; ++k)
                m.kept[g] |= kvg_nibble(high >> (d::high_mantissa - 1 - k)) << 4 * (k + 1);
        }
    }
    kvg_turn(m.kept);
}

template <uint32_t D>
static __device__ __forceinline__ void
split(const struct encode_shared &s, const uint32_t (&columns)[16], uint32_t valid, struct mine &m)
{
    if constexpr (l0_dtype<D>::is_bf16)
        split_bf16(s, columns, m);
    else
        split_bytes<D>(s, columns, m);
    kvg_turn(m.plane);
#pragma unroll
    for (int p = 0; p < 8; ++p)
        m.plane[p] &= valid;
}

/* The words of a coded block but those of its low bytes and group 0. */
template <uint32_t D>
static __device__ __forceinline__ void put_planes(struct encode_shared &s, const struct mine &m,
                                                  const struct parts &p,
                                                  const uint32_t (&before)[2])
{
    const uint32_t alive1 = m.plane[0] & m.plane[1], alive2 = alive1 & m.plane[2];
    const uint32_t alive3 = alive2 & m.plane[3] & m.plane[4];
    const struct kvg_moves of_1 = kvg_moves_of(alive1), of_2 = kvg_moves_of(alive2),
                           of_3 = kvg_moves_of(alive3);
    uint32_t at = p.escapes + (before[1] >> 16);

    kvg_put_bits(s.out, p.a1 * 8 + (before[0] & 0xffff), kvg_close_bits(of_1, m.plane[2]));
    kvg_put_bits(s.out, p.g20 * 8 + (before[0] >> 16), kvg_close_bits(of_2, m.plane[3]));
    kvg_put_bits(s.out, p.g21 * 8 + (before[0] >> 16), kvg_close_bits(of_2, m.plane[4]));
    kvg_put_bits(s.out, p.g30 * 8 + (before[1] & 0xffff), kvg_close_bits(of_3, m.plane[5]));
    kvg_put_bits(s.out, p.g31 * 8 + (before[1] & 0xffff), kvg_close_bits(of_3, m.plane[6]));
    for (uint32_t left = m.plane[7]; left != 0; left &= left - 1, ++at) {
        const uint32_t value = threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1;

        kvg_put_bits(s.out, at * 8, l0_dtype<D>::exponent(*l0_value<D>(s.tile, value)));
    }
}

/* The words of every value: low bytes, kept planes and group 0, padding and all. Past the last
 * value the tile is zero. */
template <uint32_t D>
static __device__ __forceinline__ void put_words(struct encode_shared &s, const struct mine &m,
                                                 const struct parts &p)
{
    const uint32_t t = threadIdx.x, plane = p.b0 - p.a0;

    if (l0_dtype<D>::has_low)
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i)
            if (t * KVG_MINE + 4 * i < p.kept)
                s.out[t * 8 + i] = m.low[i];
    if (4 * t < plane) {
#pragma unroll
        for (int k = 0; k < l0_dtype<D>::kept; ++k)
            s.out[(p.kept + (uint32_t)k * plane) / 4 + t] = m.kept[k];
        s.out[p.a0 / 4 + t] = m.plane[0];
        s.out[p.b0 / 4 + t] = m.plane[1];
    }
}

template <uint32_t D>
static __device__ __forceinline__ struct parts parts_of(uint32_t n, const uint32_t (&total)[2])
{
    struct parts p;

    p.kept = l0_dtype<D>::has_low ? kvg_aligned(n) : 0;
    p.a0 = l0_rest<D>(n);
    p.b0 = p.a0 + kvg_first_plane(n);
    p.a1 = p.b0 + kvg_first_plane(n);
    p.g20 = p.a1 + kvg_ceil8(total[0] & 0xffff);
    p.g21 = p.g20 + kvg_ceil8(total[0] >> 16);
    p.g30 = p.g21 + kvg_ceil8(total[0] >> 16);
    p.g31 = p.g30 + kvg_ceil8(total[1] & 0xffff);
    p.escapes = p.g31 + kvg_ceil8(total[1] & 0xffff);
    p.bytes = p.escapes + (total[1] >> 16);
    p.coded = p.bytes < n * l0_dtype<D>::bytes;
    p.bytes = p.coded ? p.bytes : n * l0_dtype<D>::bytes;
    return p;
}

/* Where the block goes in the stream, by one warp: s.at. Its end goes to the table of ends. */
static __device__ __forceinline__ void
find_place(struct encode_shared &s, const struct kvg_chunk &c, uint32_t bytes, uint32_t index)
{
    const uint32_t offset = kvg_look_back(c.state->said, index, kvg_aligned(bytes));

    if (threadIdx.x % 32 != 0)
        return;

    const uint32_t mode = c.book != NULL ? L0_BOOK : l0_has_one_window(c) ? L0_ONE : L0_COLUMNS;
    const uint32_t at = l0_first_at(c, mode) + offset, past = at + kvg_aligned(bytes);

    if (index + 1 == c.blocks)
        c.state->bytes = past;
    s.at = past > c.stream_bytes ? NOWHERE : at;
    if (s.at != NOWHERE)
        reinterpret_cast<uint32_t *>(c.stream + l0_ends_at(c, mode))[index] = offset + bytes;
}

/* The block at its place, with what pads it. */
static __device__ void copy_out(const struct encode_shared &s, const struct kvg_chunk &c,
                                const struct parts &p)
{
    const uint32_t pieces = (p.bytes + 15) / 16;
    const uint4 *const from = reinterpret_cast<const uint4 *>(s.out);

    if (s.at == NOWHERE)
        return;

    uint4 *const to = reinterpret_cast<uint4 *>(c.stream + s.at);

    if (p.coded)
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < pieces; i += KVG_THREADS)
            to[i] = from[i];
    else
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < pieces; i += KVG_THREADS)
            to[i] = s.tile[kvg_slot(i)];
}

/* A chunk that would not get shorter is stored after all. */
static __device__ void store(const struct kvg_chunk &c)
{
    const uint32_t raw = c.values * c.value_bytes;

    if (threadIdx.x == 0)
        *reinterpret_cast<uint4 *>(c.stream) =
            make_uint4(L0_STORED | (uint32_t)c.view.dtype << 8 | L0_FORMAT << 24, c.values, 0, 0);
    for (uint32_t i = threadIdx.x * 16; i < raw; i += KVG_THREADS * 16)
        kvg_put<false>(c, i, c.stream + KVG_L0_HEAD + i, raw - i,
                       kvg_take<true>(c, i, NULL, raw - i));
}

/* The CTA of the chunk that ends last knows the length, and says that the chunk is done. */
static __device__ void finish(struct encode_shared &s, const struct kvg_chunk &c)
{
    if (!kvg_ends_last(s, c))
        return;

    const uint32_t stored = KVG_L0_HEAD + c.values * c.value_bytes, bytes = c.state->bytes;

    if (bytes >= stored)
        store(c);
    __syncthreads();
    if (threadIdx.x == 0)
        kvg_say_done(c, min(bytes, stored), 0);
}

/* Of the block whose values are in the tile: planes, parts, the place in the stream, the words. */
template <uint32_t D>
static __device__ __forceinline__ struct parts
code(struct encode_shared &s, const struct kvg_chunk &c, uint32_t index, uint32_t n)
{
    uint32_t columns[16], before[2], total[2];
    struct mine m;

    l0_encode_columns(c, columns);
    split<D>(s, columns, kvg_valid(n), m);

    const uint32_t alive1 = m.plane[0] & m.plane[1], alive2 = alive1 & m.plane[2];
    const uint32_t alive3 = alive2 & m.plane[3] & m.plane[4];
    const uint32_t counts[2] = {(uint32_t)__popc(alive1) | (uint32_t)__popc(alive2) << 16,
                                (uint32_t)__popc(alive3) | (uint32_t)__popc(m.plane[7]) << 16};

    kvg_before(s.scan, counts, before, total);

    const struct parts p = parts_of<D>(n, total);

    if (threadIdx.x < 32)
        find_place(s, c, p.bytes, index);
    if (p.coded) {
        put_words<D>(s, m, p);
        put_planes<D>(s, m, p, before);
    }
    __syncthreads();
    return p;
}

template <uint32_t D>
static __device__ void encode_block(struct encode_shared &s, const struct kvg_chunk &c,
                                    uint32_t index)
{
    constexpr uint32_t bytes = l0_dtype<D>::bytes;
    const uint32_t t = threadIdx.x, first = index * c.unit, n = min(c.values - first, c.unit);

    kvg_gather_rows(s.tile, c, first * bytes, n * bytes);
#pragma unroll 1
    for (uint32_t i = (l0_rest<D>(n) + 2 * kvg_first_plane(n)) / 16 + t; i < OUT_WORDS / 4 + 2;
         i += KVG_THREADS)
        reinterpret_cast<uint4 *>(s.out)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    if (t / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, n * bytes, index, &c.state->digest);

    const struct parts p = code<D>(s, c, index, n);

    copy_out(s, c, p);
    finish(s, c);
}

/* All fields, twice: an exponent may be less than its start. The barrier after is the caller's. */
static __device__ __forceinline__ void put_fields(struct encode_shared &s)
{
    uint4 *const all = reinterpret_cast<uint4 *>(s.fields);

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < FIELDS / 4; i += KVG_THREADS)
        all[i] = make_uint4(ESC, ESC, ESC, ESC);
    __syncthreads();
    if (threadIdx.x < 4 * PLACES) {
        const uint32_t place = threadIdx.x % PLACES, copy = threadIdx.x / PLACES;

        s.fields[copy / 2 * (L0_PLACES + L0_ASIDE) + copy % 2 * 256 + place] =
            fields_of[copy / 2][place];
    }
}

template <uint32_t D> static __device__ void encode_all(const struct kvg_batch &b)
{
    KVG_SHARED(struct encode_shared, s);

    put_fields(s);
    kvg_encode_blocks(
        s, b, [&](const struct kvg_chunk &c, uint32_t index) { encode_block<D>(s, c, index); });
}

#define ENCODE(name, dtype)                                                                        \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS, 4)                                              \
        kvg_l0_encode_##name(const struct kvg_batch b)                                             \
    {                                                                                              \
        encode_all<dtype>(b);                                                                      \
    }
L0_DTYPES(ENCODE)
#undef ENCODE
