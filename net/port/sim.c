/* SPDX-License-Identifier: Apache-2.0 */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#define NONE        UINT32_MAX
#define START_NS    1000000000ull /* not 0, so that code which takes 0 for "never" is found out */
#define SIM_PORT    9000
#define TIME_MAX_NS (UINT64_MAX / 2)

/* A packet on its way, or handed out by rx() until the next one. */
struct packet {
    uint64_t at_ns;
    uint64_t order; /* of sending: breaks ties, so that runs repeat */
    uint32_t to, from;
    uint32_t len;
    uint32_t next; /* free list */
    uint8_t *bytes;
};

struct sim_port {
    struct kvn_port base;
    struct kvn_sim *sim;
    uint32_t node;
    uint32_t out[KVN_BURST]; /* handed out by the last rx() */
    uint32_t outs;
};

struct kvn_sim {
    uint64_t now_ns;
    uint64_t random;
    uint64_t order;
    uint32_t payload_max;
    uint32_t tx_limit;
    uint32_t payload_limit;
    struct kvn_sim_stats stats;
    struct sim_port *ports[KVN_SIM_NODES_MAX];
    struct kvn_sim_link link[KVN_SIM_NODES_MAX][KVN_SIM_NODES_MAX];
    uint64_t wire_free_ns[KVN_SIM_NODES_MAX][KVN_SIM_NODES_MAX]; /* when its queue is empty */
    uint32_t free;
    uint32_t heaps[KVN_SIM_NODES_MAX]; /* packets under way to each node */
    uint32_t *heap[KVN_SIM_NODES_MAX]; /* earliest first */
    struct packet packets[KVN_SIM_PACKETS_MAX];
    uint8_t *memory;
};

uint64_t kvn_sim_random(struct kvn_sim *sim)
{
    uint64_t x = sim->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static bool happens(struct kvn_sim *sim, double share)
{
    return share > 0 && (double)(kvn_sim_random(sim) >> 11) * 0x1p-53 < share;
}

struct kvn_sim *kvn_sim_open(uint64_t seed, uint32_t payload_max)
{
    struct kvn_sim *sim = calloc(1, sizeof(*sim));
    uint32_t *heaps;

    if (sim == NULL)
        return NULL;
    sim->memory = malloc((size_t)KVN_SIM_PACKETS_MAX * payload_max);
    heaps = malloc((size_t)KVN_SIM_PACKETS_MAX * KVN_SIM_NODES_MAX * sizeof(*heaps));
    if (sim->memory == NULL || heaps == NULL) {
        free(sim->memory);
        free(heaps);
        free(sim);
        return NULL;
    }
    sim->now_ns = START_NS;
    sim->random = seed;
    sim->payload_max = payload_max;
    sim->tx_limit = UINT32_MAX;
    sim->payload_limit = UINT32_MAX;
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i)
        sim->heap[i] = heaps + (size_t)i * KVN_SIM_PACKETS_MAX;
    for (uint32_t i = 0; i < KVN_SIM_PACKETS_MAX; ++i) {
        sim->packets[i].bytes = sim->memory + (size_t)i * payload_max;
        sim->packets[i].next = i + 1 < KVN_SIM_PACKETS_MAX ? i + 1 : NONE;
    }
    return sim;
}

void kvn_sim_close(struct kvn_sim *sim)
{
    if (sim == NULL)
        return;
    free(sim->heap[0]);
    free(sim->memory);
    free(sim);
}

void kvn_sim_link(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_sim_link *l)
{
    sim->link[from][to] = *l;
}

void kvn_sim_links(struct kvn_sim *sim, const struct kvn_sim_link *l)
{
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i)
        for (uint32_t j = 0; j < KVN_SIM_NODES_MAX; ++j)
            sim->link[i][j] = *l;
}

uint64_t kvn_sim_now(const struct kvn_sim *sim)
{
    return sim->now_ns;
}

uint64_t kvn_sim_next(const struct kvn_sim *sim)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i)
        if (sim->ports[i] != NULL && sim->heaps[i] > 0 &&
            sim->packets[sim->heap[i][0]].at_ns < next)
            next = sim->packets[sim->heap[i][0]].at_ns;
    return next;
}

