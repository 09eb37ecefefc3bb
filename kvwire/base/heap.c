/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap: a parent is never later than its children. */
#include "heap.h"

#include <assert.h>
#include <stddef.h>

static void put(struct kvw_heap *h, uint32_t at, struct kvw_timer *t)
{
    h->timers[at] = t;
    t->place = at;
}

static void up(struct kvw_heap *h, uint32_t at)
{
    struct kvw_timer *t = h->timers[at];

    while (at > 0 && h->timers[(at - 1) / 2]->at_ns > t->at_ns) {
        put(h, at, h->timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(h, at, t);
}

static void down(struct kvw_heap *h, uint32_t at)
{
    struct kvw_timer *t = h->timers[at];

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child >= h->count)
            break;
        if (child + 1 < h->count && h->timers[child + 1]->at_ns < h->timers[child]->at_ns)
            ++child;
        if (h->timers[child]->at_ns >= t->at_ns)
            break;
        put(h, at, h->timers[child]);
        at = child;
    }
    put(h, at, t);
}

static void drop(struct kvw_heap *h, struct kvw_timer *t)
{
    const uint32_t at = t->place;
    struct kvw_timer *last = h->timers[--h->count];

    t->place = KVW_TIMER_OFF;
    if (last == t)
        return;
    put(h, at, last);
    up(h, at);
    down(h, last->place);
}

void kvw_heap_set(struct kvw_heap *h, struct kvw_timer *t, uint64_t at_ns)
{
    if (at_ns == t->at_ns && (t->place != KVW_TIMER_OFF) == (at_ns != UINT64_MAX))
        return;
    t->at_ns = at_ns;
    if (at_ns == UINT64_MAX) {
        if (t->place != KVW_TIMER_OFF)
            drop(h, t);
        return;
    }
    if (t->place == KVW_TIMER_OFF) {
        assert(h->count < h->capacity);
        put(h, h->count, t);
        ++h->count;
    }
    up(h, t->place);
    down(h, t->place);
}

struct kvw_timer *kvw_heap_take(struct kvw_heap *h, uint64_t now_ns)
{
    struct kvw_timer *t = h->count > 0 ? h->timers[0] : NULL;

    if (t == NULL || t->at_ns > now_ns)
        return NULL;
    drop(h, t);
    t->at_ns = UINT64_MAX;
    return t;
}
