/* SPDX-License-Identifier: Apache-2.0 */
/* A port that takes nothing for a while: what waits for it must not go stale or keep a core busy;
 * and a clock may jump. Each was found by a random life. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../net/packet/wire.h"
#include "pair.h"

#define MS 1000000ull
#define S  1000000000ull

static struct t_pair pair;
static const struct kvn_sim_link clean = {.delay_ns = 20000};
static const struct kvn_packet_config defaults = {.seed = 0};

static void up(void)
{
    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

/* One side polls for a time, every millisecond; the other sleeps. */
static void alone(uint32_t side, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; ++i) {
        t_pair_poll(&pair, side);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    }
}

/* A second copy of a message waits for the port; the first turns out to have arrived, and its place
 * in the stream's ring is taken by later messages. The copy must not leave. */
Test(port, arrived_messages_are_not_sent_again)
{
    const struct kvn_sim_link slow = {.delay_ns = 4 * MS};
    struct kvw_transport_stats s;

    up();
    kvn_sim_links(pair.sim, &slow);
    t_pair_message(&pair, 0, 1000);
    t_pair_poll(&pair, 0);
    kvn_sim_tx_limit(pair.sim, 0);
    alone(0, 6); /* long enough for a probe, not for the ACK */
    pair.side[0].t->ops->stats(pair.side[0].t, &s);
    cr_assert_geq(s.packets_retransmitted, 1, "no second copy was built");
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    t_pair_poll(&pair, 1);
    kvn_sim_tx_limit(pair.sim, 0);
    alone(0, 10); /* the ACK */
    while (t_pair_message(&pair, 0, KVW_MSG_BYTES_MAX))
        ;
    while (t_pair_message(&pair, 0, 1000)) /* the ring comes round */
        ;
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 50 * MS);
    pair.side[1].t->ops->stats(pair.side[1].t, &s);
    cr_expect_eq(s.packets_rejected, 0, "a message that had arrived was sent again, in part");
    cr_expect(t_pair_settled(&pair));
    t_pair_close(&pair);
}

/* How often the side would be woken in a time, by its own deadlines. */
static uint32_t wakes(uint32_t side, uint64_t ns)
{
    struct kvw_transport *t = pair.side[side].t;
    const uint64_t end = kvn_sim_now(pair.sim) + ns;
    uint32_t n = 0;

    for (; kvn_sim_now(pair.sim) < end && n < 1000000; ++n) {
        const uint64_t next = t->ops->deadline_ns(t);

        kvn_sim_advance(pair.sim, next < end ? next : end);
        t_pair_poll(&pair, side);
    }
    return n;
}

/* What only a packet can settle is still due after every poll, and must not wake anybody before the
 * port is asked again: here a path that never answers and is to be asked again. */
Test(port, a_full_port_keeps_no_core_busy)
{
    const struct kvn_sim_link cut = {.cut = true};
    uint32_t n;

    t_pair_open_paths(&pair, 1, 8240, &defaults, 2);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_path(pair.sim, 0, 1, 1, &cut);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
    t_pair_put(&pair, 0, 100000);
    kvn_sim_tx_limit_of(pair.sim, 0, 0);
    t_pair_message(&pair, 1, 100); /* to be acknowledged, in a while */
    t_pair_poll(&pair, 1);
    n = wakes(0, 200 * MS);
    cr_expect_lt(n, 3000, "%u wakes in 200 ms, with %llu of retries", n,
                 (unsigned long long)(200 * MS / KVN_TX_RETRY_NS));
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 300 * MS);
    cr_expect(t_pair_settled(&pair));
    t_pair_close(&pair);
}

/* The process was stopped, or the machine slept: what is out is not to blame, and the peer may
 * still be there. */
Test(port, a_clock_that_jumps_ends_nothing)
{
    up();
    for (int i = 0; i < 3; ++i) {
        t_pair_put(&pair, 0, 100000);
        t_pair_poll(&pair, 0);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + 20 * S); /* both, as far as they know */
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 600 * MS);
    }
    cr_expect_eq(pair.side[0].downs + pair.side[1].downs, 0, "%s", pair.failed);
    cr_expect(t_pair_settled(&pair));
    t_pair_close(&pair);
}

/* transport.h asks for a monotonic clock; one that isn't must not do harm beyond its own step. An
 * ACK that comes before its packet left, by this clock, is no round trip of centuries, and what is
 * out is neither ages old nor due in an age. */
Test(port, a_clock_that_steps_back_ends_nothing)
{
    struct kvw_transport_event ev[8];
    struct kvw_transport_stats s;
    struct kvw_transport *t;

    up();
    t = pair.side[0].t;
    for (int i = 0; i < 3; ++i) {
        t_pair_put(&pair, 0, 100000);
        t_pair_poll(&pair, 0);
        for (int k = 0; k < 5; ++k) { /* the first window arrives and is acknowledged */
            kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + 20000);
            t_pair_poll(&pair, 1);
        }
        cr_assert_eq(t->ops->poll(t, kvn_sim_now(pair.sim) - 5 * MS, ev, 8), 0);
        cr_assert_eq(t->ops->poll(t, 1, ev, 8), 0);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 100 * MS);
    }
    t->ops->stats(t, &s);
    cr_expect_lt(s.srtt_ns, MS, "%llu ns", (unsigned long long)s.srtt_ns);
    cr_expect_eq(s.packets_retransmitted, 0);
    cr_expect_eq(pair.side[0].downs + pair.side[1].downs, 0);
    cr_expect(t_pair_settled(&pair));
    t_pair_close(&pair);
}
