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

/* What kvg_turn() leaves, a byte a value: byte i has bit i of each field, and field p is its bit
 * kvg_bit_of(p). */
static __device__ __forceinline__ uint32_t kvg_bytes_of(uint32_t fields)
{
    uint32_t w = fields, t = (w ^ w >> 14) & 0x0000ccccu;

    w ^= t ^ t << 14;
    t = (w ^ w >> 7) & 0x00aa00aau;
    return w ^ t ^ t << 7;
}
static __device__ __forceinline__ uint32_t kvg_bit_of(uint32_t field)
{
    return field >> 1 | (field & 1) << 2;
}

/* ---- columns --------------------------------------------------------------------------------- */

/* A table's entry of a column's byte (SPEC.md 3.2): start | class << 8. */
static __device__ __forceinline__ uint32_t l0_entry(uint32_t byte, uint32_t origin)
{
    return (((byte & 63) == 0 ? 245 : origin + (byte & 63)) & 0xff) | byte >> 6 << 8;
}

/* This thread's columns in a block, two entries to a word. */
static __device__ __forceinline__ void l0_columns(const struct kvg_chunk &c, uint32_t (&two)[16])
{
    const uint32_t mine = threadIdx.x * KVG_MINE,
                   at = mine - kvg_divide(mine, c.by_period) * c.period;

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
#endif
