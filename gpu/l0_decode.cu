/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l0_decode.cu - L0's and L8's blocks back, a CTA each: find and check the block, decode, digest,
 * scatter.
 * The stream is from the wire: no length in it is used before it is held against what there is.
 */
#include "l0_parts.h"

/* SPEC.md 3.3: [class][rank]; an escape's place is overwritten. */
static __device__ const uint8_t place_of[32] = {
    11, 10, 9,  12, 8, 7,  6, 5, 13, 4, 0, 0, 0, 0, 0, 0,
    11, 12, 10, 9,  8, 13, 7, 6, 5,  4, 0, 0, 0, 0, 0, 0,
};

struct decode_shared {
    uint4 tile[KVG_PIECES];
    uint32_t in[KVG_UNIT_MAX * 2 / 4 + 8];
    uint8_t place_of[32];
    struct kvg_scan<1> scan;
    uint32_t bad;
};
static_assert(sizeof(struct decode_shared) <= KVG_L0_DECODE_SHARED, "l0.h");

/* Where a block lies: `bytes` at `from`, or nowhere. */
struct found {
    const unsigned char *from;
    uint32_t bytes;
    bool sound;
};

/* Block `index`, of `raw` bytes, in a stream whose head is sound. */
static __device__ struct found find(const struct kvg_chunk &c, uint32_t index, uint32_t raw)
{
    const uint32_t mode = c.stream[0];

    if (mode == L0_STORED)
        return {c.stream + KVG_L0_HEAD + index * c.unit * c.value_bytes, raw, true};

    const uint32_t *ends = reinterpret_cast<const uint32_t *>(c.stream + l0_ends_at(c, mode));
    const uint32_t first = l0_first_at(c, mode), all = c.stream_bytes - first;
    const uint32_t before = index > 0 ? ends[index - 1] : 0, end = ends[index];

    if (before > all || end > all || kvg_aligned(before) > end || kvg_aligned(end) > all)
        return {NULL, 0, false};

    const uint32_t begin = kvg_aligned(before), bytes = end - begin;
    bool sound = bytes <= raw && (index + 1 < c.blocks || kvg_aligned(end) == all);

    for (uint32_t i = end; i < kvg_aligned(end); ++i)
        sound = sound && c.stream[first + i] == 0;
    return {c.stream + first + begin, bytes, sound};
}

/* What a thread knows of its values' codes. */
struct codes {
    uint32_t kept[8], plane[8];   /* as in l0_encode.cu */
    uint32_t escapes, before, at; /* escapes of the threads before; where their bytes begin */
};

/* Group 0 and the kept planes, of every value, and what pads them and the low bytes. */
template <uint32_t D>
static __device__ __forceinline__ bool take_words(const struct decode_shared &s, uint32_t n,
                                                  struct codes &k)
{
    const uint32_t t = threadIdx.x, plane = kvg_first_plane(n), at = l0_rest<D>(n);
    const uint32_t low = l0_dtype<D>::has_low ? kvg_aligned(n) : 0, valid = kvg_valid(n);
    uint32_t past = 0;

    k.plane[0] = 4 * t < plane ? s.in[at / 4 + t] : 0;
    k.plane[1] = 4 * t < plane ? s.in[(at + plane) / 4 + t] : 0;
    past = k.plane[0] | k.plane[1];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        k.kept[i] =
            i < l0_dtype<D>::kept && 4 * t < plane ? s.in[(low + (uint32_t)i * plane) / 4 + t] : 0;
        past |= k.kept[i];
    }
    past &= ~valid;
    for (uint32_t i = n + t; l0_dtype<D>::has_low && i < low; i += KVG_THREADS)
        past |= kvg_byte_at(s.in, i);
    return past == 0;
}

/* All threads return the same but for what only one can see, which goes to s.bad. */
template <uint32_t D>
static __device__ __forceinline__ bool take_planes(struct decode_shared &s, uint32_t n,
                                                   uint32_t bytes, struct codes &k)
{
    uint32_t count[1], before[1], total[1];
    bool sound;

    if (!take_words<D>(s, n, k))
        atomicOr(&s.bad, 1u);
    k.at = l0_rest<D>(n) + 2 * kvg_first_plane(n);
    k.escapes = k.plane[0] & k.plane[1] & kvg_valid(n);
    sound = kvg_take_groups<1>(s.scan, s.in, bytes, k.plane, &k.escapes, &k.at);
    count[0] = (uint32_t)__popc(k.escapes);
    kvg_before(s.scan, count, before, total);
    k.before = before[0];
    return sound && k.at + total[0] == bytes;
}

