/* SPDX-License-Identifier: Apache-2.0 */
/* Each policy of the table picks whom its sentence says, and none picks a worker without blocks, of
 * the other side, or one that left. */
#include <criterion/criterion.h>
#include <string.h>

#include "cluster_of.h"

TestSuite(policy, .fini = drop_prompts);

Test(policy, the_table_has_every_name_once_and_ours_first)
{
    uint32_t n = 0;

    for (; kve_route_policies[n] != NULL; ++n)
        cr_expect_eq(kve_route_policy_of(kve_route_policies[n]->name), kve_route_policies[n]);
    cr_expect_eq(n, 6);
    cr_expect_str_eq(kve_route_policies[0]->name, "finish");
    cr_expect_null(kve_route_policy_of("best"));
}

/* Deciding reads only: the same state gives the same answer, and only giving moves it on. */
Test(policy, a_decision_changes_nothing)
{
    for (uint32_t i = 0; kve_route_policies[i] != NULL; ++i) {
        const struct kve_route_request q = prompt_of(8);

        cluster_of(kve_route_policies[i]->name, 4, 4);
        const struct kve_route_decision a = kve_route_decide(&route, &q, SEC);
        const struct kve_route_decision b = kve_route_decide(&route, &q, SEC);

        cr_expect_eq(a.prefill, b.prefill, "%s", kve_route_policies[i]->name);
        cr_expect_eq(a.decode, b.decode, "%s", kve_route_policies[i]->name);
        drop_prompts();
    }
}

/* 400 requests that never end on 4 + 4 workers, one of each side gone, one decode worker full. */
Test(policy, nobody_picks_who_may_not)
{
    for (uint32_t i = 0; kve_route_policies[i] != NULL; ++i) {
        const char *name = kve_route_policies[i]->name;
        const struct kve_route_request q = prompt_of(4);

        cluster_of(name, 4, 4);
        route.cfg.admit = route.cfg.local = false;
        kve_route_leave(&route, 1);
        kve_route_leave(&route, 5);
        nodes[6].blocks_used = 97;
        uint32_t given = 0;

        for (; given < 400; ++given) {
            const struct kve_route_decision d = give(&q, SEC);

            if (d.verdict != KVE_ROUTE_GO)
                break;
            cr_assert(d.prefill < 4 && d.prefill != 1, "%s: prefill %u", name, d.prefill);
            cr_assert(d.decode == 4 || d.decode == 7, "%s: decode %u", name, d.decode);
        }
        cr_expect_eq(given, 40, "%s: 5 blocks each of 200", name);
        drop_prompts();
    }
}

Test(policy, round_robin_takes_turns)
{
    const struct kve_route_request q = prompt_of(1);

    cluster_of("round-robin", 3, 2);
    for (uint32_t i = 0; i < 6; ++i) {
        const struct kve_route_decision d = give(&q, 0);

        cr_expect_eq(d.prefill, i % 3);
        cr_expect_eq(d.decode, 3 + i % 2);
    }
}

/* As many of each: in step they would meet in pairs that never change. */
Test(policy, round_robin_uses_every_pair_as_often)
{
    static const uint32_t sides[][2] = {{2, 2}, {4, 4}, {2, 4}, {3, 2}, {1, 3}};
    const struct kve_route_request q = prompt_of(1);

    for (size_t s = 0; s < sizeof(sides) / sizeof(sides[0]); ++s) {
        const uint32_t p = sides[s][0], d = sides[s][1];
        uint32_t used[NODES][NODES] = {{0}};

        cluster_of("round-robin", p, d);
        for (uint32_t i = 0; i < 3 * p * d; ++i) {
            const struct kve_route_decision at = give(&q, 0);

            cr_assert_eq(at.verdict, KVE_ROUTE_GO);
            ++used[at.prefill][at.decode];
        }
        for (uint32_t i = 0; i < p; ++i)
            for (uint32_t k = p; k < p + d; ++k)
                cr_expect_eq(used[i][k], 3, "%u and %u: %u with %u: %u times", p, d, i, k,
                             used[i][k]);
        drop_prompts();
    }
}

Test(policy, least_loaded_takes_who_has_fewest_requests)
{
    const struct kve_route_request q = prompt_of(1);

    cluster_of("least-loaded", 3, 3);
    nodes[0].prefills = nodes[2].prefills = 2;
    nodes[3].sequences = nodes[4].sequences = 1;
    const struct kve_route_decision d = give(&q, 0);

    cr_expect_eq(d.prefill, 1);
    cr_expect_eq(d.decode, 5);
}

