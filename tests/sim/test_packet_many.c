/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thousand connections of one endpoint: all are up within a second, each is found by its names
 * and no other's, and a poll looks at those that have something to do, not at those that exist.
 * What is counted is connections looked at, not time.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/packet/endpoint.h"
#include "../../net/port/sim/sim.h"

#define DIALLERS 10u
#define EACH     100u
#define ALL      (DIALLERS * EACH)
#define MS       1000000ull
#define S        1000000000ull

struct end {
    struct kvw_transport *t;
    const struct kvn_port *port;
    uint64_t deadline_ns, polls;
    uint32_t ups, downs, msgs, wrong;
};

static struct kvn_sim *sim;
static struct end ends[DIALLERS + 1]; /* 0 listens */
static kvw_conn_id dialled[DIALLERS][EACH];

static uint64_t due(const struct end *e)
{
    const uint64_t at = e->port->ops->deadline_ns(e->port);

    return at < e->deadline_ns ? at : e->deadline_ns;
}

/* A message is its connection's first message's number, and so an echo says whose it is. */
static void on_event(struct end *e, const struct kvw_transport_event *ev)
{
    e->ups += ev->kind == KVW_TEV_CONN_UP;
    e->downs += ev->kind == KVW_TEV_CONN_DOWN;
    if (ev->kind != KVW_TEV_MESSAGE)
        return;
    ++e->msgs;
    if (e == &ends[0])
        cr_assert_eq(e->t->ops->send(e->t, ev->conn, ev->msg, ev->bytes), KVW_OK);
    else
        e->wrong += ev->bytes != sizeof(ev->conn) || memcmp(ev->msg, &ev->conn, ev->bytes) != 0;
}

static void poll_end(struct end *e)
{
    struct kvw_transport_event ev[16];
    uint32_t n;

    do {
        n = e->t->ops->poll(e->t, kvn_sim_now(sim), ev, 16);
        ++e->polls;
        for (uint32_t i = 0; i < n; ++i)
            on_event(e, &ev[i]);
    } while (n == 16);
    e->deadline_ns = e->t->ops->deadline_ns(e->t);
}

static void run(uint64_t ns)
{
    const uint64_t until_ns = kvn_sim_now(sim) + ns;

    for (uint32_t i = 0; i <= DIALLERS; ++i)
        ends[i].deadline_ns = 0; /* perhaps it was told something */
    while (kvn_sim_now(sim) < until_ns) {
        const uint64_t now = kvn_sim_now(sim);
        uint64_t next = until_ns;

        for (uint32_t i = 0; i <= DIALLERS; ++i)
            if (due(&ends[i]) <= now)
                poll_end(&ends[i]);
        for (uint32_t i = 0; i <= DIALLERS; ++i)
            next = due(&ends[i]) < next ? due(&ends[i]) : next;
        kvn_sim_advance(sim, next > now ? next : now + 1);
    }
}

static void open_all(void)
{
    const struct kvn_sim_link link = {.delay_ns = 10000, .bytes_per_s = 1250000000ull};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;

    sim = kvn_sim_open(1, 1400);
    kvn_sim_links(sim, &link);
    for (uint32_t i = 0; i <= DIALLERS; ++i) {
        const struct kvn_packet_config cfg = {.seed = i + 1, .conns_max = i == 0 ? ALL : EACH};

        memset(&ends[i], 0, sizeof(ends[i]));
        cr_assert_eq(kvn_sim_port_open(&port, sim, i), KVW_OK);
        ends[i].port = port;
        cr_assert_eq(kvn_packet_open(&ends[i].t, port, &cfg, why), KVW_OK, "%s", why);
    }
    cr_assert_eq(ends[0].t->ops->listen(ends[0].t), KVW_OK);
    for (uint32_t d = 0; d < DIALLERS; ++d)
        for (uint32_t k = 0; k < EACH; ++k)
            cr_assert_eq(
                ends[d + 1].t->ops->connect(ends[d + 1].t, NULL, kvn_sim_now(sim), &dialled[d][k]),
                KVW_OK);
    run(1 * S);
}

static void close_all(void)
{
    for (uint32_t i = 0; i <= DIALLERS; ++i)
        ends[i].t->ops->close(ends[i].t);
    kvn_sim_close(sim);
}

static struct kvn_packet_stats stats_of(const struct end *e)
{
    struct kvn_packet_stats s;

    kvn_packet_stats(e->t, &s);
    return s;
}

Test(many, all_up_and_each_found)
{
    uint32_t msgs = 0, wrong = 0;

    open_all();
    cr_expect_eq(ends[0].ups, ALL, "%u are up after a second", ends[0].ups);
    for (uint32_t round = 0; round < 3; ++round) {
        for (uint32_t d = 0; d < DIALLERS; ++d)
            for (uint32_t k = 0; k < EACH; ++k)
                cr_assert_eq(ends[d + 1].t->ops->send(ends[d + 1].t, dialled[d][k], &dialled[d][k],
                                                      sizeof(dialled[d][k])),
                             KVW_OK);
        run(100 * MS);
    }
    for (uint32_t d = 1; d <= DIALLERS; ++d) {
        msgs += ends[d].msgs;
        wrong += ends[d].wrong;
    }
    cr_expect_eq(msgs, 3 * ALL);
    cr_expect_eq(wrong, 0, "%u echoes came by another connection", wrong);
    close_all();
}

