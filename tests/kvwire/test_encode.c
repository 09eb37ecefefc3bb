/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders on threads of their own change nothing but who waits: the same bytes arrive, in the same
 * order; a transfer that ends takes its jobs back first, so that its blocks are free at once; with
 * encoders that are behind, raw goes out; the session is never held up by a codec. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../../kvwire/session.h"
#include "duo.h"
#include "toy.h"

#define MS 1000000ull

static struct duo d;
static _Atomic uint32_t wakes;

static void wake(void *arg)
{
    (void)arg;
    ++wakes;
}

static void up(uint32_t encoders, uint8_t codec)
{
    duo_init(&d);
    d.r_cfg.codecs = d.s_cfg.codecs = toy_codecs;
    d.r_cfg.clock = d.s_cfg.clock = (struct kvw_clock){.now_ns = toy_clock};
    d.s_cfg.encoders = encoders;
    d.s_cfg.codec = codec;
    d.s_cfg.wake = wake;
    duo_open(&d);
    duo_up(&d);
}

/* Offer, stream, push, commit, and let it run to its end. */
static void whole_transfer(uint64_t id, const struct kvw_terms *terms)
{
    static uint32_t blocks[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const struct kvw_blocks b = {blocks, (DUO_TOKENS + 15) / 16, DUO_TOKENS};
    struct kvw_session_stats stats;
    uint64_t before;

    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){id}, &b, terms, d.now), KVW_OK);
    kvw_session_stats(d.r, &stats);
    before = stats.xfers_ok;
    duo_stream(&d, id);
    duo_push_all(&d, id);
    duo_commit(&d, id);
    for (int i = 0; i < 2000 && kvw_session_deadline_ns(d.s) != 0; ++i) {
        duo_run(&d);
        kvw_session_stats(d.r, &stats);
        if (stats.xfers_ok > before)
            break;
        usleep(500);
    }
    duo_messages(&d);
    duo_done(d.r, id, KVW_OK);
    duo_done(d.s, id, KVW_OK);
}

static uint32_t ids[8] = {0, 1, 2, 3, 4, 5, 6, 7};

Test(encode, threads_deliver_the_same_bytes)
{
    up(3, TOY_WHOLE_ID);
    for (uint64_t id = 1; id <= 50; ++id)
        whole_transfer(id, NULL);
    cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
    cr_expect_gt(wakes, 0);
    duo_close(&d);
}

static void *let_go(void *arg)
{
    usleep(20000);
    toy_hold = false;
    return arg;
}

Test(encode, a_transfer_that_ends_takes_its_jobs_back)
{
    struct kvw_codec_stats stats;
    pthread_t later;

    up(2, TOY_WHOLE_ID);
    duo_offer(&d, 1, 0);
    duo_stream(&d, 1);
    duo_messages(&d);
    toy_hold = true;
    duo_push_all(&d, 1);
    duo_poll(&d);
    while (toy_inside < 2)
        usleep(200);
    /* Two encoders hold two jobs, others are queued. abort waits for the two alone. */
    cr_assert_eq(pthread_create(&later, NULL, let_go, NULL), 0);
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){1}, NULL), KVW_OK);
    cr_expect_eq(toy_inside, 0, "a block is still being read");
    cr_expect_leq(toy_encodes, 2, "a job that had not begun was not taken back");
    pthread_join(later, NULL);
    duo_run(&d);
    duo_done(d.s, 1, KVW_E_CANCELED);
    duo_done(d.r, 1, KVW_E_CANCELED);
    cr_assert_eq(kvw_session_codec_stats(d.s, TOY_WHOLE_ID, &stats), KVW_OK);
    whole_transfer(2, NULL); /* and the session lives */
    duo_close(&d);
}

Test(encode, poll_does_not_wait_for_a_codec)
{
    const struct kvw_blocks b = {ids, (DUO_TOKENS + 15) / 16, DUO_TOKENS};
    const struct kvw_terms lossy = {.budget = KVW_BUDGET_E8};
    struct kvw_session_stats stats, before;

    up(1, 0);
    whole_transfer(1, &lossy);     /* raw goes first, until wire and codecs are known */
    d.s->rate.bytes_per_ns = 1e-6; /* so slow that no codec costs anything beside it */
    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){2}, &b, &lossy, d.now), KVW_OK);
    duo_stream(&d, 2);
    duo_messages(&d);
    kvw_session_stats(d.s, &before);
    toy_hold = true;
    duo_push_all(&d, 2);
    for (int i = 0; i < 10; ++i)
        duo_poll(&d); /* returns, or this test runs into its time limit */
    kvw_session_stats(d.s, &stats);
    cr_expect_eq(stats.chunks_sent, before.chunks_sent);
    cr_expect_gt(stats.encoder_stalls, 0, "raw goes out when encoders are behind");
    toy_hold = false;
    duo_commit(&d, 2);
    for (int i = 0; i < 2000 && stats.xfers_ok < 2; ++i) {
        duo_run(&d);
        usleep(500);
        kvw_session_stats(d.r, &stats);
    }
    duo_messages(&d);
    duo_done(d.r, 2, KVW_OK);
    duo_close(&d);
}

