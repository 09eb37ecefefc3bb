/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - the session's state, shared by the files that each do one part of its work:
 *
 *   session.c    open, close, poll: who is called in which order
 *   handshake.c  connections: dial, HELLO, REJECT, which one is the peer
 *   xfer.c       the table of transfers, and how each ends
 *   offer.c      receiver: offers, leases, COMMIT          land.c  receiver: chunks into blocks
 *   stream.c     sender: streams, pushes, OFFER, DONE      send.c  sender: blocks into chunks
 *   choose.c     which codec          rate.c  how fast the wire is          encode.c  encoders
 *   stretch.c    what a codec took from end to end
 *
 * Not installed. threads, memory, time: as kvwire.h.
 */
#ifndef KVW_SESSION_H
#define KVW_SESSION_H

#include "arena.h"
#include "choose.h"
#include "encode.h"
#include "event.h"
#include "kvwire.h"
#include "layout.h"
#include "msg.h"
#include "window.h"
#include "xfer.h"

#define KVW_SESSION_CONNS  5u  /* the peer's, and newcomers that haven't shown who they are */
#define KVW_BATCH          16u /* transport events taken at a time */
#define KVW_BATCHES_A_POLL 4u
#define KVW_CHUNKS_A_POLL                                                                          \
    4u /* encoded or decoded; bounds a poll to a fraction of a millisecond                         \
        */
#define KVW_STRAYS         8u
#define KVW_ENCODE_AHEAD   2u /* chunks an encoder that wait for it, from which on raw goes out */
#define KVW_BLIND_CHUNKS   4u /* under way at most, all raw, before the first PUT_DONE ever */
#define KVW_PEER_ADDR_MAX  255u
#define KVW_SLOTS_DEFAULT  32u
#define KVW_XFERS_DEFAULT  16u
#define KVW_DIAL_FIRST_NS  (10ull * 1000 * 1000)
#define KVW_DIAL_MAX_NS    (250ull * 1000 * 1000)
#define KVW_DIAL_SLOW_NS   (1000ull * 1000 * 1000) /* after a REJECT; also how long one lingers */
#define KVW_SETTLED_NS     (1000ull * 1000 * 1000) /* up that long: the next dial is at once */
#define KVW_RENEW_RETRY_NS (1000ull * 1000)
#define KVW_READY_POLL_NS  (100ull * 1000) /* pending ready marks are asked again */

/* handshake.c moves it; every arrow ends in NONE when the connection is gone. */
enum kvw_conn_state {
    KVW_CONN_NONE = 0,
    KVW_CONN_DIALING,  /* sender: connect() called; CONN_UP -> HELLO */
    KVW_CONN_HELLO,    /* up; both HELLOs through -> READY, a bad one -> REJECTED */
    KVW_CONN_READY,    /* the peer */
    KVW_CONN_REJECTED, /* told so, or about to be; the peer hangs up, or the deadline does */
};

struct kvw_conn {
    enum kvw_conn_state state;
    kvw_conn_id id;
    uint64_t deadline_ns; /* HELLO, REJECTED; UINT64_MAX: none */
    uint64_t ready_ns;    /* READY since */
    bool hello_due, reject_due, hello_got;
    struct kvw_hello hello; /* the peer's, when hello_got */
    kvw_err reject_err;
    char text[KVW_TEXT_BYTES_MAX + 1]; /* why rejected */
};

/* A staging slot: one encoded chunk, lent to the transport. */
enum kvw_stage_state {
    KVW_STAGE_FREE = 0,
    KVW_STAGE_QUEUED, /* in session.line: being encoded, or encoded and waiting for its turn */
    KVW_STAGE_FLIGHT, /* the transport's until PUT_DONE */
};

struct kvw_stage {
    enum kvw_stage_state state;
    kvw_conn_id conn;
    uint32_t bytes; /* header and stream; FLIGHT */
    uint32_t xfer_at;
    uint64_t serial;
    uint32_t layer, kv, first, tokens;
    uint32_t raw_bytes;
    uint32_t codec; /* index in session.chooser */
    uint64_t chosen_ns;
    uint64_t predicted_ns;
    struct kvw_rate_mark mark;
    struct kvw_job job;
};

