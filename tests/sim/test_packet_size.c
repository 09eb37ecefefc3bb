/* SPDX-License-Identifier: Apache-2.0 */
/* However the handshake went, a connection soon uses the longest packets that its path carries and
 * both ends take; and what it uses can be read. */
#include <criterion/criterion.h>

#include "../../net/packet/wire.h"
#include "pair.h"

#define MS      1000000ull
#define PAYLOAD (8192u + KVN_DATA_BYTES)

static struct t_pair pair;
static uint32_t longest[2]; /* DATA of each side since it was set to 0 */
static const struct kvn_sim_link clean = {.delay_ns = 20000, .bytes_per_s = 1250000000};
static const struct kvn_packet_config defaults = {.seed = 0};

static bool watch(void *arg, const struct kvn_sim_sight *sight)
{
    uint32_t bytes = sight->packet->head_bytes;

    (void)arg;
    for (uint32_t i = 0; i < sight->packet->body_count; ++i)
        bytes += sight->packet->body[i].bytes;
    if ((sight->packet->head[0] & 15) == KVN_PACKET_DATA && bytes > longest[sight->from])
        longest[sight->from] = bytes;
    return true;
}

static void open_pair(uint64_t seed)
{
    t_pair_open(&pair, seed, PAYLOAD, &defaults);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_tap(pair.sim, watch, NULL);
}

/* Time passes; the client dials again as often as it gives up. */
static void dial_until(uint64_t until_ns)
{
    struct t_side *const client = &pair.side[0];

    while (kvn_sim_now(pair.sim) < until_ns && pair.failed[0] == '\0') {
        t_pair_step(&pair, until_ns);
        if (!client->down)
            continue;
        client->down = false;
        cr_assert_eq(client->t->ops->connect(client->t, NULL, kvn_sim_now(pair.sim), &client->conn),
                     KVW_OK);
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
}

static uint32_t in_use(uint32_t side)
{
    struct kvn_conn_stats stats;

    cr_assert_eq(kvn_packet_conn_stats(pair.side[side].t, pair.side[side].conn, &stats), KVW_OK);
    return stats.path[0].payload;
}

/* The longest DATA of a put from each side. */
static void put_both_ways(void)
{
    longest[0] = longest[1] = 0;
    cr_assert(t_pair_put(&pair, 0, 150000) && t_pair_put(&pair, 1, 150000));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_assert(t_pair_settled(&pair));
}

/* The listener's port is open, but it computes: the first HELLOs wait in its queue, shorter ones
 * follow. 20 round trips after it has looked, packets are long. */
Test(size, a_listener_that_polls_late)
{
    static const uint32_t wait_ms[] = {1, 400, 999, 1001, 1200, 1700, 1999, 2001, 2500, 3200, 9700};

    for (uint32_t i = 0; i < sizeof(wait_ms) / sizeof(wait_ms[0]); ++i) {
        open_pair(i + 1);
        pair.side[1].away = true;
        dial_until(kvn_sim_now(pair.sim) + wait_ms[i] * MS);
        pair.side[1].away = false;
        dial_until(kvn_sim_now(pair.sim) + 20 * 40000);
        cr_assert(pair.side[0].up && pair.side[1].up, "%u ms", wait_ms[i]);
        cr_expect_eq(in_use(0), PAYLOAD, "%u ms: %u", wait_ms[i], in_use(0));
        cr_expect_eq(in_use(1), PAYLOAD, "%u ms: %u", wait_ms[i], in_use(1));
        put_both_ways();
        cr_expect(longest[0] == PAYLOAD && longest[1] == PAYLOAD, "%u ms: %u %u", wait_ms[i],
                  longest[0], longest[1]);
        t_pair_close(&pair);
    }
}

/* The network is cut until the last quarter of the dial, so that short HELLOs alone arrive. */
Test(size, a_network_that_comes_late)
{
    static const struct kvn_sim_link cut = {.cut = true};
    static const uint32_t wait_ms[] = {990, 1200, 1510, 1700};

    for (uint32_t i = 0; i < sizeof(wait_ms) / sizeof(wait_ms[0]); ++i) {
        open_pair(i + 1);
        kvn_sim_links(pair.sim, &cut);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + wait_ms[i] * MS);
        kvn_sim_links(pair.sim, &clean);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 161 * MS);
        cr_assert(pair.side[0].up && pair.side[1].up, "%u ms", wait_ms[i]);
        cr_expect(in_use(0) == PAYLOAD && in_use(1) == PAYLOAD, "%u ms: %u %u", wait_ms[i],
                  in_use(0), in_use(1));
        put_both_ways();
        cr_expect(longest[0] == PAYLOAD && longest[1] == PAYLOAD, "%u ms: %u %u", wait_ms[i],
                  longest[0], longest[1]);
        t_pair_close(&pair);
    }
}

/* The peer goes away just after the handshake, before it has answered what was searched: silence
 * says nothing about lengths. */
Test(size, a_peer_that_stops_during_the_search)
{
    static const struct kvn_sim_link cut = {.cut = true};

    for (uint64_t seed = 1; seed <= 10; ++seed) {
        open_pair(seed);
        kvn_sim_links(pair.sim, &cut);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 1600 * MS);
        kvn_sim_links(pair.sim, &clean);
        while (!pair.side[0].up) /* its probe is on its way, and not read before the end of this */
            t_pair_step(&pair, kvn_sim_now(pair.sim) + MS);
        pair.side[1].away = true;
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 48 * seed * MS);
        pair.side[1].away = false;
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 110 * MS);
        cr_expect(in_use(0) == PAYLOAD && in_use(1) == PAYLOAD, "%llu: %u %u",
                  (unsigned long long)seed, in_use(0), in_use(1));
        put_both_ways();
        t_pair_close(&pair);
    }
}

/* What one end's interface carries at the handshake isn't what it can ever take. */
Test(size, an_interface_that_was_narrow_at_the_handshake)
{
    for (uint32_t side = 0; side < 2; ++side) {
        open_pair(1 + side);
        kvn_sim_payload_max(pair.sim, side, 1472);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 2 * MS);
        cr_assert(pair.side[0].up && pair.side[1].up);
        put_both_ways();
        cr_expect_leq(longest[side], 1472);
        kvn_sim_payload_max(pair.sim, side, PAYLOAD);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 1100 * MS);
        put_both_ways();
        cr_expect(longest[0] == PAYLOAD && longest[1] == PAYLOAD, "%u: %u %u", side, longest[0],
                  longest[1]);
        t_pair_close(&pair);
    }
}
