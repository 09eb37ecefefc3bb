/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heap.h - timers, the earliest first: a binary heap of pointers to timers that lie inside whatever
 * they are for.
 *
 * threads  one      memory  the table is the caller's, fixed      time  O(log n) a change, O(1) to
 * look
 */
#ifndef KVW_BASE_HEAP_H
#define KVW_BASE_HEAP_H

#include <stdint.h>

#define KVW_TIMER_OFF UINT32_MAX

struct kvw_timer {
    uint64_t at_ns;
    uint32_t place; /* in the heap, or KVW_TIMER_OFF */
    uint32_t kind;  /* the owner's: what struct it lies in */
};

struct kvw_heap {
    struct kvw_timer **timers;
    uint32_t count, capacity;
};

static inline void kvw_timer_init(struct kvw_timer *t, uint32_t kind)
{
    t->place = KVW_TIMER_OFF;
    t->kind = kind;
    t->at_ns = UINT64_MAX;
}

/* Set, move or (UINT64_MAX) stop a timer. A new one must have room: the owner has counted. */
void kvw_heap_set(struct kvw_heap *h, struct kvw_timer *t, uint64_t at_ns);

/* The earliest time, UINT64_MAX: none. */
static inline uint64_t kvw_heap_first_ns(const struct kvw_heap *h)
{
    return h->count > 0 ? h->timers[0]->at_ns : UINT64_MAX;
}

/* Take out the earliest timer if it is due; NULL: none is. */
struct kvw_timer *kvw_heap_take(struct kvw_heap *h, uint64_t now_ns);

#endif