/* Sender: an offer whose stream hasn't been opened yet. */
struct kvw_offer_in {
    bool used;
    bool declined; /* kvw_abort() before a stream was opened: the ABORT is still to be sent */
    uint64_t id;
    uint32_t epoch, tokens;
    uint64_t lease_ns, until_ns;
    kvw_budget budget;
    uint8_t exact_first;
    uint16_t exact_last;
    char text[KVW_TEXT_BYTES_MAX + 1];
};

/* An ABORT owed for something that isn't in any table. Lost when there are too many: the peer asks
 * again (RENEW) or its lease ends. */
struct kvw_stray {
    uint64_t id;
    uint32_t epoch;
    kvw_err err;
};

struct kvw_session {
    /* fixed at open */
    kvw_role role;
    struct kvw_transport *transport;
    bool has_peer_addr;
    char peer_addr[KVW_PEER_ADDR_MAX + 1];
    struct kvw_pool pool;
    uint32_t token_bytes; /* one token's K or V of one layer */
    uint32_t chunk_raw_bytes;
    uint32_t xfers_max, xfer_tokens_max;
    const struct kvw_codec_ops *codecs[KVW_CODECS_MAX];
    uint32_t codec_count;
    struct kvw_clock clock;
    struct kvw_chooser chooser; /* receiver: what decoding cost */
    struct kvw_hello hello;     /* ours */

    /* the arena's parts */
    unsigned char *arena_base;
    struct kvw_xfer *xfers;
    unsigned char *slots_mem; /* hello.slots * hello.slot_bytes: landing or staging */
    void *scratch;            /* codecs' */
    uint8_t *msg;             /* KVW_MSG_SHORT_MAX: one message on its way out */
    struct kvw_events events;

    uint64_t now_ns; /* of the latest call that brought one */
    uint64_t polled_ns;
    uint64_t gap_ns; /* between the last two polls */
    uint64_t next_serial;
    struct kvw_session_stats stats;

    struct kvw_transport_event batch[KVW_BATCH];
    uint32_t batch_at, batch_count;
    bool held_up; /* the event queue was too full to go on */
    bool sent;    /* something was given to the transport: it must poll to transmit */

    struct kvw_conn conns[KVW_SESSION_CONNS];
    struct kvw_conn *ready; /* the peer's, or NULL */
    uint64_t dial_at_ns;    /* sender; UINT64_MAX: a connection exists */
    uint64_t dial_delay_ns;

    struct kvw_stray strays[KVW_STRAYS];
    uint32_t stray_count;

    /* receiver */
    struct kvw_window window;
    struct kvw_span_pool span_pool;
    uint32_t next_epoch;
    uint32_t told_codec; /* index: whose cost the last GRANT carried */
    bool lent;           /* the landing slots are open to the peer (region_open) */

    /* sender */
    struct kvw_stage *stages;
    uint16_t *stage_free; /* a stack */
    uint32_t stage_free_count;
    uint16_t *line; /* QUEUED stages in the order in which they are put; a ring of hello.slots */
    uint32_t line_head, line_count;
    struct kvw_encoders *encoders; /* NULL: encoding happens in poll */
    uint32_t encoder_count;
    bool source_added;    /* the transport knows the staging slots */
    uint32_t fixed_codec; /* index; codec_count: choose */
    kvw_digest_id digest; /* of chunks to this peer */
    uint64_t allowed;     /* bit i: codec i is in both HELLOs and takes the pool's dtype */
    struct kvw_rate rate;
    struct kvw_offer_in *offers;
    uint32_t chunk_tokens;
    uint64_t next_seq, limit; /* puts of this connection: used, granted */
    uint32_t turn;            /* transfer to look at first */
    bool stalled;             /* the last look found something to send and no credit */

    /* what the last event pointed at */
    char text_out[KVW_TEXT_BYTES_MAX + 1];
    uint8_t note_out[KVW_COMMIT_NOTE_MAX];
    uint32_t codec_chunks_out[KVW_CODEC_IDS];
};

/* --- handshake.c ------------------------------------------------------------------------------ */

