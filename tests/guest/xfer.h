/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xfer.h - what one end of a checked transfer is told and finds. Chunk i holds words that its
 * neighbours don't, so that a byte that is wrong, stale, or of another chunk is seen.
 */
#ifndef T_XFER_H
#define T_XFER_H

#include <stdbool.h>
#include <stdint.h>

struct xfer {
    const char *net;   /* "tcp", or a name that kvn_open() knows */
    const char *local; /* as kvn_config */
    const char *peer;
    const char *fault;
    uint32_t chunk; /* bytes, a multiple of 8 */
    uint32_t depth; /* chunks on the way or unchecked */
    double seconds; /* of sending */
    double within;  /* whatever happens, it is over by then */
};

#define XFER_DEPTH_MAX 64u

uint64_t xfer_now_ns(void);
/* Ends the process with a sentence. */
void xfer_die(const char *what, const char *why) __attribute__((noreturn));
const void *xfer_chunk(uint32_t bytes, uint64_t number);
/* The bytes of it that are wrong. */
uint64_t xfer_wrong(const void *chunk, uint32_t bytes, uint64_t number);
/* The sender's line; the receiver's, which ends the process with 1 if anything was wrong. */
void xfer_sent(const struct xfer *x, uint64_t chunks, uint64_t ns);
void xfer_received(const struct xfer *x, uint64_t chunks, uint64_t wrong, uint64_t twice);

void xfer_tcp(const struct xfer *x, bool listener);

#endif
