/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers between several cores: how they meet, share, and end. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "dense.h"

static struct t_cores c;

static const struct kvw_core_event *done(uint32_t at, kvw_xfer_ref x)
{
    const struct kvw_core_event *ev = t_core_done(&c.node[at], x);

    cr_assert_not_null(ev, "node %u: it hasn't ended", at);
    return ev;
}

/* Node 0 receives from node 1, all of it, in a few round trips. */
static void one_goes_across(const char *key, uint32_t at)
{
    const kvw_xfer_ref r = t_dense_offer(&c, 0, 1, key, 60, at, NULL);
    const kvw_xfer_ref s = t_dense_stream(&c, 1, key, 60, at, 1, 0);

    t_dense_push(&c, 1, s, key, 60, at);
    t_cores_run(&c, 2 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    t_core_expect_done(&c.node[1], s, KVW_OK);
    cr_expect(t_dense_is(&c, 0, key, 60, at));
    cr_expect(done(0, r)->note_bytes == strlen(key) &&
              memcmp(done(0, r)->note, key, strlen(key)) == 0);
    cr_expect_eq(done(0, r)->raw_bytes, 60ull * 3 * 2 * 2 * 64);
    cr_expect_eq(done(0, r)->codec, KVW_CODEC_RAW);
}

static void pair(void)
{
    t_dense_begin(&c, 2, NULL);
    t_core_join(&c, 0, 1);
}

Test(core_life, offer_first_and_stream_first)
{
    kvw_xfer_ref r, s;

    pair();
    one_goes_across("offer first", 0);
    s = t_dense_stream(&c, 1, "stream first", 30, 1, 1, 0);
    t_dense_push(&c, 1, s, "stream first", 30, 1);
    t_cores_run(&c, T_MS);
    cr_expect_eq(c.node[1].offered, 0);
    r = t_dense_offer(&c, 0, 1, "stream first", 30, 1, NULL);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_expect_eq(c.node[1].offered, 0, "it met its stream");
    r = t_dense_offer(&c, 0, 1, "waits", 30, 2, NULL);
    t_cores_run(&c, T_MS);
    cr_expect_eq(c.node[1].offered, 1);
    cr_expect(memcmp(&c.node[1].last_offered, (kvw_key[]){kvw_key_of("waits")}, 16) == 0);
    cr_expect_eq(c.node[1].last_offered_by.value, t_core_peer(&c, 1, 0).value);
    s = t_dense_stream(&c, 1, "waits", 30, 2, 1, 0);
    t_dense_push(&c, 1, s, "waits", 30, 2);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    t_cores_end(&c);
}

/* The whole prompt is cached: nothing is lacking, and the note goes across. */
Test(core_life, nothing_is_wanted)
{
    static const uint32_t ids[4] = {0, 1, 2, 3};
    const struct kvw_group_blocks b = {0, 4, ids, 0, 60, 60};
    kvw_peer_id source;
    kvw_xfer_ref r, s;
    char why[257] = "";

    pair();
    source = t_core_peer(&c, 0, 1);
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c.node[0].pool,
                                        .key = kvw_key_of("cached"),
                                        .tokens = 60,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = &source,
                                        .source_count = 1};

    cr_assert_eq(kvw_core_offer(c.node[0].core, &args, t_cores_now(&c), &r, why, 257), KVW_OK);
    s = t_dense_stream(&c, 1, "cached", 60, 0, 1, 0);
    t_dense_push(&c, 1, s, "cached", 60, 0);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    t_core_expect_done(&c.node[1], s, KVW_OK);
    cr_expect_eq(done(0, r)->chunks, 0);
    cr_expect_eq(done(0, r)->note_bytes, 6);
    cr_expect(t_state_is_zero(&c.node[0].state));
    t_cores_end(&c);
}

