/* SPDX-License-Identifier: Apache-2.0 */
/*
 * impl.h - the objects of a verbs transport, and which file owns which.
 *
 *   end        one per transport                     endpoint.c
 *   rail       one device in use                     rail.c, found by device.c
 *   mem        a registered range                    memory.c
 *   conn       one peer: side channel, paths, queues conn.c, handshake.c, side.c, life.c
 *   path       one queue pair of a connection        path.c, path.h; fed by tx.c, emptied by rx.c
 *   put, lease a put and its key                     key.c, window.c; key.h
 *   failover   what happens to a dead path's work    failover.c
 *
 * threads  the transport's one
 * memory   all of it taken in open: struct end, and one mapping that every rail registers
 * time     end->now_ns is the caller's clock, set by poll() and connect()
 */
#ifndef KVN_VERBS_IMPL_H
#define KVN_VERBS_IMPL_H

#include "cm.h"
#include "key.h"
#include "path.h"
#include "rail.h"

/* --- a connection: conn.c, life.c ------------------------------------------------------------- */

enum conn_state {
    CONN_FREE = 0,
    CONN_DIALING,  /* TCP connect under way, or HELLO sent: WELCOME is awaited */
    CONN_ACCEPTED, /* listener: HELLO, then READY are awaited */
    CONN_GO,       /* connector: READY sent, GO is awaited */
    CONN_PROBING,  /* queue pairs are joined; the first SEND of each is on its way */
    CONN_LIVE,
    CONN_OVER,   /* its end is reported; life.c takes it down */
    CONN_ENDING, /* no queue pair, no side channel: events come out, CONN_DOWN last */
    CONN_LEFT,   /* this side disconnected: only the outcomes of its puts come out */
    CONN_SPENT,  /* over; free at the next poll, as events may point into it */
};

/* A receive buffer that a completion gave us, and whom to credit when it is posted again. */
struct held {
    uint8_t rail, conn, path;
    uint32_t generation; /* of the path; 0: nobody */
    uint32_t buffer;
};

/* A receive that is waiting to be handed out. */
struct arrival {
    struct held held;
    bool put;
    uint32_t bytes, imm;
    uint64_t offset;
};
#define VERBS_ARRIVALS (VERBS_PATHS * VERBS_CREDIT * 2)

struct cell {
    uint16_t bytes; /* with header */
    uint8_t flags;
};

struct peer_rail {
    union ibv_gid gid;
    uint16_t lid;
    uint8_t mtu;
    bool alive;
    struct kvn_addr cm; /* family 0: it doesn't use rdma_cm */
};

struct conn {
    enum conn_state state;
    uint32_t index; /* in end->conns */
    kvw_conn_id id;
    bool incoming, up_due;
    bool announced;     /* CONN_UP was handed out */
    const char *breach; /* what is wrong with breach_put; NULL: nothing */
    uint16_t breach_put;
    const char *lost_text; /* why a path failed, last */
    kvw_err down_err;
    bool tell; /* the peer its end */
    char text[VERBS_TEXT];
    uint64_t begun_ns, heard_ns, ping_ns;
    bool by_cm;               /* its queue pairs are joined by rdma_cm */
    uint64_t ticket;          /* and requests for it bring this */
    uint64_t cm_from_ns;      /* when a connector's queue pairs began to join; 0: they don't */
    char cm_text[VERBS_TEXT]; /* why one couldn't, last */
    /* Side channel. */
    int fd; /* -1: none */
    bool connecting;
    uint8_t in[VERBS_SIDE_BYTES], out[VERBS_SIDE_BYTES];
    uint32_t in_bytes, out_bytes;
    /* Paths. */
    struct peer_rail peer_rails[VERBS_RAILS];
    uint32_t peer_rail_count, lanes, qps, path_count;
    struct path paths[VERBS_PATHS];
    uint32_t turn;     /* path that the next put goes to */
    uint32_t msg_path; /* path of the messages */
    /* Messages out: cells [acked, sent) are posted, [sent, queued) wait. By count, %
     * VERBS_MSG_CELLS. */
    uint32_t cells_queued, cells_sent, cells_acked;
    struct cell cells[VERBS_MSG_CELLS];
    /* Messages in. */
    uint32_t piece_expected;
    uint8_t *assembly; /* KVW_MSG_BYTES_MAX, in end->map */
    uint32_t assembled;
    bool assembly_out; /* handed out, until the next poll */
    /* Puts. */
    struct put puts[VERBS_PUTS];
    struct put_list free, waiting, done;
    struct put_list parked; /* they wait for a key */
    struct peer_region keys[VERBS_KEYS];
    bool let_go_due; /* a region this side wrote to is idle: its owner is due a SHUT_OK */
    struct lease leases[VERBS_LEASES];
    uint32_t shutting; /* of those */
    bool bind_due;
    uint64_t bind_from_ns;
    uint32_t next_generation;
    /* What came. */
    struct arrival arrivals[VERBS_ARRIVALS];
    uint32_t arrival_head, arrival_count;
};

struct conn *kvn_verbs_conn_find(struct end *e, kvw_conn_id id);
struct conn *kvn_verbs_conn_take(struct end *e);
void kvn_verbs_list_push(struct conn *c, struct put_list *l, uint16_t put);
uint16_t kvn_verbs_list_pop(struct conn *c, struct put_list *l);
void kvn_verbs_put_done(struct end *e, struct conn *c, uint16_t put, kvw_err err);
/* Give back the copy of a put's bytes, if there is one. */
void kvn_verbs_put_copy_release(struct end *e, struct put *p);

