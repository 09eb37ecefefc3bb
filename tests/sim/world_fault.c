/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

const char *const t_fault_name[T_FAULTS] = {
    [T_LOSS] = "loss",         [T_BURST] = "burst",     [T_MASK] = "mask",
    [T_DUP] = "dup",           [T_CORRUPT] = "corrupt", [T_TRUNCATE] = "truncate",
    [T_JITTER] = "jitter",     [T_REORDER] = "reorder", [T_OVERTAKE] = "overtake",
    [T_RATE] = "rate",         [T_EGRESS] = "egress",   [T_MARK] = "mark",
    [T_BLEACH] = "bleach",     [T_CUT] = "cut",         [T_BLACK_HOLE] = "black-hole",
    [T_CLOCK] = "clock",       [T_STALL] = "stall",     [T_TX_LIMIT] = "tx-limit",
    [T_RX_RING] = "rx-ring",   [T_RESTART] = "restart", [T_CRASH] = "crash",
    [T_MOVE] = "move",         [T_REBIND] = "rebind",   [T_DISCONNECT] = "disconnect",
    [T_TRESPASS] = "trespass", [T_PATHS] = "paths",     [T_IPV6] = "ipv6",
};

/* Shares in thousandths below this. */
static double share(struct t_world *w, uint32_t below)
{
    return (double)t_random(w, below) / 1000;
}

/* A link as bad as a peer can live with. What may not happen is drawn all the same, and left out
 * afterwards: so the rest of the run changes as little as possible when a fault is left out. */
static struct kvn_sim_link any_link(struct t_world *w)
{
    return (struct kvn_sim_link){
        .delay_ns = 1000 + t_random(w, 200000),
        .jitter_ns = t_random(w, 300000),
        .loss = share(w, 150),
        .burst_begin = share(w, 20),
        .burst_end = 0.1 + share(w, 400),
        .burst_loss = 0.5 + share(w, 400),
        .drop_first = t_random(w, 200),
        .drop_mask = t_random(w, UINT64_MAX),
        .dup = share(w, 100),
        .dup_ns = t_chance(w, 3) ? t_random(w, 700 * T_MS) : 0,
        .corrupt = share(w, 20),
        .truncate = share(w, 10),
        .reorder = share(w, 200),
        .reorder_ns = t_random(w, 1000000),
        .overtake = share(w, 200),
        .overtake_packets = 1 + (uint32_t)t_random(w, 64),
        .bytes_per_s = 10000000 + t_random(w, 2000000000),
        .queue_bytes = t_chance(w, 2) ? 50000 + w->payload_max + (uint32_t)t_random(w, 400000) : 0,
        .ecn_bytes = t_chance(w, 2) ? 10000 + (uint32_t)t_random(w, 200000) : 0,
        .mark = share(w, 300),
        .bleach = t_chance(w, 4),
    };
}

/* Whether this link has this fault, one in some. */
static bool has(struct t_world *w, enum t_fault fault, uint32_t one_in)
{
    return t_chance(w, one_in) && w->may[fault];
}

static struct kvn_sim_link bad_link(struct t_world *w)
{
    struct kvn_sim_link l = any_link(w);

    if (!has(w, T_JITTER, 2))
        l.jitter_ns = 0;
    if (!has(w, T_LOSS, 2))
        l.loss = 0;
    if (!has(w, T_BURST, 3))
        l.burst_begin = 0;
    if (!has(w, T_MASK, 4))
        l.drop_mask = 0;
    if (!has(w, T_DUP, 2))
        l.dup = 0;
    if (!has(w, T_CORRUPT, 2))
        l.corrupt = 0;
    if (!has(w, T_TRUNCATE, 3))
        l.truncate = 0;
    if (!has(w, T_REORDER, 2))
        l.reorder = 0;
    if (!has(w, T_OVERTAKE, 2))
        l.overtake = 0;
    if (!has(w, T_RATE, 2))
        l.bytes_per_s = 0;
    if (!has(w, T_MARK, 3))
        l.mark = 0;
    if (!has(w, T_BLEACH, 1))
        l.bleach = false;
    return l;
}

static void apply(struct t_world *w, uint32_t a, uint32_t b)
{
    struct kvn_sim_link l = w->link[a][b];
    const struct t_trouble *t = &w->trouble[a][b];

    l.cut = t->cut_until_ns > kvn_sim_now(w->sim);
    if (t->hole_until_ns > kvn_sim_now(w->sim))
        l.payload_limit = KVN_PAYLOAD_MIN;
    kvn_sim_link(w->sim, a, b, &l);
}

