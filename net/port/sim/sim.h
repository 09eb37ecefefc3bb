/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - a virtual network with a virtual clock: nodes 0 .. KVN_SIM_NODES_MAX - 1 that reach each
 * other over links which delay, reorder, queue, lose, repeat, damage and mark, all from one seed.
 * The same seed and the same calls give the same run, bit for bit; kvn_sim_hash() tells.
 *
 *     node a --link a,b: rate, queue, faults, delay--> [egress of b: shared rate, buffer, CE marks]
 *            --> [b's receive ring] --> b's rx()
 *
 * threads  one for a network and all its ports
 * memory   the network owns every packet in flight, up to KVN_SIM_PACKETS, or as many as it was
 *          opened for; more are lost
 * time     kvn_sim_now(); it only moves in kvn_sim_advance() and in a port's calls. Each node has a
 *          clock of its own, kvn_sim_clock(), which is kvn_sim_now() until it is stepped
 *
 * Node n has the address 10.0.0.(n+1), or fd00::(n+1), and its source s the UDP port 9000 + s,
 * until it moves or is bound anew. A port may be closed and its node opened again: what comes while
 * it is closed is lost, what comes later reaches the new port, as on a real network.
 */
#ifndef KVN_SIM_H
#define KVN_SIM_H

#include "../../net.h"
#include "../port.h"

#define KVN_SIM_NODES_MAX   32u
#define KVN_SIM_PACKETS     16384u
#define KVN_SIM_PACKETS_MAX (1u << 20)

/* One direction between two nodes. Shares are 0 .. 1; 0 or false always means: no such thing. */
struct kvn_sim_link {
    uint64_t delay_ns;
    uint64_t jitter_ns;   /* added to delay, uniform: more than a packet's own time reorders */
    uint64_t bytes_per_s; /* 0: unlimited */
    uint32_t queue_bytes; /* waiting for the wire; what doesn't fit is lost. 0: unlimited */
    uint32_t ecn_bytes; /* a packet that finds more waiting than this is marked CE, if it may be */
    double loss, dup, corrupt, truncate;
    uint64_t dup_ns; /* the copy comes up to so much later; 0: up to delay_ns */
    /* Bursts of loss (Gilbert and Elliott): a bad state, entered and left with these shares per
     * packet, in which this much is lost instead of `loss`. */
    double burst_begin, burst_end, burst_loss;
    /* Exactly these: packet drop_first + i of the link, counted from 0, is lost if bit i is set. */
    uint64_t drop_first, drop_mask;
    double reorder; /* share held back by another reorder_ns */
    uint64_t reorder_ns;
    double overtake; /* share held back until 1 .. overtake_packets later ones have passed it; */
    uint32_t overtake_packets; /* after KVN_SIM_HELD_NS it comes anyway */
    uint32_t payload_limit;    /* longer packets vanish without a word: a black hole */
    double mark;               /* share marked CE, if it may be */
    bool bleach;               /* every mark and every right to be marked is taken away */
    bool cut;                  /* partition: everything is lost */
};

#define KVN_SIM_HELD_NS 1000000ull

/* What all packets to one node go through last: the switch's port to it. */
struct kvn_sim_egress {
    uint64_t bytes_per_s;  /* 0: no such queue */
    uint32_t buffer_bytes; /* 0: unlimited */
    uint32_t ecn_bytes;    /* as in kvn_sim_link */
};

/* Since kvn_sim_egress() or kvn_sim_egress_reset(). */
struct kvn_sim_egress_stats {
    uint64_t packets, bytes; /* through */
    uint64_t dropped, marked;
    double busy;                              /* share of the time that the wire was sending */
    uint64_t queue_p50, queue_p99, queue_max; /* bytes waiting, over time; within 1 % */
};

struct kvn_sim_stats {
    uint64_t sent, delivered, lost, duplicated, corrupted;
    uint64_t overflowed;  /* lost because as many as it holds were in flight */
    uint64_t ring_full;   /* lost because the node's receive ring was full */
    uint64_t unreachable; /* lost because the node was closed or had moved */
    uint64_t marked;
};

/* A packet about to be sent, for kvn_sim_tap(). */
struct kvn_sim_sight {
    uint32_t from, to;
    uint8_t source; /* the sender's */
    uint64_t index; /* of this link's packets, from 0 */
    const struct kvn_tx_packet *packet;
};

struct kvn_sim; /* opaque */

/* NULL: no memory. payload_max: of every port. */
struct kvn_sim *kvn_sim_open(uint64_t seed, uint32_t payload_max);
/* The same, for so many packets in flight; a power of two, at most KVN_SIM_PACKETS_MAX. */
struct kvn_sim *kvn_sim_open_for(uint64_t seed, uint32_t payload_max, uint32_t packets);
/* Its ports are closed before. Takes NULL. */
void kvn_sim_close(struct kvn_sim *sim);

/* Applies to packets sent from now on, from every source of `from`; they share one wire. */
void kvn_sim_link(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_sim_link *l);
/* The same, between every two nodes. */
void kvn_sim_links(struct kvn_sim *sim, const struct kvn_sim_link *l);
/* From one source alone, with a wire of its own, from then on: one path of several. */
void kvn_sim_path(struct kvn_sim *sim, uint32_t from, uint32_t to, uint32_t source,
                  const struct kvn_sim_link *l);

/* Put a queue before a node; its figures begin anew. */
void kvn_sim_egress(struct kvn_sim *sim, uint32_t node, const struct kvn_sim_egress *e);
void kvn_sim_egress_stats(struct kvn_sim *sim, uint32_t node, struct kvn_sim_egress_stats *stats);
void kvn_sim_egress_reset(struct kvn_sim *sim, uint32_t node);

/* UDP ports of each port opened from now on, 1 .. KVN_PORT_SOURCES_MAX; 1 at first. */
void kvn_sim_sources(struct kvn_sim *sim, uint32_t n);
/* Addresses from now on: 4 or 6. Before any port is opened. */
void kvn_sim_family(struct kvn_sim *sim, uint8_t family);

/* The node's port; its default_peer is node 1 for node 0, node 0 for the others. One at a time a
 * node. KVW_E_INVALID: no such node, or it is open. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvn_sim_port_open(struct kvn_port **port, struct kvn_sim *sim, uint32_t node);

/* Of source 0. */
struct kvn_addr kvn_sim_addr(const struct kvn_sim *sim, uint32_t node);
/* The node gets another address (10.1.0.(n+1) and so on), as behind a NAT that forgot; what is on
 * its way to the old one is lost. */
void kvn_sim_move(struct kvn_sim *sim, uint32_t node);
/* The same of one of its UDP ports alone: a NAT binds it anew, KVN_PORT_SOURCES_MAX higher. */
void kvn_sim_rebind(struct kvn_sim *sim, uint32_t node, uint32_t source);

uint64_t kvn_sim_now(const struct kvn_sim *sim);
/* When the next packet arrives anywhere; UINT64_MAX: none is on its way. */
uint64_t kvn_sim_next(const struct kvn_sim *sim);
/* Let time pass. Never backwards: an earlier time changes nothing. */
void kvn_sim_advance(struct kvn_sim *sim, uint64_t to_ns);

/* What the node takes for the time: pass this to its endpoint, and turn its deadlines back with
 * kvn_sim_clock_to_sim(). */
uint64_t kvn_sim_clock(const struct kvn_sim *sim, uint32_t node);
/* UINT64_MAX stays that; what has passed is now or earlier. */
uint64_t kvn_sim_clock_to_sim(const struct kvn_sim *sim, uint32_t node, uint64_t clock_ns);
/* The node's clock jumps, forwards or back. */
void kvn_sim_clock_step(struct kvn_sim *sim, uint32_t node, int64_t by_ns);

/* The ports' tx takes at most n packets a call from now on; UINT32_MAX: all. Of all, or of one:
 * its send ring or packet pool is exhausted. */
void kvn_sim_tx_limit(struct kvn_sim *sim, uint32_t n);
void kvn_sim_tx_limit_of(struct kvn_sim *sim, uint32_t node, uint32_t n);

/* Packets that wait for the node's rx(), 0: any number; more are lost. */
void kvn_sim_rx_ring(struct kvn_sim *sim, uint32_t node, uint32_t packets);

/* Longer packets vanish on the way from now on, on every link: a path with a smaller MTU. */
void kvn_sim_payload_limit(struct kvn_sim *sim, uint32_t bytes);

/* The open node's own interface carries so much from now on, and its port says so. At most
 * kvn_sim_open()'s. */
void kvn_sim_payload_max(struct kvn_sim *sim, uint32_t node, uint32_t bytes);

/* Asked for every packet that is sent, before anything happens to it: false loses it. NULL: no
 * more. Must not call back into the network or a port. */
typedef bool (*kvn_sim_tap_fn)(void *arg, const struct kvn_sim_sight *sight);
void kvn_sim_tap(struct kvn_sim *sim, kvn_sim_tap_fn tap, void *arg);

/* A random number of the network's own, for tests that want their choices on the same seed. */
uint64_t kvn_sim_random(struct kvn_sim *sim);

void kvn_sim_stats(const struct kvn_sim *sim, struct kvn_sim_stats *stats);

/* Over every packet handed out so far: when, where to, how long, its first 24 bytes. Two runs with
 * the same hash were the same. */
uint64_t kvn_sim_hash(const struct kvn_sim *sim);

#endif
