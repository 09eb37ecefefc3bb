/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lanes.h - between values and the parts that L0 and L8 store (SPEC.md 3): the exponent, as a code
 * byte for the planes, and the rest, as it is. A lane is one value of a block.
 *
 * threads  pure functions
 * memory   the caller's. Arrays of lanes are read and written up to the next multiple of 64; what
 *          lies past n there is rubbish
 * time     none
 */
#ifndef KVC_LANES_H
#define KVC_LANES_H

#include "planes.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVC_CLASSES   2u
#define KVC_WINDOW    16u /* exponents that have a code of their own */
#define KVC_KEPT_MAX  4u  /* bits of a byte value that are stored as they are */
#define KVC_TILE_PAST 64u /* start and class_row go on so far past the last column */

/* A code for each class and place in the window, and back: the place for each class and rank. */
struct kvc_code_tables {
    struct kvc_shape shape;
    /* [class][place]; 0xff: an escape. The second half only fills a vector of 64. */
    uint8_t code[4 * KVC_WINDOW];
    uint8_t place[4 * KVC_WINDOW]; /* [class][rank] */
};

/* SPEC.md 3.3. */
extern const struct kvc_code_tables kvc_exponent_codes;

/* Where each lane's column puts its window, and its class. Column c is also at c + columns, up to
 * KVC_TILE_PAST past the end. */
struct kvc_block {
    const uint8_t *start;     /* the exponent at place 0, modulo 256 */
    const uint8_t *class_row; /* class * KVC_WINDOW */
    uint32_t columns;         /* lane 0 is in column 0 */
    uint32_t n;               /* lanes, 1 .. KVC_BLOCK_VALUES */
};

struct kvc_lanes {
    /*
     * NULL at a level whose struct kvc_bf16 (kernels.h) encodes, as join_bf16 is where it decodes.
     *
     * bf16: low = mantissa and sign (the value rotated left by 1, its low byte), and the codes of
     * the exponents. Values are read from rows of 64, rows[0] first. Exponents that escape go to
     * escaped, n bytes long and KVC_SLACK_BYTES more; their number is returned. digest, if not
     * NULL, is the lanes of KVW_DIGEST_LANES, run over the values; n is a multiple of 64 then.
     */
    uint32_t (*split_bf16)(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *low,
                           uint8_t *codes, uint8_t *escaped, uint32_t *digest);
    /* The way back; escapes are the lanes whose exponents are in escaped, which is readable for
     * KVC_SLACK_BYTES past them. */
    void (*join_bf16)(const struct kvc_block *b, const uint8_t *low, const uint8_t *ranks,
                      const uint64_t *escapes, const uint8_t *escaped, uint8_t *const *rows,
                      uint32_t *digest);

    /* Bytes: the exponent is exponent_bits (4 or 5) below the sign; the others (bit 7, then from
     * bit 6 - exponent_bits down to 0) are kept[0], kept[1] .. join_bytes: false: the exponent of a
     * lane that isn't in escapes doesn't fit in exponent_bits; values are rubbish then, as are
     * those in escapes always. */
    void (*split_bytes)(const struct kvc_block *b, uint32_t exponent_bits, const uint8_t *values,
                        uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], uint8_t *codes);
    bool (*join_bytes)(const struct kvc_block *b, uint32_t exponent_bits,
                       const uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS], const uint8_t *ranks,
                       const uint64_t *escapes, uint8_t *values);

    /* 16-bit values to their low and high bytes, and back. */
    void (*unzip)(const uint8_t *values, uint32_t n, uint8_t *low, uint8_t *high);
    void (*zip)(const uint8_t *low, const uint8_t *high, uint32_t n, uint8_t *values);

    /* to[i] = the exponent of value i, for n values of the dtype (any kvw_dtype of 1 or 2 bytes);
     * nothing past n is touched. */
    void (*exponents)(uint32_t dtype, const uint8_t *values, uint32_t n, uint8_t *to);
};

#ifdef __cplusplus
}
#endif
#endif
