/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - the control stream: messages, each after its length, as bytes that arrive once and in
 * order. SPEC.md 6.
 *
 * threads  one
 * memory   the rings are the caller's, KVN_STREAM_BYTES each; a delivered message lies in the ring
 *          (or in wrap) until kvn_stream_in_release()
 * time     none
 */
#ifndef KVN_PACKET_STREAM_H
#define KVN_PACKET_STREAM_H

#include "../../kvwire/transport.h"
#include "ranges.h"

/* tail <= next <= head; the ring holds [tail, head). */
struct kvn_stream_out {
    uint8_t *ring;
    uint64_t tail; /* all before it has been acknowledged */
    uint64_t next; /* first byte never sent */
    uint64_t head;
    uint64_t limit; /* the peer takes bytes before this one */
    struct kvn_ranges arrived;
    struct kvn_ranges lost; /* to be sent again; may name bytes that have arrived */
};

/* released <= delivered <= end <= released + KVN_STREAM_BYTES. */
struct kvn_stream_in {
    uint8_t *ring;
    uint8_t *wrap; /* KVW_MSG_BYTES_MAX, for the one message that may straddle the ring's end */
    uint64_t released;
    uint64_t delivered;
    uint64_t end;            /* all before it has arrived */
    uint64_t told;           /* the limit in the last ACK (or HELLO) */
    struct kvn_ranges ahead; /* arrived beyond end */
};

/* A stretch to send: [at, at + bytes), in one or two pieces of the ring. */
struct kvn_stretch {
    uint64_t at;
    uint32_t bytes; /* 0: nothing to send, or the peer has no room */
    bool again;
    uint32_t pieces;
    struct kvw_iov piece[2];
};

void kvn_stream_out_begin(struct kvn_stream_out *s, uint8_t *ring, uint64_t limit);
/* 1 <= bytes <= KVW_MSG_BYTES_MAX. KVW_E_AGAIN: no room. */
KVW_NODISCARD kvw_err kvn_stream_out_push(struct kvn_stream_out *s, const void *msg,
                                          uint32_t bytes);
/* What to send next, at most max bytes; it counts as sent. */
void kvn_stream_out_take(struct kvn_stream_out *s, uint32_t max, struct kvn_stretch *out);
void kvn_stream_out_arrived(struct kvn_stream_out *s, uint64_t at, uint32_t bytes);
void kvn_stream_out_lost(struct kvn_stream_out *s, uint64_t at, uint32_t bytes);
/* Whether take would give something. */
static inline bool kvn_stream_out_ready(const struct kvn_stream_out *s)
{
    return s->lost.count > 0 || (s->next < s->head && s->next < s->limit);
}
/* Bytes wait, but the peer's limit holds them back. */
bool kvn_stream_out_blocked(const struct kvn_stream_out *s);

void kvn_stream_in_begin(struct kvn_stream_in *s, uint8_t *ring, uint8_t *wrap);
/*
 * Bytes from the peer.
 *   KVW_E_AGAIN     too many gaps to remember: not taken, must not be acknowledged
 *   KVW_E_PROTOCOL  beyond what the peer was told it may send
 */
KVW_NODISCARD kvw_err kvn_stream_in_take(struct kvn_stream_in *s, uint64_t at, const uint8_t *bytes,
                                         uint32_t n);
/*
 * The next whole message, valid until release.
 *   KVW_E_AGAIN     none is whole
 *   KVW_E_PROTOCOL  its length is out of range
 */
KVW_NODISCARD kvw_err kvn_stream_in_next(struct kvn_stream_in *s, const void **msg,
                                         uint32_t *bytes);
/* Whether next would give something, if only an error. */
bool kvn_stream_in_ready(const struct kvn_stream_in *s);
/* Delivered messages aren't looked at any more. */
void kvn_stream_in_release(struct kvn_stream_in *s);
/* The limit to tell the peer; remembers it as told. */
uint64_t kvn_stream_in_limit(struct kvn_stream_in *s);
/* Whether the peer should be told of more room: half of what it knew is used up. */
bool kvn_stream_in_reopened(const struct kvn_stream_in *s);

#endif
