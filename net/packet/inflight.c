/* SPDX-License-Identifier: Apache-2.0 */
#include "inflight.h"

#include <assert.h>

void kvn_inflight_begin(struct kvn_inflight *f, struct kvn_sent *ring)
{
    *f = (struct kvn_inflight){.ring = ring, .base = 1, .next = 1};
}

bool kvn_inflight_room(const struct kvn_inflight *f)
{
    return f->next - f->base < KVN_SENT_MAX;
}

uint64_t kvn_inflight_add(struct kvn_inflight *f, const struct kvn_sent *sent)
{
    assert(kvn_inflight_room(f));
    /* A side that only acknowledges gets no ACK itself, so nothing else would move base. */
    if (f->packets == 0) {
        while (f->base < f->next && (kvn_inflight_at(f, f->base)->state == KVN_SENT_QUIET ||
                                     kvn_inflight_at(f, f->base)->state == KVN_SENT_ARRIVED))
            ++f->base;
        if (f->base == f->next)
            f->origin = f->next;
    }
    *kvn_inflight_at(f, f->next) = *sent;
    if (sent->state == KVN_SENT_FLYING) {
        f->bytes += sent->bytes;
        ++f->packets;
        f->last_asking_ns = sent->sent_ns;
    }
    return f->next++;
}

static void land(struct kvn_inflight *f, const struct kvn_sent *s)
{
    assert(f->packets > 0 && f->bytes >= s->bytes);
    f->bytes -= s->bytes;
    --f->packets;
}

void kvn_inflight_ack(struct kvn_inflight *f, const struct kvn_range *range,
                      const struct kvn_inflight_events *ev, void *arg)
{
    assert(range->end <= f->next);
    if (range->end - 1 > f->largest_acked)
        f->largest_acked = range->end - 1;
    for (uint64_t pn = range->first > f->base ? range->first : f->base; pn < range->end; ++pn) {
        struct kvn_sent *s = kvn_inflight_at(f, pn);

        if (s->state == KVN_SENT_FLYING) {
            land(f, s);
            s->state = KVN_SENT_ARRIVED;
            ev->arrived(arg, s, pn, false);
        } else if (s->state == KVN_SENT_LOST) {
            s->state = KVN_SENT_ARRIVED;
            ev->arrived(arg, s, pn, true);
        }
    }
}

void kvn_inflight_lose(struct kvn_inflight *f, uint64_t pn, const struct kvn_inflight_events *ev,
                       void *arg)
{
    struct kvn_sent *s = kvn_inflight_at(f, pn);

    assert(s->state == KVN_SENT_FLYING);
    land(f, s);
    s->state = KVN_SENT_LOST;
    ev->lost(arg, s);
}

uint64_t kvn_inflight_oldest(const struct kvn_inflight *f)
{
    if (f->packets > 0)
        for (uint64_t pn = f->base; pn < f->next; ++pn)
            if (kvn_inflight_at(f, pn)->state == KVN_SENT_FLYING)
                return pn;
    return 0;
}

void kvn_inflight_trim(struct kvn_inflight *f, uint64_t keep_ns)
{
    /* Near the end of the ring a packet that may still come in late is not worth its record. */
    while (f->base < f->next) {
        const struct kvn_sent *s = kvn_inflight_at(f, f->base);

        if (s->state == KVN_SENT_FLYING)
            return;
        if (s->state == KVN_SENT_LOST && s->sent_ns >= keep_ns &&
            f->next - f->base < KVN_SENT_MAX / 2)
            return;
        ++f->base;
    }
}
