/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fiber.h - inside the harness: fibers, who runs next, and the blocks that they belong to.
 *
 *   ready --drawn by simt_run_one()--> running --simt_wait()--> waiting --simt_wake()--> ready
 *                                      running --simt_give_way()--> ready
 *                                      running --its body ends--> done
 */
#ifndef SIMT_FIBER_H
#define SIMT_FIBER_H

#include <functional>

#include "launch.h"

#define SIMT_STACK_BYTES (256u << 10)
#define SIMT_MEETINGS    8u
#define SIMT_SPINS_MAX   500000u

/* Lanes of one warp that meet under one mask; two turns, as one may come again before all have
 * left. */
struct simt_meeting {
    uint32_t mask, arrived, unread, vote[2];
    unsigned turn;
    simt_place at;
    uint64_t value[2][32];
    uint32_t clock[2][32]; /* race.cpp's */
};
struct simt_warp {
    simt_meeting of[SIMT_MEETINGS];
};
struct simt_block {
    unsigned index, alive, waiting;
    simt_place at; /* the barrier that `waiting` threads are in */
    unsigned char *shared;
    simt_warp *warps;
};
struct simt_fiber {
    simt_here here;
    simt_block *in; /* NULL: done */
    void *sp, *asan;
    bool waits;
};

/* The fiber that runs; only from within one. */
simt_fiber *simt_self(void);
/* Fiber `index` of the block in `slot`. */
simt_fiber *simt_fiber_of(unsigned slot, unsigned index);

/* slots blocks of `threads` each, all of whose fibers run body. */
void simt_fibers_begin(unsigned slots, unsigned threads, uint64_t seed,
                       const std::function<void()> *body);
void simt_fiber_start(simt_fiber *f, simt_block *in, const simt_here &here);
bool simt_any_ready(void);
/* Run a ready fiber until it gives way, waits or is done; returns it. */
simt_fiber *simt_run_one(void);

void simt_wait(void);
void simt_wake(simt_fiber *f);
uint64_t simt_draw(void);
bool simt_is_drawn(void);

/* meet.cpp: let everybody at the block's barrier go on. */
void simt_release_barrier(simt_block *b, unsigned slot, unsigned threads);

extern simt_counts simt_count;
#endif
