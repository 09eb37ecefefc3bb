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
    uint8_t place_of[256]; /* of a code's byte: a bit of each plane, and the class */
    struct kvg_scan<1> scan;
    uint32_t bad;
};
static_assert(sizeof(struct decode_shared) <= KVG_L0_DECODE_SHARED, "l0.h");

/* Where a block lies: `bytes` at `from`, or nowhere. Behind it `pad` bytes must be zero. */
struct found {
    const unsigned char *from;
    uint32_t bytes, pad;
    bool sound;
};

/* Block `index`, of `raw` bytes, in a stream whose head is sound. */
static __device__ struct found find(const struct kvg_chunk &c, uint32_t index, uint32_t raw)
{
    const uint32_t mode = c.stream[0];

    if (mode == L0_STORED)
        return {c.stream + KVG_L0_HEAD + index * c.unit * c.value_bytes, raw, 0, true};

    const uint32_t *ends = reinterpret_cast<const uint32_t *>(c.stream + l0_ends_at(c, mode));
    const uint32_t first = l0_first_at(c, mode), all = c.stream_bytes - first;
    const uint32_t before = index > 0 ? ends[index - 1] : 0, end = ends[index];

    if (before > all || end > all || kvg_aligned(before) > end || kvg_aligned(end) > all)
        return {NULL, 0, 0, false};

    const uint32_t begin = kvg_aligned(before), bytes = end - begin;
    const bool sound = bytes <= raw && (index + 1 < c.blocks || kvg_aligned(end) == all);

    return {c.stream + first + begin, bytes, kvg_aligned(end) - end, sound};
}

/* What a thread knows of its values' codes. */
struct codes : kvg_codes {
    uint32_t kept[8]; /* as in l0_encode.cu */
    uint32_t before;  /* escapes of the threads before */
};

/* Group 0 and the kept planes, of every value, and what pads them and the low bytes. */
template <uint32_t D>
static __device__ __forceinline__ void take_words(const struct decode_shared &s, uint32_t n,
                                                  struct codes &k)
{
    const uint32_t t = threadIdx.x, plane = kvg_first_plane(n), at = l0_rest<D>(n);
    const uint32_t low = l0_dtype<D>::has_low ? kvg_aligned(n) : 0, valid = kvg_valid(n);
    uint32_t past = 0;

    k.at = at + 2 * plane;
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
    k.alive = k.plane[0] & k.plane[1] & valid;
    k.past = past;
}

/* All threads return the same but for what only one can see, which goes to s.bad. */
template <uint32_t D>
static __device__ __forceinline__ bool take_planes(struct decode_shared &s, uint32_t n,
                                                   uint32_t bytes, struct codes &k)
{
    uint32_t count[1], before[1], total[1];
    bool sound;

    take_words<D>(s, n, k);
    sound = kvg_take_groups<1>(s.scan, s.in, bytes, k);
    if (k.past != 0)
        atomicOr(&s.bad, 1u);
    count[0] = (uint32_t)__popc(k.alive);
    kvg_before(s.scan, count, before, total);
    k.before = before[0];
    return sound && k.at + total[0] == bytes;
}

/* The place of a code's byte. Its rank: a bit of each plane, and one more of b0, g2.1 and g3.1. */
static __device__ __forceinline__ uint32_t place_at(uint32_t code)
{
    return place_of[(code >> 7 << 4) +
                    (uint32_t)(__popc((int)(code & 0x7f)) + __popc((int)(code & 0x52)))];
}

/* Exponents of this thread's values 4 g to 4 g + 3 modulo 256, a byte each; code: as
 * l0_turn_planes() leaves it. */
static __device__ __forceinline__ uint32_t exponents(const struct decode_shared &s,
                                                     const uint32_t (&code)[8], int g,
                                                     uint32_t start)
{
    const uint32_t byte = 0x4440u + (uint32_t)(g / 2); /* of each word */
    uint32_t place[4];

#pragma unroll
    for (int i = 0; i < 4; ++i)
        place[i] = s.place_of[__byte_perm(code[4 * (g % 2) + i], 0, byte)];

    const uint32_t places = __byte_perm(__byte_perm(place[0], place[1], 0x5140),
                                        __byte_perm(place[2], place[3], 0x5140), 0x5410);

    /* places are less than 128 */
    return ((start & 0x7f7f7f7fu) + places) ^ (start & 0x80808080u);
}

