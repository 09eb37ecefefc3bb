/* SPDX-License-Identifier: Apache-2.0 */
#include "impl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define START_NS    1000000000ull /* not 0, so that code which takes 0 for "never" is found out */
#define SIM_PORT    9000
#define TIME_MAX_NS (UINT64_MAX / 2)

/* --- memory --- */

#define GUARD_BYTES 64u /* between two packets; nobody may read them */

static size_t packet_bytes(const struct kvn_sim *sim)
{
    return ((size_t)sim->payload_max + 7) / 8 * 8 + GUARD_BYTES;
}

static size_t dues_bytes(const struct kvn_sim *sim)
{
    return sim->packets_max * sizeof(struct kvn_sim_due);
}

static size_t node_bytes(const struct kvn_sim *sim)
{
    return 4 * dues_bytes(sim) + sim->packets_max * sizeof(uint32_t);
}

/* Up to a gigabyte, of which a network touches little. From malloc, AddressSanitizer writes a byte
 * for each eight of it, at the beginning and at the end of a network. NULL: none left. */
static void *take_pages(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

static void give_pages(void *at, size_t bytes)
{
    if (at != NULL)
        munmap(at, bytes);
}

void kvn_sim_packet_guard(struct kvn_sim *sim, uint32_t packet, bool on)
{
#ifdef __SANITIZE_ADDRESS__
    const struct kvn_sim_packet *q = &sim->packets[packet];

    if (on)
        ASAN_POISON_MEMORY_REGION(q->bytes + q->len, GUARD_BYTES);
    else
        ASAN_UNPOISON_MEMORY_REGION(q->bytes + q->len, GUARD_BYTES);
#else
    (void)sim;
    (void)packet;
    (void)on;
#endif
}

/* --- life --- */

/* Two rings and two heaps of dues, and one ring of packets a node. */
static bool take_queues(struct kvn_sim *sim)
{
    const size_t dues = dues_bytes(sim), each = node_bytes(sim);
    uint8_t *at = take_pages(KVN_SIM_NODES_MAX * each);

    sim->queue_memory = at;
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX && at != NULL; ++i, at += each) {
        struct kvn_sim_node *n = &sim->node[i];

        n->way.ring = (struct kvn_sim_due *)(void *)at;
        n->way.heap = (struct kvn_sim_due *)(void *)(at + dues);
        n->served.ring = (struct kvn_sim_due *)(void *)(at + 2 * dues);
        n->served.heap = (struct kvn_sim_due *)(void *)(at + 3 * dues);
        n->ring = (uint32_t *)(void *)(at + 4 * dues);
        n->way.mask = n->served.mask = sim->packets_max - 1;
        n->tx_limit = UINT32_MAX;
    }
    return sim->queue_memory != NULL;
}

struct kvn_sim *kvn_sim_open(uint64_t seed, uint32_t payload_max)
{
    return kvn_sim_open_for(seed, payload_max, KVN_SIM_PACKETS);
}

struct kvn_sim *kvn_sim_open_for(uint64_t seed, uint32_t payload_max, uint32_t packets)
{
    struct kvn_sim *sim = calloc(1, sizeof(*sim));

    if (sim == NULL)
        return NULL;
    sim->payload_max = payload_max;
    sim->packets_max = packets;
    sim->packets = take_pages(packets * sizeof(sim->packets[0]));
    sim->memory = take_pages(packets * packet_bytes(sim));
    if (sim->packets == NULL || sim->memory == NULL || !take_queues(sim)) {
        kvn_sim_close(sim);
        return NULL;
    }
    sim->now_ns = START_NS;
    sim->random = seed;
    sim->payload_limit = UINT32_MAX;
    sim->sources = 1;
    sim->family = 4;
    sim->free = KVN_SIM_NONE;
    return sim;
}

void kvn_sim_close(struct kvn_sim *sim)
{
    if (sim == NULL)
        return;
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i) {
        free(sim->node[i].egress);
        for (uint32_t j = 0; j < KVN_SIM_NODES_MAX; ++j) {
            free(sim->link[i][j].held);
            for (uint32_t s = 0; s < KVN_PORT_SOURCES_MAX; ++s) {
                if (sim->path[i][j][s] != NULL)
                    free(sim->path[i][j][s]->held);
                free(sim->path[i][j][s]);
            }
        }
    }
    give_pages(sim->queue_memory, KVN_SIM_NODES_MAX * node_bytes(sim));
    give_pages(sim->memory, sim->packets_max * packet_bytes(sim));
    give_pages(sim->packets, sim->packets_max * sizeof(sim->packets[0]));
    free(sim);
}

uint32_t kvn_sim_packet_take(struct kvn_sim *sim)
{
    uint32_t n = sim->free;

    if (n != KVN_SIM_NONE) {
        sim->free = sim->packets[n].next;
        return n;
    }
    if (sim->fresh == sim->packets_max)
        return KVN_SIM_NONE;
    n = sim->fresh++;
    sim->packets[n].bytes = sim->memory + n * packet_bytes(sim);
    return n;
}

void kvn_sim_packet_give(struct kvn_sim *sim, uint32_t packet)
{
    sim->packets[packet].next = sim->free;
    sim->free = packet;
}

/* --- chance --- */

