/* SPDX-License-Identifier: Apache-2.0 */
/* A transfer ends once on each side, with the reason, whatever the other side or the wire does to
 * it; other transfers and the session go on. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/chunk.h"
#include "duo.h"

#define MS 1000000ull

static struct duo d;
static const uint32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7};

static void up(void)
{
    duo_init(&d);
    duo_open(&d);
    duo_up(&d);
}

static void down(void)
{
    duo_close(&d);
}

TestSuite(session, .init = up, .fini = down);

Test(session, a_whole_transfer)
{
    struct kvw_event ev;
    uint32_t ready = 0, sent = 0;

    duo_stream(&d, DUO_ID); /* before its offer: either order will do */
    duo_push_all(&d, DUO_ID);
    duo_offer(&d, DUO_ID, 0);
    duo_commit(&d, DUO_ID);
    cr_expect_eq(kvw_commit(d.s, (kvw_xfer_id){DUO_ID}, NULL, 0), KVW_E_INVALID, "twice");
    duo_run(&d);
    while (kvw_session_next_event(d.s, &ev) && ev.kind != KVW_EV_XFER_DONE)
        sent += ev.kind == KVW_EV_LAYER_SENT;
    cr_expect_eq(sent, DUO_LAYERS);
    cr_expect_eq(ev.err, KVW_OK, "%s", ev.text);
    cr_expect_eq(ev.raw_bytes, DUO_TOKENS * 2 * 32 * 2 * 2 * DUO_LAYERS);
    cr_expect_eq(ev.wire_bytes, ev.raw_bytes + 64 * ev.chunks);
    for (uint32_t l = 0; l < DUO_LAYERS; ++l)
        cr_expect(kvw_layer_ready(d.r, (kvw_xfer_id){DUO_ID}, l));
    cr_expect_not(kvw_layer_ready(d.r, (kvw_xfer_id){DUO_ID + 1}, 0));
    while (kvw_session_next_event(d.r, &ev) && ev.kind != KVW_EV_XFER_DONE)
        ready += ev.kind == KVW_EV_LAYER_READY && ev.layer == ready; /* lower layers first */
    cr_expect_eq(ready, DUO_LAYERS);
    cr_expect_eq(ev.err, KVW_OK, "%s", ev.text);
    cr_expect_eq(ev.note_bytes, 4);
    cr_expect_eq(memcmp(ev.note, "note", 4), 0);
    cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
    for (uint32_t b = (DUO_TOKENS + 15) / 16; b < d.r_pool.blocks; ++b)
        cr_expect(t_kv_block_is_zero(&d.r_pool, b));
    cr_expect_not(kvw_session_next_event(d.r, &ev));
    cr_expect_not(kvw_session_next_event(d.s, &ev));
}

/* The landing slots are open to the peer from the first open transfer's offer to the last one's
 * end, however that comes; a new peer's start shut. (fake.c sees that no OFFER goes out before.) */
Test(session, the_slots_are_open_while_an_offer_is)
{
    cr_expect_eq(d.rf.opens, 0);
    duo_offer(&d, 1, 0);
    duo_run(&d);
    cr_expect_eq(d.rf.open_to.value, d.r_conn.value);
    duo_offer(&d, 2, 0);
    duo_run(&d);
    cr_expect_eq(kvw_abort(d.r, (kvw_xfer_id){1}, "no more"), KVW_OK);
    duo_run(&d);
    cr_expect_eq(d.rf.open_to.value, d.r_conn.value, "one is still open");
    cr_expect_eq(d.rf.opens, 1);
    cr_expect_eq(kvw_abort(d.r, (kvw_xfer_id){2}, "no more"), KVW_OK);
    duo_run(&d);
    cr_expect_eq(d.rf.open_to.value, 0, "the last one is over");
    cr_expect_eq(d.rf.shuts, 1);
    duo_offer(&d, 3, 0);
    duo_run(&d);
    cr_expect_eq(d.rf.open_to.value, d.r_conn.value);
    cr_expect_eq(d.rf.opens, 2);
    fake_down(&d.sf, d.s_conn, KVW_E_PEER_LOST);
    fake_down(&d.rf, d.r_conn, KVW_E_PEER_LOST);
    duo_poll(&d);
    cr_expect_eq(d.rf.opens, 2);
    cr_expect_eq(d.rf.shuts, 1, "a connection that is gone needs none");
    duo_sleep(&d, 20 * MS);
    duo_up(&d);
    duo_offer(&d, 4, 0);
    duo_run(&d);
    cr_expect_eq(d.rf.open_to.value, d.r_conn.value, "the next peer's");
    cr_expect_eq(d.rf.opens, 3);
}

