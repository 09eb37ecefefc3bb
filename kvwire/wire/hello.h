/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hello.h - HELLO and REJECT of SPEC.md 3.1 and 3.2, to and from bytes. What is decoded comes from
 * the peer: a struct that comes out has every field in the range its comment gives.
 *
 * threads  any, nothing is kept      memory  none      time  none
 *
 * Decoders return KVW_OK, KVW_E_TRUNCATED (the bytes end before the fields do) or KVW_E_PROTOCOL (a
 * field out of its range, a Reserved byte that isn't 0), and write *out on KVW_OK only. Encoders
 * return the length, at most KVW_WIRE_SHORT_MAX; ranges are asserted.
 */
#ifndef KVW_WIRE_HELLO_H
#define KVW_WIRE_HELLO_H

#include "../transport.h"
#include "types.h"

#define KVW_WIRE_HELLO_FRONT 12u /* of every version, for ever: type, magic, layout */

#define KVW_FEATURE_BATCH  (1ull << 0)
#define KVW_FEATURE_STAGE  (1ull << 1)
#define KVW_FEATURE_CREDIT (1ull << 2)
#define KVW_FEATURE_SHARE  (1ull << 3) /* its landing slots have twins in a GPU's memory */

struct kvw_wire_hello {
    uint64_t versions;   /* bit v: version v is spoken; at least one of 2 .. 61 */
    uint64_t instance;   /* not 0: tells a restart of the same node from its earlier life */
    uint64_t codecs;     /* bit (1 << kvw_codec_id); raw is in it */
    uint64_t digests;    /* bit (1 << kvw_digest_id); one at least */
    uint64_t features;   /* KVW_FEATURE_*; unknown bits are ignored */
    uint32_t slot_bytes; /* of a landing slot: KVW_WIRE_CHUNK_LEN+1 .. KVW_PUT_BYTES_MAX, 64 | it */
    uint32_t offers;     /* that this side can hold from one peer, 1 .. KVW_WIRE_OFFERS_MAX */
    uint32_t dead_ms;    /* silence after which a peer is given up, 1 .. KVW_WIRE_DEAD_MS_MAX */
    struct kvw_region_key region;     /* of the landing slots */
    char name[KVW_WIRE_NAME_MAX + 1]; /* of the node; printable ASCII, anything else became '?' */
    /* With KVW_FEATURE_SHARE: what the twins are known by on its host, and how many bytes they are
     * together, a multiple of slot_bytes. */
    uint8_t share[KVW_WIRE_SHARE_TOKEN];
    uint64_t share_bytes;
};

struct kvw_wire_reject {
    kvw_err err;     /* negative */
    uint32_t layout; /* of the writer's HELLO */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

/* Only what every version's HELLO begins with. KVW_E_PROTOCOL: not a HELLO of any version. */
KVW_NODISCARD kvw_err kvw_wire_hello_front(const uint8_t *msg, uint32_t bytes, uint32_t *layout);

/* KVW_E_VERSION, too: of another layout. */
KVW_NODISCARD kvw_err kvw_wire_hello_decode(struct kvw_wire_hello *out, const uint8_t *msg,
                                            uint32_t bytes);
KVW_NODISCARD kvw_err kvw_wire_reject_decode(struct kvw_wire_reject *out, const uint8_t *msg,
                                             uint32_t bytes);

uint32_t kvw_wire_hello_encode(uint8_t *to, const struct kvw_wire_hello *in);
uint32_t kvw_wire_reject_encode(uint8_t *to, const struct kvw_wire_reject *in);

/* The highest version that both speak, 0: none. */
uint32_t kvw_wire_agree(uint64_t here, uint64_t peer);

#endif