uint64_t kvn_sim_random(struct kvn_sim *sim)
{
    uint64_t x = sim->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

bool kvn_sim_happens(struct kvn_sim *sim, double share)
{
    return share > 0 && (double)(kvn_sim_random(sim) >> 11) * 0x1p-53 < share;
}

/* --- time --- */

uint64_t kvn_sim_now(const struct kvn_sim *sim)
{
    return sim->now_ns;
}

uint64_t kvn_sim_next(const struct kvn_sim *sim)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 0; i < sim->high; ++i)
        if (sim->node[i].port != NULL) {
            const uint64_t at = kvn_sim_node_next(sim, i);

            if (at < next)
                next = at;
        }
    return next;
}

void kvn_sim_advance(struct kvn_sim *sim, uint64_t to_ns)
{
    if (to_ns > sim->now_ns && to_ns < TIME_MAX_NS)
        sim->now_ns = to_ns;
}

uint64_t kvn_sim_clock(const struct kvn_sim *sim, uint32_t node)
{
    return sim->now_ns + (uint64_t)sim->node[node].clock_off_ns;
}

uint64_t kvn_sim_clock_to_sim(const struct kvn_sim *sim, uint32_t node, uint64_t clock_ns)
{
    const int64_t off = sim->node[node].clock_off_ns;

    if (clock_ns == UINT64_MAX)
        return clock_ns;
    return off > 0 && clock_ns < (uint64_t)off ? 0 : clock_ns - (uint64_t)off;
}

void kvn_sim_clock_step(struct kvn_sim *sim, uint32_t node, int64_t by_ns)
{
    sim->node[node].clock_off_ns += by_ns;
}

/* --- settings --- */

struct kvn_addr kvn_sim_addr_of(const struct kvn_sim *sim, uint32_t node, uint32_t place,
                                uint32_t source, uint32_t binding)
{
    struct kvn_addr a = {
        .family = sim->family,
        .port = (uint16_t)(SIM_PORT + source + KVN_PORT_SOURCES_MAX * binding),
    };

    if (sim->family == 6) {
        a.ip[0] = 0xfd;
        a.ip[7] = (uint8_t)place;
        a.ip[15] = (uint8_t)(node + 1);
    } else {
        a.ip[0] = 10;
        a.ip[1] = (uint8_t)place;
        a.ip[3] = (uint8_t)(node + 1);
    }
    return a;
}

struct kvn_addr kvn_sim_addr(const struct kvn_sim *sim, uint32_t node)
{
    return kvn_sim_addr_of(sim, node, sim->node[node].place, 0, sim->node[node].binding[0]);
}

void kvn_sim_move(struct kvn_sim *sim, uint32_t node)
{
    ++sim->node[node].place;
    if (sim->node[node].port != NULL)
        sim->node[node].port->base.local = kvn_sim_addr(sim, node);
}

void kvn_sim_rebind(struct kvn_sim *sim, uint32_t node, uint32_t source)
{
    ++sim->node[node].binding[source];
    if (sim->node[node].port != NULL)
        sim->node[node].port->base.local = kvn_sim_addr(sim, node);
}

static void set(struct kvn_sim_link_state *s, const struct kvn_sim_link *l)
{
    s->l = *l;
    if (l->overtake_packets > 0 && s->held == NULL)
        s->held = malloc(KVN_SIM_HELD_MAX * sizeof(*s->held));
}

void kvn_sim_link(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_sim_link *l)
{
    set(&sim->link[from][to], l);
    /* A path that was set apart keeps its wire and its packets, and gets the link's faults: its
     * state must live until the network ends, as packets may be held there. */
    for (uint32_t s = 0; s < KVN_PORT_SOURCES_MAX; ++s)
        if (sim->path[from][to][s] != NULL)
            set(sim->path[from][to][s], l);
}

void kvn_sim_links(struct kvn_sim *sim, const struct kvn_sim_link *l)
{
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i)
        for (uint32_t j = 0; j < KVN_SIM_NODES_MAX; ++j)
            kvn_sim_link(sim, i, j, l);
}

void kvn_sim_path(struct kvn_sim *sim, uint32_t from, uint32_t to, uint32_t source,
                  const struct kvn_sim_link *l)
{
    struct kvn_sim_link_state **path = &sim->path[from][to][source];

    if (*path == NULL)
        *path = calloc(1, sizeof(**path));
    if (*path != NULL)
        set(*path, l);
}

void kvn_sim_sources(struct kvn_sim *sim, uint32_t n)
{
    sim->sources = (uint8_t)n;
}

void kvn_sim_family(struct kvn_sim *sim, uint8_t family)
{
    sim->family = family;
}

void kvn_sim_tx_limit(struct kvn_sim *sim, uint32_t n)
{
    for (uint32_t i = 0; i < KVN_SIM_NODES_MAX; ++i)
        sim->node[i].tx_limit = n;
}

void kvn_sim_tx_limit_of(struct kvn_sim *sim, uint32_t node, uint32_t n)
{
    sim->node[node].tx_limit = n;
}

void kvn_sim_rx_ring(struct kvn_sim *sim, uint32_t node, uint32_t packets)
{
    sim->node[node].ring_limit = packets;
}

void kvn_sim_payload_max(struct kvn_sim *sim, uint32_t node, uint32_t bytes)
{
    sim->node[node].port->base.payload_max = bytes;
}

void kvn_sim_payload_limit(struct kvn_sim *sim, uint32_t bytes)
{
    sim->payload_limit = bytes;
}

void kvn_sim_tap(struct kvn_sim *sim, kvn_sim_tap_fn tap, void *arg)
{
    sim->tap = tap;
    sim->tap_arg = arg;
}

void kvn_sim_stats(const struct kvn_sim *sim, struct kvn_sim_stats *stats)
{
    *stats = sim->stats;
}

uint64_t kvn_sim_hash(const struct kvn_sim *sim)
{
    return sim->hash;
}
