/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h - a random life of some packet endpoints, all of it from one seed: who talks to whom and
 * about what, over which links, and which faults befall them when. Every promise of transport.h is
 * checked all the time by somebody who sees both sides:
 *
 *   a message arrives once, whole, in order; a put lands once, where it was sent, with its bytes
 *   PUT_DONE comes once; KVW_OK only when the peer's memory holds the bytes; an error only when the
 *     connection is over; never after CONN_DOWN
 *   CONN_DOWN comes once, and only when something happened that may end a connection
 *   no byte is ever written where no put of a living connection may write
 *   every packet that leaves is one that SPEC.md lets its sender send: see watch.h
 *   nothing is allocated between open and close
 *   once the faults stop, everything that is still connected arrives, and new connections work
 *   once all is closed, no packet leaves, and nobody wants to be woken
 *
 * threads one   memory static and what the endpoints take   time virtual
 */
#ifndef T_SIM_WORLD_H
#define T_SIM_WORLD_H

#include "../../kvwire/wire.h"
#include "../../net/packet/endpoint.h"
#include "../../net/packet/wire.h"
#include "../../net/port/sim/sim.h"
#include "watch.h"

#define T_NODES      5u
#define T_FLOWS      6u
#define T_CONNS      256u /* made in one run, one after the other */
#define T_PUTS       256u /* of one connection and direction */
#define T_SLOTS      16u  /* of one node's memory */
#define T_SLOT_BYTES (96u * 1024)
#define T_FILL       0xee

#define T_MS 1000000ull
#define T_S  1000000000ull

/* What may happen. A seed takes about half of these; T_WORLD_OFF takes some away again. */
enum t_fault {
    T_LOSS,
    T_BURST,
    T_MASK,
    T_DUP,
    T_CORRUPT,
    T_TRUNCATE,
    T_JITTER,
    T_REORDER,
    T_OVERTAKE,
    T_RATE,
    T_EGRESS,
    T_MARK,
    T_BLEACH,
    T_CUT,        /* a partition, one way or both */
    T_BLACK_HOLE, /* long packets vanish for a while */
    T_CLOCK,      /* a node's clock jumps */
    T_STALL,      /* a node doesn't poll for a while */
    T_TX_LIMIT,   /* its port takes few packets, or none */
    T_RX_RING,    /* its port has room for few */
    T_RESTART,    /* closed, and opened again */
    T_CRASH,      /* the same without a word to anybody */
    T_MOVE,       /* it gets another address */
    T_REBIND,     /* one of its UDP ports does, as behind a NAT that forgot */
    T_DISCONNECT, /* a user closes a connection */
    T_TRESPASS,   /* a user puts where the peer's gate doesn't let it */
    T_PATHS,      /* several sources a node */
    T_IPV6,
    T_FAULTS,
};
extern const char *const t_fault_name[T_FAULTS];

enum t_end { T_NONE, T_WAITING, T_UP, T_OVER };

struct t_put {
    uint32_t slot, bytes;
    uint64_t offset;
    bool done, landed, ok;
    bool settled; /* its slot was given back */
    uint8_t *lent;
};

/* A connection, as somebody sees it who sees both sides. Side 0 called connect(). */
struct t_conn {
    uint32_t flow;
    uint32_t node[2];
    kvw_conn_id id[2];
    enum t_end end[2];
    bool may_fall; /* something happened that may end it */
    bool trespass; /* ... with KVW_E_PROTOCOL */
    uint64_t since_ns;
    uint32_t msgs_sent[2], msgs_got[2]; /* by the side that sent */
    uint32_t puts_sent[2];
    struct t_put put[2][T_PUTS];
};

struct t_node {
    struct kvw_transport *t;
    struct kvw_region_key key;
    uint8_t *memory; /* T_SLOTS * T_SLOT_BYTES */
    bool slot_busy[T_SLOTS];
    uint64_t stalled_until_ns;
    uint64_t tx_limited_until_ns;
    uint64_t fragile_until_ns; /* something that a connection outlives has just befallen it */
    uint64_t sought_until_ns;  /* it has moved, and peers may not have followed yet */
    uint32_t spins;
    uint32_t opened;  /* times */
    uint32_t unbound; /* connections that came up here and haven't said which they are */
};

/* Packets between two nodes are all lost, or the long ones are, until then. */
struct t_trouble {
    uint64_t cut_until_ns, hole_until_ns;
};

struct t_world {
    uint64_t seed;
    uint64_t random;
    bool may[T_FAULTS];
    uint32_t nodes, flows, payload_max;
    uint32_t flow_node[T_FLOWS][2];
    uint32_t flow_conn[T_FLOWS]; /* T_CONNS: none yet */
    struct kvn_packet_config cfg;
    struct kvn_sim *sim;
    struct t_node node[T_NODES];
    struct t_trouble trouble[T_NODES][T_NODES];
    struct kvn_sim_link link[T_NODES][T_NODES];
    uint32_t conns;
    struct t_conn conn[T_CONNS];
    struct t_watch watch;
    bool calm;   /* the faults are over */
    bool inside; /* a transport is running: it must not allocate */
    uint64_t hash;
    uint64_t puts, msgs, packets, downs, steps;
    char failed[320]; /* the first broken promise; "" while all hold */
};

/* Live one seed; off: faults left out, a bit each. False: a promise was broken, w->failed says
 * which. *w is large; it may be used again. */
bool t_world_run(struct t_world *w, uint64_t seed, uint32_t off);
/* Leave out what isn't needed for a failure; returns the largest `off` that still fails. */
uint32_t t_world_shrink(struct t_world *w, uint64_t seed);

/* --- between world.c, world_fault.c and world_work.c --- */

uint64_t t_random(struct t_world *w, uint64_t below);
bool t_chance(struct t_world *w, uint32_t one_in);
void t_fail(struct t_world *w, const char *format, ...) KVW_PRINTF(2, 3);
uint64_t t_clock(const struct t_world *w, uint32_t node);
bool t_node_open(struct t_world *w, uint32_t node);
void t_node_close(struct t_world *w, uint32_t node, bool crash);

/* world_fault.c */
void t_weather_begin(struct t_world *w);
void t_weather(struct t_world *w); /* some faults begin, others end */
void t_weather_end(struct t_world *w);
void t_doom(struct t_world *w, uint32_t a, uint32_t b); /* connections between them may fall */

/* world_work.c */
void t_work(struct t_world *w, uint32_t flow); /* connect, send, put, disconnect */
void t_work_disconnect(struct t_world *w, struct t_conn *c, uint32_t side);
void t_work_node_gone(struct t_world *w, uint32_t node);
void t_work_event(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev);
bool t_work_settled(struct t_world *w, struct t_conn *c);
bool t_work_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm);
void t_work_check_memory(struct t_world *w);

#endif