/* Who can't open them yet offers nothing, and tries again. */
Test(session, no_offer_before_the_slots_are_open)
{
    d.rf.open_full = true;
    duo_offer(&d, 1, 0);
    duo_run(&d);
    cr_expect_eq(d.rf.opens, 0);
    d.rf.open_full = false;
    duo_run(&d);
    cr_expect_eq(d.rf.opens, 1);
    cr_expect_eq(d.rf.open_to.value, d.r_conn.value);
}

/* Every bit of a put in turn is too many; every field of the header and some of the payload. The
 * put has a header and eight tokens of 128 bytes. */
Test(session, a_flipped_bit_ends_one_transfer_or_the_connection)
{
    uint32_t checksum = 0, breach = 0;

    for (uint32_t bit = 0; bit < 8 * (KVW_CHUNK_HDR_BYTES + 8 * 128); bit += bit < 512 ? 7 : 509) {
        struct kvw_event ev;

        duo_offer(&d, 1, 0);
        duo_offer(&d, 2, 0);
        duo_stream(&d, 1);
        duo_stream(&d, 2);
        cr_assert_eq(kvw_push_layer(d.s, (kvw_xfer_id){1}, 0, 8, NULL), KVW_OK);
        duo_messages(&d);
        cr_assert_gt(d.sf.put_count, 0);
        d.flip = true;
        d.flip_bit = bit;
        duo_land(&d, 0);
        duo_run(&d);
        if (kvw_session_peer_up(d.r)) { /* the payload: the other transfer lives */
            const char *text = duo_done(d.r, 1, KVW_E_CHECKSUM);

            cr_expect_not_null(strstr(text, "chunk of layer 0 K tokens 0 to 7: digest here"), "%s",
                               text);
            duo_done(d.s, 1, KVW_E_CHECKSUM);
            cr_assert_geq(bit, 512);
            ++checksum;
            duo_push_all(&d, 2);
            duo_commit(&d, 2);
            duo_run(&d);
            duo_done(d.r, 2, KVW_OK);
            duo_done(d.s, 2, KVW_OK);
            cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
        } else { /* the header: nobody knows whose chunk that was */
            cr_assert_lt(bit, 512);
            ++breach;
            fake_down(&d.sf, d.s_conn, KVW_E_PEER_LOST);
            duo_messages(&d);
            while (kvw_session_next_event(d.r, &ev))
                cr_expect(ev.kind != KVW_EV_XFER_DONE || ev.err == KVW_E_PEER_LOST);
            while (kvw_session_next_event(d.s, &ev))
                cr_expect(ev.kind != KVW_EV_XFER_DONE || ev.err == KVW_E_PEER_LOST);
            duo_sleep(&d, 300 * MS);
            duo_up(&d);
        }
    }
    cr_expect_gt(checksum, 10);
    cr_expect_gt(breach, 10);
}

/* A put that was under way when its transfer ended, and its block went to another. */
/* Pools are as scattered as their history made them: the wire doesn't care. */
Test(session, an_offer_of_many_blocks_that_all_lie_apart)
{
    static const struct t_kv_shape shape = {DUO_LAYERS,    16000,         1, 2, 32,
                                            KVW_DTYPE_F16, T_KV_NHD_SPLIT};
    static uint32_t apart[8000];
    const struct kvw_blocks blocks = {apart, 8000, 8000};
    struct kvw_event ev;

    duo_close(&d);
    duo_init(&d);
    t_kv_free(&d.r_pool);
    d.r_pool = d.r_cfg.pool = t_kv_pool(&shape);
    duo_open(&d);
    duo_up(&d);
    for (uint32_t i = 0; i < 8000; ++i)
        apart[i] = 2 * i;
    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){DUO_ID}, &blocks, NULL, d.now), KVW_OK);
    duo_run(&d);
    cr_expect(duo_event(d.s, KVW_EV_OFFERED, &ev));
}

