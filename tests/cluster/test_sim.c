/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated cluster: every request has one end, a first token takes what arithmetic says, and
 * the router's claims hold on a made trace: prefix hits with even work, goodput, lending, and where
 * disaggregation wins and where it doesn't. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../perf/cluster/search.h"

#define SEED 1

static const struct kcl_model *model(const char *name)
{
    const struct kcl_model *m = kcl_models;

    while (strcmp(m->name, name) != 0)
        ++m;
    return m;
}

static const struct kcl_machine *machine(const char *name)
{
    const struct kcl_machine *m = kcl_machines;

    while (strcmp(m->name, name) != 0)
        ++m;
    return m;
}

/* 70B on four H100 a worker; 30 s and 100 ms. */
static struct kcl_setup setup(const char *policy, uint32_t prefills, uint32_t decodes)
{
    struct kcl_setup s;

    kcl_setup_of(&s, kve_route_policy_of(policy));
    s.model = model("llama-3.1-70b");
    s.machine = machine("4xh100");
    s.prefills = prefills;
    s.decodes = decodes;
    s.route.together = prefills == 0;
    return s;
}

/* Nothing but the placement. */
static struct kcl_setup plain(struct kcl_setup s)
{
    s.route.admit = s.route.local = s.route.lend = false;
    return s;
}

static struct kcl_result run(struct kcl_setup s, uint32_t count, struct kcl_bend b)
{
    struct kcl_trace t, bent;

    cr_assert(kcl_trace_make(&t, count, SEED));
    bent = kcl_trace_bend(&t, &b);
    kcl_trace_free(&t);
    cr_assert_gt(bent.count, 0);
    s.trace = &bent;
    const struct kcl_result r = kcl_run(&s);

    cr_assert(r.ok);
    cr_expect_eq(r.requests, r.good + r.late + r.slow + r.rejected, "every request has one end");
    kcl_trace_free(&bent);
    return r;
}

static const struct kcl_bend as_it_is = {.speed = 1, .input = 1, .answer = 1, .copies = 1};

static struct kcl_bend faster(double speed)
{
    struct kcl_bend b = as_it_is;

    b.speed = speed;
    return b;
}

/* One request, alone: what the steps take, and the last layer's way; then a gap for each token. */
Test(sim, one_request_takes_what_arithmetic_says)
{
    uint64_t hash[2] = {1, 2};
    struct kcl_arrival one = {.tokens = 1024, .answer = 3, .hashes = 2};
    const struct kcl_trace t = {.each = &one, .hash = hash, .count = 1, .hash_count = 2};
    struct kcl_setup s = setup("least-loaded", 1, 1);
    const struct kcl_step prompt = {.tokens = 1024, .pairs = 1024.0 * 512};
    const struct kcl_step token = {.tokens = 1, .cached = 1025};
    struct kcl_result r;
    double wire_ms;

    s.trace = &t;
    r = kcl_run(&s);
    wire_ms = 1024 * s.model->token_bytes / 25000e6 * 1e3;
    cr_expect_float_eq(r.ttft_ms[0],
                       kcl_step_ns(s.model, s.machine, &prompt) / 1e6 + wire_ms / 80 + 0.05, 0.01);
    cr_expect_float_eq(r.itl_ms[0], kcl_step_ns(s.model, s.machine, &token) / 1e6, 0.2);
    cr_expect_eq(r.sent, 1024);
    s.route.together = true;
    r = kcl_run(&s);
    cr_expect_float_eq(r.ttft_ms[0], kcl_step_ns(s.model, s.machine, &prompt) / 1e6, 0.01);
    cr_expect_eq(r.sent, 0, "nothing is sent where all stays on one worker");
    s.route.together = false;
    s.route.link_mbps = 100;
    r = kcl_run(&s);
    cr_expect_gt(r.ttft_ms[0], 3355, "a slow link shows nearly whole");
}

Test(sim, the_same_again_is_the_same)
{
    const struct kcl_result a = run(setup("finish", 4, 2), 600, faster(1.5));
    const struct kcl_result b = run(setup("finish", 4, 2), 600, faster(1.5));
    const struct kcl_result c = run(setup("finish", 4, 2), 600, faster(1.51));

    cr_expect_eq(memcmp(a.ttft_ms, b.ttft_ms, sizeof(a.ttft_ms)), 0);
    cr_expect_neq(memcmp(a.ttft_ms, c.ttft_ms, sizeof(a.ttft_ms)), 0);
}

/* 4 prefill workers of 10,000 blocks: nearly the hits of one endless cache, and even work. */
Test(sim, prefixes_are_found_and_work_is_even)
{
    const struct kcl_result ours = run(setup("finish", 4, 2), 6000, as_it_is);
    const struct kcl_result least = run(setup("least-loaded", 4, 2), 6000, as_it_is);
    struct kcl_setup one = setup("finish", 1, 1);

    one.blocks = 1000000;
    one.route.queue_max = 6000;
    const struct kcl_result endless = run(plain(one), 6000, as_it_is);

    cr_expect_leq(ours.imbalance, 1.01, "%.4f", ours.imbalance);
    cr_expect_geq(ours.hit, 0.9 * endless.hit, "%.3f of %.3f", ours.hit, endless.hit);
    cr_expect_lt(least.hit, 0.6 * endless.hit, "%.3f: who looks at load alone", least.hit);
}