void t_doom(struct t_world *w, uint32_t a, uint32_t b)
{
    for (uint32_t i = 0; i < w->conns; ++i) {
        struct t_conn *c = &w->conn[i];

        if ((c->node[0] == a && c->node[1] == b) || (c->node[0] == b && c->node[1] == a))
            c->may_fall = true;
    }
}

static void doom_node(struct t_world *w, uint32_t node)
{
    for (uint32_t i = 0; i < w->nodes; ++i)
        t_doom(w, node, i);
}

/* Something befalls the node that a connection outlives, if it is up, and if nothing else of this
 * kind befalls it at the same time: each alone takes up to a quarter of what a peer waits. */
static void strain(struct t_world *w, uint32_t node, uint64_t until_ns)
{
    struct t_node *n = &w->node[node];

    if (n->fragile_until_ns > kvn_sim_now(w->sim))
        doom_node(w, node);
    for (uint32_t i = 0; i < w->conns; ++i) {
        struct t_conn *c = &w->conn[i];

        if ((c->node[0] == node || c->node[1] == node) &&
            (c->end[0] == T_WAITING || c->end[1] == T_NONE))
            c->may_fall = true; /* handshakes have little time */
    }
    if (until_ns + w->cfg.dead_ns / 2 > n->fragile_until_ns)
        n->fragile_until_ns = until_ns + w->cfg.dead_ns / 2;
}

/* A time that a connection outlives, mostly. */
static uint64_t some_time(struct t_world *w, bool *lethal)
{
    const uint64_t dead = w->cfg.dead_ns;

    *lethal = t_chance(w, 5);
    return *lethal ? dead / 4 + t_random(w, 2 * dead) : t_random(w, dead / 5);
}

static void partition(struct t_world *w, uint32_t a, uint32_t b)
{
    bool lethal;
    const uint64_t until = kvn_sim_now(w->sim) + some_time(w, &lethal);
    const uint64_t ago = kvn_sim_now(w->sim) - w->cfg.dead_ns;

    /* Two short ones in a row are a long one. */
    lethal |= w->trouble[a][b].cut_until_ns > ago || w->trouble[b][a].cut_until_ns > ago;
    w->trouble[a][b].cut_until_ns = until;
    if (t_chance(w, 2))
        w->trouble[b][a].cut_until_ns = until;
    strain(w, a, until);
    strain(w, b, until);
    if (lethal)
        t_doom(w, a, b);
}

static void stall(struct t_world *w, uint32_t node)
{
    bool lethal;

    w->node[node].stalled_until_ns = kvn_sim_now(w->sim) + some_time(w, &lethal);
    strain(w, node, w->node[node].stalled_until_ns);
    if (lethal)
        doom_node(w, node);
}

static void limit_tx(struct t_world *w, uint32_t node)
{
    bool lethal = false;
    const uint32_t n = t_chance(w, 4) ? 0 : 1 + (uint32_t)t_random(w, 8);

    kvn_sim_tx_limit_of(w->sim, node, n);
    w->node[node].tx_limited_until_ns =
        kvn_sim_now(w->sim) + (n == 0 ? some_time(w, &lethal) : t_random(w, T_S));
    strain(w, node, w->node[node].tx_limited_until_ns);
    if (lethal)
        doom_node(w, node);
}

static void step_clock(struct t_world *w, uint32_t node)
{
    /* Forwards by any time; back only a little, as transport.h asks for a monotonic clock. */
    const bool back = t_chance(w, 3);
    const int64_t by = (int64_t)t_random(w, !back && t_chance(w, 4) ? 10 * T_S : 100 * T_MS);

    strain(w, node, kvn_sim_now(w->sim));
    kvn_sim_clock_step(w->sim, node, back ? -by : by);
}

static void restart(struct t_world *w, uint32_t node, bool crash)
{
    doom_node(w, node);
    t_node_close(w, node, crash);
    if (t_chance(w, 3)) /* it stays away for a while */
        w->node[node].stalled_until_ns = kvn_sim_now(w->sim) + t_random(w, T_S);
    else
        t_node_open(w, node);
}

/* Its peers follow it once it has said something, which it does within a quarter of what they wait
 * for, and they have asked. But a peer that has moved as well, before it was followed, says it to
 * nobody: neither knows where the other is. */
static void moved(struct t_world *w, uint32_t node)
{
    const uint64_t now = kvn_sim_now(w->sim);

    strain(w, node, now + w->cfg.dead_ns / 4);
    for (uint32_t i = 0; i < w->nodes; ++i)
        if (i != node && w->node[i].sought_until_ns > now)
            t_doom(w, node, i);
    w->node[node].sought_until_ns = now + w->cfg.dead_ns * 3 / 4;
}

