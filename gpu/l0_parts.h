/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l0_parts.h - for the kernels of L0 and L8: what dtypes differ in, sums over a block's threads,
 * bits that close ranks. A thread has 32 values of a block, so that its bits of a plane are one
 * word.
 */
#ifndef KVG_L0_PARTS_H
#define KVG_L0_PARTS_H

#include "l0.h"
#include "blocks.h"
#include "rows.h"

#define L0_FORMAT 2u

enum { L0_STORED = 0, L0_ONE = 1, L0_COLUMNS = 2, L0_BOOK = 3 }; /* modes of a stream */

template <uint32_t bytes> struct l0_word {
    typedef uint16_t type;
};
template <> struct l0_word<1> {
    typedef uint8_t type;
};

/* Kernels are templates of a kvw_dtype; X(name, kvw_dtype) of each. */
#define L0_DTYPES(X)                                                                               \
    X(bf16, KVW_DTYPE_BF16)                                                                        \
    X(f16, KVW_DTYPE_F16)                                                                          \
    X(e4m3, KVW_DTYPE_F8_E4M3)                                                                     \
    X(e5m2, KVW_DTYPE_F8_E5M2)

/* What they differ in (SPEC.md 3). */
template <uint32_t D> struct l0_dtype {
    static constexpr bool is_bf16 = D == KVW_DTYPE_BF16;
    static constexpr bool has_low = D == KVW_DTYPE_BF16 || D == KVW_DTYPE_F16;
    static constexpr uint32_t bytes = has_low ? 2 : 1;
    static constexpr uint32_t exponent_bits = is_bf16 ? 8 : D == KVW_DTYPE_F8_E4M3 ? 4 : 5;
    static constexpr uint32_t exponent_most = (1u << exponent_bits) - 1;
    static constexpr uint32_t mantissa_bits = 8 * bytes - 1 - exponent_bits;
    /* Of all but bf16: planes of sign and mantissa; the mantissa's bits in the value's high byte.
     * */
    static constexpr int kept = is_bf16 ? 0 : 8 - exponent_bits;
    static constexpr int high_mantissa = is_bf16 ? 0 : 7 - exponent_bits;
    /* The exponent of infinities and NaNs; e4m3 has none. */
    static constexpr uint32_t special = D == KVW_DTYPE_F8_E4M3 ? 256 : exponent_most;
    typedef typename l0_word<bytes>::type value;

    static __device__ __forceinline__ uint32_t exponent(uint32_t v)
    {
        return v >> mantissa_bits & exponent_most;
    }
};

/* Bytes of a block's parts before its planes. */
template <uint32_t D> static __device__ __forceinline__ uint32_t l0_rest(uint32_t n)
{
    return (l0_dtype<D>::has_low ? kvg_aligned(n) : 0) +
           (uint32_t)l0_dtype<D>::kept * kvg_first_plane(n);
}

/* Where value i of a block lies in its tile. */
template <uint32_t D>
static __device__ __forceinline__ typename l0_dtype<D>::value *l0_value(uint4 *tile, uint32_t i)
{
    return reinterpret_cast<typename l0_dtype<D>::value *>(reinterpret_cast<unsigned char *>(tile) +
                                                           kvg_in_tile(i * l0_dtype<D>::bytes));
}

/* Whether all columns share one window: they are too many, or their tokens too few to tell. */
static __device__ __forceinline__ bool l0_has_one_window(const struct kvg_chunk &c)
{
    return c.view.tokens < 32 || c.columns > KVG_UNIT_MAX;
}

/* Where the ends of blocks begin in a stream, and the first block. */
static __device__ __forceinline__ uint32_t l0_ends_at(const struct kvg_chunk &c, uint32_t mode)
{
    return KVG_L0_HEAD + (mode == L0_COLUMNS ? kvg_aligned(c.columns) : 0);
}
static __device__ __forceinline__ uint32_t l0_first_at(const struct kvg_chunk &c, uint32_t mode)
{
    return l0_ends_at(c, mode) + kvg_aligned(4 * c.blocks);
}

/* Eight planes of 32 values, turned: a byte a value, whose bit p is plane p's. Byte k of word j is
 * value 8 k + j. */
