/* SPDX-License-Identifier: Apache-2.0 */
/*
 * side.h - for tests: a prefill or decode node whose pool lies in the VRAM of the stand-in, and
 * whose layers are ordered by streams and events alone. Each side runs in a process of its own, or
 * in a thread; it asserts nothing, it returns the number of the step that failed.
 */
#ifndef GPU_SIDE_H
#define GPU_SIDE_H

#include <stdbool.h>
#include <stdint.h>

enum side_stop {
    SIDE_RUNS = 0,
    SIDE_STOPS,     /* after its first layer: tell, and wait to be killed */
    SIDE_SURVIVES,  /* the other one is killed: the transfer must fail, and all be given back */
    SIDE_HOST_POOL, /* says that its VRAM is host memory */
};

struct side_args {
    const char *transport, *local, *peer; /* peer: prefill's */
    unsigned seed;                        /* of the stand-in's order; 0: leave it */
    enum side_stop stop;
    bool unordered; /* prefill pushes without push_after(), decode reads without layer_wait() */
    bool shared;    /* both sides are in this process: what is live isn't this side's alone */
    bool twins;     /* streams by the peer's GPU memory, where the peer lets that be */
    bool chosen;    /* no codec is named */
    bool
        into_host; /* decode's pool lies in host memory, and so no stream can wait for its layers */
    int tell;      /* descriptor: a byte is written when it stops; -1: none */
};

#define SIDE_BYTES_DIFFER 50
#define SIDE_LOST         51 /* the other was silent for dead_ms: the machine has no time for it */

/* 0, SIDE_BYTES_DIFFER (decode), SIDE_LOST, or the step that failed, with a sentence on stderr. */
int side_prefill(const struct side_args *a);
int side_decode(const struct side_args *a);

/* A CPU that reads VRAM; doesn't return. */
int side_touch(void);

#endif
