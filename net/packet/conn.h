/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.h - one connection: its handshake, what it sends, what it takes, how it ends. Split over
 * conn.c (life and events), conn_rx.c (a packet came), conn_tx.c (what leaves next) and
 * conn_check.c (what is always true).
 *
 * threads  one
 * memory   struct kvn_conn_memory is the endpoint's, kept from connection to connection; where a
 *          round trip takes more, its tables are replaced by longer ones, which are mapped
 * time     env->now_ns
 */
#ifndef KVN_PACKET_CONN_H
#define KVN_PACKET_CONN_H

#include "../port/port.h"
#include "endpoint.h"
#include "frame.h"
#include "path.h"
#include "putin.h"
#include "putout.h"
#include "regions.h"
#include "stream.h"
#include "timers.h"
#include "versions.h"

enum kvn_conn_state {
    KVN_CONN_FREE,       /* connect() leads to CONNECTING, a HELLO to ACCEPTING */
    KVN_CONN_CONNECTING, /* HELLO_ACK leads to UP; time, RESET or disconnect() to ENDED */
    KVN_CONN_ACCEPTING,  /* the client's next packet leads to UP; anything else to FREE */
    KVN_CONN_UP,         /* silence, GOODBYE, RESET, a breach or disconnect() lead to ENDED */
    KVN_CONN_ENDED,      /* events taken and linger over: FREE */
};

/* What the endpoint's connections share. */
struct kvn_env {
    struct kvn_packet_config cfg; /* no field is 0 */
    struct kvn_regions regions;
    struct kvw_transport_stats stats;
    uint64_t dropped[KVN_DROPS];
    struct kvn_trace *trace; /* NULL: nobody listens */
    uint64_t now_ns;
    uint64_t random;      /* state of kvn_env_random() */
    uint32_t takes;       /* longest packet the port ever brings: its payload_max at open */
    uint32_t payload_max; /* longest packet the port sends, now; <= takes */
    uint32_t sources;     /* the port's own UDP ports, 1 .. KVN_PATHS_MAX */
    uint64_t slack_ns;    /* the port's */
    bool head_only;       /* the port's one_host: memory is copied, and nothing damages it */
    uint64_t window;      /* bytes that one sender should have on its way to us */
};

/* Sets env->window: what may be on its way to us, divided among the connections that brought
 * DATA lately. */
void kvn_env_share(struct kvn_env *env, uint32_t busy);
uint64_t kvn_env_random64(struct kvn_env *env);
/* Not 0. */
uint32_t kvn_env_random(struct kvn_env *env);
/* An id for a connection of ours: not 0, and of this endpoint's queue (SPEC.md 4). */
uint32_t kvn_env_local_id(struct kvn_env *env);

struct kvn_conn_memory {
    struct kvn_sent sent[KVN_PATHS_MAX][KVN_SENT_FIRST];
    struct kvn_put_out puts_out[KVN_PUTS_FIRST];
    struct kvn_put_in puts_in[KVN_PUTS_FIRST];
    uint8_t stream_out[KVN_STREAM_BYTES];
    uint8_t stream_in[KVN_STREAM_BYTES];
    uint8_t wrap[KVW_MSG_BYTES_MAX];
};

