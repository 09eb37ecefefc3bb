/* SPDX-License-Identifier: Apache-2.0 */
/* At 100 Gb/s and 20 us, loss costs about what was lost; late packets are not sent twice; and a
 * sender that goes back and waits for a timer, as others do, is left far behind. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "gobackn.h"
#include "star.h"

#define MS 1000000ull

static struct t_star star;

static struct kvn_sim_link link_with(double loss)
{
    return (struct kvn_sim_link){
        .delay_ns = T_RTT_NS / 2, .bytes_per_s = T_BYTES_PER_S, .loss = loss};
}

/* Share of the link that puts make of 60 ms, both directions losing. */
static double goodput(const struct kvn_sim_link *link, uint64_t seed,
                      struct kvw_transport_stats *stats)
{
    uint64_t bytes[T_STAR_MAX], before;

    t_star_open(&star, seed, 1, 0, 0);
    star.sender[0].sends = true;
    kvn_sim_links(star.sim, link);
    t_star_run(&star, kvn_sim_now(star.sim) + 10 * MS);
    t_star_received(&star, bytes);
    before = bytes[0];
    t_star_run(&star, kvn_sim_now(star.sim) + 60 * MS);
    t_star_received(&star, bytes);
    star.sender[0].t->ops->stats(star.sender[0].t, stats);
    t_star_close(&star);
    return (double)(bytes[0] - before) / (0.060 * T_BYTES_PER_S);
}

Test(loss, costs_what_was_lost)
{
    static const struct {
        double loss, share;
    } rows[] = {{0.0001, 0.99}, {0.001, 0.98}, {0.01, 0.93}};
    struct kvn_sim_link l = link_with(0);
    struct kvw_transport_stats s;
    const double clean = goodput(&l, 1, &s);

    printf("# clean: %.3f of 100 Gb/s\n", clean);
    cr_expect_gt(clean, 0.95);
    for (int i = 0; i < 3; ++i) {
        double worst = 1;

        l = link_with(rows[i].loss);
        for (uint64_t seed = 1; seed <= 3; ++seed) {
            const double share = goodput(&l, seed, &s) / clean;
            worst = share < worst ? share : worst;
        }
        printf("# loss %.2f %%: %.4f of clean, the worst of three\n", 100 * rows[i].loss, worst);
        cr_expect_geq(worst, rows[i].share);
    }
}

Test(loss, late_is_not_lost)
{
    struct kvn_sim_link l = link_with(0);
    struct kvw_transport_stats s;
    const double clean = goodput(&l, 1, &s);

    for (uint32_t packets = 4; packets <= 64; packets *= 4) {
        double share;

        l.overtake = 0.05;
        l.overtake_packets = packets;
        share = goodput(&l, 7, &s);
        printf("# 5 %% late by up to %u packets: %.4f of clean, %llu of %llu sent again\n", packets,
               share / clean, (unsigned long long)s.packets_spurious,
               (unsigned long long)s.packets_sent);
        cr_expect_lt(s.packets_retransmitted, s.packets_sent / 1000);
    }
}

Test(loss, going_back_is_slower)
{
    const struct kvn_sim_link l = link_with(0.001);
    struct kvw_transport_stats s;
    const double ours = goodput(&l, 1, &s);
    struct kvn_sim *sim = kvn_sim_open(1, 8240);
    double theirs;

    kvn_sim_links(sim, &l);
    theirs = (double)t_gobackn(sim, 8240, 64, 500 * MS) / (0.5 * T_BYTES_PER_S);
    printf("# loss 0.1 %%: %.3f of 100 Gb/s, going back %.3f: %.1f times\n", ours, theirs,
           ours / theirs);
    cr_expect_gt(ours, 5 * theirs);
    kvn_sim_close(sim);
    sim = kvn_sim_open(1, 8240); /* without loss it is as fast, or the contrast would be unfair */
    kvn_sim_links(
        sim, &(const struct kvn_sim_link){.delay_ns = T_RTT_NS / 2, .bytes_per_s = T_BYTES_PER_S});
    theirs = (double)t_gobackn(sim, 8240, 64, 50 * MS) / (0.05 * T_BYTES_PER_S);
    printf("# without loss, going back %.3f\n", theirs);
    cr_expect_gt(theirs, 0.95);
    kvn_sim_close(sim);
}