/* Two values: ranks from the planes' fields, places, exponents modulo 256, one to a half word. f:
 * of four values the bits of each plane; which: 0 for the first two of them, 2 for the others. */
static __device__ __forceinline__ uint32_t exponents(const struct decode_shared &s, uint32_t f,
                                                     int which, uint32_t column)
{
    const uint32_t a = f >> which & 0x11111111u, b = f >> (which + 1) & 0x11111111u;
    const uint32_t ra = (a * 0x11111111u >> 28) + (a >> 4 & 1) + (a >> 16 & 1) + (a >> 24 & 1);
    const uint32_t rb = (b * 0x11111111u >> 28) + (b >> 4 & 1) + (b >> 16 & 1) + (b >> 24 & 1);
    const uint32_t rows = column >> 4 & 0x00100010u;

    return ((s.place_of[(rows & 0xffff) + ra] | (uint32_t)s.place_of[(rows >> 16) + rb] << 16) +
            (column & 0x00ff00ffu)) &
           0x00ff00ffu;
}

/* Two bf16 of one word. */
static __device__ __forceinline__ uint32_t join(uint32_t e, int which, uint32_t low)
{
    const uint32_t l = __byte_perm(low, 0, which == 0 ? 0x4140 : 0x4342);

    return e << 7 | (l >> 1 & 0x007f007fu) | (l & 0x00010001u) << 15;
}

/* Four high bytes, or fp8 values; care: which of them have a code. *over: not 0 where an exponent
 * of those doesn't fit. kept: of four values the bits of each kept plane. */
template <uint32_t D>
static __device__ __forceinline__ uint32_t join_bytes(uint32_t e, uint32_t kept, uint32_t care,
                                                      uint32_t *over)
{
    typedef l0_dtype<D> d;
    uint32_t v = (e & d::exponent_most * 0x01010101u) << d::high_mantissa;

    *over |= e & ~(d::exponent_most * 0x01010101u) & kvg_of_nibble(care & 15) * 255;
    v |= kvg_of_nibble(kept & 15) << 7;
#pragma unroll
    for (int k = 0; k < d::high_mantissa; ++k)
        v |= kvg_of_nibble(kept >> 4 * (k + 1) & 15) << (d::high_mantissa - 1 - k);
    return v;
}

/* This thread's values, two to a word, or four. Past the last they are zero, as the digest wants.
 * */
template <uint32_t D>
static __device__ __forceinline__ void values_of(struct decode_shared &s, const struct kvg_chunk &c,
                                                 uint32_t n, struct codes &k, uint32_t (&words)[16])
{
    const uint32_t t = threadIdx.x, valid = kvg_valid(n);
    uint32_t columns[16], over = 0;

    l0_columns(c, columns);
    k.plane[7] = 0;
    kvg_turn(k.plane);
    if constexpr (!l0_dtype<D>::is_bf16)
        kvg_turn(k.kept);
#pragma unroll
    for (int g = 0; g < 8; ++g) {
        const uint32_t e = exponents(s, k.plane[g], 0, columns[2 * g]);
        const uint32_t e2 = exponents(s, k.plane[g], 2, columns[2 * g + 1]);
        const uint32_t low = l0_dtype<D>::has_low ? s.in[t * 8 + g] : 0;

        if constexpr (l0_dtype<D>::is_bf16) {
            words[2 * g] = join(e, 0, low);
            words[2 * g + 1] = join(e2, 2, low);
        } else {
            const uint32_t high = join_bytes<D>(__byte_perm(e, e2, 0x6420), k.kept[g],
                                                (valid & ~k.escapes) >> 4 * g, &over);

            words[l0_dtype<D>::has_low ? 2 * g : g] =
                l0_dtype<D>::has_low ? __byte_perm(low, high, 0x5140)
                                     : high & kvg_of_nibble(valid >> 4 * g & 15) * 255;
            if (l0_dtype<D>::has_low)
                words[2 * g + 1] = __byte_perm(low, high, 0x7362);
        }
    }
    if (l0_dtype<D>::has_low && valid != KVG_ALL)
#pragma unroll
        for (int i = 0; i < 16; ++i)
            words[i] &= (valid >> 2 * i & 1 ? 0xffffu : 0) | (valid >> 2 * i & 2 ? 0xffff0000u : 0);
    if (over != 0)
        atomicOr(&s.bad, 1u);
}