Test(encode, close_with_jobs_under_way)
{
    up(2, TOY_WHOLE_ID);
    duo_offer(&d, 1, 0);
    duo_stream(&d, 1);
    duo_messages(&d);
    duo_push_all(&d, 1);
    duo_poll(&d);
    duo_close(&d);
}

/* What a budget allows, and that the newest tokens and the sinks come back whole. */
Test(encode, budget_and_exact_tokens)
{
    const struct kvw_terms lossy = {.budget = KVW_BUDGET_E8, .exact_first = 2, .exact_last = 5};
    struct kvw_codec_stats stats;

    up(0, TOY_HALF_ID);
    whole_transfer(1, NULL);
    cr_assert_eq(kvw_session_codec_stats(d.s, TOY_HALF_ID, &stats), KVW_OK);
    cr_expect_eq(stats.chunks, 0, "an exact offer got a lossy codec");
    cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
    whole_transfer(2, &lossy);
    cr_assert_eq(kvw_session_codec_stats(d.s, TOY_HALF_ID, &stats), KVW_OK);
    cr_expect_gt(stats.chunks, 0);
    cr_expect_not(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
    for (uint32_t t = 0; t < DUO_TOKENS; ++t) {
        const bool exact = t < 2 || t >= DUO_TOKENS - 5;
        const struct kvw_pool *r = &d.r_pool, *s = &d.s_pool;
        const unsigned char *there =
            (unsigned char *)r->mem.base + t / 16 * r->block_stride + t % 16 * r->token_stride;
        const unsigned char *here =
            (unsigned char *)s->mem.base + t / 8 * s->block_stride + t % 8 * s->token_stride;

        cr_expect_eq(memcmp(there, here, 64) == 0, exact, "token %u", t);
    }
    duo_close(&d);
}

/* With a clock and the choice on, the counters hold what was foretold and what came. */
/* Counts the chunks that weren't raw after ten transfers; whole costs next to nothing. */
static uint64_t chunks_encoded(bool one_host)
{
    struct kvw_codec_stats stats;
    struct kvw_session_stats all;

    toy_encode_ps = toy_decode_ps = 1;
    duo_init(&d);
    d.sf.transport.one_host = one_host;
    d.r_cfg.codecs = d.s_cfg.codecs = toy_codecs;
    d.r_cfg.clock = d.s_cfg.clock = (struct kvw_clock){.now_ns = toy_clock};
    duo_open(&d);
    duo_up(&d);
    for (uint64_t id = 1; id <= 10; ++id) {
        d.now += MS;
        whole_transfer(id, NULL);
    }
    kvw_session_stats(d.s, &all);
    cr_assert_eq(kvw_session_codec_stats(d.s, KVW_CODEC_RAW, &stats), KVW_OK);
    duo_close(&d);
    return all.chunks_sent - stats.chunks;
}

Test(encode, a_wire_that_stays_on_one_host_carries_raw)
{
    cr_expect_gt(chunks_encoded(false), 0);
    cr_expect_eq(chunks_encoded(true), 0);
}

Test(encode, counters_hold_prediction_and_outcome)
{
    struct kvw_codec_stats stats;
    uint64_t chunks = 0, foretold = 0, came = 0;
    struct kvw_session_stats all;

    toy_encode_ps = 100000;
    up(0, 0);
    for (uint64_t id = 1; id <= 10; ++id) {
        d.now += MS;
        whole_transfer(id, NULL);
    }
    for (int i = 0; toy_codecs[i] != NULL; ++i) {
        cr_assert_eq(kvw_session_codec_stats(d.s, toy_codecs[i]->id, &stats), KVW_OK);
        chunks += stats.chunks;
        foretold += stats.predicted_ns;
        came += stats.actual_ns;
        if (toy_codecs[i]->id == TOY_WHOLE_ID)
            cr_expect_eq(stats.encode_ps / 1000, 100, "%u", stats.encode_ps);
    }
    kvw_session_stats(d.s, &all);
    cr_expect_eq(chunks, all.chunks_sent);
    cr_expect_gt(foretold + came, 0);
    cr_expect_eq(kvw_session_codec_stats(d.s, 63, &stats), KVW_E_NOTFOUND);
    duo_close(&d);
}
