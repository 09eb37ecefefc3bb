/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever the network does, messages and puts arrive once, whole and right; peers that vanish are
 * noticed; and when all is said the wire is quiet. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "pair.h"

#define MS 1000000ull
#define S  1000000000ull

static struct t_pair pair; /* big; each test has its own process */

static const struct kvn_sim_link clean = {.delay_ns = 20000};

/* A link as bad as a peer can live with, from the seed. */
static struct kvn_sim_link bad_link(struct t_pair *p)
{
    struct kvn_sim_link l = {.delay_ns = 1000 + t_pair_random(p, 200000)};

    if (t_pair_random(p, 2))
        l.jitter_ns = t_pair_random(p, 300000);
    if (t_pair_random(p, 2))
        l.bytes_per_s = 10000000 + t_pair_random(p, 2000000000);
    if (t_pair_random(p, 2))
        l.queue_bytes = 50000 + (uint32_t)t_pair_random(p, 400000);
    if (t_pair_random(p, 3))
        l.loss = (double)t_pair_random(p, 150) / 1000;
    if (t_pair_random(p, 2))
        l.dup = (double)t_pair_random(p, 100) / 1000;
    if (t_pair_random(p, 2))
        l.corrupt = (double)t_pair_random(p, 20) / 1000;
    if (t_pair_random(p, 4) == 0)
        l.truncate = (double)t_pair_random(p, 10) / 1000;
    if (t_pair_random(p, 2)) {
        l.reorder = (double)t_pair_random(p, 200) / 1000;
        l.reorder_ns = t_pair_random(p, 1000000);
    }
    return l;
}

static uint32_t random_bytes(struct t_pair *p, uint32_t max)
{
    const uint64_t kind = t_pair_random(p, 10);

    if (kind < 5)
        return 1 + (uint32_t)t_pair_random(p, 200);
    if (kind < 9)
        return 1 + (uint32_t)t_pair_random(p, max / 8);
    return 1 + (uint32_t)t_pair_random(p, max);
}

/* Change the weather, queue some work, let some time pass. */
static void live(struct t_pair *p)
{
    if (t_pair_random(p, 8) == 0) {
        const struct kvn_sim_link l = bad_link(p);
        kvn_sim_link(p->sim, (uint32_t)t_pair_random(p, 2), (uint32_t)t_pair_random(p, 2), &l);
    }
    if (t_pair_random(p, 40) == 0) { /* a partition that both sides outlive */
        struct kvn_sim_link l = bad_link(p);
        l.cut = true;
        kvn_sim_link(p->sim, 0, 1, &l);
        t_pair_run(p, kvn_sim_now(p->sim) + t_pair_random(p, 300 * MS));
        l.cut = false;
        kvn_sim_link(p->sim, 0, 1, &l);
    }
    if (t_pair_random(p, 10) == 0)
        kvn_sim_tx_limit(p->sim,
                         t_pair_random(p, 2) ? UINT32_MAX : 1 + (uint32_t)t_pair_random(p, 31));
    for (uint32_t side = 0; side < 2; ++side) {
        if (!p->side[side].up)
            continue;
        for (uint64_t n = t_pair_random(p, 4); n > 0; --n)
            t_pair_message(p, side, random_bytes(p, KVW_MSG_BYTES_MAX));
        for (uint64_t n = t_pair_random(p, 4); n > 0; --n)
            t_pair_put(p, side, random_bytes(p, T_SLOT_BYTES));
    }
    t_pair_run(p, kvn_sim_now(p->sim) + t_pair_random(p, 3 * MS));
}

/* After close the wire is quiet, and nobody wants to be woken. */
static void expect_quiet(struct t_pair *p)
{
    struct kvn_sim_stats before, after;
    struct kvw_transport *const t = p->side[0].t;

    t->ops->disconnect(t, p->side[0].conn, kvn_sim_now(p->sim));
    p->side[0].down = true;
    t_pair_run(p, kvn_sim_now(p->sim) + 3 * S);
    kvn_sim_stats(p->sim, &before);
    t_pair_run(p, kvn_sim_now(p->sim) + 10 * S);
    kvn_sim_stats(p->sim, &after);
    cr_assert_eq(p->side[1].downs, 1, "seed %llu", (unsigned long long)p->seed);
    cr_assert_eq(p->side[0].downs, 0);
    cr_assert_eq(before.sent, after.sent, "seed %llu: not quiet", (unsigned long long)p->seed);
    for (int i = 0; i < 2; ++i)
        cr_assert_eq(p->side[i].t->ops->deadline_ns(p->side[i].t), UINT64_MAX,
                     "seed %llu: side %d wants to be woken", (unsigned long long)p->seed, i);
}

static void run_seed(uint64_t seed)
{
    static const uint32_t payloads[] = {1200, 1452, 8240, 32816, 65000};
    const struct kvn_packet_config cfg = {
        .connect_ns = 20 * S, .dead_ns = 2 * S, .conns_max = 4, .slice_bytes = 65536};
    struct kvn_sim_link l;
    uint64_t give_up;

    t_pair_open(&pair, seed, payloads[seed % 5], &cfg);
    pair.eager = seed % 4 == 0;
    for (uint32_t i = 0; i < 4; ++i) {
        l = bad_link(&pair);
        kvn_sim_link(pair.sim, i / 2, i % 2, &l);
    }
    for (int i = 0; i < 60 && pair.failed[0] == '\0'; ++i)
        live(&pair);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    give_up = kvn_sim_now(pair.sim) + 5 * S;
    while (!t_pair_settled(&pair) && pair.failed[0] == '\0' && kvn_sim_now(pair.sim) < give_up)
        t_pair_step(&pair, give_up);
    cr_assert_str_empty(pair.failed, "KVN_SIM_SEED=%llu: %s", (unsigned long long)seed,
                        pair.failed);
    cr_assert(t_pair_settled(&pair),
              "KVN_SIM_SEED=%llu: no progress; up %d/%d msgs %u/%u %u/%u puts %u/%u/%u %u/%u/%u",
              (unsigned long long)seed, pair.side[0].up, pair.side[1].up, pair.side[0].msgs_sent,
              pair.side[1].msgs_got, pair.side[1].msgs_sent, pair.side[0].msgs_got,
              pair.side[0].puts_sent, pair.side[0].puts_done, pair.side[1].puts_landed,
              pair.side[1].puts_sent, pair.side[1].puts_done, pair.side[0].puts_landed);
    cr_assert(pair.side[0].ups == 1 && pair.side[1].ups == 1 && !pair.side[0].down &&
                  !pair.side[1].down,
              "KVN_SIM_SEED=%llu: ups %u %u downs %u %u", (unsigned long long)seed,
              pair.side[0].ups, pair.side[1].ups, pair.side[0].downs, pair.side[1].downs);
    expect_quiet(&pair);
    t_pair_check_memory(&pair);
    cr_assert_str_empty(pair.failed, "KVN_SIM_SEED=%llu: %s", (unsigned long long)seed,
                        pair.failed);
    t_pair_close(&pair);
}

Test(packet_sim, many_seeds, .timeout = 300)
{
    const char *one = getenv("KVN_SIM_SEED");

    if (one != NULL) {
        run_seed(strtoull(one, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= 200; ++seed)
        run_seed(seed);
}
