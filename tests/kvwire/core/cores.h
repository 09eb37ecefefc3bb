/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cores.h - several cores on the simulated network, for tests: each polls only when its deadline
 * says so or a packet has come, its events are taken after each poll and written down.
 *
 * Whatever should have happened and hasn't fails the test at once, with both sides' last texts.
 */
#ifndef T_CORES_H
#define T_CORES_H

#include "../../../kvwire/core.h"
#include "../../../net/port/port.h"
#include "../../../net/port/sim/sim.h"
#include "state.h"

#define T_CORES_MAX 17u
#define T_DONES_MAX 256u
#define T_MS        1000000ull
#define T_S         1000000000ull

struct t_done {
    kvw_xfer_ref xfer;
    struct kvw_core_event ev;
};

struct t_core {
    struct kvw_transport *t; /* NULL: down */
    const struct kvn_port *port;
    struct kvw_core *core;
    struct t_state state;
    kvw_pool_id pool;
    uint32_t lives;
    bool deaf; /* its events aren't taken */
    /* what it has reported */
    uint32_t up, lost, offered, sent, ready, dones, pools;
    kvw_peer_id last_up, last_offered_by, last_pool_of;
    kvw_key last_offered;
    kvw_err lost_err;
    uint64_t up_ns, done_ns;
    uint32_t gone; /* STAGE_GONE */
    struct kvw_core_event last_gone;
    char up_text[257], lost_text[257];
    struct t_done done[T_DONES_MAX];
};

struct t_cores {
    struct kvn_sim *sim;
    uint32_t count;
    struct t_core node[T_CORES_MAX];
};

void t_cores_init(struct t_cores *c, uint32_t count, uint64_t seed);
/* What cfg leaves 0 is filled in: the path, an instance of 100 + at, a name, codecs, raw. */
void t_core_open(struct t_cores *c, uint32_t at, const struct kvw_core_config *cfg);
void t_core_close(struct t_cores *c, uint32_t at, bool silent); /* silent: as if it had crashed */
void t_cores_end(struct t_cores *c);                            /* closes all, frees states */

void t_core_add_pool(struct t_cores *c, uint32_t at);
kvw_peer_id t_core_dial(struct t_cores *c, uint32_t from, uint32_t to);
/* The peer that node `of` is to node `at`; 0: not up. */
kvw_peer_id t_core_peer(struct t_cores *c, uint32_t at, uint32_t of);
/* Dial and wait until both are up. */
void t_core_join(struct t_cores *c, uint32_t from, uint32_t to);
void t_cores_cut(struct t_cores *c, uint32_t a, uint32_t b, bool cut);

void t_cores_run(struct t_cores *c, uint64_t ns);
uint64_t t_cores_now(const struct t_cores *c);
/* Its outcome, NULL: it hasn't ended. */
const struct kvw_core_event *t_core_done(const struct t_core *n, kvw_xfer_ref xfer);
/* Ended with err, else the test fails. */
void t_core_expect_done(const struct t_core *n, kvw_xfer_ref xfer, kvw_err err);

#endif
