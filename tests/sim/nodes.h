/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nodes.h - nodes of a simulated network, as the worlds of cores, batches and stages have them:
 * each a core over a packet endpoint over a simulated port. A node is polled only when its deadline
 * says so, or when a packet comes. What a world's nodes hold and do is the world's.
 *
 * threads  one
 * time     the simulator's clock
 * errors   a node that can't be opened, or that spins, fails the test
 */
#ifndef KVW_TESTS_SIM_NODES_H
#define KVW_TESTS_SIM_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "../../kvwire/core.h"
#include "../../net/port/sim/sim.h"

#define T_NODES_MAX 16u
#define MS          1000000ull
#define S           1000000000ull
#define FREED       0xdeadull /* what memory holds that nobody was lent */

struct t_node {
    uint32_t at, opened;     /* its number; how often it was opened, which is in its name */
    struct kvw_transport *t; /* NULL: down */
    const struct kvn_port *port;
    struct kvw_core *core;
    kvw_peer_id peers[T_NODES_MAX]; /* by number; 0: not up */
    uint32_t lives[T_NODES_MAX];    /* of those peers: their opened */
    uint64_t up_again_ns;
};

struct t_nodes {
    uint64_t seed, random;
    struct kvn_sim *sim;
    uint32_t count;
    struct t_node *node[T_NODES_MAX];
    bool lossy, jitters, cuts, restarts; /* drawn; jitters: packets are reordered always */
    bool calm;                           /* no more faults */
    uint64_t cut_until_ns;               /* 0: no link is cut */
};

/* A world's own way to open and close a node, and what it does with an event; self is the world. */
struct t_nodes_ops {
    void (*open)(void *self, struct t_node *n);
    void (*close)(void *self, struct t_node *n);
    void (*event)(void *self, struct t_node *n, const struct kvw_core_event *ev);
};

/* The network of a life, and what may happen in it, drawn: 2 to most nodes, none of them open. */
void t_nodes_begin(struct t_nodes *w, uint64_t seed, uint32_t most);

bool t_nodes_chance(struct t_nodes *w, uint32_t percent);

/* Opens n's endpoint and core. The caller has filled what it wants of core; path, name, instance
 * and codecs are filled here. The endpoint's seed is the life's, the node's and its opening's. */
void t_node_open(struct t_nodes *w, struct t_node *n, struct kvw_core_config *core);
/* Adds those nodes as peers that n dials: all with a higher number, and some of the others, so that
 * some pairs dial from both sides. */
void t_node_dial(struct t_nodes *w, struct t_node *n);
void t_node_close(struct t_nodes *w, struct t_node *n);

/* Hands n's events to ops->event; PEER_UP first fills peers and lives. */
void t_node_events(struct t_node *n, const struct t_nodes_ops *ops, void *self);
/* All nodes that are due, and then the time of the next, until until_ns. */
void t_nodes_run(struct t_nodes *w, uint64_t until_ns, const struct t_nodes_ops *ops, void *self);

/* Links as they are now; cut: none from or to node 0. */
void t_nodes_links(struct t_nodes *w, bool cut);
/* No more faults from now on. */
void t_nodes_calm(struct t_nodes *w);
/* A cut begins in cut_percent of the calls, and ends when its time is over. */
void t_nodes_cuts(struct t_nodes *w, uint32_t cut_percent);
/* n comes up again when its time has come, or goes down in percent of the calls. False: it did
 * neither. */
bool t_node_restarts(struct t_nodes *w, struct t_node *n, uint32_t percent,
                     const struct t_nodes_ops *ops, void *self);

/* Lives of the seeds that KVN_SIM_SEED and KVN_SIM_SEEDS ask for, or of 1 to seeds. Returns how
 * many were lived; 0: just one, by KVN_SIM_SEED. */
uint64_t t_nodes_lives(uint64_t seeds, void (*live)(uint64_t seed));

#endif
