/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planes.h - the coder under L0, L8, E8 and E4: a prefix code whose bits are stored as planes
 * (SPEC.md 2). Whoever has symbols (exponents, quantised values) maps each to a code byte and back
 * from a rank; the planes don't know what they mean.
 *
 * A code has up to four groups of 1 to 3 bits. In each group all ones means "not one of these, see
 * the next group", so that only those values appear in the next group's planes; all ones in the
 * last group is an escape, which the caller stores by itself. The work is word-wide boolean
 * algebra; no symbol depends on the one before it.
 *
 * threads  pure functions
 * memory   the caller's; nothing is allocated
 * time     none
 */
#ifndef KVC_PLANES_H
#define KVC_PLANES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVC_BLOCK_VALUES 8192u                   /* values that are coded together, at most */
#define KVC_BLOCK_WORDS  (KVC_BLOCK_VALUES / 64) /* their lanes, a bit each */
#define KVC_GROUPS_MAX   4u
#define KVC_SLACK_BYTES  64u /* what may be read past a source, or written past an output */
#define KVC_ALIGN        16u /* of the parts of a stream that GPUs and vectors load whole */

static inline uint32_t kvc_aligned(uint32_t bytes)
{
    return (bytes + KVC_ALIGN - 1) / KVC_ALIGN * KVC_ALIGN;
}

/* Bytes of one plane of group 0, which holds a bit of every one of n values. */
static inline uint32_t kvc_first_plane(uint32_t n)
{
    return kvc_aligned((n + 7) / 8);
}

/* Whether all of n bytes are zero: what pads a part. */
static inline bool kvc_is_zero(const uint8_t *at, uint32_t n)
{
    uint8_t any = 0;

    for (uint32_t i = 0; i < n; ++i)
        any |= at[i];
    return any == 0;
}

/*
 * bits[g] of group g, 1 .. 3, eight in all at most; 0 ends the list. A code byte holds group 0 in
 * its lowest bits, then group 1, and so on; what follows the group that ends the code is ignored.
 *
 * The rank of a value is the sum of all its groups, each read as a number: group 0 of two bits
 * gives ranks 0 .. 2, then a group of one bit rank 3, then one of two bits 4 .. 6, and so on; the
 * escape is the largest. Ranks are at most 15.
 */
struct kvc_shape {
    uint8_t bits[KVC_GROUPS_MAX];
};

struct kvc_planes {
    /*
     * Write the planes of n (1 .. KVC_BLOCK_VALUES) codes. A code whose every group is all ones is
     * 0xff; escapes gets a bit for each (64 to a word, lane 0 lowest).
     *
     * codes is readable up to a multiple of 64; to has room for kvc_planes_bound(shape, n) and
     * KVC_SLACK_BYTES more. Returns the bytes written.
     */
    uint32_t (*encode)(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n, uint8_t *to,
                       uint64_t escapes[KVC_BLOCK_WORDS]);

    /*
     * The way back. from is readable for KVC_SLACK_BYTES past bytes; ranks has room for n rounded
     * up to 64. Returns the bytes that the planes took, or 0: they don't fit in bytes, or a
     * padding bit is set. escapes and ranks are rubbish then. A rank that escapes is rubbish
     * too, but at most 15.
     */
    uint32_t (*decode)(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       uint32_t n, uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS]);
};

/* The specification. Every other level writes the same bytes. */
extern const struct kvc_planes kvc_planes_scalar;

static inline uint32_t kvc_planes_bound(const struct kvc_shape *shape, uint32_t n)
{
    return shape->bits[0] * kvc_first_plane(n) +
           (uint32_t)(shape->bits[1] + shape->bits[2] + shape->bits[3]) * ((n + 7) / 8);
}

#ifdef __cplusplus
}
#endif
#endif
