/* SPDX-License-Identifier: Apache-2.0 */
/* Cores on a simulated network, polled when their deadlines say so. */
#include "cores.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../net/packet/endpoint.h"

#define SPINS 50000u

static void link_all(struct t_cores *c)
{
    const struct kvn_sim_link link = {.delay_ns = 20000, .bytes_per_s = 1250000000ull};

    for (uint32_t a = 0; a < c->count; ++a)
        for (uint32_t b = 0; b < c->count; ++b)
            if (a != b)
                kvn_sim_link(c->sim, a, b, &link);
}

void t_cores_init(struct t_cores *c, uint32_t count, uint64_t seed)
{
    memset(c, 0, sizeof(*c));
    cr_assert_leq(count, T_CORES_MAX);
    c->count = count;
    c->sim = kvn_sim_open(seed, 4096);
    link_all(c);
}

uint64_t t_cores_now(const struct t_cores *c)
{
    return kvn_sim_now(c->sim);
}

void t_core_open(struct t_cores *c, uint32_t at, const struct kvw_core_config *given)
{
    struct t_core *n = &c->node[at];
    struct kvn_packet_config net = {.seed = at * 100 + ++n->lives};
    struct kvw_core_path path = {.name = "sim", .listen = 1};
    struct kvw_core_config cfg = {.size = sizeof(cfg)};
    char why[KVN_WHY_BYTES] = "", name[16];
    const char *field = "";
    struct kvn_port *port;

    if (given != NULL)
        cfg = *given;
    cfg.size = sizeof(cfg);
    cr_assert_eq(kvn_sim_port_open(&port, c->sim, at), KVW_OK);
    n->port = port;
    cr_assert_eq(kvn_packet_open(&n->t, port, &net, why), KVW_OK, "%s", why);
    path.transport = n->t;
    snprintf(name, sizeof(name), "node %u", at);
    cfg.path_count = 1;
    cfg.paths = &path;
    cfg.name = cfg.name != NULL ? cfg.name : name;
    cfg.instance = cfg.instance != 0 ? cfg.instance : 100 + at;
    cfg.codecs = cfg.codecs != NULL ? cfg.codecs : kvc_codecs;
    cfg.codec = cfg.codec != 0 ? cfg.codec : KVW_CODEC_RAW;
    cr_assert_eq(kvw_core_open(&n->core, &cfg, t_cores_now(c), &field), KVW_OK, "%s", field);
}

void t_core_close(struct t_cores *c, uint32_t at, bool silent)
{
    struct t_core *n = &c->node[at];

    if (n->t == NULL)
        return;
    for (uint32_t i = 0; i < c->count && silent; ++i)
        if (i != at)
            t_cores_cut(c, at, i, true);
    kvw_core_close(n->core, t_cores_now(c));
    n->t->ops->close(n->t);
    n->t = NULL;
    n->core = NULL;
    link_all(c);
}

void t_cores_end(struct t_cores *c)
{
    for (uint32_t i = 0; i < c->count; ++i) {
        t_core_close(c, i, false);
        t_state_free(&c->node[i].state);
    }
    kvn_sim_close(c->sim);
}

void t_core_add_pool(struct t_cores *c, uint32_t at)
{
    struct t_core *n = &c->node[at];
    char why[200] = "";

    cr_assert_eq(kvw_core_pool_add(n->core, &n->state.desc, &n->pool, why, sizeof(why)), KVW_OK,
                 "node %u: %s", at, why);
}

kvw_peer_id t_core_dial(struct t_cores *c, uint32_t from, uint32_t to)
{
    char address[32];
    kvw_peer_id id = {0};

    snprintf(address, sizeof(address), "10.0.0.%u:9000", to + 1);
    cr_assert_eq(kvw_core_peer_add(c->node[from].core, 0, address, t_cores_now(c), &id), KVW_OK);
    return id;
}

kvw_peer_id t_core_peer(struct t_cores *c, uint32_t at, uint32_t of)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    char name[16];

    snprintf(name, sizeof(name), "node %u", of);
    for (uint32_t id = 1; id < 200; ++id)
        if (kvw_core_peer_info(c->node[at].core, (kvw_peer_id){id}, &info) == KVW_OK &&
            info.state == KVW_PEER_UP && strcmp(info.name, name) == 0)
            return (kvw_peer_id){id};
    return (kvw_peer_id){0};
}

