/* SPDX-License-Identifier: Apache-2.0 */
#include "steer.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "../packet/wire.h"

#define LINE 64

/* From one queue to another. Slots [head, tail) are full; the reader lends them out before it gives
 * them back by moving head. */
struct ring {
    _Alignas(LINE) _Atomic uint32_t head; /* the reader's */
    _Alignas(LINE) _Atomic uint32_t tail; /* the writer's */
    _Alignas(LINE) struct kvn_rx_packet packet[KVN_STEER_SLOTS];
    uint8_t *bytes; /* KVN_STEER_SLOTS times stride */
};

struct steer_port {
    struct kvn_port port; /* first */
    struct kvn_port *inner;
    struct kvn_steer *steer;
    uint32_t queue;
    uint32_t turn;                 /* whose ring to look at first */
    uint32_t lent[KVN_QUEUES_MAX]; /* slots of the ring from there that the last rx() handed out */
    _Atomic uint64_t forwarded, received, dropped; /* written by the queue's thread alone */
};

struct kvn_steer {
    uint32_t queues;
    uint32_t stride; /* bytes of a slot */
    void (*wake)(void *arg, uint32_t queue);
    void *arg;
    struct steer_port port[KVN_QUEUES_MAX];
    uint8_t *memory;
    struct ring ring[]; /* [from * queues + to] */
};

static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static struct ring *ring_between(struct kvn_steer *s, uint32_t from, uint32_t to)
{
    return &s->ring[from * s->queues + to];
}

/* A copy of packet for another queue. */
static void forward(struct steer_port *p, uint32_t to, const struct kvn_rx_packet *packet)
{
    struct kvn_steer *s = p->steer;
    struct ring *r = ring_between(s, p->queue, to);
    const uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    const uint32_t slot = tail % KVN_STEER_SLOTS;
    uint8_t *const bytes = r->bytes + (size_t)slot * s->stride;

    if (packet->len > s->stride ||
        tail - atomic_load_explicit(&r->head, memory_order_acquire) == KVN_STEER_SLOTS) {
        count(&p->dropped);
        return;
    }
    memcpy(bytes, packet->bytes, packet->len);
    r->packet[slot] = *packet;
    r->packet[slot].bytes = bytes;
    /* In order with the reader's look at whether it sleeps (wake): either it sees this packet, or
     * we see that it sleeps. */
    atomic_store(&r->tail, tail + 1);
    count(&p->forwarded);
}

/* The queue whose packet it is; queues: everybody's. */
static uint32_t owner(const struct steer_port *p, const struct kvn_rx_packet *packet)
{
    const uint8_t *b = packet->bytes;
    uint32_t type;

    if (packet->len < KVN_HEADER_BYTES)
        return p->queue; /* whoever gets it drops it */
    type = b[0] & 0xfu;
    if (type == KVN_PACKET_HELLO) /* by its source, as the kernel's filter does */
        return packet->len < KVN_GREETING_BYTES + 4
                   ? p->queue
                   : kvn_steer_queue(kvw_load_le32(b + KVN_GREETING_BYTES), p->steer->queues);
    if (type == KVN_PACKET_RESET)
        return p->steer->queues;
    return kvn_steer_queue(kvw_load_le32(b + 4), p->steer->queues);
}

/* Keep what is this queue's, in its order, and send the rest on. Returns how many are kept. */
static uint32_t sort(struct steer_port *p, struct kvn_rx_packet *packets, uint32_t count_in)
{
    const uint32_t queues = p->steer->queues;
    uint32_t kept = 0, woken = 0;

    for (uint32_t i = 0; i < count_in; ++i) {
        const uint32_t to = owner(p, &packets[i]);

        for (uint32_t q = 0; q < queues; ++q)
            if (q != p->queue && (to == q || to == queues)) {
                forward(p, q, &packets[i]);
                woken |= 1u << q;
            }
        if (to == p->queue || to == queues)
            packets[kept++] = packets[i];
    }
    for (uint32_t q = 0; woken != 0; ++q, woken >>= 1)
        if (woken & 1)
            p->steer->wake(p->steer->arg, q);
    return kept;
}

/* Packets that other queues sent on. */
static uint32_t from_rings(struct steer_port *p, struct kvn_rx_packet *packets, uint32_t max)
{
    struct kvn_steer *s = p->steer;
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->queues && n < max; ++i) {
        const uint32_t from = (p->turn + i) % s->queues;
        struct ring *r = ring_between(s, from, p->queue);
        const uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
        const uint32_t full = atomic_load_explicit(&r->tail, memory_order_acquire) - head;

        for (; n < max && p->lent[from] < full; ++p->lent[from]) {
            packets[n++] = r->packet[(head + p->lent[from]) % KVN_STEER_SLOTS];
            count(&p->received);
        }
    }
    p->turn = (p->turn + 1) % s->queues;
    return n;
}

