/* SPDX-License-Identifier: Apache-2.0 */
/* Senders that share a link fill it, with a short queue, without losses, and in equal parts; one
 * that has the link to itself gives half of it up when another comes. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "star.h"

#define US 1000ull
#define MS 1000000ull

static struct t_star star;

static double jain(const uint64_t *x, uint32_t n)
{
    double sum = 0, squares = 0;

    for (uint32_t i = 0; i < n; ++i) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    return sum * sum / (n * squares);
}

/* All at once, from nothing, over a buffer of two BDPs. */
static void incast(uint32_t senders, uint32_t ecn_bytes, uint64_t seed)
{
    struct kvn_sim_egress_stats e;
    uint64_t bytes[T_STAR_MAX];
    double fair;

    t_star_open(&star, seed, senders, 2 * T_BDP, ecn_bytes);
    for (uint32_t i = 0; i < senders; ++i) {
        star.sender[i].sends = true;
        if (seed > 1) /* not all in the same nanosecond */
            t_star_run(&star, kvn_sim_now(star.sim) + kvn_sim_random(star.sim) % (20 * US));
    }
    t_star_run(&star, kvn_sim_now(star.sim) + 20 * MS);
    t_star_received(&star, bytes);
    kvn_sim_egress_stats(star.sim, 0, &e);
    fair = jain(bytes, senders);
    printf(
        "# %u senders, marks from %u bytes, seed %llu: link %.2f %% busy, queue p50 %.2f p99 %.2f "
        "max %.2f BDP, Jain %.3f, %llu dropped, %llu marked\n",
        senders, ecn_bytes, (unsigned long long)seed, 100 * e.busy, (double)e.queue_p50 / T_BDP,
        (double)e.queue_p99 / T_BDP, (double)e.queue_max / T_BDP, fair,
        (unsigned long long)e.dropped, (unsigned long long)e.marked);
    cr_expect_geq(e.busy, 0.95);
    cr_expect_leq(e.queue_p99, 3 * T_BDP / 2);
    cr_expect_geq(fair, 0.95);
    cr_expect_eq(e.dropped, 0);
    t_star_close(&star);
}

Test(incast, sixteen_to_one)
{
    for (uint64_t seed = 1; seed <= 5; ++seed)
        incast(16, 0, seed);
}

Test(incast, sixteen_to_one_with_marks)
{
    for (uint64_t seed = 1; seed <= 5; ++seed)
        incast(16, T_BDP, seed);
}

Test(incast, fewer)
{
    incast(1, 0, 1);
    incast(2, 0, 1);
    incast(4, 0, 1);
    incast(8, 0, 1);
    incast(2, T_BDP / 2, 1);
}

/* Shares of two flows over ms milliseconds. */
static void share(double out[2], uint64_t for_ns)
{
    uint64_t before[T_STAR_MAX], after[T_STAR_MAX];

    t_star_received(&star, before);
    t_star_run(&star, kvn_sim_now(star.sim) + for_ns);
    t_star_received(&star, after);
    for (int i = 0; i < 2; ++i)
        out[i] = (double)(after[i] - before[i]) * 1e9 / (double)for_ns / T_BYTES_PER_S;
}

Test(incast, yields_within_twenty_round_trips)
{
    for (uint64_t seed = 1; seed <= 12; ++seed) {
        double s[2];

        t_star_open(&star, seed, 2, 2 * T_BDP, 0);
        star.sender[0].sends = true;
        share(s, 5 * MS);
        cr_expect_gt(s[0], 0.95);
        t_star_run(&star, kvn_sim_now(star.sim) + kvn_sim_random(star.sim) % (40 * US));
        star.sender[1].sends = true;
        share(s, 15 * T_RTT_NS);
        printf("# seed %llu: RTT 0 to 15 %.2f / %.2f,", (unsigned long long)seed, s[0], s[1]);
        share(s, 5 * T_RTT_NS);
        printf(" 15 to 20 %.2f / %.2f,", s[0], s[1]);
        cr_expect_geq(s[1], 0.4 * (s[0] + s[1]));
        share(s, 20 * T_RTT_NS);
        printf(" 20 to 40 %.2f / %.2f,", s[0], s[1]);
        cr_expect(s[0] > 0.4 && s[1] > 0.4);
        share(s, 5 * MS);
        printf(" then %.2f / %.2f,", s[0], s[1]);
        cr_expect(s[0] > 0.45 && s[1] > 0.45);
        star.sender[1].sends = false;
        share(s, MS);
        share(s, MS);
        printf(" alone again %.2f\n", s[0]);
        cr_expect_gt(s[0], 0.9);
        t_star_close(&star);
    }
}
