/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIFE_MIN  50u /* steps of weather and work, then the faults stop */
#define LIFE_MORE 400u
#define SPINS_MAX 20000u     /* polls without time moving */
#define SETTLE_NS (10 * T_S) /* for everything to arrive once the faults have stopped */
#define STEPS_MAX 1000000u   /* of one run: something spins otherwise */

static uint64_t allocations; /* while a transport was running */
static const struct t_world *running;

/* The linker sends every allocation of the program through these. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);

static void count(void)
{
    allocations += running != NULL && running->inside;
}

void *__wrap_malloc(size_t n)
{
    count();
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each)
{
    count();
    return __real_calloc(n, each);
}

void *__wrap_realloc(void *p, size_t n)
{
    count();
    return __real_realloc(p, n);
}

void t_fail(struct t_world *w, const char *format, ...)
{
    va_list args;
    int n;

    if (w->failed[0] != '\0')
        return;
    n = snprintf(w->failed, sizeof(w->failed), "at %.6f s: ", (double)kvn_sim_now(w->sim) / 1e9);
    va_start(args, format);
    vsnprintf(w->failed + n, sizeof(w->failed) - (size_t)n, format, args);
    va_end(args);
}

uint64_t t_random(struct t_world *w, uint64_t below)
{
    uint64_t x = w->random += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return (x ^ x >> 31) % below;
}

bool t_chance(struct t_world *w, uint32_t one_in)
{
    return t_random(w, one_in) == 0;
}

uint64_t t_clock(const struct t_world *w, uint32_t node)
{
    return kvn_sim_clock(w->sim, node);
}

/* --- nodes --- */

bool t_node_open(struct t_world *w, uint32_t node)
{
    struct t_node *n = &w->node[node];
    struct kvn_packet_config cfg = w->cfg;
    const struct kvw_mem mem = {
        .base = n->memory, .bytes = T_SLOTS * T_SLOT_BYTES, .kind = KVW_MEM_HOST};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;

    cfg.seed = w->seed * 4096 + node * 512 + ++n->opened;
    if (kvn_sim_port_open(&port, w->sim, node) != KVW_OK) {
        t_fail(w, "node %u: no port", node);
        return false;
    }
    if (kvn_packet_open(&n->t, port, &cfg, why) != KVW_OK) {
        t_fail(w, "node %u: %s", node, why);
        port->ops->close(port);
        return false;
    }
    if (n->t->ops->region_add(n->t, &mem, t_work_gate, w, &n->key) != KVW_OK ||
        n->t->ops->listen(n->t) != KVW_OK)
        t_fail(w, "node %u: region or listen", node);
    return true;
}

void t_node_close(struct t_world *w, uint32_t node, bool crash)
{
    struct t_node *n = &w->node[node];

    if (n->t == NULL)
        return;
    if (crash)
        kvn_sim_tx_limit_of(w->sim, node, 0);
    w->inside = true;
    n->t->ops->close(n->t);
    w->inside = false;
    n->t = NULL;
    if (crash)
        kvn_sim_tx_limit_of(w->sim, node, UINT32_MAX);
    t_work_node_gone(w, node);
}

/* --- time --- */

static void poll_node(struct t_world *w, uint32_t node)
{
    struct t_node *n = &w->node[node];
    struct kvw_transport_event ev[8];
    uint32_t got;

    do {
        w->inside = true;
        got = n->t->ops->poll(n->t, t_clock(w, node), ev, 8);
        w->inside = false;
        for (uint32_t i = 0; i < got; ++i)
            t_work_event(w, node, &ev[i]);
    } while (got == 8);
}

static bool awake(const struct t_world *w, uint32_t node)
{
    return w->node[node].t != NULL && w->node[node].stalled_until_ns <= kvn_sim_now(w->sim);
}

/* Everybody who is awake polls, then time moves to the next thing that is due. */
static void step(struct t_world *w, uint64_t until_ns)
{
    const uint64_t now = kvn_sim_now(w->sim);
    uint64_t next = until_ns;

    for (uint32_t i = 0; i < w->nodes; ++i)
        if (awake(w, i))
            poll_node(w, i);
    for (uint32_t i = 0; i < w->nodes; ++i) {
        struct t_node *n = &w->node[i];
        uint64_t at;

        if (n->t == NULL)
            continue;
        at = kvn_sim_clock_to_sim(w->sim, i, n->t->ops->deadline_ns(n->t));
        if (at < n->stalled_until_ns)
            at = n->stalled_until_ns;
        /* A deadline that never leaves the present would keep a core busy. */
        n->spins = at <= now ? n->spins + 1 : 0;
        if (n->spins > SPINS_MAX)
            t_fail(w, "node %u: its deadline doesn't move", i);
        if (at < next)
            next = at;
    }
    if (w->watch.failed[0] != '\0')
        t_fail(w, "on the wire: %s", w->watch.failed);
    if (++w->steps > STEPS_MAX)
        t_fail(w, "too many steps");
    kvn_sim_advance(w->sim, next);
}