Test(many, an_idle_one_costs_a_poll_nothing)
{
    struct kvn_packet_stats before, after;
    uint64_t polls, visits;

    open_all();
    cr_assert_eq(ends[0].ups, ALL);
    run(12 * S);
    before = stats_of(&ends[0]);
    polls = ends[0].polls;
    for (uint32_t i = 0; i < 1000; ++i) { /* one of them talks for a second */
        cr_assert_eq(
            ends[1].t->ops->send(ends[1].t, dialled[0][0], &dialled[0][0], sizeof(dialled[0][0])),
            KVW_OK);
        run(1 * MS);
    }
    after = stats_of(&ends[0]);
    polls = ends[0].polls - polls;
    visits = after.conns_visited - before.conns_visited;
    cr_expect_eq(after.conns, ALL);
    cr_expect_eq(ends[0].downs, 0);
    /* Each of the others is asked or asks whether it lives four times in that second. */
    cr_expect_leq(visits, 40 * ALL + 10 * polls, "%llu visits in %llu polls",
                  (unsigned long long)visits, (unsigned long long)polls);
    cr_expect_geq(polls * ALL, 20 * visits, "too few polls for this to say anything: %llu",
                  (unsigned long long)polls);
    close_all();
}

/* What has ended is forgotten, and its memory with it; its slot is there for another. */
Test(many, those_that_left_are_forgotten)
{
    open_all();
    for (uint32_t d = 0; d < DIALLERS; ++d)
        for (uint32_t k = 0; k < EACH; ++k)
            if (k != 7)
                ends[d + 1].t->ops->disconnect(ends[d + 1].t, dialled[d][k], kvn_sim_now(sim));
    run(2 * S);
    cr_expect_eq(ends[0].downs, ALL - DIALLERS);
    cr_expect_eq(stats_of(&ends[0]).conns, DIALLERS);
    for (uint32_t d = 0; d < DIALLERS; ++d)
        for (uint32_t k = 0; k < EACH; ++k)
            if (k != 7)
                cr_assert_eq(ends[d + 1].t->ops->connect(ends[d + 1].t, NULL, kvn_sim_now(sim),
                                                         &dialled[d][k]),
                             KVW_OK);
    run(1 * S);
    cr_expect_eq(ends[0].ups, 2 * ALL - DIALLERS);
    cr_expect_eq(stats_of(&ends[0]).conns, ALL);
    close_all();
}

static uint64_t received(void)
{
    struct kvw_transport_stats s;

    ends[0].t->ops->stats(ends[0].t, &s);
    return s.packets_received;
}

/* Run until most diallers have asked once more, and a bit: they were heard a short while ago. */
static void run_past_a_question(void)
{
    const uint64_t before = received();

    for (uint32_t i = 0; i < 3000 && received() < before + ALL * 3 / 4; ++i)
        run(1 * MS);
    cr_assert_geq(received(), before + ALL * 3 / 4, "nobody asks");
    run(50 * MS);
}

/* Who isn't used costs a packet each way in dead_ns, and is missed after twice that; who is used
 * again is missed as soon as any other. */
Test(many, an_idle_one_is_asked_seldom_and_missed_late)
{
    struct kvn_sim_link link = {.delay_ns = 10000, .bytes_per_s = 1250000000ull};
    uint32_t idle = 0;
    uint64_t before;

    open_all();
    run(12 * S);
    before = received();
    run(10 * S);
    cr_expect_leq(received() - before, 11 * ALL);
    cr_expect_geq(received() - before, 9 * ALL);
    cr_expect_eq(ends[0].downs, 0);
    run_past_a_question();
    link.cut = true;
    kvn_sim_links(sim, &link);
    for (uint32_t k = 0; k < EACH; ++k)
        cr_assert_eq(
            ends[1].t->ops->send(ends[1].t, dialled[0][k], &dialled[0][k], sizeof(dialled[0][k])),
            KVW_OK);
    run(900 * MS);
    cr_expect_eq(ends[1].downs, 0);
    run(200 * MS);
    cr_expect_eq(ends[1].downs, EACH, "what was used is missed after dead_ns");
    for (uint32_t d = 2; d <= DIALLERS; ++d)
        idle += ends[d].downs;
    cr_expect_lt(idle, (DIALLERS - 1) * EACH / 2, "%u idle ones are missed as soon", idle);
    cr_expect_lt(ends[0].downs, ALL / 2);
    run(1000 * MS);
    for (uint32_t d = 0; d <= DIALLERS; ++d)
        cr_expect_eq(ends[d].downs, d == 0 ? ALL : EACH, "end %u misses %u", d, ends[d].downs);
    close_all();
}
