/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of a simulated network: opened, dialled, polled when they are due, cut off, restarted. */
#include "nodes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../net/packet/endpoint.h"
#include "../kvwire/kv.h"

#define SPINS 20000u

void t_nodes_begin(struct t_nodes *w, uint64_t seed, uint32_t most)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->random = seed * 977 + 5;
    w->sim = kvn_sim_open(seed, 1400 + t_below(&w->random, 3) * 3000);
    w->count = 2 + t_below(&w->random, most - 1);
    w->lossy = t_nodes_chance(w, 50);
    w->cuts = t_nodes_chance(w, 40);
    w->restarts = t_nodes_chance(w, 50);
}

bool t_nodes_chance(struct t_nodes *w, uint32_t percent)
{
    return t_below(&w->random, 100) < percent;
}

void t_node_open(struct t_nodes *w, struct t_node *n, struct kvw_core_config *core)
{
    struct kvn_packet_config cfg = {.seed = w->seed * 10000 + n->at * 100 + ++n->opened};
    struct kvw_core_path path = {.name = "sim", .listen = 1};
    char why[KVN_WHY_BYTES], name[32];
    const char *field = "";
    struct kvn_port *port;

    snprintf(name, sizeof(name), "node %u life %u", n->at, n->opened);
    cr_assert_eq(kvn_sim_port_open(&port, w->sim, n->at), KVW_OK);
    n->port = port;
    cr_assert_eq(kvn_packet_open(&n->t, port, &cfg, why), KVW_OK, "%s", why);
    path.transport = n->t;
    core->size = sizeof(*core);
    core->path_count = 1;
    core->paths = &path;
    core->instance = t_random(&w->random) | 1;
    core->name = name;
    core->codecs = kvc_codecs;
    cr_assert_eq(kvw_core_open(&n->core, core, kvn_sim_now(w->sim), &field), KVW_OK, "%s", field);
    memset(n->peers, 0, sizeof(n->peers));
}

void t_node_dial(struct t_nodes *w, struct t_node *n)
{
    for (uint32_t i = 0; i < w->count; ++i) {
        char address[32];
        kvw_peer_id id;

        if (i == n->at || (i < n->at && t_nodes_chance(w, 50)))
            continue;
        snprintf(address, sizeof(address), "10.0.0.%u:9000", i + 1);
        cr_assert_eq(kvw_core_peer_add(n->core, 0, address, kvn_sim_now(w->sim), &id), KVW_OK);
    }
}

void t_node_close(struct t_nodes *w, struct t_node *n)
{
    kvw_core_close(n->core, kvn_sim_now(w->sim));
    n->t->ops->close(n->t);
    n->t = NULL;
}

void t_node_events(struct t_node *n, const struct t_nodes_ops *ops, void *self)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    unsigned at, life;

    while (kvw_core_next_event(n->core, &ev)) {
        struct kvw_peer_info info = {.size = sizeof(info)};

        if (ev.kind == KVW_CEV_PEER_UP && kvw_core_peer_info(n->core, ev.peer, &info) == KVW_OK &&
            sscanf(info.name, "node %u life %u", &at, &life) == 2) {
            n->peers[at] = ev.peer;
            n->lives[at] = life;
        }
        ops->event(self, n, &ev);
    }
}

static uint64_t due_ns(const struct t_node *n)
{
    const uint64_t port = n->port->ops->deadline_ns(n->port);
    const uint64_t core = kvw_core_deadline_ns(n->core);

    return port < core ? port : core;
}

void t_nodes_run(struct t_nodes *w, uint64_t until_ns, const struct t_nodes_ops *ops, void *self)
{
    while (kvn_sim_now(w->sim) < until_ns) {
        const uint64_t now = kvn_sim_now(w->sim);
        uint64_t next = until_ns;

        for (uint32_t i = 0; i < w->count; ++i) {
            struct t_node *n = w->node[i];

            for (uint32_t spins = 0; n->t != NULL && due_ns(n) <= now; ++spins) {
                cr_assert_lt(spins, SPINS, "seed %llu: node %u spins", (unsigned long long)w->seed,
                             i);
                while (kvw_core_poll(n->core, now))
                    ;
                t_node_events(n, ops, self);
            }
        }
        for (uint32_t i = 0; i < w->count; ++i)
            if (w->node[i]->t != NULL && due_ns(w->node[i]) < next)
                next = due_ns(w->node[i]);
        kvn_sim_advance(w->sim, next > now ? next : now + 1);
    }
}

void t_nodes_links(struct t_nodes *w, bool cut)
{
    for (uint32_t a = 0; a < w->count; ++a)
        for (uint32_t b = 0; b < w->count; ++b) {
            struct kvn_sim_link link = {.delay_ns = 20000, .bytes_per_s = 1250000000ull};
            const bool lossy = w->lossy && !w->calm;

            if (a == b)
                continue;
            if (lossy) {
                link.loss = 0.02;
                link.dup = 0.01;
                link.corrupt = 0.005;
            }
            if (lossy || w->jitters)
                link.jitter_ns = 30000;
            link.cut = cut && !w->calm && (a == 0 || b == 0);
            kvn_sim_link(w->sim, a, b, &link);
        }
}

void t_nodes_calm(struct t_nodes *w)
{
    w->calm = true;
    w->cut_until_ns = 0;
    t_nodes_links(w, false);
}

void t_nodes_cuts(struct t_nodes *w, uint32_t cut_percent)
{
    const uint64_t now = kvn_sim_now(w->sim);

    if (w->cuts && w->cut_until_ns == 0 && t_nodes_chance(w, cut_percent)) {
        w->cut_until_ns = now + (1 + t_below(&w->random, 2500)) * MS;
        t_nodes_links(w, true);
    }
    if (w->cut_until_ns != 0 && now >= w->cut_until_ns) {
        w->cut_until_ns = 0;
        t_nodes_links(w, false);
    }
}

bool t_node_restarts(struct t_nodes *w, struct t_node *n, uint32_t percent,
                     const struct t_nodes_ops *ops, void *self)
{
    const uint64_t now = kvn_sim_now(w->sim);

    if (n->t == NULL && now >= n->up_again_ns) {
        ops->open(self, n);
        return true;
    }
    if (n->t == NULL || !w->restarts || w->calm || !t_nodes_chance(w, percent))
        return false;
    ops->close(self, n);
    n->up_again_ns = now + t_below(&w->random, 1500) * MS;
    return true;
}

uint64_t t_nodes_lives(uint64_t seeds, void (*live)(uint64_t seed))
{
    const char *one = getenv("KVN_SIM_SEED"), *many = getenv("KVN_SIM_SEEDS");

    if (one != NULL) {
        live(strtoull(one, NULL, 10));
        return 0;
    }
    if (many != NULL)
        seeds = strtoull(many, NULL, 10);
    for (uint64_t seed = 1; seed <= seeds; ++seed)
        live(seed);
    return seeds;
}