static void befall(struct t_world *w, enum t_fault fault, uint32_t a, uint32_t b)
{
    switch (fault) {
    case T_CUT:
        partition(w, a, b);
        return;
    case T_BLACK_HOLE:
        w->trouble[a][b].hole_until_ns = kvn_sim_now(w->sim) + t_random(w, 400 * T_MS);
        strain(w, a, w->trouble[a][b].hole_until_ns);
        return;
    case T_CLOCK:
        step_clock(w, a);
        return;
    case T_STALL:
        stall(w, a);
        return;
    case T_TX_LIMIT:
        limit_tx(w, a);
        return;
    case T_RX_RING:
        kvn_sim_rx_ring(w->sim, a, t_chance(w, 2) ? 0 : 4 + (uint32_t)t_random(w, 200));
        return;
    case T_RESTART:
    case T_CRASH:
        if (w->node[a].t != NULL)
            restart(w, a, fault == T_CRASH);
        return;
    case T_MOVE:
        kvn_sim_move(w->sim, a);
        moved(w, a);
        return;
    case T_REBIND:
        kvn_sim_rebind(w->sim, a, (uint32_t)t_random(w, KVN_PORT_SOURCES_MAX));
        moved(w, a);
        return;
    default:
        return;
    }
}

static const struct {
    enum t_fault fault;
    uint32_t one_in; /* weather calls */
} events[] = {
    {T_CUT, 30},     {T_BLACK_HOLE, 40}, {T_CLOCK, 40},  {T_STALL, 30}, {T_TX_LIMIT, 20},
    {T_RX_RING, 20}, {T_RESTART, 100},   {T_CRASH, 100}, {T_MOVE, 120}, {T_REBIND, 60},
};

static void recover(struct t_world *w)
{
    const uint64_t now = kvn_sim_now(w->sim);

    for (uint32_t i = 0; i < w->nodes; ++i) {
        struct t_node *n = &w->node[i];

        if (n->tx_limited_until_ns != 0 && n->tx_limited_until_ns <= now) {
            n->tx_limited_until_ns = 0;
            kvn_sim_tx_limit_of(w->sim, i, UINT32_MAX);
        }
        if (n->t == NULL && n->stalled_until_ns <= now)
            t_node_open(w, i);
        if (n->t == NULL)
            doom_node(w, i);
        for (uint32_t j = 0; j < w->nodes; ++j)
            apply(w, i, j);
    }
}

void t_weather(struct t_world *w)
{
    const uint32_t a = (uint32_t)t_random(w, w->nodes);
    const uint32_t b = (a + 1 + (uint32_t)t_random(w, w->nodes - 1)) % w->nodes;

    if (t_chance(w, 6))
        w->link[a][b] = bad_link(w);
    for (uint32_t i = 0; i < sizeof(events) / sizeof(events[0]); ++i) {
        const bool now = t_chance(w, events[i].one_in);
        const uint64_t its = t_random(w, UINT64_MAX), ours = w->random;

        w->random = its; /* what it draws isn't missing elsewhere */
        if (now && w->may[events[i].fault])
            befall(w, events[i].fault, a, b);
        w->random = ours;
    }
    recover(w);
}

void t_weather_begin(struct t_world *w)
{
    for (uint32_t i = 0; i < w->nodes; ++i) {
        for (uint32_t j = 0; j < w->nodes; ++j) {
            w->link[i][j] = bad_link(w);
            apply(w, i, j);
        }
        if (w->may[T_EGRESS]) {
            const struct kvn_sim_egress e = {
                .bytes_per_s = 50000000 + t_random(w, 5000000000),
                .buffer_bytes =
                    t_chance(w, 2) ? 4 * w->payload_max + (uint32_t)t_random(w, 500000) : 0,
                .ecn_bytes = t_chance(w, 2) ? 10000 + (uint32_t)t_random(w, 100000) : 0};

            kvn_sim_egress(w->sim, i, &e);
        }
    }
}

void t_weather_end(struct t_world *w)
{
    const struct kvn_sim_egress none = {0};

    for (uint32_t i = 0; i < w->nodes; ++i) {
        w->node[i].stalled_until_ns = 0;
        w->node[i].tx_limited_until_ns = 1;
        kvn_sim_rx_ring(w->sim, i, 0);
        kvn_sim_egress(w->sim, i, &none);
        for (uint32_t j = 0; j < w->nodes; ++j) {
            w->trouble[i][j] = (struct t_trouble){0};
            w->link[i][j] = (struct kvn_sim_link){.delay_ns = 20000};
        }
    }
    recover(w);
}
