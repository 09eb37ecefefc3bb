/* SPDX-License-Identifier: Apache-2.0 */
/* Loss, reordering and delay cost what they must, and not the whole link. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "pair.h"

#define MS 1000000ull
#define S  1000000000ull

static struct t_pair pair;

/* 10 Gb/s and a queue of 1 MB; what it carries in MB/s of puts. */
static double rate(const struct kvn_sim_link *l, uint64_t seed)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    uint64_t begin;
    double mb_s;

    t_pair_open(&pair, seed, 8240, &cfg);
    kvn_sim_links(pair.sim, l);
    while (!pair.side[0].up || !pair.side[1].up)
        t_pair_step(&pair, UINT64_MAX / 4);
    begin = kvn_sim_now(pair.sim);
    while (pair.side[1].puts_landed < 400 && pair.failed[0] == '\0') {
        while (pair.side[0].puts_sent < 400 && t_pair_put(&pair, 0, 180000))
            ;
        t_pair_step(&pair, begin + 100 * S);
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    mb_s = 400 * 180000.0 / ((double)(kvn_sim_now(pair.sim) - begin) / 1e9) / 1e6;
    t_pair_close(&pair);
    return mb_s;
}

static struct kvn_sim_link ten_gigabits(void)
{
    return (struct kvn_sim_link){
        .delay_ns = 10000, .bytes_per_s = 1250000000, .queue_bytes = 1000000};
}

/* A clean link is full: at least 97 % of what headers leave of it. */
Test(rate, clean_link_is_full)
{
    const struct kvn_sim_link l = ten_gigabits();
    const double mb_s = rate(&l, 1);

    printf("# clean: %.0f MB/s\n", mb_s);
    cr_expect_gt(mb_s, 0.97 * 1250 * 8192 / 8240, "%.0f MB/s", mb_s);
}

/* The median of eleven seeds. */
static double median_rate(const struct kvn_sim_link *l)
{
    double r[11], swap;

    for (int i = 0; i < 11; ++i)
        r[i] = rate(l, (uint64_t)i + 1);
    for (int i = 0; i < 11; ++i)
        for (int j = i + 1; j < 11; ++j)
            if (r[j] < r[i]) {
                swap = r[i];
                r[i] = r[j];
                r[j] = swap;
            }
    return r[5];
}

static const struct {
    double loss, share;
} rows[] = {{0.0001, 0.99}, {0.001, 0.98}, {0.01, 0.93}};

Test(rate, loss_costs_little)
{
    struct kvn_sim_link l = ten_gigabits();
    const double clean = rate(&l, 1);

    for (int i = 0; i < 3; ++i) {
        double mb_s;
        l.loss = rows[i].loss;
        mb_s = median_rate(&l);
        printf("# loss %.2f %%: %.0f MB/s, %.3f of clean\n", 100 * l.loss, mb_s, mb_s / clean);
        cr_expect_gt(mb_s, rows[i].share * clean, "loss %.4f: %.0f of %.0f MB/s", l.loss, mb_s,
                     clean);
    }
}

/* One packet in twenty lost and one in twenty late: nothing collapses. */
Test(rate, bad_link_does_not_collapse)
{
    struct kvn_sim_link l = ten_gigabits();
    double mb_s;

    l.loss = l.reorder = 0.05;
    l.reorder_ns = 50000;
    mb_s = median_rate(&l);
    printf("# loss 5 %%, reorder 5 %%: %.0f MB/s\n", mb_s);
    cr_expect_gt(mb_s, 900.0, "%.0f MB/s", mb_s);
}

/* Packets that only come late are not sent twice. */
Test(rate, reordering_is_not_loss)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    struct kvn_sim_link l = ten_gigabits();
    struct kvw_transport_stats s;

    l.jitter_ns = 30000; /* some five packets */
    t_pair_open(&pair, 3, 8240, &cfg);
    kvn_sim_links(pair.sim, &l);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 5 * MS);
    while (pair.side[1].puts_landed < 400 && pair.failed[0] == '\0') {
        while (pair.side[0].puts_sent < 400 && t_pair_put(&pair, 0, 180000))
            ;
        t_pair_step(&pair, kvn_sim_now(pair.sim) + S);
    }
    pair.side[0].t->ops->stats(pair.side[0].t, &s);
    printf("# %llu of %llu packets sent again\n", (unsigned long long)s.packets_retransmitted,
           (unsigned long long)s.packets_sent);
    cr_expect_lt(s.packets_retransmitted, s.packets_sent / 1000);
    t_pair_close(&pair);
}