Test(session, late_chunks_are_dropped)
{
    struct kvw_session_stats st;

    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    duo_push_all(&d, DUO_ID);
    duo_messages(&d);
    cr_assert_eq(d.sf.put_count, 4, "as many as there are slots");
    cr_assert_eq(kvw_abort(d.r, (kvw_xfer_id){DUO_ID}, "changed my mind"), KVW_OK);
    duo_done(d.r, DUO_ID, KVW_E_CANCELED);
    duo_offer(&d, DUO_ID, 0); /* the same id, the same blocks: only the epoch tells them apart */
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.s, DUO_ID, KVW_E_CANCELED), "changed my mind");
    kvw_session_stats(d.r, &st);
    cr_expect_eq(st.chunks_stale, 4);
    for (uint32_t b = 0; b < d.r_pool.blocks; ++b)
        cr_expect(t_kv_block_is_zero(&d.r_pool, b), "block %u", b);
    duo_stream(&d, DUO_ID);
    duo_push_all(&d, DUO_ID);
    duo_commit(&d, DUO_ID);
    duo_run(&d);
    duo_done(d.r, DUO_ID, KVW_OK);
    duo_done(d.s, DUO_ID, KVW_OK);
}

Test(session, aborts_reach_the_other_side_with_their_reason)
{
    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    duo_messages(&d);
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, "client went away"), KVW_OK);
    cr_expect_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, NULL), KVW_E_NOTFOUND);
    cr_expect_eq(kvw_push_layer(d.s, (kvw_xfer_id){DUO_ID}, 0, 1, NULL), KVW_E_NOTFOUND);
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.s, DUO_ID, KVW_E_CANCELED), "client went away");
    cr_expect_str_eq(duo_done(d.r, DUO_ID, KVW_E_CANCELED), "client went away");
}

/* The sender gives up before it has seen the offer, which is on its way. */
Test(session, an_abort_that_crosses_the_offer)
{
    struct kvw_event ev;

    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    kvw_session_poll(d.r, d.now); /* OFFER leaves */
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, "too late"), KVW_OK);
    kvw_session_poll(d.s, d.now); /* ABORT leaves, without an epoch */
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.r, DUO_ID, KVW_E_CANCELED), "too late");
    duo_done(d.s, DUO_ID, KVW_E_CANCELED);
    duo_offer(&d, DUO_ID, 0); /* the same id again: the old offer is forgotten over there */
    duo_run(&d);
    cr_expect(duo_event(d.s, KVW_EV_OFFERED, &ev));
    duo_stream(&d, DUO_ID);
    duo_push_all(&d, DUO_ID);
    duo_commit(&d, DUO_ID);
    duo_run(&d);
    duo_done(d.r, DUO_ID, KVW_OK);
    duo_done(d.s, DUO_ID, KVW_OK);
}

Test(session, an_offer_can_be_declined_without_a_stream)
{
    struct kvw_event ev;

    duo_offer(&d, DUO_ID, 0);
    duo_run(&d);
    cr_assert(duo_event(d.s, KVW_EV_OFFERED, &ev));
    cr_expect_eq(ev.xfer.value, DUO_ID);
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, "prompt too long"), KVW_OK);
    cr_expect_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, NULL), KVW_E_NOTFOUND);
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.r, DUO_ID, KVW_E_CANCELED), "prompt too long");
    cr_expect_not(kvw_session_next_event(d.s, &ev));
}

Test(session, the_lease_runs_only_while_the_sender_is_silent)
{
    duo_offer(&d, DUO_ID, 100 * MS);
    duo_stream(&d, DUO_ID);
    duo_sleep(&d, 1000 * MS); /* nothing pushed, but RENEW goes */
    duo_calm(d.r);
    duo_calm(d.s);
    d.sf.send_full = true; /* now it can't */
    duo_sleep(&d, 140 * MS);
    d.sf.send_full = false;
    cr_expect_str_eq(duo_done(d.r, DUO_ID, KVW_E_LEASE),
                     "the sender was silent about this transfer for 100 ms");
    duo_run(&d);
    duo_done(d.s, DUO_ID, KVW_E_LEASE);
}

