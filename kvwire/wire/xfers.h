/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xfers.h - the messages about one transfer (SPEC.md 3.3, 3.5): OFFER, REFUSE, ALIVE, COMMIT,
 * DONE, ABORT, to and from bytes.
 *
 * threads  any, nothing is kept
 * memory   a decoded struct points into the message where it says "borrowed"
 * time     none
 * Return codes and lengths as in hello.h; messages are exact, so bytes left over are PROTOCOL.
 */
#ifndef KVW_WIRE_XFERS_H
#define KVW_WIRE_XFERS_H

#include "../codec.h"
#include "types.h"

struct kvw_wire_key {
    uint8_t bytes[KVW_WIRE_KEY_BYTES];
};

/* What all of these messages are about. The epoch is the receiver's name for one offer. */
struct kvw_wire_about {
    struct kvw_wire_key key;
    uint32_t epoch; /* 0 only where a message says so */
};

/* What the receiver wants of one part of one group from this sender: of the group's layers those
 * with numbers layer_first .. layer_first + layers - 1, of these the entries of some tokens, of
 * these some rows. Layers and rows are the model's numbers. */
struct kvw_wire_span {
    uint8_t group;                   /* of the receiver's pool */
    uint8_t part;                    /* of that group, or KVW_WIRE_PART_ALL */
    uint32_t layer_first, layers;    /* layers >= 1, end <= KVW_LAYERS_MAX */
    uint32_t token_first, token_end; /* first < end <= the offer's tokens */
    uint32_t row_first, rows;        /* rows >= 1 */
};

struct kvw_wire_offer {
    struct kvw_wire_about about; /* epoch never 0 */
    uint64_t lease_ns;           /* KVW_LEASE_NS_MIN .. MAX */
    uint64_t take_by_ns;         /* from the reading of the message, 1 .. KVW_WIRE_TAKE_BY_NS_MAX */
    uint32_t tokens;             /* of the whole sequence, 1 .. KVW_XFER_TOKENS_MAX */
    uint16_t pool;               /* the receiver's number */
    uint16_t exact_last;
    uint8_t exact_first;
    uint8_t budget;       /* kvw_budget */
    uint32_t stage;       /* what the sender staged under that number is wanted; 0: a stream's */
    uint32_t span_count;  /* 0 (nothing is lacking) .. KVW_WIRE_SPANS_MAX */
    const uint8_t *spans; /* decoded: borrowed, read one with kvw_wire_offer_span() */
};

struct kvw_wire_commit {
    struct kvw_wire_about about;
    uint64_t raw_bytes;
    uint32_t chunks;
    uint32_t note_bytes; /* 0 .. KVW_COMMIT_NOTE_MAX */
    const uint8_t *note; /* borrowed */
};

struct kvw_wire_done {
    struct kvw_wire_about about;
    uint64_t raw_bytes;
    uint32_t chunks;
};

/* ABORT, and REFUSE. ABORT's epoch is never 0; REFUSE's is 0 from a receiver, who says that it will
 * not offer that key. */
struct kvw_wire_abort {
    struct kvw_wire_about about;
    kvw_err err; /* negative */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

KVW_NODISCARD kvw_err kvw_wire_offer_decode(struct kvw_wire_offer *out, const uint8_t *msg,
                                            uint32_t bytes);
/* Span i of a decoded offer, whose ranges have been checked. */
struct kvw_wire_span kvw_wire_offer_span(const struct kvw_wire_offer *o, uint32_t i);
KVW_NODISCARD kvw_err kvw_wire_commit_decode(struct kvw_wire_commit *out, const uint8_t *msg,
                                             uint32_t bytes);
KVW_NODISCARD kvw_err kvw_wire_done_decode(struct kvw_wire_done *out, const uint8_t *msg,
                                           uint32_t bytes);
/* type: KVW_WIRE_ABORT or KVW_WIRE_REFUSE. */
KVW_NODISCARD kvw_err kvw_wire_abort_decode(struct kvw_wire_abort *out, uint8_t type,
                                            const uint8_t *msg, uint32_t bytes);
/* *epochs is borrowed: *count (1 .. KVW_WIRE_ALIVE_MAX) little-endian u32, none of them checked. */
KVW_NODISCARD kvw_err kvw_wire_alive_decode(const uint8_t **epochs, uint32_t *count,
                                            const uint8_t *msg, uint32_t bytes);

/* in->spans isn't read; spans are the span_count structs. */
uint32_t kvw_wire_offer_encode(uint8_t *to, const struct kvw_wire_offer *in,
                               const struct kvw_wire_span *spans);
uint32_t kvw_wire_commit_encode(uint8_t *to, const struct kvw_wire_commit *in);
uint32_t kvw_wire_done_encode(uint8_t *to, const struct kvw_wire_done *in);
uint32_t kvw_wire_abort_encode(uint8_t *to, uint8_t type, const struct kvw_wire_abort *in);
/* to[KVW_WIRE_ALIVE_LEN ..] holds the epochs already. */
uint32_t kvw_wire_alive_encode(uint8_t *to, uint32_t count);

#endif
