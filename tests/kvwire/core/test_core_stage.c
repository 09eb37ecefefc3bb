/* SPDX-License-Identifier: Apache-2.0 */
/* Serial mode: what prefill stages, and what of it decode gets, or is refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "dense.h"

#define TOKENS T_DENSE_STAGED
#define BYTES  (TOKENS * T_DENSE_LAYERS * 2ull * 2 * 64) /* of one request */
#define ROOM   (2 * BYTES + 4096)

static struct t_cores c;
static const struct kvw_core_config config = {.stage_bytes = ROOM, .chunk_raw_bytes = 4096};

static void begin(uint32_t nodes)
{
    t_dense_begin(&c, nodes, &config);
    for (uint32_t i = 0; i < nodes; ++i)
        for (uint32_t k = i + 1; k < nodes; ++k)
            t_core_join(&c, i, k);
}

static uint64_t staged_bytes(uint32_t at)
{
    struct kvw_core_stats s = {.size = sizeof(s)};

    kvw_core_stats(c.node[at].core, &s);
    return s.staged_bytes;
}

/* Blocks that are the caller's own again hold something else at once. */
static void spoil(uint32_t node, uint32_t at)
{
    uint32_t ids[T_DENSE_BLOCKS];

    for (uint32_t i = 0; i < T_DENSE_BLOCKS; ++i)
        ids[i] = at * T_DENSE_BLOCKS + i;
    t_state_fill(&c.node[node].state, 0, ids, 0, 0, TOKENS, 0xdead);
}

/* Node 1 stages a request in full, and its blocks are used for something else. */
static struct kvw_stage_ref staged(const char *key, uint32_t at, struct kvw_stage_args args)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref x = {0};

    args.tokens = TOKENS;
    args.ref = &ref;
    cr_assert_eq(t_dense_stage(&c, 1, key, at, args, &x), KVW_OK, "%s", t_dense_why);
    t_dense_push(&c, 1, x, key, TOKENS, at);
    t_cores_run(&c, 2 * T_MS);
    t_core_expect_done(&c.node[1], x, KVW_OK);
    cr_expect_eq(t_core_done(&c.node[1], x)->raw_bytes, BYTES);
    spoil(1, at);
    return ref;
}

static kvw_xfer_ref pull(const struct kvw_stage_ref *ref, uint32_t to, uint32_t at)
{
    kvw_xfer_ref x = {0};

    cr_assert_eq(t_dense_pull(&c, to, 1, ref, at, &x), KVW_OK, "%s", t_dense_why);
    return x;
}

/* It ends with err and a sentence in which `word` is, and not a byte of its blocks is written. */
static void refused(uint32_t to, kvw_xfer_ref x, kvw_err err, const char *word)
{
    t_cores_run(&c, 20 * T_MS);
    t_core_expect_done(&c.node[to], x, err);
    cr_expect(strstr(t_core_done(&c.node[to], x)->text, word) != NULL, "\"%s\" lacks \"%s\"",
              t_core_done(&c.node[to], x)->text, word);
    cr_expect(t_state_is_zero(&c.node[to].state));
}

Test(core_stage, blocks_are_free_when_the_last_layer_is_staged)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref r;

    begin(2);
    ref = staged("one", 0, (struct kvw_stage_args){0});
    cr_expect_eq(c.node[1].sent, T_DENSE_LAYERS, "LAYER_SENT for each layer");
    cr_expect_eq(c.node[1].gone, 0);
    cr_expect_geq(staged_bytes(1), BYTES);
    r = pull(&ref, 0, 3);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "one", TOKENS, 3));
    cr_expect_not(t_dense_is(&c, 1, "one", TOKENS, 0), "the control: prefill's blocks are others'");
    cr_expect_eq(t_core_done(&c.node[0], r)->note_bytes, 3);
    cr_expect(memcmp(t_core_done(&c.node[0], r)->note, "one", 3) == 0);
    cr_expect_eq(c.node[1].gone, 1);
    cr_expect_eq(c.node[1].last_gone.err, KVW_OK);
    cr_expect_eq(c.node[1].last_gone.raw_bytes, BYTES);
    cr_expect_eq(staged_bytes(1), 0);
    cr_expect_eq(c.node[1].offered, 0, "a pull asks nobody for a stream");
    t_cores_end(&c);
}