Test(core_life, sixteen_senders_and_three_slots)
{
    const struct kvw_core_config cfg = {.slots = 3, .chunk_raw_bytes = 4096};
    kvw_xfer_ref r[16], s[16];
    uint64_t from;

    t_dense_begin(&c, 17, &cfg);
    for (uint32_t i = 1; i <= 16; ++i)
        t_core_join(&c, i, 0);
    from = t_cores_now(&c);
    for (uint32_t i = 1; i <= 16; ++i) {
        char key[8];

        snprintf(key, sizeof(key), "k%u", i);
        r[i - 1] = t_dense_offer(&c, 0, i, key, 64, i, NULL);
        s[i - 1] = t_dense_stream(&c, i, key, 64, i, 1, 0);
        t_dense_push(&c, i, s[i - 1], key, 64, i);
    }
    t_cores_run(&c, 50 * T_MS);
    for (uint32_t i = 1; i <= 16; ++i) {
        char key[8];

        snprintf(key, sizeof(key), "k%u", i);
        t_core_expect_done(&c.node[0], r[i - 1], KVW_OK);
        t_core_expect_done(&c.node[i], s[i - 1], KVW_OK);
        cr_expect(t_dense_is(&c, 0, key, 64, i));
    }
    cr_expect_lt(c.node[0].done_ns - from, 20 * T_MS, "somebody waited for a timer");
    /* Fair: the first was not through long before the last had begun. */
    cr_expect_gt(done(0, c.node[0].done[0].xfer)->at_ns - from, (c.node[0].done_ns - from) / 3);
    t_cores_end(&c);
}

Test(core_life, many_streams_to_one_peer_are_fair)
{
    const struct kvw_core_config cfg = {.slots = 4, .chunk_raw_bytes = 4096};
    kvw_xfer_ref r[8], s[8];
    uint64_t first = UINT64_MAX, last = 0, from;
    char key[8];

    t_dense_begin(&c, 2, &cfg);
    t_core_join(&c, 0, 1);
    from = t_cores_now(&c);
    for (uint32_t i = 0; i < 8; ++i) {
        snprintf(key, sizeof(key), "k%u", i);
        r[i] = t_dense_offer(&c, 0, 1, key, 64, i, NULL);
        s[i] = t_dense_stream(&c, 1, key, 64, i, 1, 0);
        t_dense_push(&c, 1, s[i], key, 64, i);
    }
    t_cores_run(&c, 50 * T_MS);
    for (uint32_t i = 0; i < 8; ++i) {
        t_core_expect_done(&c.node[0], r[i], KVW_OK);
        first = done(0, r[i])->at_ns < first ? done(0, r[i])->at_ns : first;
        last = done(0, r[i])->at_ns > last ? done(0, r[i])->at_ns : last;
    }
    cr_expect_gt(first - from, (last - from) / 2, "one was served before the others: %llu of %llu",
                 (unsigned long long)(first - from), (unsigned long long)(last - from));
    t_cores_end(&c);
}

Test(core_life, three_receivers_of_one_stream)
{
    kvw_xfer_ref r[3], s;

    t_dense_begin(&c, 4, NULL);
    for (uint32_t i = 0; i < 3; ++i)
        t_core_join(&c, i, 3);
    s = t_dense_stream(&c, 3, "ranks", 50, 0, 3, 0);
    for (uint32_t i = 0; i < 2; ++i)
        r[i] = t_dense_offer(&c, i, 3, "ranks", 50, 0, NULL);
    t_dense_push(&c, 3, s, "ranks", 50, 0);
    t_cores_run(&c, 5 * T_MS);
    cr_expect_null(t_core_done(&c.node[3], s));
    r[2] = t_dense_offer(&c, 2, 3, "ranks", 50, 0, NULL);
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[3], s, KVW_OK);
    for (uint32_t i = 0; i < 3; ++i) {
        t_core_expect_done(&c.node[i], r[i], KVW_OK);
        cr_expect(t_dense_is(&c, i, "ranks", 50, 0));
    }
    /* One too many is refused at once. */
    r[0] = t_dense_offer(&c, 0, 3, "ranks", 50, 0, NULL);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r[0], KVW_E_CANCELED);
    cr_expect_str_eq(done(0, r[0])->text, "the stream of this key has been complete");
    t_cores_end(&c);
}

/* --- how they end ----------------------------------------------------------------------------- */

static void expect_both(kvw_xfer_ref r, kvw_xfer_ref s, kvw_err err, const char *text)
{
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, err);
    t_core_expect_done(&c.node[1], s, err);
    cr_expect(strstr(done(0, r)->text, text) != NULL, "%s", done(0, r)->text);
    cr_expect(strstr(done(1, s)->text, text) != NULL, "%s", done(1, s)->text);
}

