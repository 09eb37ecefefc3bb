/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - the KV protocol's limits that callers, transports and codecs must know. Its message
 * numbers and lengths are in wire/types.h, SPEC.md is the text; the packet protocol has its own
 * page, net/packet/wire.h.
 */
#ifndef KVW_WIRE_H
#define KVW_WIRE_H

#include <stdint.h>

#define KVW_WIRE_MAGIC 0x4557564bu /* "KVWE", little-endian: of every version's HELLO */

/* Limits. A peer that exceeds one is in breach of SPEC.md; a caller gets KVW_E_INVALID. */
#define KVW_MSG_BYTES_MAX    (64u * 1024)
#define KVW_PUT_BYTES_MAX    (1024u * 1024)
#define KVW_TEXT_BYTES_MAX   256u /* reasons in REJECT and ABORT */
#define KVW_COMMIT_NOTE_MAX  512u /* the caller's bytes that ride on COMMIT */
#define KVW_LAYERS_MAX       512u
#define KVW_HEADS_MAX        1024u
#define KVW_HEAD_DIM_MAX     1024u
#define KVW_BLOCK_TOKENS_MAX 1024u
#define KVW_POOL_BLOCKS_MAX  (1u << 24)
#define KVW_XFER_TOKENS_MAX  (1u << 22)
#define KVW_XFER_BLOCKS_MAX  65536u /* of one transfer */
#define KVW_REGIONS_MAX      64u    /* regions of a transport */
#define KVW_CODECS_MAX       16u

/* A chunk: header, then stream, in one landing slot. SPEC.md 5. */
#define KVW_CHUNK_HDR_BYTES 64u
#define KVW_CHUNK_RAW_MIN   (4u * 1024)
#define KVW_CHUNK_RAW_MAX   (512u * 1024) /* one token's K or V of one layer must fit */
#define KVW_CHUNK_RAW_AIM   (256u * 1024) /* default target */

/* Times. */
#define KVW_LEASE_NS_DEFAULT (2000ull * 1000 * 1000)
#define KVW_LEASE_NS_MIN     (10ull * 1000 * 1000)
#define KVW_LEASE_NS_MAX     (600ull * 1000 * 1000 * 1000)
#define KVW_HELLO_TIMEOUT_NS (2000ull * 1000 * 1000)
#define KVW_PEER_DEAD_NS     (1000ull * 1000 * 1000) /* silence after which a peer is lost */

#ifndef __cplusplus
_Static_assert(KVW_CHUNK_RAW_MAX + KVW_CHUNK_RAW_MAX / 500 + 64 + KVW_CHUNK_HDR_BYTES <=
                   KVW_PUT_BYTES_MAX,
               "the longest stream of the longest chunk fits one put");
#endif

#endif
