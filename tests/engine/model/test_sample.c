/* SPDX-License-Identifier: Apache-2.0 */
/* A token is drawn with the probability that its logit, the temperature and top-p give it, and the
 * draw depends on the seed and the position only. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "../../../engine/model/sample.h"

enum {
    DRAWS = 200000,
};

static struct kve_sampler *sampler(float temperature, float top_p, uint64_t seed, uint32_t vocab)
{
    const struct kve_sample_config config = {temperature, top_p, seed};
    struct kve_sampler *s = NULL;

    cr_assert_eq(kve_sampler_open(&s, &config, vocab), KVW_OK);
    return s;
}

Test(sample, arguments_out_of_range)
{
    const struct kve_sample_config bad[] = {{-1, 1, 0},   {NAN, 1, 0}, {INFINITY, 1, 0}, {1, 0, 0},
                                            {1, 1.5f, 0}, {1, -1, 0},  {1, NAN, 0}};
    const struct kve_sample_config good = {1, 1, 0};
    struct kve_sampler *s = NULL;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i)
        cr_expect_eq(kve_sampler_open(&s, &bad[i], 8), KVW_E_INVALID, "row %zu", i);
    cr_expect_eq(kve_sampler_open(&s, &good, 0), KVW_E_INVALID);
    cr_expect_null(s);
    kve_sampler_close(NULL);
}

Test(sample, greedy_takes_the_largest_and_the_first_of_equals)
{
    struct kve_sampler *s = sampler(0, 1, 1, 5);

    cr_expect_eq(kve_sample(s, (float[]){1, 3, 2, 3, 0}, 0), 1);
    cr_expect_eq(kve_sample(s, (float[]){NAN, -5, NAN, -4, NAN}, 0), 3);
    cr_expect_eq(kve_sample(s, (float[]){NAN, NAN, NAN, NAN, NAN}, 0), 0);
    cr_expect_eq(kve_sample(s, (float[]){NAN, -INFINITY, NAN, NAN, NAN}, 0), 0);
    cr_expect_eq(kve_sample(s, (float[]){-9, -8, -7, -6, -INFINITY}, 9), 3);
    kve_sampler_close(s);
}

/* Pearson's sum against a limit that chance passes once in 10,000 times; the seed is fixed, so this
 * passes always or never. */
static void expect_probabilities(float temperature, float top_p, const float *logits,
                                 const double *p, uint32_t vocab, double limit)
{
    struct kve_sampler *s = sampler(temperature, top_p, 42, vocab);
    uint32_t *count = calloc(vocab, sizeof(*count));
    double sum = 0;

    for (uint64_t pos = 0; pos < DRAWS; ++pos) {
        const uint32_t id = kve_sample(s, logits, pos);
        cr_assert_lt(id, vocab);
        ++count[id];
    }
    for (uint32_t i = 0; i < vocab; ++i) {
        const double expected = p[i] * DRAWS;
        if (p[i] == 0)
            cr_expect_eq(count[i], 0, "token %u drawn %u times", i, count[i]);
        else
            sum += (count[i] - expected) * (count[i] - expected) / expected;
    }
    cr_expect_lt(sum, limit, "chi square %g", sum);
    free(count);
    kve_sampler_close(s);
}

/* Weights 8 4 2 1 1 of 16, shuffled; the largest logit isn't the first. */
static const float logits5[] = {0.693147181f, 0, 2.079441542f, 0, 1.386294361f};

Test(sample, temperature_1_draws_by_weight)
{
    expect_probabilities(1, 1, logits5, (double[]){2 / 16., 1 / 16., 8 / 16., 1 / 16., 4 / 16.}, 5,
                         23.5);
}

Test(sample, temperature_one_half_squares_the_weights)
{
    expect_probabilities(0.5f, 1, logits5,
                         (double[]){4 / 86., 1 / 86., 64 / 86., 1 / 86., 16 / 86.}, 5, 23.5);
}

Test(sample, top_p_keeps_the_smallest_set_that_reaches_it)
{
    /* 8/16 + 4/16 = 0.75: 0.74 needs both, 0.76 a third. */
    expect_probabilities(1, 0.74f, logits5, (double[]){0, 0, 8 / 12., 0, 4 / 12.}, 5, 15.2);
    expect_probabilities(1, 0.76f, logits5, (double[]){2 / 14., 0, 8 / 14., 0, 4 / 14.}, 5, 18.5);
    expect_probabilities(1, 0.01f, logits5, (double[]){0, 0, 1, 0, 0}, 5, 1);
}

/* Equal weights fall into one bin: of ties, the lower ids are in. */
Test(sample, top_p_over_equal_weights)
{
    float logits[200] = {0};
    double p[200] = {0};

    for (int i = 0; i < 50; ++i)
        p[i] = 1 / 50.;
    expect_probabilities(1, 0.2499f, logits, p, 200, 96);
}