static void run(struct t_world *w, uint64_t for_ns)
{
    const uint64_t until = kvn_sim_now(w->sim) + for_ns;

    while (kvn_sim_now(w->sim) < until && w->failed[0] == '\0')
        step(w, until);
}

/* --- a life --- */

static void plan(struct t_world *w, uint32_t off)
{
    static const uint32_t payloads[] = {1200, 1452, 4096, 8240, 32816, 65000};

    for (uint32_t i = 0; i < T_FAULTS; ++i)
        w->may[i] = t_chance(w, 2) && (off >> i & 1) == 0;
    w->nodes = t_chance(w, 2) ? 2 : 2 + (uint32_t)t_random(w, T_NODES - 1);
    w->flows = 1 + (uint32_t)t_random(w, w->nodes == 2 ? 2 : T_FLOWS);
    w->payload_max = payloads[t_random(w, 6)];
    for (uint32_t i = 0; i < w->flows; ++i) {
        w->flow_node[i][0] = (uint32_t)t_random(w, w->nodes);
        w->flow_node[i][1] =
            (w->flow_node[i][0] + 1 + (uint32_t)t_random(w, w->nodes - 1)) % w->nodes;
        w->flow_conn[i] = T_CONNS;
    }
    w->cfg = (struct kvn_packet_config){
        .dead_ns = T_S,
        .connect_ns = 5 * T_S,
        .slice_bytes = t_chance(w, 2) ? 65536 : 0,
        .conns_max = 16,
    };
}

/* What the watcher allocates isn't the transport's. */
static bool watch(void *world, const struct kvn_sim_sight *sight)
{
    struct t_world *w = world;
    const bool inside = w->inside;

    w->inside = false;
    t_watch_packet(&w->watch, sight);
    w->inside = inside;
    return true;
}

static bool begin(struct t_world *w, uint64_t seed, uint32_t off)
{
    static uint8_t *memory; /* kept, and full of T_FILL between runs */
    const size_t bytes = (size_t)T_SLOTS * T_SLOT_BYTES;

    if (memory == NULL) {
        /* The endpoints' memory is mostly never touched, if it comes straight from the kernel. */
        mallopt(M_MMAP_THRESHOLD, 1 << 20);
        memory = malloc(T_NODES * bytes);
        memset(memory, T_FILL, T_NODES * bytes);
    }
    memset(w, 0, offsetof(struct t_world, conn));
    w->calm = w->inside = false;
    w->hash = w->puts = w->msgs = w->packets = w->downs = w->steps = 0;
    w->failed[0] = '\0';
    w->seed = seed;
    w->random = seed * 0x2545f4914f6cdd1dull;
    plan(w, off);
    w->sim = kvn_sim_open(seed, w->payload_max);
    if (w->may[T_PATHS])
        kvn_sim_sources(w->sim, 1 + (uint32_t)t_random(w, KVN_PORT_SOURCES_MAX));
    if (w->may[T_IPV6])
        kvn_sim_family(w->sim, 6);
    t_watch_begin(&w->watch, bytes);
    kvn_sim_tap(w->sim, watch, w);
    running = w;
    allocations = 0;
    for (uint32_t i = 0; i < w->nodes; ++i) {
        w->node[i].memory = memory + i * bytes;
        if (!t_node_open(w, i))
            return false;
    }
    t_weather_begin(w);
    return true;
}

static bool all_settled(struct t_world *w)
{
    for (uint32_t i = 0; i < w->conns; ++i)
        if (!t_work_settled(w, &w->conn[i]))
            return false;
    return true;
}

