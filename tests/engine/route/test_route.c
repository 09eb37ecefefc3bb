/* SPDX-License-Identifier: Apache-2.0 */
/* A decision from end to end: what waits, what is refused and with which Retry-After, what is
 * computed at home; and the counters and changes of sides behind it. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "cluster_of.h"

TestSuite(route, .fini = drop_prompts);

/* 160 tokens, 1 ms each; the wire takes as long, and all but a tenth of it beside the computing. */
Test(route, a_first_token_is_estimated_from_compute_and_the_layer_that_is_left)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 1);
    route.cfg.local = false;
    const struct kve_route_decision d = kve_route_decide(&route, &q, 0);

    cr_expect_eq(d.verdict, KVE_ROUTE_GO);
    cr_expect_eq(d.lacks, 160);
    cr_expect_float_eq(d.cost_ns, 160e6, 1);
    cr_expect_float_eq(d.first_ns, 176e6, 1);
    cr_expect_eq(d.blocks, 11);
    kve_prompts_held_add(&nodes[0].prompts, hashes, 10);
    kve_prompts_held_add(&nodes[1].prompts, hashes, 5);
    const struct kve_route_decision cached = kve_route_decide(&route, &q, 0);

    cr_expect_eq(cached.cached, 159, "the last token is always computed");
    cr_expect_eq(cached.lacks, 80, "decode's own cache needn't be sent");
    cr_expect_float_eq(cached.first_ns, 1e6 + 80e6 - 0.9e6, 1, "now the wire is the longer one");
}

Test(route, a_short_rest_is_computed_at_home_and_a_slow_link_sends_everything_there)
{
    struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 1);
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0, "160 tokens are more than 32");
    kve_prompts_held_add(&nodes[1].prompts, hashes, 9);
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1, "16 aren't");
    cr_expect_eq(kve_route_decide(&route, &q, 0).lacks, 0);
    route.cfg.local = false;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0);
    route.cfg.local = true;
    kve_prompts_held_limit(&nodes[1].prompts, 0);
    route.cfg.link_mbps = 0.5;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1,
                 "a link at half the speed of computing");
    nodes[1].backlog_ns = 1e9;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0, "not behind a queue");
}

/* Beside sequences that are at their promise's edge nothing is prefilled. */
Test(route, at_home_only_while_those_who_decode_there_keep_their_promise)
{
    const struct kve_route_request q = prompt_of(2);

    cluster_of("finish", 1, 1);
    route.cfg.cost.token_ns = 0.5e6;
    nodes[1].sequences = 1;
    nodes[1].sequence_tokens = 10000; /* a step of 20 ms, 16 more for the prompt beside it */
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 1);
    nodes[1].sequence_tokens = 30000;
    cr_expect_eq(kve_route_decide(&route, &q, 0).prefill, 0);
}

Test(route, what_would_be_late_is_refused_with_the_time_to_come_back)
{
    struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 1);
    nodes[0].backlog_ns = 12.5e9;
    const struct kve_route_decision d = kve_route_decide(&route, &q, 0);

    cr_expect_eq(d.verdict, KVE_ROUTE_SHED);
    cr_expect_eq(d.retry_ns, 3 * SEC, "2.676 s too late, in whole seconds");
    route.cfg.admit = false;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_GO,
                 "without admission it goes");
    route.cfg.admit = true;
    nodes[0].backlog_ns = 9e9;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_GO);
    cr_expect_eq(kve_route_decide(&route, &q, SEC).verdict, KVE_ROUTE_SHED,
                 "it has waited for 1 s");
}

Test(route, without_free_blocks_it_waits_in_order_in_a_bounded_queue)
{
    struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 1);
    nodes[1].blocks_used = 95;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_WAIT);
    nodes[1].blocks_used = 0;
    route.waiting = 1;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_WAIT,
                 "others were there first");
    q.waited = true;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_GO, "it is the first of them");
    q.waited = false;
    route.waiting = route.cfg.queue_max;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_SHED);
    route.waiting = 1;
    route.state = KVE_ROUTE_OVERLOADED;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_SHED, "overloaded: at once");
    q.waited = true;
    nodes[1].blocks_used = 95;
    cr_expect_eq(kve_route_decide(&route, &q, 10 * SEC).verdict, KVE_ROUTE_SHED, "too long ago");
    q = prompt_of(60);
    q.max_tokens = 40 * BLOCK + 1;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_SHED, "101 blocks");
    cr_expect_eq(kve_route_decide(&route, &q, 0).retry_ns, 0, "never");
}