Test(core_life, abort_by_either_side_at_any_stage)
{
    pair();
    for (uint32_t stage = 0; stage < 6; ++stage)
        for (uint32_t side = 0; side < 2; ++side) {
            kvw_xfer_ref x[2] = {{0}, {0}};
            char key[8];

            snprintf(key, sizeof(key), "%u %u", stage, side);
            x[0] = t_dense_offer(&c, 0, 1, key, 60, 0, NULL);
            if (stage >= 1)
                t_cores_run(&c, T_MS);
            x[1] = t_dense_stream(&c, 1, key, 60, 0, 1, 0);
            if (stage >= 2)
                t_cores_run(&c, T_MS);
            if (stage >= 3)
                cr_assert_eq(kvw_core_push(c.node[1].core, x[1], 0, 60, NULL), KVW_OK);
            if (stage >= 4)
                t_cores_run(&c, 60000); /* chunks are on their way */
            if (stage >= 5)
                t_cores_run(&c, T_MS);
            cr_assert_eq(kvw_core_abort(c.node[side].core, x[side], "nobody wants it"), KVW_OK);
            cr_expect_eq(kvw_core_abort(c.node[side].core, x[side], ""), KVW_E_NOTFOUND);
            expect_both(x[0], x[1], KVW_E_CANCELED, "nobody wants it");
        }
    one_goes_across("still", 5);
    cr_expect_eq(c.node[0].lost + c.node[1].lost, 0);
    t_cores_end(&c);
}

Test(core_life, refused_before_and_after)
{
    kvw_xfer_ref r, s;

    pair();
    /* The sender refuses what waits there. */
    r = t_dense_offer(&c, 0, 1, "waits", 60, 0, NULL);
    t_cores_run(&c, T_MS);
    cr_assert_eq(kvw_core_refuse(c.node[1].core, c.node[1].last_offered_by, kvw_key_of("waits"),
                                 KVW_E_NOBLOCKS, "no room"),
                 KVW_OK);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_NOBLOCKS);
    cr_expect_str_eq(done(0, r)->text, "no room");
    /* Before the offer comes. */
    cr_assert_eq(kvw_core_refuse(c.node[1].core, c.node[1].last_offered_by, kvw_key_of("early"),
                                 KVW_E_NOBLOCKS, "no room"),
                 KVW_OK);
    t_cores_run(&c, T_MS);
    r = t_dense_offer(&c, 0, 1, "early", 60, 0, NULL);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_NOBLOCKS);
    /* The receiver refuses: a stream that is open, and one that opens later. */
    s = t_dense_stream(&c, 1, "never", 60, 0, 1, 0);
    cr_assert_eq(kvw_core_refuse(c.node[0].core, t_core_peer(&c, 0, 1), kvw_key_of("never"),
                                 KVW_E_NOBLOCKS, "full"),
                 KVW_OK);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[1], s, KVW_E_NOBLOCKS);
    cr_assert_eq(kvw_core_refuse(c.node[0].core, t_core_peer(&c, 0, 1), kvw_key_of("later"),
                                 KVW_E_NOBLOCKS, "full"),
                 KVW_OK);
    t_cores_run(&c, T_MS);
    s = t_dense_stream(&c, 1, "later", 60, 0, 1, 0);
    t_cores_run(&c, 1000);
    t_core_expect_done(&c.node[1], s, KVW_E_NOBLOCKS);
    cr_expect_str_eq(done(1, s)->text, "full");
    cr_expect_eq(
        kvw_core_refuse(c.node[0].core, (kvw_peer_id){99}, kvw_key_of("x"), KVW_E_NOBLOCKS, ""),
        KVW_E_NOTFOUND);
    cr_expect_eq(
        kvw_core_refuse(c.node[0].core, t_core_peer(&c, 0, 1), kvw_key_of("x"), KVW_OK, ""),
        KVW_E_INVALID);
    t_cores_end(&c);
}

