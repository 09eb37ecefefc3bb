/* SPDX-License-Identifier: Apache-2.0 */
/* The exponent codes, and the lanes in plain C: what the faster levels are held to. */
#include "lanes.h"

#include <stdbool.h>
#include <string.h>

#include "../kvwire/digest.h"
#include "../kvwire/wire/le.h"
#include "../kvwire/mem.h"
#include "kernels.h"

/*
 * The groups are 2, 1, 2 and 2 bits. A code byte is
 *   a0 | b0 << 1 | a1 << 2 | (group 2) << 3 | (group 3) << 5
 * Places without a rank escape.
 */
#define G2(i)  (7 | (i) << 3)          /* group 2 reached, its value i */
#define G3(i)  (7 | 3 << 3 | (i) << 5) /* group 3 reached */
#define ESCAPE 0xff

/* Places, commonest first, for each class: fitted on real KV (RESULTS-entropy.md), but what they
 * say is only that magnitudes fall off faster above the middle of the window than below it. */
const struct kvc_code_tables kvc_exponent_codes = {
    .shape = {{2, 1, 2, 2}},
    .code =
        {
            /* 0: 11 10 9 | 12 | 8 7 6 | 5 13 4 */
            ESCAPE,
            ESCAPE,
            ESCAPE,
            ESCAPE,
            G3(2),
            G3(0),
            G2(2),
            G2(1),
            G2(0),
            2,
            1,
            0,
            3,
            G3(1),
            ESCAPE,
            ESCAPE,
            /* 1: 11 12 10 | 9 | 8 13 7 | 6 5 4 */
            ESCAPE,
            ESCAPE,
            ESCAPE,
            ESCAPE,
            G3(2),
            G3(1),
            G3(0),
            G2(2),
            G2(0),
            3,
            2,
            0,
            1,
            G2(1),
            ESCAPE,
            ESCAPE,
        },
    .place =
        {
            11, 10, 9,  12, 8, 7,  6, 5, 13, 4, 0, 0, 0, 0, 0, 0, /* 0 */
            11, 12, 10, 9,  8, 13, 7, 6, 5,  4, 0, 0, 0, 0, 0, 0, /* 1 */
        },
};

static uint8_t code_of(const struct kvc_block *b, uint32_t column, uint8_t exponent)
{
    const uint8_t place = (uint8_t)(exponent - b->start[column]);

    return place < KVC_WINDOW ? kvc_exponent_codes.code[b->class_row[column] + place] : 0xff;
}

static uint8_t exponent_of(const struct kvc_block *b, uint32_t column, uint8_t rank)
{
    return (uint8_t)(b->start[column] + kvc_exponent_codes.place[b->class_row[column] + rank]);
}

static uint32_t next_column(const struct kvc_block *b, uint32_t column)
{
    return column + 1 < b->columns ? column + 1 : 0;
}

/* One row of 64 values is half a row of the digest. */
static void digest_row(uint32_t *digest, uint32_t w, const uint8_t *row)
{
    for (uint32_t j = 0; digest != NULL && j < 32; ++j) {
        uint32_t *lane = digest + w % 2 * 32 + j;

        *lane = *lane << KVW_DIGEST_LANE_TURN | *lane >> (32 - KVW_DIGEST_LANE_TURN);
        *lane = (*lane ^ kvw_load_le32(row + 4 * j)) * KVW_DIGEST_LANE_FACTOR;
    }
}

static uint32_t split_bf16(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *low,
                           uint8_t *codes, uint8_t *escaped, uint32_t *digest)
{
    uint32_t c = 0, escapes = 0;

    for (uint32_t i = 0; i < b->n; ++i, c = next_column(b, c)) {
        const uint16_t v = kvw_load_le16(rows[i / 64] + 2 * (i % 64));

        if (i % 64 == 0)
            digest_row(digest, i / 64, rows[i / 64]);
        low[i] = (uint8_t)(v << 1 | v >> 15);
        codes[i] = code_of(b, c, (uint8_t)(v >> 7));
        if (codes[i] == ESCAPE)
            escaped[escapes++] = (uint8_t)(v >> 7);
    }
    return escapes;
}

