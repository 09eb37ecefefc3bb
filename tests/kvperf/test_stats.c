/* SPDX-License-Identifier: Apache-2.0 */
/* kvperf's arithmetic: percentiles are measured values, overlap counts no instant twice, and the
 * floor is what a link alone would need. */
#include <criterion/criterion.h>
#include <math.h>

#include "../../perf/kvperf/report.h"
#include "../../perf/kvperf/round.h"
#include "../../perf/kvperf/stats.h"

#define NEAR(a, b) cr_expect(fabs((a) - (b)) < 1e-9, "%g, not %g", (double)(a), (double)(b))

Test(stats, a_percentile_is_a_value_by_nearest_rank)
{
    double v[100];

    for (int i = 0; i < 100; ++i)
        v[i] = (i * 37 % 100) + 1; /* 1 .. 100, mixed */
    const struct kvp_spread s = kvp_spread_of(v, 100);

    cr_expect_eq(s.n, 100);
    NEAR(s.p50, 50);
    NEAR(s.p90, 90);
    NEAR(s.p99, 99);
    NEAR(s.p999, 100);
    NEAR(s.min, 1);
    NEAR(s.max, 100);
    NEAR(s.mean, 50.5);
    v[0] = 7;
    NEAR(kvp_spread_of(v, 1).p99, 7);
    cr_expect_eq(kvp_spread_of(v, 0).n, 0);
}

/* exposed = t + (L - 1) * max(0, t - c), for layers that take c to compute and t to send. */
Test(stats, the_floor_of_equal_layers_is_the_formula)
{
    enum { L = 8 };
    static const double sends[] = {1, 3, 4, 10};

    for (int i = 0; i < 4; ++i) {
        double computed[L], bytes[L];

        for (int l = 0; l < L; ++l) {
            computed[l] = 3.0 * (l + 1);
            bytes[l] = 1000 * sends[i];
        }
        NEAR(kvp_floor_ms(computed, bytes, L, 1000), sends[i] + (L - 1) * fmax(0, sends[i] - 3));
    }
    NEAR(kvp_floor_ms((double[]){1}, (double[]){1}, 1, 0), 0); /* no rate: no floor */
}

Test(stats, what_is_hidden_is_counted_once_and_ends_with_the_prefill)
{
    /* 1..4 and 2..6 overlap, 8..9 lies apart, 10..15 is all behind the end */
    const double computed[] = {1, 2, 8, 10}, landed[] = {4, 6, 9, 15};

    NEAR(kvp_hidden_ms(computed, landed, 4, 10), 6);
    NEAR(kvp_hidden_ms(computed, landed, 4, 5), 4);
    NEAR(kvp_hidden_ms(computed, landed, 4, 0), 0);
}

Test(report, a_difference_is_more_than_chance_when_samples_lie_apart)
{
    const double low[] = {1, 2, 3, 4, 5}, high[] = {6, 7, 8, 9, 10}, mixed[] = {2, 4, 6, 1, 9};

    /* U is 0 of 25; (12.5 - 0.5) / sqrt(25 * 11 / 12) is 2.507 standard deviations. */
    cr_expect(fabs(kvp_same_likely(low, 5, high, 5) - 0.01218) < 1e-4, "%g",
              kvp_same_likely(low, 5, high, 5));
    NEAR(kvp_same_likely(low, 5, high, 5), kvp_same_likely(high, 5, low, 5));
    cr_expect_gt(kvp_same_likely(low, 5, mixed, 5), 0.2);
    NEAR(kvp_same_likely(low, 5, low, 5), 1);
    NEAR(kvp_same_likely(low, 2, high, 5), 1);                                /* too few to tell */
    NEAR(kvp_same_likely((double[]){3, 3, 3}, 3, (double[]){3, 3, 3}, 3), 1); /* all ties */
}

Test(clock, layers_of_chunks_are_ready_one_after_the_other_and_the_last_at_the_end)
{
    const struct kvp_round_plan p = {
        .tokens = 1000, .streamed = true, .prefill_ms = 100, .chunk_tokens = 300};
    uint32_t tokens = 0;
    double before = 0;

    cr_assert_eq(kvp_clock_chunks(&p), 4);
    for (uint32_t c = 0; c < 4; ++c)
        for (uint32_t l = 0; l < 10; ++l) {
            const double at = kvp_clock_ms(&p, 10, c, l, &tokens);

            cr_expect_gt(at, before);
            before = at;
        }
    NEAR(before, 100);
    cr_expect_eq(tokens, 1000);
    NEAR(kvp_clock_ms(&p, 10, 0, 9, &tokens), 30);
    cr_expect_eq(tokens, 300);
}