Test(core_stage, layers_are_staged_as_they_are_computed)
{
    struct kvw_stage_ref ref;
    uint32_t ids[T_DENSE_BLOCKS] = {0, 1, 2, 3};
    kvw_xfer_ref x, r;

    begin(2);
    cr_assert_eq(t_dense_stage(&c, 1, "parts", 0,
                               (struct kvw_stage_args){.tokens = TOKENS, .ref = &ref}, &x),
                 KVW_OK);
    r = pull(&ref, 0, 0); /* early: it waits */
    t_state_fill(&c.node[1].state, 0, ids, 0, 0, TOKENS, 0);
    cr_assert_eq(kvw_core_push(c.node[1].core, x, 0, TOKENS, NULL), KVW_OK);
    cr_assert_eq(kvw_core_push(c.node[1].core, x, 1, 17, NULL), KVW_OK);
    t_cores_run(&c, 5 * T_MS);
    cr_expect_eq(c.node[1].sent, 1, "layer 0 is staged, layer 1 in part");
    cr_expect_null(t_core_done(&c.node[1], x));
    cr_expect_null(t_core_done(&c.node[0], r));
    t_dense_push(&c, 1, x, "parts", TOKENS, 0); /* layer 0's bytes now are others: not read again */
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[1], x, KVW_OK);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_expect_eq(c.node[1].sent, T_DENSE_LAYERS);
    cr_expect_not(t_dense_is(&c, 0, "parts", TOKENS, 0), "layer 0 as it was when it was pushed");
    t_cores_end(&c);
}

Test(core_stage, no_room_is_said_and_nothing_is_overwritten)
{
    struct kvw_core_stats s = {.size = sizeof(s)};
    struct kvw_stage_ref a, b, d;
    kvw_xfer_ref x, ra, rb;

    begin(2);
    a = staged("a", 0, (struct kvw_stage_args){0});
    b = staged("b", 1, (struct kvw_stage_args){0});
    cr_expect_eq(
        t_dense_stage(&c, 1, "d", 2, (struct kvw_stage_args){.tokens = TOKENS, .ref = &d}, &x),
        KVW_E_AGAIN);
    cr_expect(strstr(t_dense_why, "staging memory is full") != NULL, "%s", t_dense_why);
    kvw_core_stats(c.node[1].core, &s);
    cr_expect_eq(s.stages_full, 1);
    cr_expect_eq(s.staged, 2);
    cr_expect_eq(s.xfers_open, 0, "the refused one left nothing");
    ra = pull(&a, 0, 0);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], ra, KVW_OK);
    cr_expect_eq(c.node[1].gone, 1, "room");
    d = staged("d", 2, (struct kvw_stage_args){0});
    rb = pull(&b, 0, 1);
    x = pull(&d, 0, 2);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], rb, KVW_OK);
    t_core_expect_done(&c.node[0], x, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "a", TOKENS, 0));
    cr_expect(t_dense_is(&c, 0, "b", TOKENS, 1));
    cr_expect(t_dense_is(&c, 0, "d", TOKENS, 2));
    t_cores_end(&c);
}

Test(core_stage, what_can_never_fit_and_what_is_wrong)
{
    const struct kvw_core_config small = {.stage_bytes = 4096};
    struct kvw_stage_ref ref;
    kvw_xfer_ref x;

    t_dense_begin(&c, 2, &small);
    cr_expect_eq(
        t_dense_stage(&c, 1, "big", 0, (struct kvw_stage_args){.tokens = TOKENS, .ref = &ref}, &x),
        KVW_E_NOMEM);
    cr_expect(strstr(t_dense_why, "stage_bytes is 4096") != NULL, "%s", t_dense_why);
    cr_expect_eq(
        t_dense_stage(&c, 1, "x", 0, (struct kvw_stage_args){.tokens = 65, .ref = &ref}, &x),
        KVW_E_INVALID, "its blocks hold 64");
    cr_expect_eq(t_dense_stage(&c, 1, "x", 0,
                               (struct kvw_stage_args){.tokens = 4, .ref = &ref, .pulls = 65}, &x),
                 KVW_E_INVALID);
    memset(&ref, 7, sizeof(ref));
    cr_expect_eq(kvw_core_stage_drop(c.node[1].core, &ref, t_cores_now(&c)), KVW_E_FORMAT);
    t_core_join(&c, 0, 1);
    cr_expect_eq(t_dense_pull(&c, 0, 1, &ref, 0, &x), KVW_E_FORMAT);
    t_cores_end(&c);
    t_dense_begin(&c, 2, NULL);
    cr_expect_eq(
        t_dense_stage(&c, 1, "x", 0, (struct kvw_stage_args){.tokens = 4, .ref = &ref}, &x),
        KVW_E_UNSUPPORTED);
    t_cores_end(&c);
}

