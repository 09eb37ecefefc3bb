/* SPDX-License-Identifier: Apache-2.0 */
/* A connection outlives its path's getting narrower, whoever tells or doesn't, and uses what it
 * carries when it gets wider again. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "../../net/packet/wire.h"
#include "pair.h"

#define MS      1000000ull
#define S       1000000000ull
#define PAYLOAD (8192u + KVN_DATA_BYTES)
#define NARROW  1472u /* what is left of a path of 1500 */

static struct t_pair pair;
static uint32_t sources = 1;
static uint32_t longest; /* of the DATA that side 0 sent since it was set to 0 */
static uint32_t probes;  /* PINGs of side 0 that are longer than a narrow path carries */
static const struct kvn_packet_config defaults = {.seed = 0};

static bool watch(void *arg, const struct kvn_sim_sight *sight)
{
    uint32_t bytes = sight->packet->head_bytes;

    (void)arg;
    for (uint32_t i = 0; i < sight->packet->body_count; ++i)
        bytes += sight->packet->body[i].bytes;
    if (sight->from == 0 && (sight->packet->head[0] & 15) == KVN_PACKET_DATA && bytes > longest)
        longest = bytes;
    if (sight->from == 0 && (sight->packet->head[0] & 15) == KVN_PACKET_PING && bytes > NARROW)
        ++probes;
    return true;
}

