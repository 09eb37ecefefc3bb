/* SPDX-License-Identifier: Apache-2.0 */
/* events.c - a binary heap. */
#include "events.h"

#include <stdlib.h>

static bool before(const struct kcl_event *a, const struct kcl_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->number < b->number;
}

bool kcl_events_put(struct kcl_events *e, uint64_t at_ns, enum kcl_event_kind kind, uint32_t who)
{
    const struct kcl_event ev = {at_ns, e->number, kind, who};
    uint32_t i = e->count;

    if (e->count == e->room) {
        const uint32_t room = e->room == 0 ? 1024 : e->room * 2;
        struct kcl_event *heap = realloc(e->heap, room * sizeof(*heap));

        if (heap == NULL)
            return false;
        e->heap = heap;
        e->room = room;
    }
    ++e->number;
    ++e->count;
    for (; i > 0 && before(&ev, &e->heap[(i - 1) / 2]); i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = ev;
    return true;
}

struct kcl_event kcl_events_take(struct kcl_events *e)
{
    const struct kcl_event first = e->heap[0], last = e->heap[--e->count];
    uint32_t i = 0, child;

    while ((child = 2 * i + 1) < e->count) {
        if (child + 1 < e->count && before(&e->heap[child + 1], &e->heap[child]))
            ++child;
        if (!before(&e->heap[child], &last))
            break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    if (e->count > 0)
        e->heap[i] = last;
    return first;
}

void kcl_events_free(struct kcl_events *e)
{
    free(e->heap);
    *e = (struct kcl_events){0};
}
