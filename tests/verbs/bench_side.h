/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_side.h - one end of a verbs connection in a program for the guest: a region, an announced
 * source of the same size, and the counts of what came of the puts. One per process.
 *
 * threads  one
 * memory   the region and the source live as long as the process
 * time     bounded: who isn't joined within a minute ends the program with a sentence
 */
#ifndef BENCH_SIDE_H
#define BENCH_SIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../../kvwire/transport.h"

#define REGION     (64u << 20) /* by default */
#define STAGES     16u
#define GIVE_UP_NS 60000000000ull

struct side {
    struct kvw_transport *t;
    kvw_conn_id conn;
    uint32_t bytes; /* of region and source; 0: REGION */
    bool up, down, key_known;
    bool echo;   /* each landed put is answered by one */
    bool sleeps; /* asleep when idle */
    uint64_t landed, done, failed;
    uint8_t *times_done; /* by cookie, if not NULL: PUT_DONEs */
    uint8_t free_stage[STAGES];
    struct kvw_region_key mine, peer;
    uint8_t *region, *source;
    char why[160]; /* of the last CONN_DOWN */
};

extern struct side me;

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
_Noreturn void die(const char *what);

/* KVW_OK or KVW_E_AGAIN; anything else ends the program. cookie and imm are n. */
kvw_err put(uint64_t offset, const void *from, uint32_t bytes, uint32_t n);

/* One poll, and sleep if nothing came (for at most until_ns, if me.sleeps). */
void step_until(uint64_t until_ns);
void step(void);

void open_side(const char *local, bool listener);

/* To the listener at peer, ADDR:PORT[,...], which may not be there yet. */
void join(const char *peer);
void swap_keys(void);

/* A process of its own that listens, at once or (wait_fd >= 0) when a byte comes; it ends after its
 * first connection, and with us. */
pid_t listener(const char *local, bool answers, int wait_fd);

#endif
