/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunk.h - a chunk's header (SPEC.md 5), and how many tokens go into one.
 *
 * threads  any      memory  none kept      time  none
 */
#ifndef KVW_CHUNK_H
#define KVW_CHUNK_H

#include "codec.h"
#include "wire.h"

#define KVW_CHUNK_MAGIC 0x4843564bu /* "KVCH", little-endian */

struct kvw_chunk_hdr {
    uint64_t xfer;
    uint32_t epoch; /* never 0 */
    uint32_t seq;   /* low 32 bits of the sender's put counter; equals the put's imm */
    uint32_t layer; /* < KVW_LAYERS_MAX */
    uint32_t kv;    /* 0: K, 1: V */
    uint8_t codec;  /* kvw_codec_id */
    uint8_t digest; /* kvw_digest_id */
    uint32_t head_first, head_count;   /* count >= 1, first + count <= KVW_HEADS_MAX */
    uint32_t token_first, token_count; /* count >= 1, first + count <= KVW_XFER_TOKENS_MAX */
    uint32_t raw_bytes;                /* 1 .. KVW_CHUNK_RAW_MAX */
    uint32_t stream_bytes;             /* 1 .. KVW_PUT_BYTES_MAX - KVW_CHUNK_HDR_BYTES */
    uint64_t digest_value;             /* of the raw bytes */
};

void kvw_chunk_hdr_encode(uint8_t to[KVW_CHUNK_HDR_BYTES], const struct kvw_chunk_hdr *in);

/*
 * KVW_E_TRUNCATED   bytes < KVW_CHUNK_HDR_BYTES
 * KVW_E_CHECKSUM    the header's own check doesn't fit: nothing in it can be believed
 * KVW_E_PROTOCOL    a field out of its range, or stream_bytes isn't what is left of bytes
 */
KVW_NODISCARD kvw_err kvw_chunk_hdr_decode(struct kvw_chunk_hdr *out, const uint8_t *from,
                                           uint32_t bytes);

/*
 * Tokens of a full chunk: the most whose raw bytes are <= raw_bytes (but at least one), whose
 * longest stream of that codec and header fit slot_bytes, and, if that leaves a block or more,
 * whole blocks. 0: not even one token fits.
 */
uint32_t kvw_chunk_tokens(const struct kvw_codec_ops *codec, uint32_t token_bytes,
                          uint32_t block_tokens, uint32_t raw_bytes, uint32_t slot_bytes);

#endif