/* What the sender said while this side didn't listen counts. */
Test(session, a_receiver_that_did_not_poll_does_not_blame_the_sender)
{
    duo_offer(&d, DUO_ID, 100 * MS);
    duo_stream(&d, DUO_ID);
    duo_messages(&d);
    d.now += 500 * MS;
    kvw_session_poll(d.r, d.now); /* nothing delivered yet: a real lapse looks the same */
    duo_run(&d);
    duo_calm(d.r);
    fake_drop_sent(&d.sf);
    for (uint32_t i = 0; i < 130; ++i) { /* and now the sender is dead, and it ends in time */
        d.now += MS;
        kvw_session_poll(d.r, d.now);
    }
    duo_done(d.r, DUO_ID, KVW_E_LEASE);
}

Test(session, an_offer_nobody_takes_ends_with_its_lease)
{
    struct kvw_event ev;

    duo_offer(&d, DUO_ID, 100 * MS);
    duo_sleep(&d, 110 * MS);
    duo_done(d.r, DUO_ID, KVW_E_LEASE);
    cr_assert(duo_event(d.s, KVW_EV_OFFERED, &ev));
    duo_stream(&d, DUO_ID); /* too late: no offer, and none will come */
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){DUO_ID}, NULL), KVW_OK);
    duo_done(d.s, DUO_ID, KVW_E_CANCELED);
}

Test(session, deadlines)
{
    const struct kvw_blocks b = {ids, 5, DUO_TOKENS};
    const struct kvw_terms soon = {.deadline_ns = d.now + 30 * MS};

    cr_assert_eq(kvw_stream_open(d.s, (kvw_xfer_id){1}, &b, d.now + 50 * MS, 0, d.now), KVW_OK);
    cr_assert_eq(kvw_stream_open(d.s, (kvw_xfer_id){2}, &b, 0, d.now + 80 * MS, d.now), KVW_OK);
    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){2}, &b, NULL, d.now), KVW_OK);
    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){3}, &b, &soon, d.now), KVW_OK);
    cr_expect_eq(kvw_session_deadline_ns(d.r), d.now + 30 * MS);
    duo_sleep(&d, 31 * MS);
    cr_expect_str_eq(duo_done(d.r, 3, KVW_E_DEADLINE), "the receiver's deadline passed");
    duo_sleep(&d, 20 * MS);
    cr_expect_str_eq(duo_done(d.s, 1, KVW_E_DEADLINE), "the receiver did not offer blocks in time");
    duo_sleep(&d, 31 * MS);
    cr_expect_str_eq(duo_done(d.s, 2, KVW_E_DEADLINE), "the sender's deadline passed");
    cr_expect_str_eq(duo_done(d.r, 2, KVW_E_DEADLINE), "the sender's deadline passed");
}

Test(session, offers_and_streams_must_agree_on_tokens)
{
    const struct kvw_blocks b = {ids, 5, DUO_TOKENS - 1};

    duo_offer(&d, DUO_ID, 0);
    cr_assert_eq(kvw_stream_open(d.s, (kvw_xfer_id){DUO_ID}, &b, 0, 0, d.now), KVW_OK);
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.s, DUO_ID, KVW_E_MISMATCH),
                     "the offer is for 40 tokens, the stream has 39");
    duo_done(d.r, DUO_ID, KVW_E_MISMATCH);
}

Test(session, offers_made_before_the_peer_is_up_are_sent_when_it_comes)
{
    struct kvw_event ev;

    fake_down(&d.sf, d.s_conn, KVW_E_PEER_LOST);
    fake_down(&d.rf, d.r_conn, KVW_E_PEER_LOST);
    duo_poll(&d);
    cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev));
    cr_expect_str_eq(ev.text, "the test cut the line");
    duo_offer(&d, DUO_ID, 400 * MS);
    duo_stream(&d, DUO_ID);
    duo_push_all(&d, DUO_ID);
    duo_commit(&d, DUO_ID);
    duo_sleep(&d, 300 * MS);
    duo_up(&d);
    duo_run(&d);
    duo_done(d.r, DUO_ID, KVW_OK);
    duo_done(d.s, DUO_ID, KVW_OK);
    cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
}

