/* SPDX-License-Identifier: Apache-2.0 */
/* A token is drawn with the probability that its logit, the temperature and top-p give it, and the
 * draw depends on the seed and the position only. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "../../../engine/model/logprob.h"
#include "../../../engine/model/sample.h"

enum {
    DRAWS = 200000,
};

static struct kve_sampler *sampler_of(const struct kve_sample_config *config, uint32_t vocab)
{
    struct kve_sampler *s = NULL;

    cr_assert_eq(kve_sampler_open(&s, config, vocab), KVW_OK);
    return s;
}

static struct kve_sampler *sampler(float temperature, float top_p, uint64_t seed, uint32_t vocab)
{
    return sampler_of(
        &(struct kve_sample_config){.temperature = temperature, .top_p = top_p, .seed = seed},
        vocab);
}

Test(sample, arguments_out_of_range)
{
    static const struct kve_bias no_token = {8, 1}, infinite = {7, INFINITY};
    const struct kve_sample_config bad[] = {
        {.temperature = -1, .top_p = 1},
        {.temperature = NAN, .top_p = 1},
        {.temperature = INFINITY, .top_p = 1},
        {.temperature = 1, .top_p = 0},
        {.temperature = 1, .top_p = 1.5f},
        {.temperature = 1, .top_p = -1},
        {.temperature = 1, .top_p = NAN},
        {.temperature = 1, .top_p = 1, .min_p = -0.1f},
        {.temperature = 1, .top_p = 1, .min_p = 1.1f},
        {.temperature = 1, .top_p = 1, .min_p = NAN},
        {.temperature = 1, .top_p = 1, .frequency = INFINITY},
        {.temperature = 1, .top_p = 1, .presence = NAN},
        {.temperature = 1, .top_p = 1, .repetition = -1},
        {.temperature = 1, .top_p = 1, .repetition = INFINITY},
        {.temperature = 1, .top_p = 1, .bias = &no_token, .bias_count = 1},
        {.temperature = 1, .top_p = 1, .bias = &infinite, .bias_count = 1},
    };
    const struct kve_sample_config good = {.temperature = 1, .top_p = 1};
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
static void expect_draws(struct kve_sampler *s, const float *logits, const double *p,
                         uint32_t vocab, double limit)
{
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

static void expect_probabilities(float temperature, float top_p, const float *logits,
                                 const double *p, uint32_t vocab, double limit)
{
    expect_draws(sampler(temperature, top_p, 42, vocab), logits, p, vocab, limit);
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

/* ---- top-k and min-p; weights of logits5 are 2 1 8 1 4 of 16 ---- */

static void expect_of(const struct kve_sample_config *config, const double *p, double limit)
{
    expect_draws(sampler_of(config, 5), logits5, p, 5, limit);
}

Test(sample, top_k_keeps_the_k_most_probable)
{
    struct kve_sample_config c = {.temperature = 1, .top_p = 1, .seed = 42, .top_k = 1};

    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
    c.top_k = 2;
    expect_of(&c, (double[]){0, 0, 8 / 12., 0, 4 / 12.}, 15.2);
    c.top_k = 4; /* of two equal ones the lower id */
    expect_of(&c, (double[]){2 / 15., 1 / 15., 8 / 15., 0, 4 / 15.}, 21.2);
    c.top_k = 5;
    expect_of(&c, (double[]){2 / 16., 1 / 16., 8 / 16., 1 / 16., 4 / 16.}, 23.5);
    c.top_k = 4000000000u;
    expect_of(&c, (double[]){2 / 16., 1 / 16., 8 / 16., 1 / 16., 4 / 16.}, 23.5);
}

/* k among equal ones behind a heavier one: the count cuts a bin in two. */
Test(sample, top_k_cuts_equal_weights)
{
    static const float logits[] = {-1, -1, -1, 0, -1, -1, -1, -1, -1};
    const double e = exp(-1), in = 1 + 3 * e;
    const struct kve_sample_config c = {.temperature = 1, .top_p = 1, .seed = 42, .top_k = 4};

    expect_draws(sampler_of(&c, 9), logits,
                 (double[]){e / in, e / in, e / in, 1 / in, 0, 0, 0, 0, 0}, 9, 21.2);
}

