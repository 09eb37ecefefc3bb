/* SPDX-License-Identifier: Apache-2.0 */
/* kvperf find on a machine made up: what it finds is where the bound is crossed, and it finds the
 * same again, though one round in thirty takes several times as long. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../perf/kvperf/search.h"
#include "../../perf/kvperf/stats.h"

#define REPS  100u
#define FINDS 41u

#define REPS_BEFORE 20u

static uint64_t state;

static double draw(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

/* A round of a length: 0.2 ms a token, 4 % more or less, and now and then somebody else's slice. */
static double round_ms(uint32_t tokens, double noise)
{
    const double usual = 0.2 * tokens * (1 + noise * 0.04 * (2 * draw() - 1));

    return draw() < noise / 30 ? usual * (1.2 + 0.3 * draw()) : usual;
}

static double *rounds_ms(uint32_t tokens, double noise)
{
    static double ms[KVP_GRID][REPS];
    static uint32_t at;
    double *to = ms[at++ % KVP_GRID];

    for (uint32_t i = 0; i < REPS; ++i)
        to[i] = round_ms(tokens, noise);
    return to;
}

static struct kvp_found find(uint32_t first, uint32_t most, double noise)
{
    struct kvp_search s = {.bound_ms = 100, .first = first, .most = most};
    struct kvp_grid_point grid[KVP_GRID];
    uint32_t tokens[KVP_GRID], next, points;

    while ((next = kvp_search_next(&s)) > 0)
        kvp_search_add(&s, next, rounds_ms(next, noise), REPS);
    points = kvp_search_grid(&s, tokens);
    for (uint32_t i = 0; i < points; ++i)
        grid[i] = (struct kvp_grid_point){tokens[i], rounds_ms(tokens[i], noise), REPS};
    return kvp_search_answer(&s, grid, points);
}

Test(search, without_noise_it_is_the_crossing)
{
    for (uint32_t first = 1; first < 9000; first = 3 * first + 1) {
        const struct kvp_found f = find(first, 1u << 20, 0);

        cr_expect(f.tokens >= 499 && f.tokens <= 500, "%u, begun at %u", f.tokens, first);
        cr_expect(fabs(f.tail - 1) < 1e-9 && fabs(f.p99_ms - 100) < 1e-9);
    }
}

Test(search, what_memory_allows_is_the_end)
{
    const struct kvp_found f = find(64, 300, 0);

    cr_expect(f.tokens > 200 && f.tokens <= 300, "%u", f.tokens);
    cr_expect_lt(f.p99_ms, 100);
    cr_expect_eq(find(400, 300, 0).tokens, 0);
}

Test(search, nothing_passes)
{
    struct kvp_search s = {.bound_ms = -1, .first = 64, .most = 4096};
    uint32_t next, tokens[KVP_GRID], tries = 0;

    for (; (next = kvp_search_next(&s)) > 0; ++tries)
        kvp_search_add(&s, next, rounds_ms(next, 0), REPS);
    cr_expect_eq(tries, 7);
    cr_expect_eq(kvp_search_grid(&s, tokens), 0);
    cr_expect_eq(kvp_search_answer(&s, NULL, 0).tokens, 0);
}

/* Medians that descend by chance are taken together. */
Test(search, lengths_are_ordered)
{
    struct kvp_search s = {.bound_ms = 25, .first = 1, .most = 1000};
    double ms[4][1] = {{10}, {30}, {20}, {40}};
    struct kvp_grid_point grid[4];

    for (uint32_t i = 0; i < 4; ++i)
        grid[i] = (struct kvp_grid_point){100 * (i + 1), ms[i], 1};
    cr_expect_eq(kvp_search_answer(&s, grid, 4).tokens, 300);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The farthest of some answers from their median, as a share of it. */
static double spread(double *of, uint32_t n)
{
    double far = 0;

    qsort(of, n, sizeof(of[0]), by_value);
    for (uint32_t i = 0; i < n; ++i)
        far = fmax(far, fabs(of[i] / of[n / 2] - 1));
    return far;
}

/* What find did before: bisect, and trust the worst of each length's rounds. */
static double bisect(uint32_t first, double noise)
{
    uint32_t pass = 0, fail = 0, next = first;

    while (fail == 0 || pass == 0 || fail - pass > pass / 16) {
        if (kvp_spread_of(rounds_ms(next, noise), REPS_BEFORE).p99 <= 100)
            pass = next;
        else
            fail = next;
        next = fail == 0 ? 2 * pass : pass == 0 ? fail / 2 : pass + (fail - pass) / 2;
        if (fail != 0 && (next == pass || next == 0))
            break;
    }
    return pass;
}

Test(search, it_repeats)
{
    double now[FINDS], before[FINDS];

    state = 1;
    for (uint32_t i = 0; i < FINDS; ++i) {
        now[i] = find(256, 1u << 20, 1).tokens;
        before[i] = bisect(256, 1);
    }
    const double far = spread(now, FINDS), far_before = spread(before, FINDS);

    printf("# %u finds: %.0f tokens, at most %.1f %% away; bisected %.1f %%\n", FINDS,
           now[FINDS / 2], 100 * far, 100 * far_before);
    cr_expect_leq(far, 0.10);
    cr_expect_gt(far_before, 0.10, "the control: the noise is too small to tell them apart");
}
