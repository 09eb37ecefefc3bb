/* SPDX-License-Identifier: Apache-2.0 */
/*
 * impl.h - inside the virtual network; sim.h is the contract. sim.c: life, time and settings;
 * fault.c: what happens to a packet on its link; queue.c: what is on its way to a node;
 * egress.c: the shared queue before a node; port.c: the port. Four of them call each other in a
 * circle, on purpose: each hands a packet to the next stage of its life, and the last stage, a node
 * that receives, is the first one again.
 */
#ifndef KVN_SIM_IMPL_H
#define KVN_SIM_IMPL_H

#include "sim.h"

#define KVN_SIM_NONE        UINT32_MAX
#define KVN_SIM_PACKET_BITS 20
#define KVN_SIM_HELD_MAX    128u /* packets of one link that wait to be overtaken */

/* A packet on its way, or handed out by rx() until the next one. */
struct kvn_sim_packet {
    uint8_t *bytes;
    uint32_t len;
    uint32_t next; /* free list */
    uint8_t from, from_source, from_place, from_binding;
    uint8_t to_source, to_place, to_binding;
    uint8_t ecn;
};

/* When a packet is due; order of sending breaks ties, so that runs repeat. */
struct kvn_sim_due {
    uint64_t at_ns;
    uint64_t order; /* << KVN_SIM_PACKET_BITS | packet */
};

/* Earliest first. Most packets come in order and go through the ring; the heap takes the others. */
struct kvn_sim_queue {
    struct kvn_sim_due *ring, *heap; /* as many each as packets of the network */
    uint32_t mask;
    uint32_t head, tail; /* of the ring */
    uint32_t heaps;
};

struct kvn_sim_held {
    uint32_t packet;
    uint64_t until_index; /* this packet of the link lets it go */
    uint64_t until_ns;
};

struct kvn_sim_link_state {
    struct kvn_sim_link l;
    double wire_free_ns; /* when its queue is empty */
    uint64_t index;      /* packets so far */
    bool bad;            /* in a burst */
    uint32_t helds;
    struct kvn_sim_held *held; /* KVN_SIM_HELD_MAX, once needed */
};

/* Bytes waiting, over time: powers of two in 128 parts each. */
#define KVN_SIM_HIST_SUB     128u
#define KVN_SIM_HIST_BUCKETS (26u * KVN_SIM_HIST_SUB)

struct kvn_sim_egress_state {
    struct kvn_sim_egress e;
    double wire_free_ns;
    double busy_ns;
    uint64_t since_ns;
    uint64_t sampled_ns; /* samples were taken up to here */
    uint64_t packets, bytes, dropped, marked, queue_max;
    uint64_t samples[KVN_SIM_HIST_BUCKETS];
};

struct kvn_sim_port {
    struct kvn_port base;
    struct kvn_sim *sim;
    uint32_t node;
    uint32_t out[KVN_BURST]; /* handed out by the last rx() */
    uint32_t outs;
};

struct kvn_sim_node {
    struct kvn_sim_port *port;           /* NULL: closed */
    struct kvn_sim_queue way;            /* to the egress, or to the ring if there is none */
    struct kvn_sim_egress_state *egress; /* NULL: none */
    struct kvn_sim_queue served;         /* by the egress */
    uint32_t *ring;                      /* arrived; as many */
    uint32_t ring_head, ring_tail, ring_limit;
    uint32_t tx_limit;
    int64_t clock_off_ns;
    uint8_t place;                         /* which address, kvn_sim_move() */
    uint8_t binding[KVN_PORT_SOURCES_MAX]; /* which port, kvn_sim_rebind() */
};

struct kvn_sim {
    uint64_t now_ns;
    uint64_t random;
    uint64_t order;
    uint64_t hash;
    uint32_t payload_max, payload_limit;
    uint8_t sources, family;
    uint32_t high;  /* nodes at and above were never opened nor sent to */
    uint32_t helds; /* on all links */
    kvn_sim_tap_fn tap;
    void *tap_arg;
    struct kvn_sim_stats stats;
    struct kvn_sim_node node[KVN_SIM_NODES_MAX];
    struct kvn_sim_link_state link[KVN_SIM_NODES_MAX][KVN_SIM_NODES_MAX];
    /* NULL: the link's */
    struct kvn_sim_link_state *path[KVN_SIM_NODES_MAX][KVN_SIM_NODES_MAX][KVN_PORT_SOURCES_MAX];
    uint32_t free;
    uint32_t fresh; /* packets at and above were never used */
    uint32_t packets_max;
    struct kvn_sim_packet *packets;
    uint8_t *memory;    /* of the packets' bytes */
    void *queue_memory; /* of the nodes' queues */
};

/* --- sim.c --- */

bool kvn_sim_happens(struct kvn_sim *sim, double share);
struct kvn_addr kvn_sim_addr_of(const struct kvn_sim *sim, uint32_t node, uint32_t place,
                                uint32_t source, uint32_t binding);
uint32_t kvn_sim_packet_take(struct kvn_sim *sim); /* KVN_SIM_NONE: all are in flight */
void kvn_sim_packet_give(struct kvn_sim *sim, uint32_t packet);
/* On: under AddressSanitizer, who reads past the packet's end is caught until it is off. Each
 * packet that rx() hands out is guarded until the next rx(). */
void kvn_sim_packet_guard(struct kvn_sim *sim, uint32_t packet, bool on);

/* --- queue.c --- */

void kvn_sim_queue_push(struct kvn_sim *sim, struct kvn_sim_queue *q, uint64_t at_ns,
                        uint32_t packet);
/* When the first is due; UINT64_MAX: empty. */
uint64_t kvn_sim_queue_first_ns(const struct kvn_sim_queue *q);
/* The first, which stays; not when empty. */
uint32_t kvn_sim_queue_first(const struct kvn_sim_queue *q);
/* Takes it away; not when empty. */
uint32_t kvn_sim_queue_pop(struct kvn_sim_queue *q, uint64_t *at_ns);

/* --- fault.c --- */

void kvn_sim_send(struct kvn_sim *sim, uint32_t from, const struct kvn_tx_packet *p);
/* Let go what waited too long to be overtaken; only with sim->helds > 0. */
void kvn_sim_release_held(struct kvn_sim *sim, uint32_t to);
uint64_t kvn_sim_held_ns(const struct kvn_sim *sim, uint32_t to);

/* --- egress.c --- */

/* The packet arrives at the egress; it may be lost. */
void kvn_sim_egress_take(struct kvn_sim *sim, struct kvn_sim_node *node, uint64_t at_ns,
                         uint32_t packet);
/* When the first packet of node->way would leave the egress. */
uint64_t kvn_sim_egress_leaves_ns(const struct kvn_sim *sim, const struct kvn_sim_node *node);

/* --- port.c --- */

/* Move what has arrived by now into the node's ring. */
void kvn_sim_arrive(struct kvn_sim *sim, uint32_t node);
/* When the node's next packet arrives; UINT64_MAX: none. */
uint64_t kvn_sim_node_next(const struct kvn_sim *sim, uint32_t node);

#endif
