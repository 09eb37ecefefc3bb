/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - a virtual network with a virtual clock: nodes 0 .. KVN_SIM_NODES_MAX - 1 that reach each
 * other over links which delay, reorder, queue, lose, repeat and corrupt, all from one seed. The
 * same seed and the same calls give the same run, bit for bit.
 *
 * threads  one for a network and all its ports
 * memory   the network owns every packet in flight, up to KVN_SIM_PACKETS_MAX; more are lost
 * time     kvn_sim_now(); it only moves in kvn_sim_advance() and in a port's wait()
 *
 * Node n has the address 10.0.0.(n+1):9000. A port may be closed and its node opened again: what
 * was on its way to it arrives at the new port, as on a real network.
 */
#ifndef KVN_SIM_H
#define KVN_SIM_H

#include "../net.h"
#include "port.h"

#define KVN_SIM_NODES_MAX   16u
#define KVN_SIM_PACKETS_MAX 16384u

/* One direction between two nodes. Shares are 0 .. 1. */
struct kvn_sim_link {
    uint64_t delay_ns;
    uint64_t jitter_ns;   /* added to delay, uniform: more than a packet's own time reorders */
    uint64_t bytes_per_s; /* 0: unlimited */
    uint32_t queue_bytes; /* waiting for the wire; what doesn't fit is lost. 0: unlimited */
    double loss, dup, corrupt, truncate;
    double reorder; /* share held back by another reorder_ns */
    uint64_t reorder_ns;
    bool cut; /* partition: everything is lost */
};

struct kvn_sim_stats {
    uint64_t sent, delivered, lost, duplicated, corrupted, overflowed;
};

struct kvn_sim; /* opaque */

/* NULL: no memory. payload_max: of every port. */
struct kvn_sim *kvn_sim_open(uint64_t seed, uint32_t payload_max);
/* Its ports are closed before. Takes NULL. */
void kvn_sim_close(struct kvn_sim *sim);

/* Applies to packets sent from now on. */
void kvn_sim_link(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_sim_link *l);
/* The same, between every two nodes. */
void kvn_sim_links(struct kvn_sim *sim, const struct kvn_sim_link *l);

/* The node's port; its default_peer is node 1 for node 0, node 0 for the others. One at a time a
 * node. KVW_E_INVALID: no such node, or it is open. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvn_sim_port_open(struct kvn_port **port, struct kvn_sim *sim, uint32_t node);

uint64_t kvn_sim_now(const struct kvn_sim *sim);
/* When the next packet arrives anywhere; UINT64_MAX: none is on its way. */
uint64_t kvn_sim_next(const struct kvn_sim *sim);
/* Let time pass. Never backwards: an earlier time changes nothing. */
void kvn_sim_advance(struct kvn_sim *sim, uint64_t to_ns);

/* The ports' tx takes at most n packets a call from now on; UINT32_MAX: all. */
void kvn_sim_tx_limit(struct kvn_sim *sim, uint32_t n);

/* Longer packets vanish on the way from now on, without a word: a path with a smaller MTU. */
void kvn_sim_payload_limit(struct kvn_sim *sim, uint32_t bytes);

/* A random number of the network's own, for tests that want their choices on the same seed. */
uint64_t kvn_sim_random(struct kvn_sim *sim);

void kvn_sim_stats(const struct kvn_sim *sim, struct kvn_sim_stats *stats);

#endif
