/* SPDX-License-Identifier: Apache-2.0 */
#include "inflight.h"

#include <assert.h>
#include <stddef.h>
#include <sys/mman.h>

/* A stretch of an ACK that is worth a record of where it ends. */
#define RUN_MIN 64u

static void set_ring(struct kvn_inflight *f, struct kvn_sent *ring, uint32_t size)
{
    f->ring = ring;
    f->mask = size - 1;
    f->half = size / 2;
    f->asking_max = size - size / 8;
}

void kvn_inflight_begin(struct kvn_inflight *f, struct kvn_sent *ring)
{
    *f = (struct kvn_inflight){.own = ring, .base = 1, .low = 1, .next = 1};
    set_ring(f, ring, KVN_SENT_FIRST);
}

void kvn_inflight_end(struct kvn_inflight *f)
{
    if (f->ring != f->own)
        munmap(f->ring, 2 * f->half * sizeof(f->ring[0]));
    set_ring(f, f->own, KVN_SENT_FIRST);
}

bool kvn_inflight_grow(struct kvn_inflight *f, uint32_t most)
{
    const uint32_t size = 4 * f->half;
    struct kvn_sent *ring;

    if (size > most)
        return false;
    ring = mmap(NULL, size * sizeof(ring[0]), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ring == MAP_FAILED)
        return false;
    for (uint64_t pn = f->base; pn < f->next; ++pn)
        ring[(pn - f->origin) & (size - 1)] = *kvn_inflight_at(f, pn);
    kvn_inflight_end(f);
    set_ring(f, ring, size);
    return true;
}

bool kvn_inflight_room(const struct kvn_inflight *f)
{
    return f->next - f->base <= f->mask;
}

uint64_t kvn_inflight_add(struct kvn_inflight *f, const struct kvn_sent *sent)
{
    assert(kvn_inflight_room(f));
    /* A side that only acknowledges gets no ACK itself, so nothing else would move base: neither
     * past what is settled, nor past a lost one that half a ring of ACKs has followed. */
    if (f->packets == 0) {
        while (f->base < f->next && (kvn_inflight_at(f, f->base)->state != KVN_SENT_LOST ||
                                     f->next - f->base >= f->half))
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

/* The range is named again in each ACK until its packets are below base. What was settled by the
 * one before is a single step: where it began, it says where it ended. */
static void run(struct kvn_inflight *f, uint64_t first, uint64_t end)
{
    struct kvn_sent *s = kvn_inflight_at(f, first);

    if (s->state == KVN_SENT_ARRIVED || s->state == KVN_SENT_RUN) {
        s->what = s->state == KVN_SENT_RUN && s->what > end ? s->what : end;
        s->state = KVN_SENT_RUN;
    }
}

void kvn_inflight_ack(struct kvn_inflight *f, const struct kvn_range *range,
                      const struct kvn_inflight_events *ev, void *arg)
{
    const uint64_t first = range->first > f->base ? range->first : f->base;

    assert(range->end <= f->next);
    if (range->end - 1 > f->largest_acked)
        f->largest_acked = range->end - 1;
    for (uint64_t pn = first; pn < range->end; ++pn) {
        struct kvn_sent *s = kvn_inflight_at(f, pn);

        if (s->state == KVN_SENT_FLYING) {
            land(f, s);
            s->state = KVN_SENT_ARRIVED;
            ev->arrived(arg, s, pn, false);
        } else if (s->state == KVN_SENT_LOST) {
            s->state = KVN_SENT_ARRIVED;
            ev->arrived(arg, s, pn, true);
        } else if (s->state == KVN_SENT_RUN) {
            pn = s->what - 1;
        }
    }
    if (first + RUN_MIN < range->end)
        run(f, first, range->end);
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

uint64_t kvn_inflight_oldest(struct kvn_inflight *f)
{
    uint64_t pn = kvn_inflight_low(f);

    while (pn < f->next && kvn_inflight_at(f, pn)->state != KVN_SENT_FLYING)
        ++pn;
    f->low = pn;
    return f->packets > 0 ? pn : 0;
}

void kvn_inflight_trim(struct kvn_inflight *f, uint64_t keep_ns)
{
    uint64_t pn = f->base;

    /* Near the end of the ring a packet that may still come in late is not worth its record. */
    for (; pn < f->next; ++pn) {
        const struct kvn_sent *s = kvn_inflight_at(f, pn);

        if (s->state == KVN_SENT_FLYING)
            break;
        if (s->state == KVN_SENT_LOST && s->sent_ns >= keep_ns && f->next - pn < f->half)
            break;
    }
    f->base = pn;
}