template <uint32_t D>
static __device__ __forceinline__ void
put_values(struct decode_shared &s, const struct kvg_chunk &c, uint32_t n, struct codes &k)
{
    constexpr int pieces = l0_dtype<D>::has_low ? 4 : 2;
    uint32_t words[16];

    values_of<D>(s, c, n, k, words);
#pragma unroll
    for (int p = 0; p < pieces; ++p)
        s.tile[kvg_slot(threadIdx.x * pieces + p)] =
            make_uint4(words[4 * p], words[4 * p + 1], words[4 * p + 2], words[4 * p + 3]);
}

/* The exponents that had no code. The values are this thread's. */
template <uint32_t D>
static __device__ __forceinline__ void put_escapes(struct decode_shared &s, const struct codes &k)
{
    typedef l0_dtype<D> d;
    uint32_t at = k.at + k.before, over = 0;

    for (uint32_t left = k.escapes; left != 0; left &= left - 1, ++at) {
        const uint32_t i = threadIdx.x * KVG_MINE + (uint32_t)__ffs((int)left) - 1;
        const uint32_t e = kvg_byte_at(s.in, at);
        typename d::value *v = l0_value<D>(s.tile, i);

        over |= e & ~d::exponent_most;
        *v = (typename d::value)((*v & ~(d::exponent_most << d::mantissa_bits)) |
                                 (e & d::exponent_most) << d::mantissa_bits);
    }
    if (over != 0)
        atomicOr(&s.bad, 1u);
}

/* A coded block to the tile. Whether it is sound: the same for all threads, but for s.bad. */
template <uint32_t D>
static __device__ bool decode(struct decode_shared &s, const struct kvg_chunk &c,
                              const struct found &f, uint32_t n)
{
    struct codes k;
    bool sound;

    for (uint32_t i = threadIdx.x; i * 16 < f.bytes; i += KVG_THREADS)
        reinterpret_cast<uint4 *>(s.in)[i] = reinterpret_cast<const uint4 *>(f.from)[i];
    __syncthreads();
    sound = take_planes<D>(s, n, f.bytes, k);
    put_values<D>(s, c, n, k);
    if (sound)
        put_escapes<D>(s, k);
    return sound;
}

/* One block from the stream to the pool, unless it is damaged. */
template <uint32_t D>
static __device__ bool land(struct decode_shared &s, const struct kvg_chunk &c, uint32_t index)
{
    constexpr uint32_t bytes = l0_dtype<D>::bytes;
    const uint32_t first = index * c.unit, n = min(c.values - first, c.unit);
    const struct found f = find(c, index, bytes * n);
    bool sound = f.sound;

    if (sound && f.bytes == bytes * n)
        kvg_load(s.tile, c, f.from, bytes * n);
    else if (sound)
        sound = decode<D>(s, c, f, n);
    __syncthreads();
    if (!sound || s.bad != 0)
        return false;
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, bytes * n, index, &c.state->digest);
    kvg_scatter(s.tile, c, bytes * first, bytes * n);
    return true;
}

template <uint32_t D> static __device__ void decode_all(const struct kvg_batch &b)
{
    KVG_SHARED(struct decode_shared, s);
    const uint32_t t = threadIdx.x;

    if (t < 32)
        s.place_of[t] = place_of[t];
    kvg_decode_blocks(
        s, b, [&](const struct kvg_chunk &c, uint32_t index) { return land<D>(s, c, index); });
}

#define DECODE(name, dtype)                                                                        \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS, 4)                                              \
        kvg_l0_decode_##name(const struct kvg_batch b)                                             \
    {                                                                                              \
        decode_all<dtype>(b);                                                                      \
    }
L0_DTYPES(DECODE)
#undef DECODE