static __device__ __forceinline__ void l0_turn_planes(uint32_t (&w)[8])
{
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t a = w[i], b = w[i + 4];

        w[i] = kvg_choose(0x0f0f0f0fu, a, b << 4);
        w[i + 4] = kvg_choose(0x0f0f0f0fu, a >> 4, b);
    }
#pragma unroll
    for (int i = 0; i < 8; i += i % 4 == 1 ? 3 : 1) {
        const uint32_t a = w[i], b = w[i + 2];

        w[i] = kvg_choose(0x33333333u, a, b << 2);
        w[i + 2] = kvg_choose(0x33333333u, a >> 2, b);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        const uint32_t a = w[i], b = w[i + 1];

        w[i] = kvg_choose(0x55555555u, a, b << 1);
        w[i + 1] = kvg_choose(0x55555555u, a >> 1, b);
    }
}

/* ---- columns --------------------------------------------------------------------------------- */

/*
 * Of a column's byte (SPEC.md 3.2) a table has what a kernel needs at once. Encode's has entries of
 * two bytes: what a value's exponent, times 4, is added to for its place in encode_shared.fields.
 * Decode's has a byte, where the window begins, and behind those, in words, a bit, its class.
 * Entries behind the last column go on with the first.
 */
static __device__ __forceinline__ uint32_t l0_start(uint32_t byte, uint32_t origin)
{
    return ((byte & 63) == 0 ? 245 : origin + (byte & 63)) & 0xff;
}

#define L0_PLACES 512u /* of a class: an exponent less a start, and 256 */
#define L0_ASIDE  16u  /* words between the classes', so that their windows lie in other banks */

static __device__ __forceinline__ uint16_t l0_encode_entry(uint32_t start, uint32_t in_class)
{
    return (uint16_t)(4 * (256 - start + in_class * (L0_PLACES + L0_ASIDE)));
}

/* Where this thread's columns begin. */
static __device__ __forceinline__ uint32_t l0_first_column(const struct kvg_chunk &c)
{
    const uint32_t mine = threadIdx.x * KVG_MINE;

    return mine - kvg_divide(mine, c.by_period) * c.period;
}

/* Two entries to a word. */
static __device__ __forceinline__ void l0_encode_columns(const struct kvg_chunk &c,
                                                         uint32_t (&two)[16])
{
    const uint32_t at = l0_first_column(c);

    if (at % 8 == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 q = reinterpret_cast<const uint4 *>(c.table + at)[i];

            two[4 * i] = q.x;
            two[4 * i + 1] = q.y;
            two[4 * i + 2] = q.z;
            two[4 * i + 3] = q.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 16; ++i)
            two[i] = c.table[at + 2 * i] | (uint32_t)c.table[at + 2 * i + 1] << 16;
    }
}

static __device__ __forceinline__ unsigned char *l0_starts(const struct kvg_chunk &c)
{
    return reinterpret_cast<unsigned char *>(c.table);
}
static __device__ __forceinline__ uint32_t *l0_classes(const struct kvg_chunk &c)
{
    return reinterpret_cast<uint32_t *>(l0_starts(c) + ((c.period + KVG_TABLE_PAST + 3) & ~3u));
}

/* Where windows begin, four to a word, and the classes. */
static __device__ __forceinline__ void l0_decode_columns(const struct kvg_chunk &c,
                                                         uint32_t (&four)[8], uint32_t *classes)
{
    const uint32_t at = l0_first_column(c);
    const unsigned char *const from = l0_starts(c) + at;
    const uint32_t *const bits = l0_classes(c) + at / 32;

    *classes = __funnelshift_r(bits[0], bits[1], at % 32);
    if (at % 8 == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint2 q = reinterpret_cast<const uint2 *>(from)[i];

            four[2 * i] = q.x;
            four[2 * i + 1] = q.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            four[i] = from[4 * i] | (uint32_t)from[4 * i + 1] << 8 |
                      (uint32_t)from[4 * i + 2] << 16 | (uint32_t)from[4 * i + 3] << 24;
    }
}
#endif
