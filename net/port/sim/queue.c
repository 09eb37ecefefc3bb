/* SPDX-License-Identifier: Apache-2.0 */
#include "impl.h"

_Static_assert(KVN_SIM_PACKETS_MAX <= 1u << KVN_SIM_PACKET_BITS,
               "a packet's number fits beside its order");

static bool earlier(const struct kvn_sim_due *a, const struct kvn_sim_due *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static bool ring_empty(const struct kvn_sim_queue *q)
{
    return q->head == q->tail;
}

/* The ring's first is the queue's. */
static bool ring_first(const struct kvn_sim_queue *q)
{
    return !ring_empty(q) && (q->heaps == 0 || earlier(&q->ring[q->head & q->mask], &q->heap[0]));
}

static void heap_push(struct kvn_sim_queue *q, const struct kvn_sim_due *d)
{
    struct kvn_sim_due *h = q->heap;
    uint32_t i = q->heaps++;

    for (; i > 0 && earlier(d, &h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = *d;
}

static void heap_pop(struct kvn_sim_queue *q)
{
    struct kvn_sim_due *h = q->heap;
    const uint32_t n = --q->heaps;
    const struct kvn_sim_due last = h[n];
    uint32_t i = 0;

    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && earlier(&h[child + 1], &h[child]))
            ++child;
        if (!earlier(&h[child], &last))
            break;
        h[i] = h[child];
    }
    h[i] = last;
}

void kvn_sim_queue_push(struct kvn_sim *sim, struct kvn_sim_queue *q, uint64_t at_ns,
                        uint32_t packet)
{
    const struct kvn_sim_due d = {at_ns, sim->order++ << KVN_SIM_PACKET_BITS | packet};

    if (ring_empty(q) || !earlier(&d, &q->ring[(q->tail - 1) & q->mask]))
        q->ring[q->tail++ & q->mask] = d;
    else
        heap_push(q, &d);
}

uint64_t kvn_sim_queue_first_ns(const struct kvn_sim_queue *q)
{
    if (ring_first(q))
        return q->ring[q->head & q->mask].at_ns;
    return q->heaps > 0 ? q->heap[0].at_ns : UINT64_MAX;
}

uint32_t kvn_sim_queue_first(const struct kvn_sim_queue *q)
{
    const struct kvn_sim_due *d = ring_first(q) ? &q->ring[q->head & q->mask] : &q->heap[0];

    return (uint32_t)(d->order & ((1u << KVN_SIM_PACKET_BITS) - 1));
}

uint32_t kvn_sim_queue_pop(struct kvn_sim_queue *q, uint64_t *at_ns)
{
    const uint32_t packet = kvn_sim_queue_first(q);

    *at_ns = kvn_sim_queue_first_ns(q);
    if (!ring_first(q))
        heap_pop(q);
    else if (++q->head == q->tail)
        q->head = q->tail = 0; /* so that few pages are ever touched */
    return packet;
}