/* A worker whose steps are at the edge gets no more sequences, though it has blocks. */
Test(route, decode_workers_keep_the_promise_of_those_they_have)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 1, 2);
    nodes[1].sequences = 1;
    nodes[1].sequence_tokens = 40000;
    nodes[2].sequences = 20;
    cr_expect_eq(kve_route_decide(&route, &q, 0).decode, 2);
    route.cfg.admit = false;
    cr_expect_eq(kve_route_decide(&route, &q, 0).decode, 1);
}

Test(route, together_a_request_stays_on_one_worker)
{
    const struct kve_route_request q = prompt_of(10);

    cluster_of("finish", 0, 3);
    route.cfg.together = true;
    nodes[0].backlog_ns = nodes[1].backlog_ns = 1e9;
    const struct kve_route_decision d = give(&q, 0);

    cr_expect_eq(d.prefill, 2);
    cr_expect_eq(d.decode, 2);
    cr_expect_eq(d.lacks, 0);
    nodes[0].blocks_used = nodes[1].blocks_used = nodes[2].blocks_used = 95;
    cr_expect_eq(kve_route_decide(&route, &q, 0).verdict, KVE_ROUTE_WAIT);
}

/* Everything that was given comes back, to the last counter. */
Test(route, counters_are_empty_when_all_has_ended)
{
    const struct kve_route_request q = prompt_of(10);
    struct kve_route_decision d[5];

    cluster_of("finish", 2, 2);
    for (uint32_t i = 0; i < 5; ++i)
        d[i] = give(&q, 0);
    for (uint32_t i = 0; i < 5; ++i) {
        const struct kve_route_done done = {.cached = d[i].cached,
                                            .took_ns = (uint64_t)d[i].cost_ns};

        cr_assert_eq(d[i].verdict, KVE_ROUTE_GO);
        kve_route_progress(&route, d[i].prefill, d[i].cost_ns);
        kve_route_prefilled(&route, &q, &d[i], i == 4 ? NULL : &done);
        kve_route_landed(&route, &d[i]);
        kve_route_finished(&route, &q, &d[i]);
    }
    for (uint32_t i = 0; i < 4; ++i) {
        cr_expect_eq(nodes[i].prefills + nodes[i].sequences + nodes[i].blocks_used, 0, "%u", i);
        cr_expect_eq(nodes[i].sequence_tokens, 0, "%u", i);
        cr_expect_float_eq(nodes[i].backlog_ns + nodes[i].wire_ns, 0, 1, "%u", i);
        cr_expect_float_eq(nodes[i].pace, 1, 1e-9, "%u", i);
    }
    kve_route_finished(&route, &q, &d[0]);
    cr_expect_eq(nodes[d[0].decode].sequences, 0, "once too often");
}

/* Work is what was computed, not what was believed; pace follows the time that it took. */
Test(route, a_wrong_belief_is_put_right_when_the_prefill_ends)
{
    const struct kve_route_request q = prompt_of(10);
    const struct kve_route_done done = {.cached = 0, .took_ns = 320 * MS};

    cluster_of("finish", 1, 1);
    route.cfg.local = false;
    kve_prompts_held_add(&nodes[0].prompts, hashes, 9);
    const struct kve_route_decision d = give(&q, 0);

    cr_expect_float_eq(nodes[0].work_ns, 16e6, 1);
    kve_route_prefilled(&route, &q, &d, &done);
    cr_expect_float_eq(nodes[0].work_ns, 160e6, 1);
    cr_expect_float_eq(nodes[0].pace, 1.1, 1e-9, "twice the time: a tenth of the way there");
}

/* A worker that joins isn't the least worked one: it would get every request. */
Test(route, who_joins_has_the_others_mean_of_work)
{
    cluster_of("finish", 3, 1);
    kve_route_leave(&route, 2);
    nodes[0].work_ns = 10e9;
    nodes[1].work_ns = 20e9;
    kve_prompts_held_add(&nodes[2].prompts, hashes, 5);
    kve_route_join(&route, 2);
    cr_expect_float_eq(nodes[2].work_ns, 15e9, 1);
    cr_expect_eq(nodes[2].prompts.count, 0, "what it held before is gone");
    cr_expect_eq(nodes[2].prompts.limit, 100);
}