/* The set ends with the token at which the sum reaches top_p, not with the one after it: of four
 * equal weights two are a half exactly, and a hair more takes a third. */
Test(sample, top_p_that_equal_weights_reach_exactly)
{
    static const float four[] = {1, 1, 1, 1};

    expect_probabilities(1, 0.25f, four, (double[]){1, 0, 0, 0}, 4, 1);
    expect_probabilities(1, 0.5f, four, (double[]){1 / 2., 1 / 2., 0, 0}, 4, 15.2);
    expect_probabilities(1, nextafterf(0.5f, 1), four, (double[]){1 / 3., 1 / 3., 1 / 3., 0}, 4,
                         18.5);
    expect_probabilities(1, 0.75f, four, (double[]){1 / 3., 1 / 3., 1 / 3., 0}, 4, 18.5);
    expect_probabilities(1, nextafterf(0.75f, 1), four, (double[]){1 / 4., 1 / 4., 1 / 4., 1 / 4.},
                         4, 21.2);
}

/* A heavier token in a bin of its own, and the cut among equal ones in a later bin: 1 of 1 + 8/e is
 * 0.254; with three more of 1/e it is 0.533. */
Test(sample, top_p_cuts_equal_weights_behind_a_heavier_one)
{
    static const float logits[] = {-1, -1, -1, 0, -1, -1, -1, -1, -1};
    const double e = exp(-1), in = 1 + 3 * e;

    expect_probabilities(1, 0.5f, logits, (double[]){e / in, e / in, e / in, 1 / in, 0, 0, 0, 0, 0},
                         9, 21.2);
}

/* Nearly equal ones, too, but there the heavier are in: the set is the last ids, not the first. */
Test(sample, top_p_over_nearly_equal_weights)
{
    float logits[200];
    double p[200] = {0}, total = 0, in = 0;
    int i;

    for (i = 0; i < 200; ++i) {
        logits[i] = (float)i * 1e-4f;
        total += exp((double)logits[i]);
    }
    while (in < total * (double)0.25f) {
        --i;
        in += p[i] = exp((double)logits[i]);
    }
    cr_assert(i > 140 && i < 160, "%d", i);
    for (int k = 0; k < 200; ++k)
        p[k] /= in;
    expect_probabilities(1, 0.25f, logits, p, 200, 96);
}

Test(sample, minus_infinity_and_nan_are_never_drawn)
{
    expect_probabilities(1, 1, (float[]){-INFINITY, 0, NAN, 0}, (double[]){0, .5, 0, .5}, 4, 15.2);
    expect_probabilities(1, .9f, (float[]){-INFINITY, 0, NAN, 0}, (double[]){0, .5, 0, .5}, 4,
                         15.2);
    expect_probabilities(1, 1, (float[]){0, INFINITY, 5, 0}, (double[]){0, 1, 0, 0}, 4, 1);
}

/* A hand-over in the middle: another sampler, asked from there on, goes on with the same tokens. */
Test(sample, the_draw_depends_on_seed_and_position_only)
{
    struct kve_sampler *a = sampler(1, 0.95f, 7, 5), *b = sampler(1, 0.95f, 7, 5);
    struct kve_sampler *c = sampler(1, 0.95f, 8, 5);
    uint32_t first[200], differ = 0;

    for (uint64_t pos = 0; pos < 200; ++pos)
        first[pos] = kve_sample(a, logits5, pos);
    for (uint64_t pos = 200; pos-- > 0;) {
        cr_expect_eq(kve_sample(b, logits5, pos), first[pos], "position %lu", (unsigned long)pos);
        differ += kve_sample(c, logits5, pos) != first[pos];
    }
    cr_expect_gt(differ, 50, "another seed, the same tokens: %u differ", differ);
    kve_sampler_close(a);
    kve_sampler_close(b);
    kve_sampler_close(c);
}

/* Seeds that differ in a bit draw other numbers at every position, not the same ones elsewhere. */
Test(sample, neighbouring_seeds_share_no_numbers)
{
    static float logits[4096];
    uint32_t equal = 0;

    for (uint64_t bit = 0; bit < 8; ++bit) {
        struct kve_sampler *a = sampler(1, 1, 7, 4096), *b = sampler(1, 1, 7 ^ 1ull << bit, 4096);

        for (uint64_t pos = 0; pos < 256; ++pos)
            equal += kve_sample(a, logits, pos) == kve_sample(b, logits, pos ^ 1ull << bit);
        kve_sampler_close(a);
        kve_sampler_close(b);
    }
    cr_expect_lt(equal, 10, "%u of 2048 draws of one in 4096", equal);
}