/* A token stays if it has at least min_p of the largest probability: 4/8 is in at a half. */
Test(sample, min_p_is_in_proportion_to_the_largest)
{
    struct kve_sample_config c = {.temperature = 1, .top_p = 1, .seed = 42, .min_p = 0.49f};

    expect_of(&c, (double[]){0, 0, 8 / 12., 0, 4 / 12.}, 15.2);
    c.min_p = 0.51f;
    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
    c.min_p = 0.2f;
    expect_of(&c, (double[]){2 / 14., 0, 8 / 14., 0, 4 / 14.}, 18.5);
    c.min_p = 1;
    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
}

/* After temperature: at a half the weights are 4 1 64 1 16, and 16/64 isn't 0.3 any more. */
Test(sample, min_p_counts_after_temperature)
{
    const struct kve_sample_config c = {.temperature = 0.5f, .top_p = 1, .seed = 42, .min_p = 0.3f};

    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
}

/* top-p is of what top-k and min-p left: 8/12 is 0.67, of all of them it would be a half. */
Test(sample, top_p_is_of_what_the_others_left)
{
    struct kve_sample_config c = {.temperature = 1, .top_p = 0.6f, .seed = 42, .top_k = 2};

    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
    c.top_k = 0;
    c.min_p = 0.4f;
    expect_of(&c, (double[]){0, 0, 1, 0, 0}, 1);
    c.min_p = 0; /* control */
    expect_of(&c, (double[]){0, 0, 8 / 12., 0, 4 / 12.}, 15.2);
}

/* ---- bias and penalties ---- */

Test(sample, bias_is_added_to_the_logit)
{
    static const struct kve_bias bias[] = {{1, 2.079441542f}, {2, -100}};
    const struct kve_sample_config c = {
        .temperature = 1, .top_p = 1, .seed = 42, .bias = bias, .bias_count = 2};
    const struct kve_sample_config greedy = {.top_p = 1, .bias = bias, .bias_count = 2};
    struct kve_sampler *s = sampler_of(&greedy, 5);

    expect_of(&c, (double[]){2 / 15., 8 / 15., 0, 1 / 15., 4 / 15.}, 21.2);
    cr_expect_eq(kve_sample(s, logits5, 0), 1, "greedy heeds it, too");
    kve_sampler_close(s);
}

/* OpenAI's: logit - frequency * count - presence * (count > 0), of the answer's tokens alone. */
Test(sample, frequency_and_presence_are_of_the_answer)
{
    const float ln2 = 0.693147181f;
    struct kve_sample_config c = {.temperature = 1, .top_p = 1, .seed = 42, .frequency = ln2};
    const uint32_t prompt[] = {4, 4, 2};
    struct kve_sampler *s = sampler_of(&c, 5);

    kve_sampler_prompt(s, prompt, 3);
    kve_sampler_took(s, 2);
    kve_sampler_took(s, 2);
    kve_sampler_took(s, 0);
    expect_draws(s, logits5, (double[]){1 / 9., 1 / 9., 2 / 9., 1 / 9., 4 / 9.}, 5, 23.5);
    c.frequency = 0;
    c.presence = ln2;
    s = sampler_of(&c, 5);
    kve_sampler_prompt(s, prompt, 3);
    kve_sampler_took(s, 2);
    kve_sampler_took(s, 2);
    kve_sampler_took(s, 0);
    expect_draws(s, logits5, (double[]){1 / 11., 1 / 11., 4 / 11., 1 / 11., 4 / 11.}, 5, 23.5);
}