/* ---- changes of sides ---- */

static void load_prefill(uint32_t node, double of_promise)
{
    nodes[node].backlog_ns = of_promise * 10e9;
}

static void load_decode(uint32_t node, double part)
{
    nodes[node].sequences = 1;
    nodes[node].blocks_used = (uint32_t)(100 * part);
}

Test(route, normal_lends_nobody)
{
    cluster_of("finish", 2, 2);
    load_prefill(0, 0.4);
    load_decode(2, 0.4);
    const struct kve_route_turn t = kve_route_lend(&route, SEC);

    cr_expect_eq(t.state, KVE_ROUTE_NORMAL);
    cr_expect_eq(t.node, KVE_ROUTE_NONE);
    cr_expect_float_eq(t.prefill, 0.2, 1e-9);
}

/* The least loaded of the idle side turns, works for the other, and goes home when that is idle. */
Test(route, imbalanced_lends_the_least_loaded_and_takes_it_back)
{
    struct kve_route_request q = prompt_of(10);
    struct kve_route_turn t;

    q.arrived_ns = 20 * SEC;
    cluster_of("finish", 2, 3);
    load_prefill(0, 0.9);
    load_prefill(1, 0.9);
    load_decode(2, 0.3);
    load_decode(4, 0.3);
    nodes[2].sequence_tokens = nodes[4].sequence_tokens = 100;
    t = kve_route_lend(&route, 20 * SEC);
    cr_expect_eq(t.state, KVE_ROUTE_IMBALANCED);
    cr_assert_eq(t.node, 3);
    kve_route_turned(&route, &t, 20 * SEC);
    cr_expect_eq(kve_route_decide(&route, &q, 20 * SEC).prefill, 3, "it prefills now");
    cr_expect_neq(kve_route_decide(&route, &q, 20 * SEC).decode, 3, "and doesn't decode");

    load_prefill(0, 0);
    load_prefill(1, 0);
    t = kve_route_lend(&route, 25 * SEC);
    cr_expect_eq(t.node, KVE_ROUTE_NONE, "it keeps its side for 10 s");
    t = kve_route_lend(&route, 30 * SEC);
    cr_assert_eq(t.node, 3);
    kve_route_turned(&route, &t, 30 * SEC);
    cr_expect_not(nodes[3].lent);
}

Test(route, no_side_gives_its_last_worker_or_becomes_the_busier_one)
{
    cluster_of("finish", 2, 1);
    load_prefill(0, 0.9);
    load_prefill(1, 0.9);
    cr_expect_eq(kve_route_lend(&route, 20 * SEC).node, KVE_ROUTE_NONE, "the last one");
    cluster_of("finish", 2, 2);
    load_prefill(0, 0.9);
    load_prefill(1, 0.9);
    load_decode(2, 0.4);
    load_decode(3, 0.4);
    cr_expect_eq(kve_route_lend(&route, 20 * SEC).node, KVE_ROUTE_NONE, "0.8 on one is too much");
    load_decode(3, 0);
    cr_expect_neq(kve_route_lend(&route, 20 * SEC).node, KVE_ROUTE_NONE);
    route.cfg.lend = false;
    cr_expect_eq(kve_route_lend(&route, 20 * SEC).node, KVE_ROUTE_NONE, "without lending");
}

/* Whoever is a guest goes home before a native of the busy side is asked. */
Test(route, decode_gets_its_own_back_first)
{
    cluster_of("finish", 2, 2);
    nodes[3].lent = true;
    load_decode(2, 0.9);
    load_prefill(3, 0.1);
    const struct kve_route_turn t = kve_route_lend(&route, 20 * SEC);

    cr_expect_eq(t.state, KVE_ROUTE_IMBALANCED);
    cr_expect_eq(t.node, 3);
}

Test(route, both_sides_at_their_limit_is_overload)
{
    cluster_of("finish", 1, 1);
    load_prefill(0, 1.2);
    load_decode(1, 1);
    cr_expect_eq(kve_route_lend(&route, 0).state, KVE_ROUTE_OVERLOADED);
    load_prefill(0, 0);
    load_decode(1, 0.5);
    route.waiting = 1;
    cr_expect_eq(kve_route_lend(&route, 0).state, KVE_ROUTE_OVERLOADED, "they wait for decode");
}