/* Sender: connect now. KVW_OK also when it must be tried again later. */
KVW_NODISCARD kvw_err kvw_handshake_dial(struct kvw_session *s);
void kvw_handshake_conn_up(struct kvw_session *s, const struct kvw_transport_event *ev);
void kvw_handshake_conn_down(struct kvw_session *s, const struct kvw_transport_event *ev);
/* A message of a connection that isn't READY, or a HELLO or REJECT of the one that is. */
void kvw_handshake_message(struct kvw_session *s, struct kvw_conn *c, const uint8_t *msg,
                           uint32_t bytes);
void kvw_handshake_timers(struct kvw_session *s);
void kvw_handshake_flush(struct kvw_session *s);
uint64_t kvw_handshake_deadline_ns(const struct kvw_session *s);
struct kvw_conn *kvw_handshake_find(struct kvw_session *s, kvw_conn_id id);
/* The peer broke a rule of SPEC.md: hang up, end what it knew of, go on living. */
void kvw_handshake_breach(struct kvw_session *s, const char *text);
/* Hang up on everyone. */
void kvw_handshake_close(struct kvw_session *s);

/* --- session.c -------------------------------------------------------------------------------- */

/* Send s->msg[0 .. bytes) to the peer. */
KVW_NODISCARD kvw_err kvw_session_send(struct kvw_session *s, uint32_t bytes);
/* Owe the peer an ABORT for (id, epoch). */
void kvw_session_stray(struct kvw_session *s, uint64_t id, uint32_t epoch, kvw_err err);
/* Debug builds: the relations between the tables hold. */
void kvw_session_assert_consistent(const struct kvw_session *s);

/* --- offer.c, land.c (receiver) --------------------------------------------------------------- */

void kvw_offer_commit(struct kvw_session *s, const struct kvw_commit_msg *m);
void kvw_offer_renew(struct kvw_session *s, const struct kvw_xfer_msg *m);
/* Something of the transfer came. */
void kvw_offer_heard(struct kvw_session *s, struct kvw_xfer *x);
/* End it with KVW_OK if everything is there, with KVW_E_PROTOCOL if it never can be. */
void kvw_offer_settle(struct kvw_session *s, struct kvw_xfer *x);
void kvw_offer_timers(struct kvw_session *s);
/* The landing slots are open to the peer while a transfer is, and not before or after. */
void kvw_offer_lend(struct kvw_session *s);
void kvw_offer_flush(struct kvw_session *s);

/* The transport's gate; arg is the session. */
bool kvw_land_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm);
void kvw_land_event(struct kvw_session *s, const struct kvw_transport_event *ev);
/* Decode up to KVW_CHUNKS_A_POLL chunks; true: more have landed. */
bool kvw_land_poll(struct kvw_session *s);

/* --- stream.c, send.c (sender) ---------------------------------------------------------------- */

void kvw_stream_offer(struct kvw_session *s, const struct kvw_offer_msg *m);
void kvw_stream_done(struct kvw_session *s, const struct kvw_done_msg *m);
/* LAYER_SENT, if that is so now. */
void kvw_stream_layer_sent(struct kvw_session *s, struct kvw_xfer *x, uint32_t layer);
/* Ask the pending ready marks. */
void kvw_stream_marks(struct kvw_session *s);
void kvw_stream_timers(struct kvw_session *s);
void kvw_stream_flush(struct kvw_session *s);
/* The remembered offer of that id, or NULL. */
struct kvw_offer_in *kvw_stream_offer_find(const struct kvw_session *s, uint64_t id);
/* Send pending refusals of offers. False: the transport is full. */
bool kvw_stream_flush_declined(struct kvw_session *s);

/* A peer is there: choose codec and chunk size, start the numbering. */
void kvw_send_start(struct kvw_session *s);
/* It is gone: what was encoded for it is of no use. */
void kvw_send_stop(struct kvw_session *s);
/* A stream ends (NULL: all do): when this returns, no encoder reads its blocks any more. */
void kvw_send_take_back(struct kvw_session *s, const struct kvw_xfer *x);
void kvw_send_put_done(struct kvw_session *s, const struct kvw_transport_event *ev);
void kvw_send_grant(struct kvw_session *s, const struct kvw_grant *m);
/* Encode and put up to KVW_CHUNKS_A_POLL chunks; true: more could go. */
bool kvw_send_poll(struct kvw_session *s);

#endif