struct kvn_conn {
    enum kvn_conn_state state;
    struct kvn_conn_memory *mem;
    struct kvn_env *env;
    uint32_t api_id; /* struct kvw_conn_id's value */
    uint32_t local_id, peer_id;
    uint8_t version; /* of all its packets */
    uint16_t tried;  /* set of versions that this client's HELLOs were of; only grows */
    bool incoming;
    bool up_due, down_due;
    bool hello_due, goodbye_due;
    kvw_err err;          /* of CONN_DOWN */
    kvw_err farewell;     /* in GOODBYE */
    bool repeats_goodbye; /* ENDED by this side: kvn_conn_end() sets it, the peer's GOODBYE clears
                             it; while it is set, whatever else the peer sends gets another GOODBYE
                           */
    char text[224];       /* of CONN_DOWN */
    uint64_t began_ns;
    uint32_t hellos; /* sent, of either kind */
    uint64_t hello_ns;
    uint32_t hello_bytes;  /* length of the next HELLO or HELLO_ACK */
    uint32_t hello_least;  /* of the HELLO_ACKs that were sent: the client got one of them */
    uint32_t payload;      /* longest packet that both ends take */
    uint32_t fits;         /* longest packet in use, <= payload: every LIVE path carries it. Set by
                              kvn_conn_agree(), then by kvn_conn_refit() whenever a path changes */
    uint32_t slice;        /* bytes of a put in one packet; follows fits */
    bool head_only;        /* DATA's slices are vouched for by both ends' users */
    uint32_t paths;        /* path[0 .. paths) may be used; fixed by kvn_conn_agree() */
    uint32_t turn;         /* DATA and MSG leave on path[turn]; open_path() moves it on */
    uint32_t turn_left;    /* packets that may leave on it before the next path's turn */
    uint64_t last_use_ns;  /* when its user or its peer sent a message or a put last */
    uint64_t last_data_ns; /* 0: none came */
    uint32_t nacks;        /* sent since then */
    uint64_t nacked_ns;    /* when the peer's last NACK was believed */
    uint64_t last_goodbye_ns;
    uint64_t credit_stalls, stream_stalls;
    uint64_t credit_stalled_at, stream_stalled_at; /* what had been sent then */
    struct kvn_timers timers;
    struct kvn_path path[KVN_PATHS_MAX];
    struct kvn_stream_out stream_out;
    struct kvn_stream_in stream_in;
    struct kvn_puts_out puts_out;
    struct kvn_puts_in puts_in;
};

/* A packet being built, or waiting for the port. */
struct kvn_tx_slot {
    struct kvn_tx_packet *packet; /* in the endpoint's burst; its head points at head below */
    struct kvn_conn *conn;        /* NULL: nobody's (RESET) */
    uint32_t api_id;              /* conn's, as it may be another's before the packet leaves */
    bool of_put, of_msg;
    /* What this connection's next packet will be made of; perhaps of 0 bytes. */
    struct kvw_iov next;
    uint32_t put;    /* of_put: whose memory the body borrows */
    uint64_t msg_at; /* of_msg: where in the control stream; it borrows the stream's ring */
    uint8_t *bounce; /* for slices in too many pieces; the endpoint's, payload_max bytes */
    uint8_t head[KVN_HEAD_BYTES_MAX];
};

/* conn_check.c: aborts if what is always true between two calls isn't. Debug builds alone. */
#ifndef NDEBUG
void kvn_conn_assert_consistent(const struct kvn_conn *c);
#else
static inline void kvn_conn_assert_consistent(const struct kvn_conn *c)
{
    (void)c;
}
#endif

/* config.c: defaults for what is 0. KVW_E_INVALID: out of range, why says what. */
kvw_err kvn_packet_resolve(struct kvn_packet_config *cfg, const struct kvn_port *port,
                           char why[KVN_WHY_BYTES]);

/* conn.c */
void kvn_conn_connect(struct kvn_conn *c, struct kvn_env *env, const struct kvn_addr *peer,
                      uint32_t api_id);
void kvn_conn_accept(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *hello,
                     const struct kvn_rx_packet *rx, uint32_t api_id);
/* Sizes both sides now know. proved: a packet of this length has arrived. */
void kvn_conn_agree(struct kvn_conn *c, struct kvn_env *env, const struct kvn_hello *peer,
                    uint32_t proved);
void kvn_conn_up(struct kvn_conn *c, struct kvn_env *env);
/* text: a sentence. tell: a GOODBYE with err leaves, now and as often as the peer still sends. */
void kvn_conn_end(struct kvn_conn *c, struct kvn_env *env, kvw_err err, bool tell,
                  const char *text);