Test(core_stage, a_decode_that_never_comes)
{
    struct kvw_stage_ref ref, half;
    kvw_xfer_ref r, x;

    begin(2);
    ref = staged("late", 0, (struct kvw_stage_args){.until_ns = t_cores_now(&c) + 100 * T_MS});
    cr_assert_eq(t_dense_stage(&c, 1, "half", 1,
                               (struct kvw_stage_args){.tokens = TOKENS,
                                                       .ref = &half,
                                                       .until_ns = t_cores_now(&c) + 50 * T_MS},
                               &x),
                 KVW_OK);
    t_cores_run(&c, 60 * T_MS);
    t_core_expect_done(&c.node[1], x, KVW_E_DEADLINE);
    cr_expect_eq(c.node[1].gone, 0);
    t_cores_run(&c, 60 * T_MS);
    cr_expect_eq(c.node[1].gone, 1);
    cr_expect_eq(c.node[1].last_gone.err, KVW_E_DEADLINE);
    cr_expect_eq(staged_bytes(1), 0);
    r = pull(&ref, 0, 0);
    refused(0, r, KVW_E_DEADLINE, "not pulled in its time");
    t_cores_end(&c);
}

Test(core_stage, a_reference_used_twice)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref r, again;

    begin(3);
    ref = staged("once", 0, (struct kvw_stage_args){0});
    r = pull(&ref, 0, 0);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    again = pull(&ref, 2, 0);
    refused(2, again, KVW_E_NOTFOUND, "has been pulled");
    t_cores_end(&c);
}

Test(core_stage, two_ranks_pull_one_and_a_third_doesn_t)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref r[3];

    begin(4);
    ref = staged("ranks", 0, (struct kvw_stage_args){.pulls = 2});
    r[0] = pull(&ref, 0, 0);
    r[1] = pull(&ref, 2, 0);
    r[2] = pull(&ref, 3, 0); /* waits for the others' ends, then is refused */
    t_cores_run(&c, 20 * T_MS);
    cr_expect_eq((t_core_done(&c.node[0], r[0])->err == KVW_OK) +
                     (t_core_done(&c.node[2], r[1])->err == KVW_OK) +
                     (t_core_done(&c.node[3], r[2])->err == KVW_OK),
                 2);
    cr_expect_eq(c.node[1].gone, 1);
    cr_expect_eq(c.node[1].last_gone.raw_bytes, 2 * BYTES);
    t_cores_end(&c);
}

Test(core_stage, unknown_and_of_another_key_and_of_another_life)
{
    struct kvw_stage_ref ref, other, forged;
    kvw_xfer_ref r, x = {0};

    begin(2);
    ref = staged("mine", 0, (struct kvw_stage_args){0});
    other = staged("theirs", 1, (struct kvw_stage_args){0});
    forged = ref;
    forged.bytes[4] += 9; /* a number that was never given */
    r = pull(&forged, 0, 0);
    refused(0, r, KVW_E_NOTFOUND, "nothing was ever staged");
    forged = ref;
    forged.bytes[4] = other.bytes[4]; /* another request's, under this one's key */
    r = pull(&forged, 0, 0);
    refused(0, r, KVW_E_NOTFOUND, "another key");
    t_core_close(&c, 1, false);
    t_cores_run(&c, T_MS);
    t_core_open(&c, 1, &(struct kvw_core_config){.stage_bytes = ROOM, .instance = 777});
    t_core_add_pool(&c, 1);
    t_core_join(&c, 1, 0);
    cr_expect_eq(t_dense_pull(&c, 0, 1, &ref, 0, &x), KVW_E_NOTFOUND);
    cr_expect(strstr(t_dense_why, "another life") != NULL, "%s", t_dense_why);
    cr_expect(t_state_is_zero(&c.node[0].state));
    c.node[1].dones = 0; /* its numbers begin anew: the same key gets the same one */
    other = staged("mine", 0, (struct kvw_stage_args){0});
    cr_expect_eq(kvw_core_stage_drop(c.node[1].core, &ref, t_cores_now(&c)), KVW_E_NOTFOUND);
    cr_expect_eq(kvw_core_stage_drop(c.node[1].core, &other, t_cores_now(&c)), KVW_OK);
    t_cores_end(&c);
}

/* A pull that waits for its peer, which comes back as another life: it is refused, and a stream of
 * that key there has nothing to do with it. */
