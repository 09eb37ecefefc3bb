/* SPDX-License-Identifier: Apache-2.0 */
/* A receiver that says what it waits for gets a lost tail sooner than the sender's own timer would
 * send it, and makes next to nothing be sent twice. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../net/packet/wire.h"
#include "pair.h"

#define MS      1000000ull
#define PAYLOAD (8192u + KVN_DATA_BYTES)
#define PUTS    1000u
#define SEEDS   8u

static struct t_pair pair;
static bool deaf;         /* NACKs are lost, all of them */
static uint32_t lose;     /* so many of the last slices of each put, their first copies */
static uint32_t told;     /* NACKs sent */
static double took[PUTS]; /* microseconds until each put had landed */
static const struct kvn_packet_config defaults = {.seed = 0};

static bool tap(void *arg, const struct kvn_sim_sight *sight)
{
    const uint8_t *head = sight->packet->head;
    const uint32_t slice = head[2] | (uint32_t)head[3] << 8;

    (void)arg;
    if ((head[0] & 15) == KVN_PACKET_NACK) {
        ++told;
        return !deaf;
    }
    return (head[0] & 15) != KVN_PACKET_DATA || (head[1] & KVN_FLAG_AGAIN) != 0 ||
           slice + lose < 13; /* of 13 */
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* One put of 13 slices at a time, a little apart; how long each takes, sorted. Returns the share of
 * packets that were sent again although they arrived. */
static double serve(const struct kvn_sim_link *l, uint64_t seed, uint32_t count)
{
    struct kvw_transport_stats s;

    told = 0;
    t_pair_open(&pair, seed, PAYLOAD, &defaults);
    kvn_sim_links(pair.sim, l);
    kvn_sim_tap(pair.sim, tap, NULL);
    t_pair_run(&pair, 50 * MS + kvn_sim_now(pair.sim));
    cr_assert(pair.side[0].up && pair.side[1].up);
    for (uint32_t i = 0; i < count; ++i) {
        const uint64_t began = kvn_sim_now(pair.sim);
        uint64_t now = began;

        cr_assert(t_pair_put(&pair, 0, 100000));
        while (pair.side[1].puts_landed == i && pair.failed[0] == '\0') {
            now = kvn_sim_now(pair.sim);
            t_pair_step(&pair, began + 1000 * MS);
        }
        took[i] = (double)(now - began) / 1e3;
        t_pair_run(&pair, kvn_sim_now(pair.sim) + t_pair_random(&pair, 3 * MS));
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_assert(t_pair_settled(&pair));
    t_pair_check_memory(&pair);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    pair.side[0].t->ops->stats(pair.side[0].t, &s);
    t_pair_close(&pair);
    qsort(took, count, sizeof(took[0]), by_size);
    return (double)s.packets_spurious / (double)s.packets_sent;
}

static const struct kvn_sim_link wire = {
    .delay_ns = 10000, .bytes_per_s = 1250000000, .queue_bytes = 1000000};

/* The last slices of every put are lost: a round trip and the receiver's patience, in place of the
 * sender's. */
Test(nack, a_lost_tail)
{
    static const uint32_t tails[] = {0, 1, 3, 12};
    double with, without;

    for (uint32_t i = 0; i < sizeof(tails) / sizeof(tails[0]); ++i) {
        lose = tails[i];
        deaf = false;
        (void)serve(&wire, 1, 100);
        with = took[50];
        deaf = true;
        (void)serve(&wire, 1, 100);
        without = took[50];
        printf("# the last %u of 13 lost: %.0f us, without NACK %.0f\n", tails[i], with, without);
        if (lose > 0) {
            cr_expect_lt(with, 600.0);
            cr_expect_gt(without, 2000.0);
        }
    }
}

/* Random loss, puts one at a time, where each loss at the end is somebody's wait. */
Test(nack, random_loss)
{
    struct kvn_sim_link l = wire;
    double mean[2] = {0, 0}, high[2], spurious[2];

    l.loss = 0.01;
    lose = 0;
    for (uint32_t k = 0; k < 2; ++k) {
        deaf = k == 1;
        spurious[k] = serve(&l, 2, PUTS);
        for (uint32_t i = 0; i < PUTS; ++i)
            mean[k] += took[i] / PUTS;
        high[k] = took[PUTS * 995 / 1000];
    }
    printf(
        "# 1 %% loss: mean %.0f us, without NACK %.0f; p99.5 %.0f and %.0f us; sent in vain %.4f "
        "%%\n",
        mean[0], mean[1], high[0], high[1], 100 * spurious[0]);
    cr_expect_lt(mean[0], 0.95 * mean[1]);
    cr_expect_lt(high[0], 0.5 * high[1]);
    cr_expect_lt(spurious[0], 0.001);
}

/* Nothing is lost, but much is late, and by more than the receiver's patience: what a NACK makes be
 * sent again in vain is found out, and NACKs are believed later from then on. */
Test(nack, late_is_not_lost)
{
    struct kvn_sim_link l = wire;
    double with = 0, without = 0;
    uint32_t nacks = 0;

    l.reorder = 0.02;
    l.reorder_ns = 400000;
    lose = 0;
    for (uint64_t seed = 1; seed <= SEEDS; ++seed) {
        deaf = false;
        with += serve(&l, seed, PUTS / 2) / SEEDS;
        nacks += told;
        deaf = true;
        without += serve(&l, seed, PUTS / 2) / SEEDS;
    }
    printf("# 2 %% late by 400 us: %u NACKs in %u puts; %.4f %% sent in vain, without NACK %.4f\n",
           nacks, SEEDS * PUTS / 2, 100 * with, 100 * without);
    cr_expect_gt(nacks, 0);
    cr_expect_lt(with, without + 0.001);
}
