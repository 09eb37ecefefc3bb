/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.h - reads every packet as it leaves, and holds its sender to what SPEC.md lets it send:
 *
 *   it can be read; it has a number that this path hasn't used
 *   never more of the control stream, nor more bytes of slices for the first time, than the peer
 *     has told so far in a packet of its own
 *   never longer than agreed; slices inside their put, puts inside the region; copies say the same
 *   acknowledged numbers were sent; only DATA and MSG carry ECT
 *
 * threads one   memory taken once and kept   time none
 */
#ifndef T_SIM_WATCH_H
#define T_SIM_WATCH_H

#include "../../kvwire/wire.h"
#include "../../net/packet/frame.h"
#include "../../net/packet/seen.h"
#include "../../net/port/sim/sim.h"

#define T_WATCH_CONNS 512u /* by their ids; a connection has two */

/* A put as its slices show it. */
struct t_watch_put {
    struct kvn_data said;
    uint64_t counted; /* bytes of slices sent for the first time since it was last cut */
    bool sent[KVN_SLICES_MAX];
};

/* What is sent to one connection id, and what its owner has told. */
struct t_watch_conn {
    uint32_t id, peer_id;    /* peer_id 0: not known yet */
    uint32_t takes;          /* as its owner's HELLO or HELLO_ACK says */
    uint32_t payload;        /* 0: not agreed yet */
    uint64_t credit, stream; /* told by the owner of id */
    uint64_t bytes;          /* slices sent to it for the first time */
    uint64_t largest[KVN_PATHS_MAX];
    struct t_watch_put *put[KVN_PUTS_MAX];
};

struct t_watch {
    uint64_t region_bytes;
    uint32_t conns;
    struct t_watch_conn conn[T_WATCH_CONNS];
    uint64_t packets;
    char failed[200]; /* "": all is well */
};

/* *w is all zero, or was used before. */
void t_watch_begin(struct t_watch *w, uint64_t region_bytes);
/* A kvn_sim_tap_fn; never loses a packet. */
bool t_watch_packet(void *watch, const struct kvn_sim_sight *sight);

#endif