void t_core_join(struct t_cores *c, uint32_t from, uint32_t to)
{
    (void)t_core_dial(c, from, to);
    for (uint32_t i = 0; i < 100; ++i) {
        if (t_core_peer(c, from, to).value != 0 && t_core_peer(c, to, from).value != 0)
            return;
        t_cores_run(c, T_MS);
    }
    cr_assert_fail("node %u and %u aren't joined: %s | %s", from, to, c->node[from].lost_text,
                   c->node[to].lost_text);
}

void t_cores_cut(struct t_cores *c, uint32_t a, uint32_t b, bool cut)
{
    const struct kvn_sim_link link = {.delay_ns = 20000, .bytes_per_s = 1250000000ull, .cut = cut};

    kvn_sim_link(c->sim, a, b, &link);
    kvn_sim_link(c->sim, b, a, &link);
}

static void take_events(struct t_core *n)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (!n->deaf && kvw_core_next_event(n->core, &ev)) {
        switch (ev.kind) {
        case KVW_CEV_PEER_UP:
            ++n->up;
            n->last_up = ev.peer;
            n->up_ns = ev.at_ns;
            memcpy(n->up_text, ev.text, sizeof(n->up_text));
            break;
        case KVW_CEV_PEER_LOST:
            ++n->lost;
            n->lost_err = (kvw_err)ev.err;
            memcpy(n->lost_text, ev.text, sizeof(n->lost_text));
            break;
        case KVW_CEV_OFFERED:
            ++n->offered;
            n->last_offered = ev.key;
            n->last_offered_by = ev.peer;
            break;
        case KVW_CEV_PEER_POOL:
            ++n->pools;
            n->last_pool_of = ev.peer;
            break;
        case KVW_CEV_LAYER_SENT:
            ++n->sent;
            break;
        case KVW_CEV_LAYER_READY:
            ++n->ready;
            break;
        case KVW_CEV_STAGE_GONE:
            ++n->gone;
            n->last_gone = ev;
            break;
        default:
            cr_assert_eq(ev.kind, KVW_CEV_XFER_DONE);
            cr_assert_lt(n->dones, T_DONES_MAX);
            cr_assert_null(t_core_done(n, ev.xfer), "a transfer ended twice");
            n->done_ns = ev.at_ns;
            n->done[n->dones++] = (struct t_done){ev.xfer, ev};
        }
    }
}

static uint64_t due_ns(const struct t_core *n)
{
    const uint64_t core = kvw_core_deadline_ns(n->core);
    const uint64_t port = n->port->ops->deadline_ns(n->port);

    return core < port ? core : port;
}

/* Its queue of events is full, and it waits for somebody to take them. */
static bool stands_still(const struct t_core *n)
{
    return n->deaf && kvw_core_deadline_ns(n->core) == UINT64_MAX;
}

void t_cores_run(struct t_cores *c, uint64_t ns)
{
    const uint64_t until = t_cores_now(c) + ns;

    while (t_cores_now(c) < until) {
        const uint64_t now = t_cores_now(c);
        uint64_t next = until;

        for (uint32_t i = 0; i < c->count; ++i) {
            struct t_core *n = &c->node[i];

            for (uint32_t spins = 0; n->t != NULL && due_ns(n) <= now; ++spins) {
                cr_assert_lt(spins, SPINS, "node %u spins", i);
                while (kvw_core_poll(n->core, now))
                    ;
                take_events(n);
                if (stands_still(n))
                    break; /* packets wait */
            }
        }
        for (uint32_t i = 0; i < c->count; ++i)
            if (c->node[i].t != NULL && !stands_still(&c->node[i]) && due_ns(&c->node[i]) < next)
                next = due_ns(&c->node[i]);
        kvn_sim_advance(c->sim, next > now ? next : now + 1000);
    }
}

const struct kvw_core_event *t_core_done(const struct t_core *n, kvw_xfer_ref xfer)
{
    for (uint32_t i = 0; i < n->dones; ++i)
        if (n->done[i].xfer.value == xfer.value)
            return &n->done[i].ev;
    return NULL;
}

void t_core_expect_done(const struct t_core *n, kvw_xfer_ref xfer, kvw_err err)
{
    const struct kvw_core_event *ev = t_core_done(n, xfer);

    cr_assert_not_null(ev, "it hasn't ended");
    cr_expect_eq(ev->err, err, "ended with %d, not %d: %s", ev->err, err, ev->text);
}