Test(session, a_cut_line_ends_what_was_open)
{
    struct kvw_event ev;

    duo_offer(&d, 1, 0);
    duo_stream(&d, 1);
    duo_stream(&d, 2); /* no offer yet: if one was on its way, it is lost */
    duo_push_all(&d, 1);
    duo_messages(&d);
    cr_expect_gt(d.sf.put_count, 0);
    fake_down(&d.sf, d.s_conn, KVW_E_PEER_LOST);
    fake_down(&d.rf, d.r_conn, KVW_E_PEER_LOST);
    duo_poll(&d);
    duo_done(d.r, 1, KVW_E_PEER_LOST);
    for (int i = 0; i < 2; ++i) {
        cr_assert(duo_event(d.s, KVW_EV_XFER_DONE, &ev));
        cr_expect_eq(ev.err, KVW_E_PEER_LOST);
    }
    duo_stream(&d, 2); /* opened while nobody is there: the next peer's offer will do */
    duo_sleep(&d, 20 * MS);
    duo_up(&d);
    duo_offer(&d, 2, 0);
    duo_push_all(&d, 2);
    duo_commit(&d, 2);
    duo_run(&d);
    duo_done(d.r, 2, KVW_OK);
    duo_done(d.s, 2, KVW_OK);
}

/* A full transport loses nothing: every message and put is made again from what is owed. */
Test(session, a_full_transport_is_only_slow)
{
    uint64_t random = 5;

    for (uint32_t round = 0; round < 40; ++round) {
        duo_offer(&d, round, 0);
        duo_stream(&d, round);
        duo_push_all(&d, round);
        duo_commit(&d, round);
        for (uint32_t i = 0; i < 400; ++i) {
            d.sf.put_full = t_below(&random, 4) != 0;
            d.sf.send_full = t_below(&random, 4) != 0;
            d.rf.send_full = t_below(&random, 4) != 0;
            duo_messages(&d);
            if (d.sf.put_count > 0 && t_below(&random, 2) == 0)
                duo_land(&d, t_below(&random, d.sf.put_count));
        }
        d.sf.put_full = d.sf.send_full = d.rf.send_full = false;
        duo_run(&d);
        duo_done(d.r, round, KVW_OK);
        duo_done(d.s, round, KVW_OK);
        cr_expect(t_kv_is(&d.r_pool, ids, DUO_TOKENS, DUO_WHAT));
        for (uint32_t b = 0; b < 3; ++b)
            t_kv_block_zero(&d.r_pool, b);
    }
}

/* Ready marks: data goes out when it is there, not when it is announced. */
static kvw_err asked(void *arg)
{
    return *(kvw_err *)arg;
}

Test(session, ready_marks)
{
    kvw_err first = KVW_E_AGAIN, second = KVW_E_AGAIN;
    const struct kvw_ready r1 = {asked, &first}, r2 = {asked, &second};
    const kvw_xfer_id id = {DUO_ID};

    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    cr_assert_eq(kvw_push_layer(d.s, id, 1, 10, &r1), KVW_OK);
    cr_assert_eq(kvw_push_layer(d.s, id, 1, 10, &r2), KVW_OK, "a repeat does nothing");
    cr_assert_eq(kvw_push_layer(d.s, id, 1, 20, &r2), KVW_OK);
    cr_assert_eq(kvw_push_layer(d.s, id, 1, 21, &r2), KVW_OK);
    cr_assert_eq(kvw_push_layer(d.s, id, 1, 22, &r2), KVW_OK);
    cr_expect_eq(kvw_push_layer(d.s, id, 1, 23, &r2), KVW_E_AGAIN);
    cr_expect_eq(kvw_push_layer(d.s, id, DUO_LAYERS, 1, NULL), KVW_E_INVALID);
    cr_expect_eq(kvw_push_layer(d.s, id, 0, DUO_TOKENS + 1, NULL), KVW_E_INVALID);
    duo_messages(&d);
    cr_expect_eq(d.sf.put_count, 0);
    cr_expect_leq(kvw_session_deadline_ns(d.s), d.now + MS, "someone must ask again");
    second = KVW_OK; /* out of order: the first still holds everything back */
    duo_messages(&d);
    cr_expect_eq(d.sf.put_count, 0);
    first = KVW_OK;
    duo_messages(&d);
    cr_expect_eq(d.sf.put_count, 2, "K and V of 22 tokens");
    duo_push_all(&d, DUO_ID);
    duo_commit(&d, DUO_ID);
    duo_run(&d);
    duo_done(d.r, DUO_ID, KVW_OK);
    duo_done(d.s, DUO_ID, KVW_OK);
}