static void up(uint64_t seed, double loss)
{
    const struct kvn_sim_link l = {
        .delay_ns = 20000, .bytes_per_s = 1250000000, .loss = loss, .queue_bytes = 1 << 20};

    t_pair_open_paths(&pair, seed, PAYLOAD, &defaults, sources);
    kvn_sim_links(pair.sim, &l);
    kvn_sim_tap(pair.sim, watch, NULL);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 50 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

/* Puts and messages of both sides for a while. */
static void load(uint64_t for_ns)
{
    const uint64_t until = kvn_sim_now(pair.sim) + for_ns;

    while (kvn_sim_now(pair.sim) < until && pair.failed[0] == '\0') {
        for (uint32_t side = 0; side < 2; ++side) {
            while (pair.side[side].puts_sent < T_PUTS_MAX &&
                   t_pair_put(&pair, side, 1 + (uint32_t)t_pair_random(&pair, 150000)))
                ;
            if (pair.side[side].msgs_sent == pair.side[1 - side].msgs_got)
                (void)t_pair_message(&pair, side, 1 + (uint32_t)t_pair_random(&pair, 60000));
        }
        t_pair_step(&pair, until);
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
}

/* Everything arrives within so long. Returns how long it took, in ms. */
static double arrives(uint64_t within_ns)
{
    const uint64_t began = kvn_sim_now(pair.sim);
    uint64_t now = began;

    while (!t_pair_settled(&pair) && kvn_sim_now(pair.sim) < began + within_ns &&
           pair.failed[0] == '\0') {
        now = kvn_sim_now(pair.sim);
        t_pair_step(&pair, began + within_ns);
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_assert(!pair.side[0].down && !pair.side[1].down);
    cr_expect(t_pair_settled(&pair), "puts %u + %u, landed %u + %u", pair.side[0].puts_sent,
              pair.side[1].puts_sent, pair.side[1].puts_landed, pair.side[0].puts_landed);
    return (double)(now - began) / 1e6;
}

/* And no byte is anywhere else. */
static double settles(uint64_t within_ns)
{
    const double ms = arrives(within_ns);

    t_pair_check_memory(&pair);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    return ms;
}

/* The longest packet with a slice of a put of 150,000 bytes. */
static uint32_t length_now(void)
{
    longest = 0;
    cr_assert(t_pair_put(&pair, 0, 150000));
    settles(100 * MS);
    return longest;
}

/* Nobody tells: what is under way is cut anew, and all of it arrives. */
Test(mtu, a_black_hole_under_load)
{
    for (uint64_t seed = 1; seed <= 10; ++seed) {
        double ms;

        up(seed, seed % 2 == 0 ? 0.01 : 0);
        load(1 * MS + seed * 100000);
        kvn_sim_payload_limit(pair.sim, NARROW);
        ms = settles(200 * MS);
        printf("# seed %llu: settled %.1f ms after the path had shrunk\n", (unsigned long long)seed,
               ms);
        cr_expect_leq(length_now(), NARROW);
        t_pair_close(&pair);
    }
}

/* One of several paths gets narrow: packets are as long as all of them carry. */
Test(mtu, a_black_hole_on_one_of_four_paths)
{
    const struct kvn_sim_link narrow = {
        .delay_ns = 20000, .bytes_per_s = 1250000000, .payload_limit = NARROW};

    sources = 4;
    up(1, 0);
    load(1 * MS);
    kvn_sim_path(pair.sim, 0, 1, 2, &narrow);
    printf("# settled after %.1f ms\n", settles(200 * MS));
    load(5 * MS);
    printf("# settled after %.1f ms\n", settles(200 * MS));
    cr_expect_leq(length_now(), NARROW);
    t_pair_close(&pair);
}

/* One slice is enough to notice. */
Test(mtu, a_black_hole_and_one_small_put)
{
    up(1, 0);
    kvn_sim_payload_limit(pair.sim, NARROW);
    cr_assert(t_pair_put(&pair, 0, 5000));
    printf("# arrived after %.1f ms\n", settles(200 * MS));
    t_pair_close(&pair);
}

/* Messages go on in shorter pieces. */
Test(mtu, a_black_hole_and_messages_alone)
{
    up(1, 0);
    kvn_sim_payload_limit(pair.sim, NARROW);
    cr_assert(t_pair_message(&pair, 0, 60000));
    printf("# arrived after %.1f ms\n", settles(200 * MS));
    t_pair_close(&pair);
}

/* It uses what a narrow path carries, a second later; and all of it again when the path is as wide
 * as before. */
Test(mtu, grows_back)
{
    up(1, 0);
    load(1 * MS);
    kvn_sim_payload_limit(pair.sim, NARROW);
    settles(200 * MS);
    cr_expect_eq(length_now(), KVN_SLICE_MIN + KVN_DATA_BYTES);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 1100 * MS);
    cr_expect_eq(length_now(), (1452 - KVN_DATA_BYTES) / 16 * 16 + KVN_DATA_BYTES);
    kvn_sim_payload_limit(pair.sim, UINT32_MAX);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * S);
    cr_expect_eq(length_now(), PAYLOAD);
    load(1 * MS);
    settles(100 * MS);
    t_pair_close(&pair);
}

/* A put every 10 ms, so many times, or until packets are longer than that. */
static void work_until_longer(uint32_t times, uint32_t bytes)
{
    longest = 0;
    for (uint32_t i = 0; i < times && longest <= bytes; ++i) {
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
        cr_assert(t_pair_put(&pair, 0, 100000));
        arrives(100 * MS);
    }
}

/* The search doesn't hold up what is sent meanwhile, nor is it taken for loss. */
Test(mtu, grows_back_under_load)
{
    struct kvw_transport_stats before, after;
    struct kvw_transport *t;

    up(1, 0);
    load(1 * MS);
    kvn_sim_payload_limit(pair.sim, NARROW);
    settles(200 * MS);
    t = pair.side[0].t;
    t->ops->stats(t, &before);
    work_until_longer(110, KVN_PAYLOAD_MIN); /* probes of 8240 are lost, one of 1452 arrives */
    cr_expect(longest > KVN_PAYLOAD_MIN && longest <= NARROW, "%u", longest);
    t->ops->stats(t, &after);
    cr_expect_eq(after.packets_retransmitted, before.packets_retransmitted);
    kvn_sim_payload_limit(pair.sim, UINT32_MAX);
    work_until_longer(1050, NARROW);
    cr_expect_eq(longest, PAYLOAD);
    settles(100 * MS);
    t_pair_close(&pair);
}

/* A probe that was only slow: taken for lost when nothing that weighs was, and proof all the same
 * when it arrives. */
Test(mtu, a_probe_that_comes_late)
{
    const struct kvn_sim_link quick = {.delay_ns = 20000, .bytes_per_s = 1250000000};
    const struct kvn_sim_link slow = {.delay_ns = MS / 2, .bytes_per_s = 1250000000};
    struct kvw_transport_stats before, after;
    struct kvw_transport *t;

    up(1, 0);
    kvn_sim_links(pair.sim, &quick);
    load(1 * MS);
    kvn_sim_payload_limit(pair.sim, NARROW);
    settles(200 * MS);
    t = pair.side[0].t;
    kvn_sim_payload_limit(pair.sim, UINT32_MAX);
    kvn_sim_link(pair.sim, 0, 1, &slow);
    for (uint32_t i = 0; i < 30000 && probes == 0; ++i)
        t_pair_run(&pair, kvn_sim_now(pair.sim) + MS / 20);
    cr_assert_eq(probes, 1);
    t->ops->stats(t, &before);
    kvn_sim_link(pair.sim, 0, 1, &quick);
    cr_assert(t_pair_put(&pair, 0, 50000)); /* its packets overtake the probe */
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS / 5);
    t->ops->stats(t, &after);
    cr_expect_gt(after.packets_lost, before.packets_lost, "the probe wasn't taken for lost");
    cr_expect_eq(after.packets_spurious, before.packets_spurious);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    t->ops->stats(t, &after);
    cr_expect_gt(after.packets_spurious, before.packets_spurious, "it wasn't late");
    cr_expect_eq(length_now(), PAYLOAD);
    settles(100 * MS);
    t_pair_close(&pair);
}

