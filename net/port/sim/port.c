/* SPDX-License-Identifier: Apache-2.0 */
#include "impl.h"

#include <stdlib.h>
#include <string.h>

static void into_ring(struct kvn_sim *sim, struct kvn_sim_node *n, uint32_t packet)
{
    const struct kvn_sim_packet *p = &sim->packets[packet];

    if (n->port == NULL || p->to_place != n->place || p->to_source >= n->port->base.source_count ||
        p->to_binding != n->binding[p->to_source]) {
        ++sim->stats.unreachable;
    } else if (n->ring_limit != 0 && n->ring_tail - n->ring_head >= n->ring_limit) {
        ++sim->stats.ring_full;
    } else {
        n->ring[n->ring_tail++ & n->way.mask] = packet;
        return;
    }
    kvn_sim_packet_give(sim, packet);
}

static void drain(struct kvn_sim *sim, struct kvn_sim_node *n, struct kvn_sim_queue *q)
{
    uint64_t at_ns;

    while (kvn_sim_queue_first_ns(q) <= sim->now_ns)
        into_ring(sim, n, kvn_sim_queue_pop(q, &at_ns));
}

void kvn_sim_arrive(struct kvn_sim *sim, uint32_t node)
{
    struct kvn_sim_node *n = &sim->node[node];
    uint64_t at_ns;

    if (n->ring_head == n->ring_tail)
        n->ring_head = n->ring_tail = 0; /* so that few pages are ever touched */
    if (sim->helds > 0)
        kvn_sim_release_held(sim, node);
    if (n->egress != NULL)
        while (kvn_sim_queue_first_ns(&n->way) <= sim->now_ns) {
            const uint32_t packet = kvn_sim_queue_pop(&n->way, &at_ns);

            kvn_sim_egress_take(sim, n, at_ns, packet);
        }
    drain(sim, n, &n->served); /* also what an egress that is gone had taken */
    if (n->egress == NULL)
        drain(sim, n, &n->way);
}

uint64_t kvn_sim_node_next(const struct kvn_sim *sim, uint32_t node)
{
    const struct kvn_sim_node *n = &sim->node[node];
    uint64_t next = kvn_sim_queue_first_ns(&n->served), way;

    if (n->ring_head != n->ring_tail)
        return sim->now_ns;
    way = n->egress != NULL ? kvn_sim_egress_leaves_ns(sim, n) : kvn_sim_queue_first_ns(&n->way);
    if (way < next)
        next = way;
    if (sim->helds > 0) {
        const uint64_t held = kvn_sim_held_ns(sim, node);

        if (held < next)
            next = held;
    }
    return next;
}

static uint32_t port_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                        uint32_t count)
{
    const struct kvn_sim_port *p = (const struct kvn_sim_port *)port;
    const uint32_t limit = p->sim->node[p->node].tx_limit;
    const uint32_t n = count < limit ? count : limit;

    kvn_sim_advance(p->sim, kvn_sim_clock_to_sim(p->sim, p->node, now_ns));
    for (uint32_t i = 0; i < n; ++i)
        kvn_sim_send(p->sim, p->node, &packets[i]);
    return n;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 29;
}

static void note(struct kvn_sim *sim, uint32_t to, const struct kvn_sim_packet *q)
{
    uint64_t word[3] = {0};

    memcpy(word, q->bytes, q->len < sizeof(word) ? q->len : sizeof(word));
    sim->hash = mix(sim->hash, sim->now_ns);
    sim->hash = mix(sim->hash,
                    (uint64_t)to << 48 | (uint64_t)q->from << 40 | (uint64_t)q->ecn << 32 | q->len);
    sim->hash = mix(mix(mix(sim->hash, word[0]), word[1]), word[2]);
}

/* What the last rx() handed out. */
static void take_back(struct kvn_sim_port *p)
{
    while (p->outs > 0) {
        const uint32_t i = p->out[--p->outs];

        kvn_sim_packet_guard(p->sim, i, false);
        kvn_sim_packet_give(p->sim, i);
    }
}

static uint32_t port_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                        uint32_t max)
{
    struct kvn_sim_port *p = (struct kvn_sim_port *)port;
    struct kvn_sim *sim = p->sim;
    struct kvn_sim_node *node = &sim->node[p->node];
    uint32_t n = 0;

    kvn_sim_advance(sim, kvn_sim_clock_to_sim(sim, p->node, now_ns));
    take_back(p);
    kvn_sim_arrive(sim, p->node);
    while (n < max && node->ring_head != node->ring_tail) {
        const uint32_t i = node->ring[node->ring_head++ & node->way.mask];
        const struct kvn_sim_packet *q = &sim->packets[i];

        packets[n++] = (struct kvn_rx_packet){
            .bytes = q->bytes,
            .len = q->len,
            .source = q->to_source,
            .ecn = q->ecn,
            .from = kvn_sim_addr_of(sim, q->from, q->from_place, q->from_source, q->from_binding),
        };
        note(sim, p->node, q);
        kvn_sim_packet_guard(sim, i, true);
        p->out[p->outs++] = i;
        ++sim->stats.delivered;
    }
    return n;
}

static uint64_t port_deadline_ns(const struct kvn_port *port)
{
    const struct kvn_sim_port *p = (const struct kvn_sim_port *)port;
    const uint64_t next = kvn_sim_node_next(p->sim, p->node);

    return next == UINT64_MAX ? next : next + (uint64_t)p->sim->node[p->node].clock_off_ns;
}

/* Sleeping is letting time pass, but not past what another node is about to get. */
static void port_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    const struct kvn_sim_port *p = (const struct kvn_sim_port *)port;
    const uint64_t until = kvn_sim_clock_to_sim(p->sim, p->node, until_ns);
    const uint64_t next = kvn_sim_next(p->sim);

    (void)wake_fd; /* nothing happens outside the simulation */
    kvn_sim_advance(p->sim, until < next ? until : next);
}

static void port_close(struct kvn_port *port)
{
    struct kvn_sim_port *p = (struct kvn_sim_port *)port;
    struct kvn_sim_node *node = &p->sim->node[p->node];

    take_back(p);
    while (node->ring_head != node->ring_tail)
        kvn_sim_packet_give(p->sim, node->ring[node->ring_head++ & node->way.mask]);
    node->port = NULL;
    free(p);
}

static const struct kvn_port_ops sim_ops = {
    .name = "sim",
    .rx = port_rx,
    .tx = port_tx,
    .wait = port_wait,
    .deadline_ns = port_deadline_ns,
    .close = port_close,
};

kvw_err kvn_sim_port_open(struct kvn_port **port, struct kvn_sim *sim, uint32_t node)
{
    struct kvn_sim_port *p;

    if (node >= KVN_SIM_NODES_MAX || sim->node[node].port != NULL)
        return KVW_E_INVALID;
    p = calloc(1, sizeof(*p));
    if (p == NULL)
        return KVW_E_NOMEM;
    kvn_sim_arrive(sim, node); /* what came to the closed node is lost */
    p->base.ops = &sim_ops;
    p->base.payload_max = sim->payload_max;
    p->base.local = kvn_sim_addr(sim, node);
    p->base.default_peer = kvn_sim_addr(sim, node == 0 ? 1 : 0);
    p->base.source_count = sim->sources;
    p->sim = sim;
    p->node = node;
    sim->node[node].port = p;
    if (node >= sim->high)
        sim->high = node + 1;
    *port = &p->base;
    return KVW_OK;
}