/* At half as fast again as the trace: more within the promises than any policy that is kept, and as
 * many, within 1 %, as those with our early refusals; hardly anything late that was let in. */
Test(sim, goodput_is_no_less_than_any_kept_policys)
{
    const struct kcl_result ours = run(setup("finish", 4, 2), 2000, faster(1.5));

    for (uint32_t i = 1; kve_route_policies[i] != NULL; ++i) {
        struct kcl_setup s = setup(kve_route_policies[i]->name, 4, 2);
        const struct kcl_result kept = run(s, 2000, faster(1.5));

        s.route.admit = true;
        const struct kcl_result refuses = run(s, 2000, faster(1.5));

        cr_expect_geq(ours.good, kept.good, "%s", kve_route_policies[i]->name);
        cr_expect_geq(ours.good, 0.99 * refuses.good, "%s, refusing early",
                      kve_route_policies[i]->name);
    }
    cr_expect_leq(ours.late + ours.slow, ours.requests / 100);
    cr_expect_gt(ours.rejected, 0, "it is too much");
}

/* A split that fits neither a prefill-heavy nor a decode-heavy hour is lent over to both. */
Test(sim, lending_helps_a_prefill_heavy_and_a_decode_heavy_hour)
{
    static const struct kcl_bend heavy[2] = {
        {.speed = 1, .input = 2, .answer = 0.3, .copies = 1},
        {.speed = 4, .input = 0.3, .answer = 4, .copies = 1},
    };

    for (int i = 0; i < 2; ++i) {
        struct kcl_setup s = setup("finish", 4, 2);
        const struct kcl_result lends = run(s, 3000, heavy[i]);

        s.route.lend = false;
        const struct kcl_result stays = run(s, 3000, heavy[i]);

        cr_expect_gt(lends.turns, 0);
        cr_expect_eq(stays.turns, 0);
        cr_expect_gt(lends.good, stays.good * 1.03, "%d: %u and %u", i, lends.good, stays.good);
    }
}

/* The same four workers, split or all together. A large model with long prompts, a short promise
 * and a fast network wants the split; a slow network doesn't, and a small model with short prompts
 * neither. */
Test(sim, disaggregation_wins_where_steps_would_be_disturbed_and_loses_elsewhere)
{
    struct kcl_setup split = plain(setup("finish", 3, 1)), all = plain(setup("finish", 0, 4));
    struct kcl_bend b = faster(0.62);

    split.route.itl_ns = all.route.itl_ns = 50000000;
    split.route.ttft_ns = all.route.ttft_ns = 10000000000;
    const uint32_t together = run(all, 1000, b).good, apart = run(split, 1000, b).good;

    cr_expect_gt(apart, together, "large, fast network: %u and %u of 1000", apart, together);
    split.route.link_mbps = 1000;
    cr_expect_lt(run(split, 1000, b).good, together, "a slow network");

    b = faster(120);
    b.input = 0.1;
    all.model = split.model = model("qwen3-0.6b");
    all.machine = split.machine = machine("h100");
    all.route.itl_ns = split.route.itl_ns = 20000000;
    all.route.ttft_ns = split.route.ttft_ns = 300000000;
    all.route.piece = 2048;
    split.route.link_mbps = 25000;
    const uint32_t small = run(all, 1500, b).good;

    for (split.prefills = 1; split.prefills < 4; ++split.prefills) {
        split.decodes = 4 - split.prefills;
        cr_expect_lt(run(split, 1500, b).good, small, "small: %u:%u", split.prefills,
                     split.decodes);
    }
}

/* Where sending takes longer than computing, the decode side computes; refused is less than
 * otherwise. */
Test(sim, prompts_stay_at_home_on_a_slow_link)
{
    struct kcl_setup s = setup("finish", 2, 2);

    s.route.link_mbps = 500;
    s.route.lend = false;
    const struct kcl_result home = run(s, 600, faster(0.3));

    s.route.local = false;
    const struct kcl_result away = run(s, 600, faster(0.3));

    cr_expect_gt(home.local, home.requests / 2, "%u of %u", home.local, home.requests);
    cr_expect_eq(away.local, 0);
    cr_expect_gt(home.good, away.good, "%u and %u", home.good, away.good);
}

/* Half of the pairs have a hundredth of the rate: who knows it has his first tokens sooner. */
Test(sim, measured_links_count)
{
    struct kcl_setup s = setup("finish", 4, 2);

    s.racks = 2;
    s.cross = 0.02;
    s.route.local = s.route.lend = false;
    const struct kcl_result knows = run(s, 600, as_it_is);

    s.route.policy = kve_route_policy_of("prefix");
    const struct kcl_result blind = run(s, 600, as_it_is);

    cr_expect_lt(knows.ttft_ms[0], blind.ttft_ms[0], "%.0f and %.0f ms", knows.ttft_ms[0],
                 blind.ttft_ms[0]);
}

Test(sim, a_thousand_workers)
{
    struct kcl_bend b = faster(1);

    b.copies = 60;
    const struct kcl_result r = run(setup("finish", 660, 340), 30, b);

    cr_expect_eq(r.requests, 1800);
    cr_expect_geq(r.good, 1790, "%u", r.good);
}
