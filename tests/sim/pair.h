/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h - two packet endpoints over a virtual network, and a workload that checks every promise
 * while it runs: messages once and in order, puts once and with the right bytes, nothing written
 * outside them. All choices come from the seed.
 */
#ifndef T_PAIR_H
#define T_PAIR_H

#include "../../net/packet/endpoint.h"
#include "../../kvwire/wire.h"
#include "../../net/port/sim/sim.h"

#define T_SLOTS      16u
#define T_SLOT_BYTES (192u * 1024)
#define T_PUTS_MAX   4096u
#define T_FILL       0xee

/* What one side does, and what it has seen. */
struct t_side {
    struct kvw_transport *t;
    kvw_conn_id conn;
    bool up, down;
    bool away; /* it doesn't poll: it computes, or was stopped */
    uint32_t ups, downs;
    kvw_err down_err;
    uint8_t *memory; /* T_SLOTS * T_SLOT_BYTES, T_FILL wherever no put is */
    struct kvw_region_key key;
    uint32_t msgs_sent, msgs_got;
    uint32_t puts_sent, puts_done, puts_landed;
    bool done[T_PUTS_MAX], landed[T_PUTS_MAX]; /* of the puts this side receives, or sends */
    uint32_t slot_of[T_PUTS_MAX];              /* of the puts this side sends */
    bool slot_busy[T_SLOTS];                   /* in the peer's memory */
    uint8_t *source;                           /* put n's bytes are a window of it */
    uint8_t *lent[T_PUTS_MAX]; /* a copy of them, which put() borrows; freed at PUT_DONE */
    uint64_t spins;
};

struct t_pair {
    uint64_t seed;
    uint64_t random; /* the workload's, apart from the network's */
    struct kvn_sim *sim;
    struct t_side side[2];
    bool eager; /* both poll whenever either does; false: only at deadline_ns() */
    uint64_t source_bytes;
    char failed[256]; /* the first broken promise; "" while all hold */
};

/* Opened, listening, connected by side 0; nothing polled yet. */
void t_pair_open(struct t_pair *p, uint64_t seed, uint32_t payload_max,
                 const struct kvn_packet_config *cfg);
/* The same with several sources a node. */
void t_pair_open_paths(struct t_pair *p, uint64_t seed, uint32_t payload_max,
                       const struct kvn_packet_config *cfg, uint32_t paths);
/* Of a side of the pairs opened from now on. */
void t_pair_trace(uint32_t side, struct kvn_trace *trace);
void t_pair_versions(uint32_t side, uint16_t set);
void t_pair_one_host(uint32_t side, bool is); /* what its port says of itself */
void t_pair_close(struct t_pair *p);

/* One side polls, now; the other doesn't. */
void t_pair_poll(struct t_pair *p, uint32_t side);
/* Each side polls if its deadline_ns() has come, arrivals among them, and never otherwise: a call
 * whose work waits for a later poll() hangs here. Then time moves to the next deadline, at most to
 * until_ns. */
void t_pair_step(struct t_pair *p, uint64_t until_ns);
/* Step until time. */
void t_pair_run(struct t_pair *p, uint64_t until_ns);

/* Queue a random message or put of that side, if there is room. */
bool t_pair_message(struct t_pair *p, uint32_t side, uint32_t bytes);
bool t_pair_put(struct t_pair *p, uint32_t side, uint32_t bytes);

/* Everything queued has arrived, and everybody knows. */
bool t_pair_settled(const struct t_pair *p);
/* No byte is anywhere it shouldn't be. Only when settled. */
void t_pair_check_memory(struct t_pair *p);

uint64_t t_pair_random(struct t_pair *p, uint64_t below);

#endif
