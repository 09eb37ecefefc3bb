/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h - one node on each side, joined: what one codec's transfers go over. A run has a lane for
 * each codec, so that rows take turns and none waits for a connection.
 *
 * threads  one uses a lane; its node has a thread of its own
 * memory   open takes a node, close gives it back. The cache outlives it
 * time     opening waits KVP_UP_NS at most
 */
#ifndef KVP_LANE_H
#define KVP_LANE_H

#include "cache.h"

#define KVP_UP_NS 15000000000ull

struct kvp_lane {
    struct kvw_node *node;
    kvw_pool_id pool;
    kvw_peer_id peer; /* the last that came */
    kvw_peer_id peers[KVP_TP_MAX];
    uint32_t peer_count, wanted; /* shards of the other side */
    bool up;                     /* all that are wanted */
    char why_down[KVP_WHY];      /* the last reason that was heard */
    char path[KVP_WHY];          /* what the transport says about itself, may be empty */
};

struct kvp_lane_config {
    const char *net, *local, *fault;
    const char *name;
    uint32_t codec, encoders;
    uint32_t peers; /* that it will have; 0: 1 */
    bool listen, busy_poll;
};

/* Open the node and tell it of the cache (NULL: none); nobody is connected yet. False: why, nothing
 * is kept. */
bool kvp_lane_open(struct kvp_lane *l, const struct kvp_lane_config *cfg,
                   const struct kvp_cache *cache, char why[KVP_WHY]);
/* Dial; address NULL: the link's only peer. */
bool kvp_lane_dial(struct kvp_lane *l, const char *address, char why[KVP_WHY]);
/* Wait until the peer is up. False: why. */
bool kvp_lane_wait_up(struct kvp_lane *l, char why[KVP_WHY]);
void kvp_lane_close(struct kvp_lane *l);

/* Take the next event. Comings and goings of the peer are noted on the way. */
bool kvp_lane_event(struct kvp_lane *l, struct kvw_core_event *ev);

#endif