/* More keys are refused to peers that are down than the table holds: those that are up hear. */
Test(core_life, refusals_to_peers_that_are_down)
{
    kvw_xfer_ref s;
    char key[8];
    kvw_peer_id down;

    t_dense_begin(&c, 3, NULL);
    t_core_join(&c, 1, 0);
    t_core_join(&c, 2, 0);
    down = t_core_peer(&c, 0, 2);
    t_core_close(&c, 2, false);
    t_cores_run(&c, 10 * T_MS);
    for (uint32_t i = 0; i < 100; ++i) {
        snprintf(key, sizeof(key), "k%u", i);
        cr_assert_eq(kvw_core_refuse(c.node[0].core, down, kvw_key_of(key), KVW_E_NOBLOCKS, ""),
                     KVW_OK);
    }
    s = t_dense_stream(&c, 1, "up", 60, 0, 1, 0);
    cr_assert_eq(kvw_core_refuse(c.node[0].core, t_core_peer(&c, 0, 1), kvw_key_of("up"),
                                 KVW_E_NOBLOCKS, ""),
                 KVW_OK);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[1], s, KVW_E_NOBLOCKS);
    t_cores_end(&c);
}

Test(core_life, take_by_passes)
{
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .take_by_ns = 50 * T_MS, .lease_ns = 20 * T_MS};
    kvw_xfer_ref r, s;

    pair();
    r = t_dense_offer(&c, 0, 1, "no stream", 60, 0, &terms);
    t_cores_run(&c, 45 * T_MS);
    cr_assert_null(t_core_done(&c.node[0], r));
    t_cores_run(&c, 7 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_DEADLINE);
    cr_expect(strstr(done(0, r)->text, "no stream of this key") != NULL, "the sender says so: %s",
              done(0, r)->text);
    /* A sender that says nothing any more. */
    r = t_dense_offer(&c, 0, 1, "silence", 60, 0, &terms);
    t_cores_run(&c, T_MS);
    t_cores_cut(&c, 0, 1, true);
    t_cores_run(&c, 80 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_DEADLINE);
    t_cores_cut(&c, 0, 1, false);
    /* A stream without offers. */
    s = t_dense_stream(&c, 1, "no offer", 60, 0, 1, t_cores_now(&c) + 30 * T_MS);
    t_cores_run(&c, 31 * T_MS);
    t_core_expect_done(&c.node[1], s, KVW_E_DEADLINE);
    cr_expect_str_eq(done(1, s)->text, "of 1 receivers 0 offered blocks in time");
    t_cores_end(&c);
}

Test(core_life, lease_and_deadline)
{
    struct kvw_offer_terms terms = {.size = sizeof(terms), .lease_ns = 100 * T_MS};
    kvw_xfer_ref r, s;

    pair();
    /* A sender that computes for long keeps its lease. */
    r = t_dense_offer(&c, 0, 1, "slow", 60, 0, &terms);
    s = t_dense_stream(&c, 1, "slow", 60, 0, 1, 0);
    t_cores_run(&c, T_S);
    cr_assert_null(t_core_done(&c.node[0], r));
    /* One that is cut off loses it. */
    t_cores_cut(&c, 0, 1, true);
    t_cores_run(&c, 130 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_LEASE);
    t_cores_cut(&c, 0, 1, false);
    t_cores_run(&c, 400 * T_MS);
    t_core_expect_done(&c.node[1], s, KVW_E_LEASE);
    /* The receiver's own deadline. */
    terms.deadline_ns = t_cores_now(&c) + 30 * T_MS;
    r = t_dense_offer(&c, 0, 1, "late", 60, 0, &terms);
    s = t_dense_stream(&c, 1, "late", 60, 0, 1, 0);
    t_cores_run(&c, 31 * T_MS);
    expect_both(r, s, KVW_E_DEADLINE, "the receiver's deadline passed");
    t_cores_end(&c);
}

Test(core_life, pool_removed_in_flight)
{
    uint32_t ids[4];
    kvw_xfer_ref r, s;

    pair();
    for (uint32_t side = 0; side < 2; ++side) {
        struct t_core *n = &c.node[side];
        const char *key = side == 0 ? "receiver's" : "sender's";

        r = t_dense_offer(&c, 0, 1, key, 60, 0, NULL);
        s = t_dense_stream(&c, 1, key, 60, 0, 1, 0);
        cr_assert_eq(kvw_core_push(c.node[1].core, s, 0, 60, NULL), KVW_OK);
        t_cores_run(&c, 60000);
        cr_assert_eq(kvw_core_pool_remove(n->core, n->pool, t_cores_now(&c)), KVW_OK);
        cr_expect_eq(kvw_core_pool_remove(n->core, n->pool, t_cores_now(&c)), KVW_E_NOTFOUND);
        cr_expect_not(kvw_core_layer_ready(n->core, side == 0 ? r : s, 2)); /* its pool is gone */
        (void)kvw_core_bad_blocks(n->core, r, 0, ids, 4);
        expect_both(r, s, KVW_E_CANCELED, "the pool was removed");
        t_core_add_pool(&c, side);
        t_cores_run(&c, T_MS);
    }
    one_goes_across("with the new pools", 3);
    cr_expect_eq(c.node[0].lost + c.node[1].lost, 0);
    t_cores_end(&c);
}

