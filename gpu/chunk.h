/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunk.h - what host and device both see of a chunk that a kernel codes. One launch takes the
 * blocks of any number of chunks, of any view, of one codec and dtype; a block is a unit of whole
 * tokens (kvw_unit_values()), which is a piece of the digest, too.
 *
 * The CTA of a chunk that ends last writes its struct kvg_done, and the epoch in it last of all.
 *
 * threads  plain data
 * memory   everything that a chunk points to is reached by the GPU: VRAM, or pinned host memory
 * time     none
 */
#ifndef KVG_CHUNK_H
#define KVG_CHUNK_H

#include <stdbool.h>

#include "../kvwire/mem.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVG_UNIT_MAX   8192u      /* values of a block, at most */
#define KVG_THREADS    256u       /* of a CTA of every kernel */
#define KVG_BYTES_MAX  (1u << 29) /* raw bytes of a chunk */
#define KVG_TABLE_PAST 40u        /* entries of a table behind its last column */

/* n / by, for n < 2^31: __umulhi(2 * n, mul) >> shift. */
struct kvg_div {
    uint32_t by, mul, shift;
};

/* What becomes of a chunk. In pinned memory; valid once epoch is the chunk's, read with acquire. */
struct kvg_done {
    uint64_t digest; /* KVW_DIGEST_LANES of the raw bytes */
    uint32_t bytes;  /* encode: the stream's length */
    uint32_t fault;  /* decode: not 0: the stream is damaged */
    uint32_t epoch;
    uint32_t zero[3];
};

/* A chunk's own memory between its CTAs: all zero before a launch. */
struct kvg_state {
    unsigned long long digest;
    uint32_t bytes, done, faults, zero;
    uint32_t said[]; /* of each block, for l0's look-back */
};

struct kvg_chunk {
    struct kvw_view view;
    struct kvg_div by_token, by_head, by_block; /* bytes, bytes, tokens */
    struct kvg_div by_period;                   /* values */
    uint32_t columns, values, value_bytes;
    uint32_t unit, blocks;
    uint32_t grain;  /* all that lies side by side is a multiple of it, addresses too: 1 .. 16 */
    uint32_t period; /* of the table: columns, or 1 where they share one window */
    /* the caller's */
    uint32_t first_block;  /* blocks of the chunks before it in the launch */
    uint32_t stream_bytes; /* encode: its room; decode: its length */
    unsigned char *stream; /* 16-byte aligned */
    struct kvg_state *state;
    struct kvg_done *done;
    uint32_t epoch;
    uint16_t *table;  /* not raw: period + KVG_TABLE_PAST entries, 16-byte aligned; nobody else's */
    uint32_t *spread; /* not raw, encode: columns words; e8 and e4: three times as many */
    /* l0 and l8 */
    const uint8_t *book; /* kvg_l0_book_is_sound(), or NULL */
    uint64_t book_id;
    /* e8 and e4: kvg_e_shape()'s */
    struct kvg_div by_unit; /* tokens of a unit */
    uint32_t exact_first, exact_last;
    uint32_t foretells; /* K: a token's values from the one before */
    float noise;        /* step in parts of the RMS value */
};

/* What every kernel is given. It may have fewer CTAs than there are blocks. */
struct kvg_batch {
    const struct kvg_chunk *chunks;
    uint32_t *ticket; /* l0's encode: 0 before the launch */
    uint32_t count, blocks;
};

/*
 * Fill the fields up to period from a view, and zero the rest.
 *   KVW_E_INVALID  an unknown dtype, no values, more than KVG_BYTES_MAX bytes, a part of a value in
 *                  a head, or blocks of no tokens
 */
KVW_NODISCARD kvw_err kvg_chunk_shape(struct kvg_chunk *c, const struct kvw_view *v);

#ifdef __cplusplus
}
#endif
#endif