/* By this side's user: no CONN_DOWN, no more events but PUT_DONE. */
void kvn_conn_disconnect(struct kvn_conn *c, struct kvn_env *env);
void kvn_conn_free(struct kvn_conn *c);
/* Gives back what it took on top of its memory, as its way was long; kvn_conn_free() does, too. */
void kvn_conn_end_memory(struct kvn_conn *c);
/* At the start of a poll: what was handed out by the last one isn't looked at any more. */
void kvn_conn_release(struct kvn_conn *c);
void kvn_conn_run_timers(struct kvn_conn *c, struct kvn_env *env);
bool kvn_conn_has_event(const struct kvn_conn *c);
bool kvn_conn_next_event(struct kvn_conn *c, struct kvn_env *env, struct kvw_transport_event *ev);
/* At the end of a poll, when it is UP: set the timers by what is in flight. */
void kvn_conn_rearm(struct kvn_conn *c);
/* Sizes are known, or the path works again: begin with a small window. */
void kvn_path_agreed(struct kvn_path *p, const struct kvn_env *env, uint32_t slice);
/* The peer has proved to be where a packet of this path came from: what follows goes there. */
void kvn_conn_path_moved(struct kvn_path *p, struct kvn_env *env);
/* What its paths carry, or which of them work, has changed. */
void kvn_conn_refit(struct kvn_conn *c, struct kvn_env *env);
/* The port's payload_max has changed. */
void kvn_conn_payload_max(struct kvn_conn *c, struct kvn_env *env);
/* An ACK or time may have shown that packets of this path are lost. */
void kvn_path_detect(struct kvn_path *p, struct kvn_env *env);
/* The peer waits for slices: those that were sent long enough ago are lost. */
void kvn_conn_nacked(struct kvn_conn *c, struct kvn_env *env, const struct kvn_nack *nack);
extern const struct kvn_inflight_events kvn_conn_inflight_events;

/* trace_conn.c: what conn*.c report; each only counts and, if somebody listens, tells. */
__attribute__((cold)) void kvn_tell_packet(const struct kvn_path *p, enum kvn_trace_kind kind,
                                           const struct kvn_frame *f, uint32_t bytes);
__attribute__((cold)) void kvn_tell_metrics(const struct kvn_path *p);
/* conn, f: NULL if it isn't known. */
__attribute__((cold)) void kvn_note_dropped(struct kvn_env *env, const struct kvn_conn *conn,
                                            const struct kvn_frame *f, uint32_t bytes,
                                            enum kvn_drop why);
__attribute__((cold)) void kvn_note_lost(struct kvn_path *p, const struct kvn_sent *sent);
void kvn_note_conn(const struct kvn_conn *c, const char *text);
/* The longest packet in use has changed. */
__attribute__((cold)) void kvn_note_payload(const struct kvn_conn *c);
void kvn_note_path(const struct kvn_path *p, const char *text);
/* A path is open, and nothing may leave: whether the peer's last word holds something back. Told
 * once between two packets that leave. */
__attribute__((cold)) void kvn_note_stalls(struct kvn_conn *c);
void kvn_path_stats(const struct kvn_path *p, struct kvn_path_stats *stats);

/* conn_rx.c: a checked packet for this connection, which came as rx says; its whole number is
 * filled in. */
void kvn_conn_receive(struct kvn_conn *c, struct kvn_env *env, struct kvn_frame *f,
                      const struct kvn_rx_packet *rx);
/* A HELLO of this length for a connection that is here already. */
void kvn_conn_hello(struct kvn_conn *c, uint32_t bytes);
void kvn_conn_reset(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *reset);

/* Answer on some path, as soon as it can be. */
void kvn_conn_ack_soon(struct kvn_conn *c);

/* How much the peer may have on its way to us at most. */
uint64_t kvn_conn_window(const struct kvn_conn *c, const struct kvn_env *env);

/* conn_tx.c */
/* When something may leave: 0 is now, UINT64_MAX never. */
uint64_t kvn_conn_send_at(struct kvn_conn *c, const struct kvn_env *env);
/* Build the next packet; it counts as sent. False: nothing may leave now. */
bool kvn_conn_build(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot);

#endif