/* The event of a transfer is taken when another pool has the place of its own. */
Test(core_life, bad_blocks_of_a_pool_that_is_gone)
{
    struct t_core *n = &c.node[0];
    static struct t_state two;
    struct kvw_core_event ev = {.size = sizeof(ev)};
    kvw_pool_id other;
    uint32_t ids[8];
    kvw_xfer_ref r;
    char why[200];

    pair();
    t_state_dense(&two, 2, 2, 64, KVW_DTYPE_BF16, 16, 10);
    two.group_count = 2;
    two.groups[1] = two.groups[0];
    two.groups[1].parts[0].name = "a";
    two.groups[1].parts[1].name = "b";
    t_state_make(&two);
    r = t_dense_offer(&c, 0, 1, "x", 60, 0, NULL);
    cr_assert_eq(kvw_core_pool_remove(n->core, n->pool, t_cores_now(&c)), KVW_OK);
    cr_assert_eq(kvw_core_pool_add(n->core, &two.desc, &other, why, sizeof(why)), KVW_OK);
    cr_assert(kvw_core_next_event(n->core, &ev) && ev.xfer.value == r.value);
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 0, ids, 8), 4);
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 1, ids, 8), 0, "it never had such a group");
    cr_expect_not(kvw_core_layer_ready(n->core, r, 0));
    t_cores_end(&c);
    t_state_free(&two);
}

/* Which blocks aren't whole: the tokens that were pushed are, chunk by chunk. */
Test(core_life, bad_blocks_are_exact)
{
    const struct kvw_core_config cfg = {.chunk_raw_bytes = 4096}; /* 16 tokens of 256 bytes */
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct t_core *n = &c.node[0];
    uint32_t ids[4];
    kvw_xfer_ref r, s;

    t_dense_begin(&c, 2, &cfg);
    t_core_join(&c, 0, 1);
    r = t_dense_offer(&c, 0, 1, "half", 60, 2, NULL);
    s = t_dense_stream(&c, 1, "half", 60, 2, 1, 0);
    for (uint32_t l = 0; l < 3; ++l) /* of layer 1 one block less, and a part of one */
        cr_assert_eq(kvw_core_push(c.node[1].core, s, l, l == 1 ? 40 : 60, NULL), KVW_OK);
    t_cores_run(&c, 2 * T_MS);
    n->deaf = true;
    cr_assert_eq(kvw_core_abort(n->core, r, "enough"), KVW_OK);
    while (kvw_core_next_event(n->core, &ev) && ev.kind != KVW_CEV_XFER_DONE)
        ;
    cr_assert_eq(ev.err, KVW_E_CANCELED);
    memset(ids, 0, sizeof(ids));
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 0, ids, 4), 2);
    cr_expect(ids[0] == 10 && ids[1] == 11, "%u %u", ids[0], ids[1]);
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 0, ids, 1), 2, "how many there are");
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 1, ids, 4), 0);
    cr_expect_not(kvw_core_next_event(n->core, &ev));
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 0, ids, 4), 0, "the next event was asked for");
    n->deaf = false;
    t_cores_end(&c);
}