void kvn_sim_advance(struct kvn_sim *sim, uint64_t to_ns)
{
    if (to_ns > sim->now_ns && to_ns < TIME_MAX_NS)
        sim->now_ns = to_ns;
}

void kvn_sim_tx_limit(struct kvn_sim *sim, uint32_t n)
{
    sim->tx_limit = n;
}

void kvn_sim_payload_limit(struct kvn_sim *sim, uint32_t bytes)
{
    sim->payload_limit = bytes;
}

void kvn_sim_stats(const struct kvn_sim *sim, struct kvn_sim_stats *stats)
{
    *stats = sim->stats;
}

/* --- the packets under way to one node, a binary heap --- */

static bool earlier(const struct kvn_sim *sim, uint32_t a, uint32_t b)
{
    const struct packet *x = &sim->packets[a], *y = &sim->packets[b];

    return x->at_ns != y->at_ns ? x->at_ns < y->at_ns : x->order < y->order;
}

static void heap_push(struct kvn_sim *sim, uint32_t node, uint32_t packet)
{
    uint32_t *h = sim->heap[node], i = sim->heaps[node]++;

    for (; i > 0 && earlier(sim, packet, h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = packet;
}

static uint32_t heap_pop(struct kvn_sim *sim, uint32_t node)
{
    uint32_t *h = sim->heap[node], i = 0;
    const uint32_t top = h[0], n = --sim->heaps[node], last = h[n];

    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && earlier(sim, h[child + 1], h[child]))
            ++child;
        if (!earlier(sim, h[child], last))
            break;
        h[i] = h[child];
    }
    h[i] = last;
    return top;
}

/* --- sending --- */

static void give_back(struct kvn_sim *sim, uint32_t packet)
{
    sim->packets[packet].next = sim->free;
    sim->free = packet;
}

/* One copy of a packet under way, to arrive at at_ns. */
static void launch(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_tx_packet *p,
                   uint64_t at_ns)
{
    const struct kvn_sim_link *l = &sim->link[from][to];
    const uint32_t n = sim->free;
    struct packet *q = &sim->packets[n];
    uint64_t bit;

    if (n == NONE) {
        ++sim->stats.overflowed;
        return;
    }
    sim->free = q->next;
    q->at_ns = at_ns;
    q->order = sim->order++;
    q->to = to;
    q->from = from;
    memcpy(q->bytes, p->head, p->head_bytes);
    q->len = p->head_bytes;
    for (uint32_t i = 0; i < p->body_count; ++i) {
        memcpy(q->bytes + q->len, p->body[i].base, p->body[i].bytes);
        q->len += p->body[i].bytes;
    }
    if (happens(sim, l->corrupt)) {
        bit = kvn_sim_random(sim) % ((uint64_t)q->len * 8);
        q->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ++sim->stats.corrupted;
    }
    if (happens(sim, l->truncate)) {
        q->len = (uint32_t)(kvn_sim_random(sim) % q->len);
        ++sim->stats.corrupted;
    }
    heap_push(sim, to, n);
}

/* Through the queue onto the wire: when the last bit leaves; false: the queue is full. */
static bool onto_wire(struct kvn_sim *sim, uint32_t from, uint32_t to, uint32_t bytes,
                      uint64_t *left_ns)
{
    const struct kvn_sim_link *l = &sim->link[from][to];
    uint64_t *free_ns = &sim->wire_free_ns[from][to];

    *left_ns = sim->now_ns;
    if (l->bytes_per_s == 0)
        return true;
    if (*free_ns < sim->now_ns)
        *free_ns = sim->now_ns;
    if (l->queue_bytes != 0 &&
        (double)(*free_ns - sim->now_ns) * (double)l->bytes_per_s / 1e9 + bytes > l->queue_bytes)
        return false;
    *free_ns += (uint64_t)((double)bytes * 1e9 / (double)l->bytes_per_s);
    *left_ns = *free_ns;
    return true;
}