Test(core_stage, a_pull_that_waits_for_a_peer_that_restarts)
{
    const uint32_t ids[T_DENSE_BLOCKS] = {0, 1, 2, 3};
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, TOKENS};
    struct kvw_offer_args args = {
        .size = sizeof(args), .tokens = TOKENS, .group_count = 1, .groups = &b, .source_count = 1};
    struct kvw_stage_ref ref;
    kvw_peer_id source;
    kvw_xfer_ref x, r;
    char why[257];

    begin(2);
    ref = staged("mine", 0, (struct kvw_stage_args){0});
    source = t_core_peer(&c, 0, 1);
    args.pool = c.node[0].pool;
    args.sources = &source;
    args.staged = &ref;
    t_core_close(&c, 1, false);
    c.node[1].dones = 0; /* its next life numbers transfers anew */
    t_cores_run(&c, T_MS);
    cr_assert_eq(kvw_core_offer(c.node[0].core, &args, t_cores_now(&c), &x, why, 257), KVW_OK);
    t_core_open(&c, 1, &(struct kvw_core_config){.stage_bytes = ROOM, .instance = 777});
    t_core_add_pool(&c, 1);
    t_core_join(&c, 1, 0);
    refused(0, x, KVW_E_NOTFOUND, "another life");
    x = t_dense_stream(&c, 1, "mine", TOKENS, 0, 1, 0);
    r = t_dense_offer(&c, 0, 1, "mine", TOKENS, 0, NULL);
    t_dense_push(&c, 1, x, "mine", TOKENS, 0);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "mine", TOKENS, 0));
    t_cores_end(&c);
}

Test(core_stage, a_pull_that_fails_leaves_it_there)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref r, again;

    begin(3);
    ref = staged("kept", 0, (struct kvw_stage_args){0});
    r = pull(&ref, 0, 0);
    t_cores_run(&c, 100000);
    cr_assert_eq(kvw_core_abort(c.node[0].core, r, "changed my mind"), KVW_OK);
    again = pull(&ref, 2, 0);
    t_cores_run(&c, 20 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_CANCELED);
    t_core_expect_done(&c.node[2], again, KVW_OK);
    cr_expect(t_dense_is(&c, 2, "kept", TOKENS, 0));
    cr_expect_eq(c.node[1].gone, 1);
    t_cores_end(&c);
}

Test(core_stage, dropped_and_its_pool_removed)
{
    struct kvw_stage_ref ref, pool;
    kvw_xfer_ref r, waits;

    begin(2);
    ref = staged("dropped", 0, (struct kvw_stage_args){0});
    cr_assert_eq(kvw_core_stage_drop(c.node[1].core, &ref, t_cores_now(&c)), KVW_OK);
    cr_expect_eq(kvw_core_stage_drop(c.node[1].core, &ref, t_cores_now(&c)), KVW_E_NOTFOUND);
    r = pull(&ref, 0, 0);
    refused(0, r, KVW_E_CANCELED, "dropped");
    cr_expect_eq(c.node[1].gone, 1);
    cr_assert_eq(t_dense_stage(&c, 1, "half", 1,
                               (struct kvw_stage_args){.tokens = TOKENS, .ref = &pool}, &waits),
                 KVW_OK);
    r = pull(&pool, 0, 1);
    t_cores_run(&c, 5 * T_MS);
    cr_expect_null(t_core_done(&c.node[0], r), "it waits");
    ref = staged("whole", 2, (struct kvw_stage_args){0});
    cr_assert_eq(kvw_core_pool_remove(c.node[1].core, c.node[1].pool, t_cores_now(&c)), KVW_OK);
    refused(0, r, KVW_E_CANCELED, "pool");
    t_core_expect_done(&c.node[1], waits, KVW_E_CANCELED);
    cr_expect_eq(c.node[1].gone, 2);
    cr_expect_eq(staged_bytes(1), 0);
    t_cores_end(&c);
}

Test(core_stage, a_peer_that_vanishes_in_the_middle)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref r;

    begin(3);
    ref = staged("lost", 0, (struct kvw_stage_args){0});
    r = pull(&ref, 0, 0);
    t_cores_run(&c, 100000);
    cr_expect_null(t_core_done(&c.node[0], r), "it is under way");
    t_core_close(&c, 0, true);
    r = pull(&ref, 2, 0);
    t_cores_run(&c, T_S / 2);
    cr_expect_null(t_core_done(&c.node[2], r), "nobody knows yet that the first is gone");
    t_cores_run(&c, 2 * T_S);
    t_core_expect_done(&c.node[2], r, KVW_OK);
    cr_expect(t_dense_is(&c, 2, "lost", TOKENS, 0));
    t_cores_end(&c);
}

Test(core_stage, a_plain_offer_of_a_staged_key)
{
    struct kvw_stage_ref ref;
    kvw_xfer_ref x, r;

    begin(2);
    cr_assert_eq(t_dense_stage(&c, 1, "plain", 0,
                               (struct kvw_stage_args){.tokens = TOKENS, .ref = &ref}, &x),
                 KVW_OK);
    r = t_dense_offer(&c, 0, 1, "plain", TOKENS, 0, NULL);
    refused(0, r, KVW_E_MISMATCH, "is to be pulled");
    cr_expect_null(t_core_done(&c.node[1], x));
    t_cores_end(&c);
}