static void give_back(struct steer_port *p)
{
    for (uint32_t from = 0; from < p->steer->queues; ++from) {
        struct ring *r = ring_between(p->steer, from, p->queue);

        if (p->lent[from] == 0)
            continue;
        atomic_store_explicit(&r->head,
                              atomic_load_explicit(&r->head, memory_order_relaxed) + p->lent[from],
                              memory_order_release);
        p->lent[from] = 0;
    }
}

static void mirror(struct steer_port *p)
{
    p->port.payload_max = p->inner->payload_max;
    p->port.tx_errors = p->inner->tx_errors;
}

static uint32_t steer_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                         uint32_t max)
{
    struct steer_port *p = (struct steer_port *)port;
    uint32_t n, got;

    give_back(p);
    /* Half at most, so that neither way can hold the other up. */
    n = from_rings(p, packets, (max + 1) / 2);
    got = max > n ? p->inner->ops->rx(p->inner, now_ns, packets + n, max - n) : 0;
    mirror(p);
    return n + sort(p, packets + n, got);
}

static uint32_t steer_tx(struct kvn_port *port, uint64_t now_ns,
                         const struct kvn_tx_packet *packets, uint32_t count_out)
{
    struct steer_port *p = (struct steer_port *)port;
    const uint32_t n = p->inner->ops->tx(p->inner, now_ns, packets, count_out);

    mirror(p);
    return n;
}

static void steer_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct steer_port *p = (struct steer_port *)port;

    p->inner->ops->wait(p->inner, until_ns, wake_fd);
}

static uint64_t steer_deadline_ns(const struct kvn_port *port)
{
    const struct steer_port *p = (const struct steer_port *)port;

    return kvn_steer_waiting(p->steer, p->queue) ? 0 : p->inner->ops->deadline_ns(p->inner);
}

static void steer_close(struct kvn_port *port)
{
    struct steer_port *p = (struct steer_port *)port;

    p->inner->ops->close(p->inner);
    p->inner = NULL;
}

static bool steer_reaches(struct kvn_port *port, const struct kvn_addr *to,
                          char why[KVN_REACH_WHY_BYTES])
{
    struct kvn_port *inner = ((struct steer_port *)port)->inner;

    return inner->ops->reaches == NULL || inner->ops->reaches(inner, to, why);
}

static const struct kvn_port_ops steer_ops = {
    .name = "steer",
    .rx = steer_rx,
    .tx = steer_tx,
    .wait = steer_wait,
    .deadline_ns = steer_deadline_ns,
    .close = steer_close,
    .reaches = steer_reaches,
};

kvw_err kvn_steer_open(struct kvn_steer **steer, uint32_t queues, uint32_t payload_max,
                       void (*wake)(void *arg, uint32_t queue), void *arg)
{
    const size_t rings = (size_t)queues * queues;
    const uint32_t stride = (payload_max + LINE - 1) / LINE * LINE;
    const size_t bytes =
        (sizeof(struct kvn_steer) + rings * sizeof(struct ring) + LINE - 1) / LINE * LINE;
    struct kvn_steer *s = aligned_alloc(LINE, bytes);

    if (s == NULL)
        return KVW_E_NOMEM;
    memset(s, 0, bytes);
    s->queues = queues;
    s->stride = stride;
    s->wake = wake;
    s->arg = arg;
    s->memory = malloc(rings * KVN_STEER_SLOTS * stride); /* untouched pages cost nothing */
    if (s->memory == NULL) {
        free(s);
        return KVW_E_NOMEM;
    }
    for (size_t i = 0; i < rings; ++i)
        s->ring[i].bytes = s->memory + i * KVN_STEER_SLOTS * stride;
    *steer = s;
    return KVW_OK;
}

struct kvn_port *kvn_steer_port(struct kvn_steer *s, uint32_t queue, struct kvn_port *inner)
{
    struct steer_port *p = &s->port[queue];

    p->port = *inner;
    p->port.ops = &steer_ops;
    p->inner = inner;
    p->steer = s;
    p->queue = queue;
    return &p->port;
}

bool kvn_steer_waiting(const struct kvn_steer *s, uint32_t queue)
{
    for (uint32_t from = 0; from < s->queues; ++from) {
        const struct ring *r = &s->ring[from * s->queues + queue];

        if (atomic_load(&r->tail) !=
            atomic_load_explicit(&r->head, memory_order_relaxed) + s->port[queue].lent[from])
            return true;
    }
    return false;
}

void kvn_steer_stats(const struct kvn_steer *s, uint32_t queue, struct kvn_steer_stats *stats)
{
    const struct steer_port *p = &s->port[queue];

    stats->forwarded = atomic_load_explicit(&p->forwarded, memory_order_relaxed);
    stats->received = atomic_load_explicit(&p->received, memory_order_relaxed);
    stats->dropped = atomic_load_explicit(&p->dropped, memory_order_relaxed);
}

void kvn_steer_close(struct kvn_steer *s)
{
    if (s == NULL)
        return;
    free(s->memory);
    free(s);
}