static void settle(struct t_world *w, const char *what)
{
    const uint64_t give_up = kvn_sim_now(w->sim) + SETTLE_NS;

    while (!all_settled(w) && w->failed[0] == '\0' && kvn_sim_now(w->sim) < give_up)
        step(w, give_up);
    for (uint32_t i = 0; i < w->conns && w->failed[0] == '\0'; ++i) {
        const struct t_conn *c = &w->conn[i];

        if (!t_work_settled(w, &w->conn[i]))
            t_fail(w,
                   "%s, but connection %u (node %u to %u) stands still: ends %d %d, messages "
                   "%u/%u %u/%u, puts sent %u %u",
                   what, i, c->node[0], c->node[1], c->end[0], c->end[1], c->msgs_got[0],
                   c->msgs_sent[0], c->msgs_got[1], c->msgs_sent[1], c->puts_sent[0],
                   c->puts_sent[1]);
    }
}

/* Every flow has a connection that has been used. */
static bool all_talked(const struct t_world *w)
{
    for (uint32_t i = 0; i < w->flows; ++i)
        if (w->flow_conn[i] == T_CONNS || w->conn[w->flow_conn[i]].msgs_sent[0] == 0)
            return w->conns == T_CONNS;
    return true;
}

/* The faults are over: what lives arrives, what doesn't is noticed, and all can talk again. */
static void expect_progress(struct t_world *w)
{
    w->calm = true;
    t_weather_end(w);
    settle(w, "the faults have stopped");
    for (uint32_t round = 0; round < 3 || (round < 300 && !all_talked(w)); ++round) {
        for (uint32_t i = 0; i < w->flows && w->failed[0] == '\0'; ++i)
            t_work(w, i);
        run(w, 50 * T_MS);
    }
    settle(w, "the last work was given out");
    if (!all_talked(w))
        t_fail(w, "a flow never came up again");
}

/* All is closed: no packet leaves, and nobody wants to be woken. */
static void expect_quiet(struct t_world *w)
{
    struct kvn_sim_stats before, after;

    for (uint32_t i = 0; i < w->conns; ++i)
        for (uint32_t side = 0; side < 2; ++side)
            if (w->conn[i].end[side] != T_NONE && w->conn[i].end[side] != T_OVER)
                t_work_disconnect(w, &w->conn[i], side);
    run(w, 4 * T_S);
    kvn_sim_stats(w->sim, &before);
    run(w, 10 * T_S);
    kvn_sim_stats(w->sim, &after);
    if (before.sent != after.sent)
        t_fail(w, "%llu packets left after the end",
               (unsigned long long)(after.sent - before.sent));
    for (uint32_t i = 0; i < w->nodes; ++i)
        if (w->node[i].t->ops->deadline_ns(w->node[i].t) != UINT64_MAX)
            t_fail(w, "node %u wants to be woken after the end", i);
    for (uint32_t i = 0; i < w->conns; ++i)
        for (uint32_t side = 0; side < 2; ++side)
            for (uint32_t n = 0; n < w->conn[i].puts_sent[side]; ++n)
                if (!w->conn[i].put[side][n].done)
                    t_fail(w, "connection %u side %u: put %u was never done", i, side, n);
}

bool t_world_run(struct t_world *w, uint64_t seed, uint32_t off)
{
    if (begin(w, seed, off)) {
        const uint32_t life = LIFE_MIN + (uint32_t)t_random(w, LIFE_MORE);

        for (uint32_t i = 0; i < life && w->failed[0] == '\0'; ++i) {
            t_weather(w);
            if (t_chance(w, 2))
                t_work(w, (uint32_t)t_random(w, w->flows));
            run(w, t_random(w, 8 * T_MS));
        }
        if (w->failed[0] == '\0')
            expect_progress(w);
        if (w->failed[0] == '\0')
            expect_quiet(w);
    }
    if (allocations > 0)
        t_fail(w, "%llu allocations between open and close", (unsigned long long)allocations);
    w->hash ^= kvn_sim_hash(w->sim);
    for (uint32_t i = 0; i < w->nodes; ++i)
        t_node_close(w, i, false);
    running = NULL;
    w->packets = w->watch.packets;
    t_work_check_memory(w);
    kvn_sim_close(w->sim);
    return w->failed[0] == '\0';
}

uint32_t t_world_shrink(struct t_world *w, uint64_t seed)
{
    uint32_t off = 0;

    for (uint32_t round = 0; round < 2; ++round) /* some can only go once others have */
        for (uint32_t i = 0; i < T_FAULTS; ++i)
            if ((off >> i & 1) == 0 && !t_world_run(w, seed, off | 1u << i))
                off |= 1u << i;
    t_world_run(w, seed, off);
    return off;
}
