/* SPDX-License-Identifier: Apache-2.0 */
/* No call's work waits for a timer: after each call deadline_ns() is now if there is something to
 * do, and ends that poll at their deadlines alone are done within round trips. */
#include <criterion/criterion.h>

#include "../../net/packet/wire.h"
#include "pair.h"

#define US      1000ull
#define MS      1000000ull
#define RTT     (40 * US)
#define PAYLOAD (8192u + KVN_DATA_BYTES)

static struct t_pair pair;
static const struct kvn_sim_link clean = {.delay_ns = RTT / 2, .bytes_per_s = 12500000000};
static const struct kvn_packet_config defaults = {.seed = 0};

static uint64_t now(void)
{
    return kvn_sim_now(pair.sim);
}

static uint64_t deadline(uint32_t side)
{
    return pair.side[side].t->ops->deadline_ns(pair.side[side].t);
}

static void open_pair(uint64_t seed)
{
    t_pair_open(&pair, seed, PAYLOAD, &defaults);
    kvn_sim_links(pair.sim, &clean);
}

/* Up, and quiet: nothing is due but the keepalive. */
static void idle(uint64_t seed)
{
    open_pair(seed);
    t_pair_run(&pair, now() + 100 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
    cr_assert(deadline(0) > now() + 50 * MS && deadline(1) > now() + 50 * MS);
}

/* Steps until settled, for so long at most. Returns how long it took. */
static uint64_t settles_within(uint64_t limit_ns)
{
    const uint64_t began = now();

    while (!t_pair_settled(&pair) && now() < began + limit_ns && pair.failed[0] == '\0')
        t_pair_step(&pair, began + limit_ns);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_expect(t_pair_settled(&pair), "not within %llu us", (unsigned long long)(limit_ns / US));
    return now() - began;
}

/* HELLO and its answer: a round trip; the listener is up half of one later. */
Test(wake, connect)
{
    uint64_t began;

    open_pair(1);
    began = now();
    cr_expect_leq(deadline(0), began);
    while (!(pair.side[0].up && pair.side[1].up) && now() < began + 2 * RTT)
        t_pair_step(&pair, began + 2 * RTT);
    cr_expect(pair.side[0].up && pair.side[1].up);
    t_pair_close(&pair);
}

Test(wake, send)
{
    for (uint32_t side = 0; side < 2; ++side) {
        idle(1 + side);
        cr_assert(t_pair_message(&pair, side, 100));
        cr_expect_leq(deadline(side), now(), "%llu", (unsigned long long)(deadline(side) - now()));
        settles_within(RTT / 2 + 10 * US);
        cr_expect(t_pair_message(&pair, side, 60000)); /* several packets, and an answer */
        cr_expect(t_pair_message(&pair, 1 - side, 60000));
        cr_expect_leq(deadline(0), now());
        cr_expect_leq(deadline(1), now());
        settles_within(3 * RTT);
        t_pair_close(&pair);
    }
}

Test(wake, put)
{
    for (uint32_t side = 0; side < 2; ++side) {
        idle(1 + side);
        cr_assert(t_pair_put(&pair, side, 5000));
        cr_expect_leq(deadline(side), now(), "%llu", (unsigned long long)(deadline(side) - now()));
        settles_within(RTT + 20 * US);
        cr_assert(t_pair_put(&pair, side, 150000));
        settles_within(6 * RTT);
        t_pair_close(&pair);
    }
}

/* Calls after one another, without a poll in between, and after polls that had nothing to do. */
Test(wake, a_call_after_the_packets_of_another)
{
    idle(1);
    cr_assert(t_pair_put(&pair, 0, 5000));
    t_pair_poll(&pair, 0);
    cr_assert(t_pair_put(&pair, 0, 5000));
    cr_expect_leq(deadline(0), now());
    t_pair_poll(&pair, 0);
    t_pair_poll(&pair, 0);
    cr_assert(t_pair_message(&pair, 0, 10));
    cr_expect_leq(deadline(0), now());
    settles_within(RTT + 20 * US);
    t_pair_close(&pair);
}

Test(wake, disconnect)
{
    for (uint32_t side = 0; side < 2; ++side) {
        struct t_side *const s = &pair.side[side];
        uint64_t began;

        idle(1 + side);
        s->t->ops->disconnect(s->t, s->conn, now()); /* no event is due, but the farewell is */
        s->down = true;
        cr_expect_leq(deadline(side), now());
        began = now();
        while (!pair.side[1 - side].down && now() < began + RTT / 2 + 10 * US)
            t_pair_step(&pair, began + RTT / 2 + 10 * US);
        cr_expect_eq(pair.side[1 - side].downs, 1);
        t_pair_close(&pair);
    }
}

/* PUT_DONE of what was under way is due at once, not when the connection is forgotten. */
Test(wake, disconnect_with_a_put)
{
    struct t_side *const s = &pair.side[0];

    idle(1);
    cr_assert(t_pair_put(&pair, 0, 150000));
    t_pair_poll(&pair, 0);
    s->t->ops->disconnect(s->t, s->conn, now());
    cr_expect_leq(deadline(0), now());
    t_pair_poll(&pair, 0);
    cr_expect_eq(s->puts_done, 1);
    t_pair_close(&pair);
}

/* The farewell leaves in the call itself. */
Test(wake, close)
{
    uint64_t began;

    idle(1);
    pair.side[0].t->ops->close(pair.side[0].t);
    pair.side[0].t = NULL;
    pair.side[0].away = true;
    began = now();
    while (!pair.side[1].down && now() < began + RTT / 2 + 10 * US)
        t_pair_step(&pair, began + RTT / 2 + 10 * US);
    cr_expect_eq(pair.side[1].downs, 1);
    t_pair_close(&pair);
}

/* Events that didn't fit one poll() are due at once. */
Test(wake, events_left_over)
{
    struct kvw_transport *t;
    struct kvw_transport_event ev[1];
    uint32_t n = 0;

    idle(1);
    t = pair.side[1].t;
    pair.side[1].away = true;
    for (uint32_t i = 0; i < 5; ++i)
        cr_assert(t_pair_message(&pair, 0, 10));
    t_pair_run(&pair, now() + RTT);
    for (uint32_t i = 0; i < 5; ++i) {
        cr_assert_leq(deadline(1), now(), "event %u", i);
        n += t->ops->poll(t, now(), ev, 1);
        cr_expect_eq(ev[0].kind, KVW_TEV_MESSAGE);
    }
    cr_expect_eq(n, 5);
    t_pair_close(&pair);
}

/* More messages than the stream holds: the room that was made is told without a timer. */
Test(wake, a_stream_that_was_full)
{
    uint64_t began;
    uint32_t n = 0;

    idle(1);
    began = now();
    while (n < 200) {
        while (n < 200 && t_pair_message(&pair, 0, 60000))
            ++n;
        t_pair_step(&pair, now() + MS);
    }
    settles_within(6 * RTT);
    cr_expect_leq(now() - began, 200 * RTT, "%llu us", (unsigned long long)((now() - began) / US));
    t_pair_close(&pair);
}

static uint64_t lose_at; /* DATA of side 0, counted from 1 */
static uint64_t data_sent;

static bool loses_one(void *arg, const struct kvn_sim_sight *sight)
{
    (void)arg;
    if (sight->from != 0 || (sight->packet->head[0] & 15) != KVN_PACKET_DATA)
        return true;
    return ++data_sent != lose_at;
}

/* The first of two slices is lost: the second's ACK starts the loss timer, which is 200 us here; a
 * probe would come after 2 ms. */
Test(wake, a_loss_that_only_time_shows)
{
    uint64_t took;

    idle(1);
    kvn_sim_tap(pair.sim, loses_one, NULL);
    lose_at = 1;
    cr_assert(t_pair_put(&pair, 0, 16000));
    took = settles_within(KVN_LOSS_DELAY_MIN_NS + 2 * RTT);
    cr_expect_geq(took, KVN_LOSS_DELAY_MIN_NS);
    cr_expect_eq(data_sent, 3);
    t_pair_close(&pair);
}

/* The only slice is lost: nothing but the probe can tell, after 2 ms. */
Test(wake, a_loss_that_only_a_probe_shows)
{
    idle(1);
    kvn_sim_tap(pair.sim, loses_one, NULL);
    lose_at = 1;
    cr_assert(t_pair_put(&pair, 0, 1000));
    settles_within(KVN_PTO_MIN_NS + 2 * RTT);
    t_pair_close(&pair);
}

/* The port has learnt that its interface carries less: connections hear of it now. */
Test(wake, a_port_that_carries_less)
{
    idle(1);
    kvn_sim_payload_max(pair.sim, 0, 1472);
    cr_expect_leq(deadline(0), now());
    t_pair_step(&pair, now() + MS);
    cr_expect_gt(deadline(0), now() + 10 * MS);
    t_pair_close(&pair);
}

/* A port that takes nothing is tried again after 100 us, and then all leaves. */
Test(wake, a_port_that_was_full)
{
    idle(1);
    kvn_sim_tx_limit_of(pair.sim, 0, 0);
    cr_assert(t_pair_put(&pair, 0, 5000));
    t_pair_run(&pair, now() + 5 * MS);
    cr_expect_leq(deadline(0), now() + KVN_TX_RETRY_NS);
    kvn_sim_tx_limit_of(pair.sim, 0, UINT32_MAX);
    settles_within(KVN_TX_RETRY_NS + RTT + 20 * US);
    t_pair_close(&pair);
}
