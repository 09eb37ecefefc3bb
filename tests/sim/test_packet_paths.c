/* SPDX-License-Identifier: Apache-2.0 */
/* A connection uses all of its paths, each as far as it carries; outlives the loss of one, and
 * takes it back when it works again. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "star.h"

#define MS    1000000ull
#define PATHS 4u

static struct t_star star;

/* One path of the sender's, of a quarter of the link or less. */
static void path(uint32_t source, double share, bool cut)
{
    const struct kvn_sim_link l = {
        .delay_ns = T_RTT_NS / 2, .bytes_per_s = (uint64_t)(share * T_BYTES_PER_S), .cut = cut};
    kvn_sim_path(star.sim, 1, 0, source, &l);
}

static double goodput(uint64_t for_ns)
{
    uint64_t before[T_STAR_MAX], after[T_STAR_MAX];

    t_star_received(&star, before);
    t_star_run(&star, kvn_sim_now(star.sim) + for_ns);
    t_star_received(&star, after);
    return (double)(after[0] - before[0]) * 1e9 / (double)for_ns / T_BYTES_PER_S;
}

Test(paths, all_carry_and_one_may_go)
{
    static const double shares[PATHS] = {0.25, 0.25, 0.2, 0.1};
    double clean, without, again;

    t_star_open_paths(&star, 1, 1, 0, 0, PATHS);
    for (uint32_t i = 0; i < PATHS; ++i)
        path(i, shares[i], false);
    star.sender[0].sends = true;
    (void)goodput(20 * MS);
    clean = goodput(20 * MS);
    path(1, 0.25, true);
    (void)goodput(20 * MS);
    without = goodput(20 * MS);
    path(1, 0.25, false);
    (void)goodput(300 * MS);
    again = goodput(20 * MS);
    printf("# of 0.80 of the link: %.3f; without a path of 0.25: %.3f; with it again: %.3f\n",
           clean, without, again);
    cr_expect_gt(clean, 0.9 * 0.80);
    cr_expect_gt(without, 0.9 * 0.55);
    cr_expect_lt(without, 0.55);
    cr_expect_gt(again, 0.9 * 0.80);
    cr_expect(!star.sender[0].down);
    t_star_close(&star);
}

/* The path that shook hands is no better than the others. */
Test(paths, the_first_may_go)
{
    double without;

    t_star_open_paths(&star, 1, 1, 0, 0, PATHS);
    for (uint32_t i = 0; i < PATHS; ++i)
        path(i, 0.25, false);
    star.sender[0].sends = true;
    (void)goodput(10 * MS);
    path(0, 0.25, true);
    (void)goodput(20 * MS);
    without = goodput(40 * MS);
    printf("# without the first path: %.3f of 0.75\n", without);
    cr_expect_gt(without, 0.9 * 0.75);
    cr_expect(!star.sender[0].down);
    t_star_close(&star);
}
