/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - an end of the loop transport, and what is queued for it: per connection a ring of
 * messages, a table of puts that wait to be placed, and a ring of its own puts' outcomes. All of it
 * lies in the memory of the end that will take it.
 *
 * threads  the functions are called with the hub's lock held
 * memory   the end's, taken at open
 * time     none
 */
#ifndef KVN_LOOP_H
#define KVN_LOOP_H

#include <pthread.h>

#include "../../kvwire/transport.h"
#include "../../kvwire/wire.h"

#define LOOP_CONNS    8u            /* connections of one end */
#define LOOP_PUTS     256u          /* puts of one connection in flight, each way */
#define LOOP_EARLY    128u          /* that wait, when put() no longer copies at once */
#define LOOP_RING     (256u * 1024) /* bytes of messages waiting at one end of a connection */
#define LOOP_NAME_MAX 63u
#define LOOP_HOLD_MAX 8u /* polls that a reordered put is held back */

enum loop_conn_state {
    CONN_FREE = 0,
    CONN_REFUSED, /* connect() found nobody; leaves with CONN_DOWN */
    CONN_LIVE,    /* joined; leaves by the peer's or this side's disconnect, close, or a breach */
    CONN_BROKEN,  /* the peer is gone: what it sent before is still delivered, then CONN_DOWN */
    CONN_LEFT,    /* this side disconnected: only the outcomes of its puts still come out */
    CONN_SPENT,   /* over; events of this poll may point into its ring, so free at the next one */
};

struct loop_put_in {
    struct kvw_put put;
    uint64_t stamp; /* arrival order among this connection's messages and puts */
    uint32_t hold;  /* polls to wait before it may be placed */
    bool placed;    /* by put(), which has told the outcome, too */
};

struct loop_put_out {
    uint64_t cookie;
    kvw_err err;
};

struct loop_end;

struct loop_conn {
    enum loop_conn_state state;
    bool up_due; /* CONN_UP not yet reported */
    bool incoming;
    kvw_conn_id id;
    kvw_err down_err;
    const char *down_text; /* static */
    struct loop_end *peer; /* while LIVE */
    struct loop_conn *other;

    uint64_t next_stamp;
    unsigned char *ring; /* [u64 stamp][u32 bytes][message], padded to 8; wraps as a whole */
    uint32_t ring_head, ring_tail, ring_used;
    uint32_t ring_reported; /* bytes reported as events, given back by the next poll */
    bool ring_refused;      /* the other side found the ring full: it waits for room */
    bool room_due;          /* there is room in the other side's ring again */

    struct loop_put_in puts[LOOP_PUTS]; /* order[0 .. put_count-1] wait, the rest are free */
    uint16_t order[LOOP_PUTS];
    uint32_t put_count;

    struct loop_put_out done[LOOP_PUTS];
    uint32_t done_head, done_count;
    uint32_t in_flight; /* own puts accepted, outcome not yet reported; <= LOOP_PUTS */
};

struct loop_region {
    bool used;
    uint32_t serial;
    struct kvw_mem mem;
    kvw_put_gate gate;
    void *gate_arg;
};

struct loop_hub {
    struct loop_hub *next;
    char name[LOOP_NAME_MAX + 1];
    uint32_t ends;
    struct loop_end *listener;
    pthread_mutex_t lock;
};

struct loop_end {
    struct kvw_transport transport;
    struct loop_hub *hub;
    pid_t pid; /* that opened it: the hub's lock and ends are that process's */
    bool may_listen, listening, asleep;
    int wake_fd; /* written by peers while asleep */
    uint32_t next_id, next_serial;
    uint32_t turn; /* connection that poll() starts with */
    uint64_t rng;
    uint32_t reorder_2_32; /* probability, of 2^32 */
    struct kvw_transport_stats stats;
    struct loop_region regions[KVW_REGIONS_MAX];
    struct loop_conn conns[LOOP_CONNS];
    unsigned char *rings;
};

struct loop_msg_head {
    uint64_t stamp;
    uint32_t bytes; /* UINT32_MAX: nothing more before the ring's end */
    uint32_t zero;
};

/* If it sleeps. */
void kvn_loop_end_wake(struct loop_end *e);
uint32_t kvn_loop_end_random(struct loop_end *e);

/* A connection that the caller still knows by that id, or NULL. */
struct loop_conn *kvn_loop_conn_find(struct loop_end *e, kvw_conn_id id);
/* A free connection, emptied and with an id of its own; NULL: all are taken. */
struct loop_conn *kvn_loop_conn_take(struct loop_end *e);
/* The outcome of one of this connection's own puts. */
void kvn_loop_conn_push_done(struct loop_conn *c, uint64_t cookie, kvw_err err);
/* Take the waiting put at position k out of the order. Its record stays valid until the
 * next put. */
struct loop_put_in *kvn_loop_conn_pop_put(struct loop_conn *c, uint32_t k);
/* Part the two ends of a live connection. Each is left in its own state; both may still drain. */
void kvn_loop_conn_part(struct loop_conn *c, kvw_err err, const char *text);

/* Append a message; false: no room. */
bool kvn_loop_ring_push(struct loop_conn *c, const void *msg, uint32_t bytes);
/* The next message, or NULL; valid until the poll after the one that popped it. */
const unsigned char *kvn_loop_ring_peek(struct loop_conn *c, struct loop_msg_head *h);
void kvn_loop_ring_pop(struct loop_conn *c, const struct loop_msg_head *h);

#endif