/* Of 8 workers the busiest can only be drawn beside a less busy one, so it never wins. */
Test(policy, power_of_two_never_takes_the_busiest)
{
    const struct kve_route_request q = prompt_of(1);
    bool seen[4] = {0};

    cluster_of("power-of-two", 4, 4);
    for (uint32_t i = 0; i < 200; ++i, ++route.turn) {
        nodes[2].prefills = 9;
        const struct kve_route_decision d = kve_route_decide(&route, &q, 0);

        seen[d.prefill] = true;
    }
    cr_expect(seen[0] && seen[1] && seen[3] && !seen[2]);
}

Test(policy, random_reaches_all_and_follows_its_seed)
{
    const struct kve_route_request q = prompt_of(1);
    uint32_t count[4] = {0}, other = 0;

    cluster_of("random", 4, 4);
    for (uint32_t i = 0; i < 400; ++i, ++route.turn) {
        const uint32_t first = kve_route_decide(&route, &q, 0).prefill;

        ++count[first];
        ++route.cfg.seed;
        other += kve_route_decide(&route, &q, 0).prefill != first;
        --route.cfg.seed;
    }
    for (uint32_t i = 0; i < 4; ++i)
        cr_expect(count[i] > 60 && count[i] < 140, "%u: %u of 400", i, count[i]);
    cr_expect(other > 200, "another seed, another order: %u of 400", other);
}

/* Less than half of a prompt is no reason, and no reason holds against much more work. */
static void expect_guarded_match(const char *policy)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of(policy, 3, 1);
    route.cfg.local = false;
    nodes[0].work_ns = nodes[1].work_ns = 5e9;
    kve_prompts_held_add(&nodes[1].prompts, hashes, 5);
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1, "%s: half of it", policy);
    nodes[1].work_ns = 7e9;
    cr_expect_neq(kve_route_decide(&route, &q, 0).prefill, 1, "%s: worked too much", policy);
    nodes[1].work_ns = 5e9;
    kve_prompts_held_limit(&nodes[1].prompts, 4);
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 2, "%s: less than half", policy);
    drop_prompts();
}

Test(policy, a_prefix_counts_from_half_of_the_prompt_and_under_the_guard)
{
    expect_guarded_match("prefix");
    expect_guarded_match("finish");
}

/* Ours looks at the time of the first token: a queue, a slow worker and a slow link all count. */
Test(policy, finish_counts_queue_pace_and_link)
{
    const struct kve_route_request q = prompt_of(10);
    static uint32_t mbps[3 * 3];
    const struct kve_route_links links = {mbps, 3};

    cluster_of("finish", 2, 1);
    route.cfg.local = false;
    nodes[0].backlog_ns = 1e9;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1, "a shorter queue");
    nodes[1].pace = 8;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0, "a faster worker");
    nodes[1].pace = 1;
    for (uint32_t i = 0; i < 9; ++i)
        mbps[i] = 1000;
    mbps[1 * 3 + 2] = 0;
    route.links = &links;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0, "the only link");
}

/* What is queued weighs more than a prefix, once the promise is in danger; before, the prefix
 * does. */
Test(policy, finish_keeps_to_a_prefix_while_the_promise_holds)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 2, 1);
    route.cfg.local = false;
    kve_prompts_held_add(&nodes[0].prompts, hashes, 9);
    nodes[0].backlog_ns = 4e9;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0, "4 s of 10");
    nodes[0].backlog_ns = 6e9;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1, "6 s of 10");
}

/* Blocks are a filter and the queue is the score; among equal queues, who has the prompt. */
Test(policy, finish_decodes_where_the_queue_is_short)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 3);
    nodes[1].sequences = 9;
    nodes[1].blocks = 1000;
    nodes[2].sequences = nodes[3].sequences = 2;
    kve_prompts_held_add(&nodes[3].prompts, hashes, 8);
    cr_expect_eq(kve_route_decide(&route, &q, 0).decode, 3, "a short queue, and it has the prompt");
    nodes[3].blocks_used = 90;
    cr_expect_eq(kve_route_decide(&route, &q, 0).decode, 2, "11 blocks aren't free");
    nodes[2].blocks_used = 90;
    cr_expect_eq(kve_route_decide(&route, &q, 0).decode, 1);
}