/* Reports: the state changes at once, so that nothing more is begun; kvn_verbs_act() does the rest
 * when whatever showed it is done. No caller's connection or queue pair goes under its feet. */

/* The connection is over, for this reason: queue pairs and side channel go, puts are done with
 * KVW_E_PEER_LOST, the peer is told when tell is set. Once; later reasons are ignored. */
void kvn_verbs_conn_end(struct end *e, struct conn *c, bool tell, kvw_err err, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The queue pair has failed, and what was on it goes to another (failover.c). Once. text: static */
void kvn_verbs_path_lost(struct end *e, struct path *p, const char *text);

/* Act on what was reported, of every connection. */
void kvn_verbs_act(struct end *e);
/* Quietly, for disconnect() and close(). */
void kvn_verbs_conn_leave(struct end *e, struct conn *c);
/* Timers. */
void kvn_verbs_conn_tick(struct end *e, struct conn *c);
uint64_t kvn_verbs_conn_deadline(const struct end *e, const struct conn *c);

/* --- side channel: side.c, handshake.c -------------------------------------------------------- */

kvw_err kvn_verbs_side_listen(struct end *e, const struct kvn_addr *at, char why[KVN_WHY_BYTES]);
void kvn_verbs_side_accept(struct end *e);
bool kvn_verbs_side_dial(struct end *e, struct conn *c, const struct kvn_addr *to);
/* Queue a frame; what doesn't fit is dropped, and the connection with it. */
void kvn_verbs_side_send(struct end *e, struct conn *c, enum verbs_frame_type type,
                         const uint8_t *body, uint32_t bytes);
void kvn_verbs_side_write(struct end *e, struct conn *c);
/* The dial has an outcome. False: it failed, and the connection is over. */
bool kvn_verbs_side_connected(struct end *e, struct conn *c);

struct side_frame {
    enum verbs_frame_type type;
    uint32_t bytes;
    uint8_t body[VERBS_FRAME_BODY_MAX];
};

/* The next frame that has come; false: none. */
bool kvn_verbs_side_next(struct end *e, struct conn *c, struct side_frame *f);
void kvn_verbs_side_close(struct end *e, struct conn *c);

void kvn_verbs_handshake_begin(struct end *e, struct conn *c);
void kvn_verbs_handshake_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                               const uint8_t *body, uint32_t bytes);
/* If a connector's queue pairs are all live or dead now, by rdma_cm: READY. */
void kvn_verbs_handshake_joined(struct end *e, struct conn *c);
/* If every queue pair is probed or lost: up, or over. */
void kvn_verbs_handshake_probed(struct end *e, struct conn *c);

/* --- sending and receiving: tx.c, rx.c -------------------------------------------------------- */

kvw_err kvn_verbs_send(struct kvw_transport *t, kvw_conn_id id, const void *msg, uint32_t bytes);
kvw_err kvn_verbs_put(struct kvw_transport *t, kvw_conn_id id, const struct kvw_put *put);
void kvn_verbs_tx_probe(struct end *e, struct path *p);
/* Post all that may go now. */
void kvn_verbs_tx_pump(struct end *e, struct conn *c);
/* True: something waits that could go now. */
bool kvn_verbs_tx_due(const struct conn *c);
/* The signalled work request n of p and all before it were carried out. */
void kvn_verbs_tx_complete(struct end *e, struct path *p, uint32_t n);

void kvn_verbs_rx_completion(struct end *e, struct rail *r, const struct ibv_wc *wc);
/* Take what is in the completion queues now; false: there was nothing. */
bool kvn_verbs_rx_poll(struct end *e, struct rail *r);
/* One event out of the connection's queues. */
bool kvn_verbs_rx_event(struct end *e, struct conn *c, struct kvw_transport_event *ev);
/* Events handed out at the last poll are forgotten: give their buffers back. */
void kvn_verbs_rx_forget(struct end *e);
void kvn_verbs_rx_release(struct end *e, const struct held *h);

/* --- the transport: endpoint.c ---------------------------------------------------------------- */

struct end {
    struct kvw_transport transport;
    struct verbs_config cfg;
    char peer[KVN_ADDR_TEXT_BYTES];
    pid_t pid; /* that opened it: the device's objects are that process's */
    bool may_listen, listening, has_peer;
    uint64_t now_ns, looked_ns, present_ns, polled_ns;
    bool look;     /* wait() saw input */
    bool reported; /* something that kvn_verbs_act() is to act on */
    bool windows;  /* every rail has memory windows */
    struct rail rails[VERBS_RAILS];
    uint32_t rail_count;
    int epoll_fd, listen_fd;
    struct rdma_event_channel *cm; /* NULL: none */
    uint16_t port;
    uint32_t next_id, next_serial, next_generation;
    uint32_t turn;
    uint64_t random;
    /* One mapping, registered once per rail: receive buffers, message cells, control SENDs, blocks
     * for puts from elsewhere, messages that came in pieces. */
    uint8_t *map;
    size_t map_bytes;
    uint8_t *cells, *ctl, *copy;
    uint8_t copy_used[VERBS_COPY_COUNT];
    uint32_t copy_turn;
    struct verbs_mem mems[KVW_REGIONS_MAX + VERBS_SOURCES];
    struct verbs_mem *last_source;
    struct held *held; /* receive buffers that events of the last poll point into */
    uint32_t held_count, held_max;
    struct kvw_transport_stats stats;
    struct kvn_verbs_counters counters;
    char about[1024];
    size_t about_fixed; /* of it, about the rails */
    struct conn conns[VERBS_CONNS];
};

static inline struct end *kvn_verbs_end(const struct kvw_transport *t)
{
    return (struct end *)(uintptr_t)t;
}

#endif