Test(session, a_mark_that_never_comes_ends_the_stream)
{
    kvw_err never = KVW_E_DEVICE;
    const struct kvw_ready r = {asked, &never};

    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    cr_assert_eq(kvw_push_layer(d.s, (kvw_xfer_id){DUO_ID}, 2, 10, &r), KVW_OK);
    duo_run(&d);
    cr_expect_str_eq(duo_done(d.s, DUO_ID, KVW_E_DEVICE),
                     "layer 2 will never be ready: device failure");
    duo_done(d.r, DUO_ID, KVW_E_DEVICE);
}

Test(session, limits_and_roles)
{
    const struct kvw_blocks b = {ids, 5, DUO_TOKENS};
    const struct kvw_blocks few = {ids, 2, DUO_TOKENS}, none = {ids, 5, 0};
    const uint32_t far[] = {0, 1, 20};
    const struct kvw_blocks beyond = {far, 3, DUO_TOKENS};
    const kvw_xfer_id one = {1};

    cr_expect_eq(kvw_offer(d.s, one, &b, NULL, d.now), KVW_E_INVALID);
    cr_expect_eq(kvw_stream_open(d.r, one, &b, 0, 0, d.now), KVW_E_INVALID);
    cr_expect_eq(kvw_offer(d.r, one, &few, NULL, d.now), KVW_E_INVALID);
    cr_expect_eq(kvw_offer(d.r, one, &none, NULL, d.now), KVW_E_INVALID);
    cr_expect_eq(kvw_offer(d.r, one, &beyond, NULL, d.now), KVW_E_INVALID);
    cr_expect_eq(
        kvw_offer(d.r, one, &b, &(struct kvw_terms){.lease_ns = KVW_LEASE_NS_MIN - 1}, d.now),
        KVW_E_INVALID);
    cr_expect_eq(
        kvw_offer(d.r, one, &b, &(struct kvw_terms){.lease_ns = KVW_LEASE_NS_MAX + 1}, d.now),
        KVW_E_INVALID);
    for (uint64_t i = 0; i < 3; ++i)
        cr_expect_eq(kvw_offer(d.r, (kvw_xfer_id){i}, &b, NULL, d.now), KVW_OK);
    cr_expect_eq(kvw_offer(d.r, one, &b, NULL, d.now), KVW_E_INVALID, "in use");
    cr_expect_eq(kvw_offer(d.r, (kvw_xfer_id){9}, &b, NULL, d.now), KVW_E_AGAIN);
    cr_expect_eq(kvw_commit(d.s, one, NULL, 0), KVW_E_NOTFOUND);
    duo_stream(&d, 1);
    cr_expect_eq(kvw_commit(d.s, one, NULL, 0), KVW_E_INVALID, "not pushed");
    duo_push_all(&d, 1);
    cr_expect_eq(kvw_commit(d.s, one, ids, KVW_COMMIT_NOTE_MAX + 1), KVW_E_INVALID);
    duo_run(&d);
}

/* Nobody takes events for a long time: work stops, nothing is lost, nothing overflows. */
Test(session, a_full_event_queue_holds_everything_up)
{
    const struct kvw_terms brief = {.lease_ns = KVW_LEASE_NS_MIN};
    struct kvw_event ev;
    uint32_t offered = 0, ended = 0;

    for (uint32_t i = 0; i < 200; ++i) {
        const struct kvw_blocks b = {ids, 3, DUO_TOKENS};

        if (kvw_offer(d.r, (kvw_xfer_id){1000 + i}, &b, &brief, d.now) == KVW_OK)
            ++offered;
        duo_sleep(&d, 15 * MS);
        while (
            kvw_session_next_event(d.r, &ev)) /* the receiver's side is taken, the sender's not */
            ended += ev.kind == KVW_EV_XFER_DONE;
    }
    cr_expect_geq(offered, 199);
    cr_expect_eq(ended, offered);
    cr_expect_eq(kvw_session_deadline_ns(d.s), 0, "there is something left to do");
    offered = 0;
    for (uint32_t i = 0; i < 50; ++i) {
        while (kvw_session_next_event(d.s, &ev))
            offered += ev.kind == KVW_EV_OFFERED;
        duo_sleep(&d, MS);
    }
    cr_expect_geq(offered, 199, "an event was lost: %u", offered);
}