static void join_bf16(const struct kvc_block *b, const uint8_t *low, const uint8_t *ranks,
                      const uint64_t *escapes, const uint8_t *escaped, uint8_t *const *rows,
                      uint32_t *digest)
{
    uint32_t c = 0;

    for (uint32_t i = 0; i < b->n; ++i, c = next_column(b, c)) {
        const bool escape = (escapes[i / 64] >> (i % 64) & 1) != 0;
        const uint8_t e = escape ? *escaped++ : exponent_of(b, c, ranks[i]);

        kvw_store_le16(rows[i / 64] + 2 * (i % 64),
                       (uint16_t)((low[i] & 1) << 15 | e << 7 | low[i] >> 1));
        if (i % 64 == 63)
            digest_row(digest, i / 64, rows[i / 64]);
    }
}

static void split_bytes(const struct kvc_block *b, uint32_t exponent_bits, const uint8_t *values,
                        uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], uint8_t *codes)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    uint32_t c = 0;

    memset(kept, 0, sizeof(uint64_t) * KVC_KEPT_MAX * KVC_BLOCK_WORDS);
    for (uint32_t i = 0; i < b->n; ++i, c = next_column(b, c)) {
        const uint8_t v = values[i];

        kept[0][i / 64] |= (uint64_t)(v >> 7) << (i % 64);
        for (uint32_t m = 0; m < mantissa_bits; ++m)
            kept[1 + m][i / 64] |= (uint64_t)(v >> (mantissa_bits - 1 - m) & 1) << (i % 64);
        codes[i] = code_of(b, c, (v & 0x7f) >> mantissa_bits);
    }
}

static bool join_bytes(const struct kvc_block *b, uint32_t exponent_bits,
                       const uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], const uint8_t *ranks,
                       const uint64_t *escapes, uint8_t *values)
{
    const uint32_t mantissa_bits = 7 - exponent_bits;
    uint32_t c = 0;

    for (uint32_t i = 0; i < b->n; ++i, c = next_column(b, c)) {
        const uint8_t e = exponent_of(b, c, ranks[i]);
        uint32_t v = (uint32_t)(e << mantissa_bits & 0x7f);

        if (e >> exponent_bits != 0 && (escapes[i / 64] >> (i % 64) & 1) == 0)
            return false;
        v |= (uint32_t)(kept[0][i / 64] >> (i % 64) & 1) << 7;
        for (uint32_t m = 0; m < mantissa_bits; ++m)
            v |= (uint32_t)(kept[1 + m][i / 64] >> (i % 64) & 1) << (mantissa_bits - 1 - m);
        values[i] = (uint8_t)v;
    }
    return true;
}

static void unzip(const uint8_t *values, uint32_t n, uint8_t *low, uint8_t *high)
{
    for (uint32_t i = 0; i < n; ++i) {
        low[i] = values[2 * i];
        high[i] = values[2 * i + 1];
    }
}

static void zip(const uint8_t *low, const uint8_t *high, uint32_t n, uint8_t *values)
{
    for (uint32_t i = 0; i < n; ++i) {
        values[2 * i] = low[i];
        values[2 * i + 1] = high[i];
    }
}

static void exponents(uint32_t dtype, const uint8_t *values, uint32_t n, uint8_t *to)
{
    for (uint32_t i = 0; i < n; ++i) {
        if (dtype == KVW_DTYPE_BF16)
            to[i] = (uint8_t)(kvw_load_le16(values + 2 * i) >> 7);
        else if (dtype == KVW_DTYPE_F16)
            to[i] = values[2 * i + 1] >> 2 & 0x1f;
        else if (dtype == KVW_DTYPE_F8_E4M3)
            to[i] = values[i] >> 3 & 0x0f;
        else
            to[i] = values[i] >> 2 & 0x1f;
    }
}

static const struct kvc_lanes lanes_scalar = {split_bf16, join_bf16, split_bytes, join_bytes,
                                              unzip,      zip,       exponents};

const struct kvc_kernels kvc_kernels_scalar = {"scalar", &kvc_planes_scalar, &lanes_scalar,
                                               &kvc_e_scalar, NULL};
