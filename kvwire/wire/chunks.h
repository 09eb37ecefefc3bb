/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunks.h - the header of a chunk (SPEC.md 5), to and from bytes.
 *
 * threads  any      memory  none kept      time  none
 */
#ifndef KVW_WIRE_CHUNKS_H
#define KVW_WIRE_CHUNKS_H

#include "../codec.h"
#include "../err.h"
#include "types.h"

/* Where a chunk's stream is. */
enum kvw_chunk_where {
    KVW_CHUNK_HERE = 0,    /* behind its header */
    KVW_CHUNK_SHARED = 1,  /* in the slot's twin, which its receiver shares */
    KVW_CHUNK_NOWHERE = 2, /* there is none: its transfer ended, and the number is used up */
};

struct kvw_wire_chunk {
    uint64_t key_front;            /* the key's first 8 bytes, little-endian */
    uint64_t digest_value;         /* of the raw bytes */
    uint32_t epoch;                /* never 0 */
    uint32_t seq;                  /* low 32 bits of the sender's number; equals the put's imm */
    uint32_t layer;                /* the model's number, < KVW_LAYERS_MAX */
    uint32_t row_first, rows;      /* the model's; rows >= 1, the end fits 32 bits */
    uint32_t entry_first, entries; /* entries >= 1, end <= KVW_XFER_TOKENS_MAX */
    uint32_t raw_bytes;            /* 1 .. KVW_CHUNK_RAW_MAX */
    uint32_t stream_bytes;         /* 1 .. KVW_PUT_BYTES_MAX - KVW_WIRE_CHUNK_LEN */
    uint8_t group, part;           /* of the receiver's pool */
    uint8_t codec;                 /* kvw_codec_id, not 0 */
    uint8_t digest;                /* kvw_digest_id, not 0 */
    uint8_t where;                 /* enum kvw_chunk_where */
};

void kvw_wire_chunk_encode(uint8_t to[KVW_WIRE_CHUNK_LEN], const struct kvw_wire_chunk *in);

/*
 * KVW_E_TRUNCATED   bytes < KVW_WIRE_CHUNK_LEN
 * KVW_E_CHECKSUM    the header's own check doesn't fit: nothing in it can be believed
 * KVW_E_PROTOCOL    a field out of its range, or what is left of bytes isn't stream_bytes (0 where
 *                   the stream isn't here)
 */
KVW_NODISCARD kvw_err kvw_wire_chunk_decode(struct kvw_wire_chunk *out, const uint8_t *from,
                                            uint32_t bytes);

/* What a header's last 4 bytes must be: of the 60 before them, of any kind of chunk. */
uint32_t kvw_wire_chunk_check(const uint8_t *header);
/*
 * How many units of token_bytes raw bytes a full chunk of this codec has, so that about raw_bytes
 * of them, and never more than fit a slot of slot_bytes whatever the values are, go into one; whole
 * blocks of block_tokens where more than one fits. 0: not even one fits.
 */
uint32_t kvw_chunk_tokens(const struct kvw_codec_ops *codec, uint32_t token_bytes,
                          uint32_t block_tokens, uint32_t raw_bytes, uint32_t slot_bytes);

#endif