/* Two bf16 of one word; each half of `two` has its exponent, mantissa and sign from the top. */
static __device__ __forceinline__ uint32_t join(uint32_t two)
{
    return kvg_choose(0x7fff7fffu, two >> 1, two << 15);
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

/* This thread's values, two to a word, or four; past the last of the block, anything. */
template <uint32_t D>
static __device__ __forceinline__ void values_of(struct decode_shared &s, const struct kvg_chunk &c,
                                                 uint32_t n, struct codes &k, uint32_t (&words)[16])
{
    const uint32_t t = threadIdx.x, coded = kvg_valid(n) & ~k.alive;
    uint32_t starts[8], lows[8] = {0}, over = 0;

    l0_decode_columns(c, starts, &k.plane[7]); /* the last bit of a code's byte is its class */
    l0_turn_planes(k.plane);
    if constexpr (!l0_dtype<D>::is_bf16)
        kvg_turn(k.kept);
    if (l0_dtype<D>::has_low) {
        const uint4 *in = reinterpret_cast<const uint4 *>(s.in) + t * 2;
        const uint4 q = in[0], r = in[1];

        lows[0] = q.x, lows[1] = q.y, lows[2] = q.z, lows[3] = q.w;
        lows[4] = r.x, lows[5] = r.y, lows[6] = r.z, lows[7] = r.w;
    }
#pragma unroll
    for (int g = 0; g < 8; ++g) {
        const uint32_t e = exponents(s, k.plane, g, starts[g]);
        const uint32_t low = lows[g];

        if constexpr (l0_dtype<D>::is_bf16) {
            words[2 * g] = join(__byte_perm(low, e, 0x5140));
            words[2 * g + 1] = join(__byte_perm(low, e, 0x7362));
        } else {
            const uint32_t high = join_bytes<D>(e, k.kept[g], coded >> 4 * g, &over);

            words[l0_dtype<D>::has_low ? 2 * g : g] =
                l0_dtype<D>::has_low ? __byte_perm(low, high, 0x5140) : high;
            if (l0_dtype<D>::has_low)
                words[2 * g + 1] = __byte_perm(low, high, 0x7362);
        }
    }
    if (over != 0)
        atomicOr(&s.bad, 1u);
}

/* Values to the tile; past the last of the block they are zero, as the digest wants. */
template <uint32_t D>
static __device__ __forceinline__ void
put_values(struct decode_shared &s, const struct kvg_chunk &c, uint32_t n, struct codes &k)
{
    constexpr int pieces = l0_dtype<D>::has_low ? 4 : 2;
    const uint32_t past = (threadIdx.x + 1) * KVG_MINE;
    uint32_t words[16];

    values_of<D>(s, c, n, k, words);
#pragma unroll
    for (int p = 0; p < pieces; ++p)
        s.tile[kvg_slot(threadIdx.x * pieces + p)] =
            make_uint4(words[4 * p], words[4 * p + 1], words[4 * p + 2], words[4 * p + 3]);
    if (n < past)
#pragma unroll 1
        for (uint32_t i = max(n, past - KVG_MINE); i < past; ++i)
            *l0_value<D>(s.tile, i) = 0;
}

/* The exponents that had no code. The values are this thread's. */
template <uint32_t D>
static __device__ __forceinline__ void put_escapes(struct decode_shared &s, const struct codes &k)
{
    typedef l0_dtype<D> d;
    uint32_t at = k.at + k.before, over = 0;

    for (uint32_t left = k.alive; left != 0; left &= left - 1, ++at) {
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
    const uint4 *const from = reinterpret_cast<const uint4 *>(f.from);
    const uint32_t pieces = (f.bytes + 15) / 16;
    struct codes k;
    bool sound;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < pieces; i += KVG_THREADS)
        reinterpret_cast<uint4 *>(s.in)[i] = from[i];
    __syncthreads();
    if (threadIdx.x < f.pad && kvg_byte_at(s.in, f.bytes + threadIdx.x) != 0)
        atomicOr(&s.bad, 1u);
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

    if (sound && f.bytes == bytes * n) {
        kvg_load(s.tile, c, f.from, bytes * n);
        for (uint32_t i = 0; i < f.pad; ++i)
            sound = sound && f.from[f.bytes + i] == 0;
    } else if (sound)
        sound = decode<D>(s, c, f, n);
    __syncthreads();
    if (!sound || s.bad != 0)
        return false;
    if (threadIdx.x / 32 == index % KVG_WARPS)
        kvg_digest(s.tile, bytes * n, index, &c.state->digest);
    kvg_scatter_rows(s.tile, c, bytes * first, bytes * n);
    return true;
}

template <uint32_t D> static __device__ void decode_all(const struct kvg_batch &b)
{
    KVG_SHARED(struct decode_shared, s);

    static_assert(KVG_THREADS == 256, "an entry of place_of each");
    s.place_of[threadIdx.x] = (uint8_t)place_at(threadIdx.x);
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