/* The next attempt waits behind a port that takes nothing, and the late one proves the length
 * meanwhile: there is nothing left to try. */
Test(mtu, a_probe_that_comes_late_before_the_next_has_left)
{
    const struct kvn_sim_link quick = {.delay_ns = 20000, .bytes_per_s = 1250000000};
    const struct kvn_sim_link slow = {.delay_ns = 200 * MS, .bytes_per_s = 1250000000};

    up(1, 0);
    kvn_sim_links(pair.sim, &quick);
    load(1 * MS);
    kvn_sim_payload_limit(pair.sim, NARROW);
    settles(200 * MS);
    kvn_sim_payload_limit(pair.sim, UINT32_MAX);
    kvn_sim_link(pair.sim, 0, 1, &slow);
    for (uint32_t i = 0; i < 30000 && probes == 0; ++i)
        t_pair_run(&pair, kvn_sim_now(pair.sim) + MS / 20);
    cr_assert_eq(probes, 1);
    kvn_sim_tx_limit_of(pair.sim, 0, 0);
    cr_assert(t_pair_message(&pair, 0, 100));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 250 * MS);
    kvn_sim_tx_limit_of(pair.sim, 0, UINT32_MAX);
    kvn_sim_link(pair.sim, 0, 1, &quick);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(probes, 1, "%u probes", probes);
    cr_expect_eq(length_now(), PAYLOAD);
    settles(100 * MS);
    t_pair_close(&pair);
}

/* Losses of any kind but length shorten nothing: bursts, and an interruption of everything. */
Test(mtu, other_losses_do_not_count)
{
    const struct kvn_sim_link cut = {.cut = true};
    const struct kvn_sim_link bursts = {.delay_ns = 20000,
                                        .bytes_per_s = 1250000000,
                                        .queue_bytes = 1 << 20,
                                        .loss = 0.02,
                                        .burst_begin = 0.002,
                                        .burst_end = 0.05,
                                        .burst_loss = 0.5};

    for (uint64_t seed = 1; seed <= 5; ++seed) {
        up(seed, 0);
        load(1 * MS);
        kvn_sim_links(pair.sim, &cut);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 300 * MS);
        kvn_sim_links(pair.sim, &bursts);
        load(10 * MS);
        settles(1 * S);
        cr_expect_eq(length_now(), PAYLOAD, "seed %llu", (unsigned long long)seed);
        t_pair_close(&pair);
    }
}

/* The own interface gets smaller, and the port says so: at once, and for what is under way too. */
Test(mtu, own_payload_max_lowered)
{
    for (uint64_t seed = 1; seed <= 5; ++seed) {
        double ms;

        up(seed, 0);
        load(1 * MS + seed * 100000);
        kvn_sim_payload_limit(pair.sim, NARROW);
        kvn_sim_payload_max(pair.sim, 0, NARROW);
        kvn_sim_payload_max(pair.sim, 1, NARROW);
        longest = 0;
        ms = settles(50 * MS);
        cr_expect_leq(longest, NARROW);
        printf("# seed %llu: settled after %.1f ms\n", (unsigned long long)seed, ms);
        cr_expect_leq(length_now(), NARROW);
        kvn_sim_payload_limit(pair.sim, UINT32_MAX);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 1500 * MS);
        cr_expect_leq(length_now(), NARROW, "it still says so");
        kvn_sim_payload_max(pair.sim, 0, PAYLOAD);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
        cr_expect_eq(length_now(), PAYLOAD);
        t_pair_close(&pair);
    }
}
