/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digest.h - the digest of a chunk's raw bytes, named by id on the wire so that it can change.
 *
 * threads  one kvw_digest belongs to one thread at a time
 * memory   the state is the caller's (under 1 KiB, on a stack); nothing is allocated
 * time     none
 */
#ifndef KVW_DIGEST_H
#define KVW_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On the wire in HELLO (as a set) and in every chunk. Pinned in SPEC.md. */
typedef enum kvw_digest_id {
    KVW_DIGEST_XXH3_64 = 1, /* XXH3, 64 bits, seed 0 */
    KVW_DIGEST_LANES = 2,   /* below */
} kvw_digest_id;

/*
 * KVW_DIGEST_LANES: made to be computed where the values are in registers anyway, by a codec's
 * vectors or a GPU's warps, each piece apart from all others. The pieces of a chunk are the units
 * that codecs code in, kvw_unit_values() each; of other bytes, KVW_DIGEST_PIECE_BYTES.
 *
 * A piece (the last may be shorter; zeros fill its last row) is rows of 256 bytes, 64 32-bit words
 * each. Lane j starts at (j + 1) * 0x9e3779b1 and takes word j of every row, modulo 2^32:
 *
 *   lane = (rotate_left(lane, 13) ^ word) * 0x85ebca77
 *
 * Then with mix() of splitmix64 and G = 0x9e3779b97f4a7c15, modulo 2^64, piece i is
 *
 *   piece_i = mix(bytes in it + sum over j < 32 of mix((lane 2j | lane 2j+1 << 32) + (j + 1) * G))
 *
 * and the digest is the sum over i of mix(piece_i + (i + 1) * G); of nothing, 0.
 *
 * Strength: each step is a bijection of the lane for a given word and of the word for a given lane,
 * so that damage to one word, or to any number of words in different lanes, changes those lanes
 * for sure and escapes with 2^-64. Damage to several words of one lane alone (256 bytes apart)
 * escapes with about 2^-32. It is no defence against somebody who wants a collision.
 */
#define KVW_DIGEST_PIECE_BYTES 16384u
#define KVW_UNIT_VALUES        8192u /* of a unit, at most */
#define KVW_DIGEST_LANE_COUNT  64u
#define KVW_DIGEST_LANE_FIRST  0x9e3779b1u
#define KVW_DIGEST_LANE_FACTOR 0x85ebca77u
#define KVW_DIGEST_LANE_TURN   13

/* What this build computes, as in HELLO: bit (1 << kvw_digest_id). */
#define KVW_DIGESTS (1ull << KVW_DIGEST_XXH3_64 | 1ull << KVW_DIGEST_LANES)

/* Streaming state; treat as opaque. Sized and aligned for XXH3's own. */
struct kvw_digest {
    kvw_digest_id id;
    uint32_t piece_bytes;
    unsigned char state[640] __attribute__((aligned(64)));
};

/*
 * Values in a unit of a chunk of `columns` values a token: as many whole tokens as KVW_UNIT_VALUES
 * hold, counted from the chunk's token 0; KVW_UNIT_VALUES where one token is longer. The last unit
 * may be shorter.
 */
static inline uint32_t kvw_unit_values(uint32_t columns)
{
    return columns < KVW_UNIT_VALUES ? KVW_UNIT_VALUES / columns * columns : KVW_UNIT_VALUES;
}

/* Of bytes that are no chunk. KVW_E_UNSUPPORTED: no such id; *d is untouched. */
KVW_API KVW_NODISCARD kvw_err kvw_digest_begin(struct kvw_digest *d, kvw_digest_id id);
/* Of a chunk's raw bytes: its pieces are its units. v has tokens of at least one value. The same
 * error. */
KVW_API KVW_NODISCARD kvw_err kvw_digest_begin_chunk(struct kvw_digest *d, kvw_digest_id id,
                                                     const struct kvw_view *v);
KVW_API void kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n);
/* The lanes at the beginning of a piece. */
KVW_API void kvw_digest_lanes_begin(uint32_t lanes[KVW_DIGEST_LANE_COUNT]);
/*
 * The same as an update with one piece of `bytes` bytes, a multiple of 4, whose words the caller
 * has run through the lanes. What fills its last row is run here. bytes is d->piece_bytes, or less
 * for the last piece. Only with KVW_DIGEST_LANES, and after whole pieces only.
 */
KVW_API void kvw_digest_piece(struct kvw_digest *d, const uint32_t lanes[KVW_DIGEST_LANE_COUNT],
                              uint32_t bytes);
/* The value of all bytes so far. May be called again after more updates. */
KVW_API uint64_t kvw_digest_value(const struct kvw_digest *d);

#ifdef __cplusplus
}
#endif
#endif