/* The prompt's count, too; a positive logit is divided, another one multiplied. */
Test(sample, repetition_is_of_prompt_and_answer)
{
    static const float logits[] = {2, 1, -1, -2, 0.5f};
    const struct kve_sample_config c = {.top_p = 1, .repetition = 4};
    const uint32_t prompt[] = {0, 3, 99};
    struct kve_sampler *s = sampler_of(&c, 5);

    cr_expect_eq(kve_sample(s, logits, 0), 0);
    kve_sampler_prompt(s, prompt, 3); /* 2 / 4 = 0.5, -2 * 4 = -8; 99 is none */
    cr_expect_eq(kve_sample(s, logits, 0), 1);
    kve_sampler_took(s, 1); /* 0.25: now 0.5 twice, the first wins */
    cr_expect_eq(kve_sample(s, logits, 0), 0);
    kve_sampler_took(s, 0); /* seen twice counts once */
    cr_expect_eq(kve_sample(s, logits, 0), 0);
    kve_sampler_close(s);
    const float below[] = {-1, -3, -9};
    s = sampler_of(&c, 3);
    kve_sampler_took(s, 0);
    cr_expect_eq(kve_sample(s, below, 0), 1, "-1 * 4 is less than -3");
    kve_sampler_close(s);
}

Test(sample, penalties_leave_the_logits_alone)
{
    float logits[] = {2, 1, 0};
    const struct kve_sample_config c = {.top_p = 1, .frequency = 2, .presence = 2};
    struct kve_sampler *s = sampler_of(&c, 3);

    kve_sampler_took(s, 0);
    cr_expect_eq(kve_sample(s, logits, 0), 1);
    cr_expect_eq(kve_sample(s, logits, 1), 1, "and don't add up from call to call");
    cr_expect(logits[0] == 2 && logits[1] == 1 && logits[2] == 0);
    kve_sampler_close(s);
}

/* ---- logprobs ---- */

Test(logprobs, are_logarithms_of_the_softmax)
{
    struct kve_logprob p[4];

    kve_logprobs(logits5, 5, 0, 3, p);
    cr_expect_eq(p[0].id, 0);
    cr_expect_float_eq(p[0].logprob, logf(2 / 16.f), 1e-6);
    cr_expect(p[1].id == 2 && p[2].id == 4 && p[3].id == 0, "%u %u %u", p[1].id, p[2].id, p[3].id);
    cr_expect_float_eq(p[1].logprob, logf(8 / 16.f), 1e-6);
    cr_expect_float_eq(p[2].logprob, logf(4 / 16.f), 1e-6);
    cr_expect_float_eq(p[3].logprob, logf(2 / 16.f), 1e-6);
}

Test(logprobs, of_equals_the_lower_id_is_first_and_missing_ones_have_no_id)
{
    struct kve_logprob p[6];

    kve_logprobs((float[]){5, 7, 5, 7}, 4, 3, 5, p);
    cr_expect(p[1].id == 1 && p[2].id == 3 && p[3].id == 0 && p[4].id == 2);
    cr_expect_eq(p[5].id, KVE_LOGPROB_NO_ID);
    cr_expect_eq(p[0].logprob, p[2].logprob);
}

Test(logprobs, stay_numbers_whatever_the_logits_are)
{
    struct kve_logprob p[3];

    kve_logprobs((float[]){-INFINITY, NAN, 0}, 3, 1, 2, p);
    cr_expect_eq(p[0].logprob, KVE_LOGPROB_LEAST);
    cr_expect(p[1].id == 2 && p[1].logprob == 0 && p[2].logprob == KVE_LOGPROB_LEAST);
    kve_logprobs((float[]){INFINITY, 0, 0}, 3, 0, 2, p);
    for (int i = 0; i < 3; ++i)
        cr_expect(isfinite(p[i].logprob), "%d", i);
    kve_logprobs((float[]){NAN, NAN}, 2, 0, 2, p);
    for (int i = 0; i < 3; ++i)
        cr_expect_eq(p[i].logprob, KVE_LOGPROB_LEAST, "%d", i);
    kve_logprobs((float[]){1e30f, -1e30f}, 2, 1, 1, p);
    cr_expect_eq(p[0].logprob, KVE_LOGPROB_LEAST);
}
