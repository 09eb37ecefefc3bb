/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h - how many landing slots a peer may hold at once: no more than bring anything.
 *
 * Slots are used in the order in which they were granted, so a peer that holds 64 goes through 64
 * of them in turn, and each put lands in memory that has left the cache. What is needed is the
 * rate x the time from a GRANT until a put uses it: the shortest such time of a stretch of puts.
 * Where that seems to be more than the peer has, either it is far away, or it has slots that lie
 * idle at its side, which makes the time longer: half of them tell, for a stretch.
 *
 * A peer too slow for caches to matter has its share, and so has one that has become much slower.
 *
 * threads  one      memory  the struct      time  an argument
 */
#ifndef KVW_PEER_WINDOW_H
#define KVW_PEER_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define KVW_WINDOW_MIN     4u   /* slots: a turn's chunks, KVW_CHUNKS_A_TURN */
#define KVW_WINDOW_STRETCH 32u  /* puts */
#define KVW_WINDOW_WAIT    4u   /* stretches until what has failed is tried again; doubles */
#define KVW_WINDOW_SLOW    500u /* bytes a microsecond */

struct kvw_window {        /* zeros: nothing is known yet */
    uint32_t slots;        /* that it may hold; 0: its share */
    uint32_t share;        /* told last */
    uint32_t wait, waited; /* stretches */
    bool trial, paused;
    uint64_t age_before_ns; /* trial: with twice the slots; and the rate */
    uint32_t rate_before;
    uint32_t rate; /* bytes a microsecond, of some stretches */
    uint32_t best; /* with all of its share, the lower of the last two stretches */
    uint32_t last; /* of the last one */

    /* the stretch that is under way */
    uint32_t skip; /* puts still to come into slots that were granted before it */
    uint32_t puts;
    uint64_t bytes, age_ns, began_ns, last_ns;
};

/* A put of so many bytes has landed, so long after its slot was granted. */
void kvw_window_landed(struct kvw_window *w, uint32_t bytes, uint64_t age_ns, uint64_t now_ns);
/* Nothing is asked of the peer: the time until its next put doesn't count. */
static inline void kvw_window_pause(struct kvw_window *w)
{
    w->paused = true;
}
/* How many of its share a peer is to hold. */
uint32_t kvw_window_size(struct kvw_window *w, uint32_t share);

#endif