/* An offer that was never mapped: none of its blocks is whole, and its sources are told. */
Test(core_life, pending_offers_end)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct kvw_offer_terms terms = {.size = sizeof(terms)};
    struct t_core *n = &c.node[0];
    uint32_t ids[4];
    kvw_xfer_ref r, s;

    t_dense_begin(&c, 2, NULL);
    t_core_join(&c, 0, 1);
    cr_assert_eq(kvw_core_pool_remove(c.node[1].core, c.node[1].pool, t_cores_now(&c)), KVW_OK);
    t_core_add_pool(&c, 1);
    cr_assert_eq(kvw_core_pool_remove(c.node[1].core, c.node[1].pool, t_cores_now(&c)), KVW_OK);
    t_cores_run(&c, T_MS); /* up, without a pool */
    terms.deadline_ns = t_cores_now(&c) + 20 * T_MS;
    r = t_dense_offer(&c, 0, 1, "x", 60, 0, &terms);
    n->deaf = true;
    t_cores_run(&c, 25 * T_MS);
    while (kvw_core_next_event(n->core, &ev) && ev.kind != KVW_CEV_XFER_DONE)
        ;
    cr_assert_eq(ev.err, KVW_E_DEADLINE, "%s", ev.text);
    cr_expect_eq(kvw_core_bad_blocks(n->core, r, 0, ids, 4), 4);
    n->deaf = false;
    t_core_add_pool(&c, 1);
    t_cores_run(&c, T_MS);
    s = t_dense_stream(&c, 1, "x", 60, 0, 1, 0);
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[1], s, KVW_E_DEADLINE);
    t_cores_end(&c);
}

/* The receiver's events aren't taken: it stands still, loses nothing, and goes on. */
Test(core_life, a_full_event_queue_holds_the_core_up)
{
    struct t_core *n = &c.node[0];
    kvw_xfer_ref r[15], s;
    char key[8];
    uint32_t all = 0;

    pair();
    for (uint32_t k = 0; k < 40; ++k) { /* 3 LAYER_READY each; 1,000 fill the queue */
        n->deaf = k > 2;
        for (uint32_t i = 0; i < 15; ++i) {
            snprintf(key, sizeof(key), "%u", all++);
            s = t_dense_stream(&c, 1, key, 16, i, 1, 0);
            r[i] = t_dense_offer(&c, 0, 1, key, 16, i, NULL);
            t_dense_push(&c, 1, s, key, 16, i);
        }
        t_cores_run(&c, 2 * T_MS);
        if (n->deaf && kvw_core_deadline_ns(n->core) == UINT64_MAX)
            break;
        n->deaf = false;
        t_cores_run(&c, T_MS);
        n->dones = c.node[1].dones = 0;
        n->deaf = k > 2;
    }
    n->deaf = false;
    t_cores_run(&c, 5 * T_MS);
    for (uint32_t i = 0; i < 15; ++i)
        t_core_expect_done(n, r[i], KVW_OK);
    t_cores_end(&c);
}

/* An engine that allocates while it computes: the stream's table is told block by block, and what
 * was pushed stands. */
Test(core_life, blocks_are_told_while_it_computes)
{
    static const uint32_t ids[4] = {8, 9, 10, 11}, beyond[1] = {80};
    kvw_xfer_ref r, s, other;
    struct kvw_core *core;

    pair();
    core = c.node[1].core;
    r = t_dense_offer(&c, 0, 1, "told later", 60, 1, NULL);
    s = t_dense_stream(&c, 1, "told later", 60, 1, 1, 0); /* blocks 4 to 7, which aren't its own */
    cr_expect_eq(kvw_core_stream_blocks(core, s, 0, 1, ids, 4), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(core, s, 0, 5, ids, 0), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(core, s, 1, 0, ids, 4), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(core, s, 0, 0, beyond, 1), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(core, s, 0, 0, NULL, 1), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(c.node[0].core, r, 0, 0, ids, 4), KVW_E_INVALID);
    cr_assert_eq(kvw_core_stream_blocks(core, s, 0, 0, ids, 1), KVW_OK);
    cr_assert_eq(kvw_core_stream_blocks(core, s, 0, 1, ids + 1, 3), KVW_OK);
    t_dense_push(&c, 1, s, "told later", 60, 2);
    t_cores_run(&c, 2 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "told later", 60, 1));
    cr_expect_not(t_dense_is(&c, 0, "another", 60, 1));
    cr_expect_eq(kvw_core_stream_blocks(core, s, 0, 0, ids, 1), KVW_E_NOTFOUND);

    other = t_dense_stream(&c, 1, "in part", 60, 3, 1, 0);
    cr_assert_eq(kvw_core_push(core, other, 2, 20, NULL), KVW_OK); /* into the second block */
    cr_expect_eq(kvw_core_stream_blocks(core, other, 0, 1, ids, 1), KVW_E_INVALID);
    cr_expect_eq(kvw_core_stream_blocks(core, other, 0, 2, ids, 1), KVW_OK);
    t_cores_end(&c);
}