/* Told while the stream is still open, not only when all is over. */
Test(session, layers_are_reported_as_they_arrive)
{
    const kvw_xfer_id id = {DUO_ID};
    struct kvw_event ev;

    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    cr_assert_eq(kvw_push_layer(d.s, id, 0, DUO_TOKENS - 1, NULL), KVW_OK);
    duo_run(&d);
    cr_expect_not(duo_event(d.s, KVW_EV_LAYER_SENT, &ev), "a token is missing");
    cr_assert_eq(kvw_push_layer(d.s, id, 0, DUO_TOKENS, NULL), KVW_OK);
    duo_messages(&d);
    cr_assert_gt(d.sf.put_count, 0);
    cr_expect_not(duo_event(d.s, KVW_EV_LAYER_SENT, &ev), "its last chunks are under way");
    duo_run(&d);
    cr_assert(duo_event(d.s, KVW_EV_LAYER_SENT, &ev));
    cr_expect_eq(ev.layer, 0);
    cr_assert(duo_event(d.r, KVW_EV_LAYER_READY, &ev));
    cr_expect(kvw_layer_ready(d.r, id, 0));
    cr_expect_not(kvw_layer_ready(d.r, id, 1));
    cr_assert_eq(kvw_abort(d.s, id, NULL), KVW_OK);
    duo_run(&d);
}

/* Puts of an ended stream are acknowledged while another one uses its place in the table. */
Test(session, late_outcomes_of_puts_are_nobodys)
{
    struct kvw_event ev;
    uint32_t sent = 0;

    duo_offer(&d, 1, 0);
    duo_stream(&d, 1);
    duo_push_all(&d, 1);
    duo_messages(&d);
    cr_assert_eq(d.sf.put_count, 4);
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){1}, NULL), KVW_OK);
    duo_done(d.s, 1, KVW_E_CANCELED);
    duo_messages(&d);
    duo_done(d.r, 1, KVW_E_CANCELED);
    duo_offer(&d, 2, 0);
    duo_stream(&d, 2);
    duo_push_all(&d, 2);
    for (uint32_t i = 0; i < 4; ++i) {
        duo_land(&d, 0);
        kvw_session_poll(d.s, d.now);
    }
    cr_expect_not(duo_event(d.s, KVW_EV_LAYER_SENT, &ev));
    duo_run(&d);
    while (kvw_session_next_event(d.s, &ev))
        sent += ev.kind == KVW_EV_LAYER_SENT;
    cr_expect_eq(sent, DUO_LAYERS, "before any commit: %u", sent);
    duo_commit(&d, 2);
    duo_run(&d);
    duo_done(d.s, 2, KVW_OK);
    duo_done(d.r, 2, KVW_OK);
}

/* A chunk that was encoded, and then its stream ended before the transport would take it. */
Test(session, an_encoded_chunk_of_an_ended_stream_is_not_sent)
{
    struct kvw_session_stats st;

    duo_offer(&d, 1, 0);
    duo_stream(&d, 1);
    duo_push_all(&d, 1);
    d.sf.put_full = true;
    duo_messages(&d);
    cr_assert_eq(d.sf.put_count, 0);
    cr_assert_eq(kvw_abort(d.s, (kvw_xfer_id){1}, NULL), KVW_OK);
    duo_done(d.s, 1, KVW_E_CANCELED);
    duo_messages(&d);
    d.sf.put_full = false;
    duo_offer(&d, 2, 0);
    duo_stream(&d, 2);
    duo_push_all(&d, 2);
    duo_commit(&d, 2);
    duo_run(&d);
    duo_done(d.s, 2, KVW_OK);
    kvw_session_stats(d.r, &st);
    cr_expect_eq(st.chunks_stale, 0);
}