static void send_one(struct kvn_sim *sim, uint32_t from, const struct kvn_tx_packet *p)
{
    const uint32_t to = p->to.ip[3] - 1u;
    uint32_t bytes = p->head_bytes;
    const struct kvn_sim_link *l;
    uint64_t at_ns;

    ++sim->stats.sent;
    for (uint32_t i = 0; i < p->body_count; ++i)
        bytes += p->body[i].bytes;
    if (to >= KVN_SIM_NODES_MAX || bytes > sim->payload_max) {
        ++sim->ports[from]->base.tx_errors;
        return;
    }
    l = &sim->link[from][to];
    if (l->cut || bytes > sim->payload_limit || !onto_wire(sim, from, to, bytes, &at_ns) ||
        happens(sim, l->loss)) {
        ++sim->stats.lost;
        return;
    }
    at_ns += l->delay_ns;
    if (l->jitter_ns > 0)
        at_ns += kvn_sim_random(sim) % l->jitter_ns;
    if (happens(sim, l->reorder))
        at_ns += l->reorder_ns;
    launch(sim, from, to, p, at_ns);
    if (happens(sim, l->dup)) {
        ++sim->stats.duplicated;
        launch(sim, from, to, p, at_ns + kvn_sim_random(sim) % (l->delay_ns + 1));
    }
}

/* --- the port --- */

static uint32_t sim_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                       uint32_t count)
{
    struct sim_port *p = (struct sim_port *)port;
    const uint32_t n = count < p->sim->tx_limit ? count : p->sim->tx_limit;

    kvn_sim_advance(p->sim, now_ns);
    for (uint32_t i = 0; i < n; ++i)
        send_one(p->sim, p->node, &packets[i]);
    return n;
}

static struct kvn_addr node_addr(uint32_t node)
{
    return (struct kvn_addr){.family = 4, .ip = {10, 0, 0, (uint8_t)(node + 1)}, .port = SIM_PORT};
}

static uint32_t sim_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                       uint32_t max)
{
    struct sim_port *p = (struct sim_port *)port;
    struct kvn_sim *sim = p->sim;
    uint32_t n = 0;

    kvn_sim_advance(sim, now_ns);
    while (p->outs > 0)
        give_back(sim, p->out[--p->outs]);
    while (n < max && sim->heaps[p->node] > 0 &&
           sim->packets[sim->heap[p->node][0]].at_ns <= sim->now_ns) {
        const uint32_t i = heap_pop(sim, p->node);

        packets[n++] = (struct kvn_rx_packet){.bytes = sim->packets[i].bytes,
                                              .len = sim->packets[i].len,
                                              .from = node_addr(sim->packets[i].from)};
        p->out[p->outs++] = i;
        ++sim->stats.delivered;
    }
    return n;
}

static uint64_t sim_deadline_ns(const struct kvn_port *port)
{
    const struct sim_port *p = (const struct sim_port *)port;

    return p->sim->heaps[p->node] > 0 ? p->sim->packets[p->sim->heap[p->node][0]].at_ns
                                      : UINT64_MAX;
}

/* Sleeping is letting time pass, but not past what another node is about to get. */
static void sim_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct sim_port *p = (struct sim_port *)port;
    const uint64_t next = kvn_sim_next(p->sim);

    (void)wake_fd; /* nothing happens outside the simulation */
    kvn_sim_advance(p->sim, until_ns < next ? until_ns : next);
}

static void sim_close(struct kvn_port *port)
{
    struct sim_port *p = (struct sim_port *)port;

    while (p->outs > 0)
        give_back(p->sim, p->out[--p->outs]);
    p->sim->ports[p->node] = NULL;
    free(p);
}

static const struct kvn_port_ops sim_ops = {
    .name = "sim",
    .rx = sim_rx,
    .tx = sim_tx,
    .wait = sim_wait,
    .deadline_ns = sim_deadline_ns,
    .close = sim_close,
};

kvw_err kvn_sim_port_open(struct kvn_port **port, struct kvn_sim *sim, uint32_t node)
{
    struct sim_port *p;

    if (node >= KVN_SIM_NODES_MAX || sim->ports[node] != NULL)
        return KVW_E_INVALID;
    p = calloc(1, sizeof(*p));
    if (p == NULL)
        return KVW_E_NOMEM;
    p->base.ops = &sim_ops;
    p->base.payload_max = sim->payload_max;
    p->base.local = node_addr(node);
    p->base.default_peer = node_addr(node == 0 ? 1 : 0);
    p->sim = sim;
    p->node = node;
    sim->ports[node] = p;
    *port = &p->base;
    return KVW_OK;
}
