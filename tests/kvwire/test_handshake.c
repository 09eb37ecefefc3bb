/* SPDX-License-Identifier: Apache-2.0 */
/* Only a peer that matches becomes the peer, whoever else knocks; and each refusal is a sentence.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/le.h"
#include "duo.h"

#define MS 1000000ull

static struct duo d;

static void start(void)
{
    duo_init(&d);
    duo_open(&d);
}

Test(handshake, up_on_both_sides, .init = start)
{
    cr_expect_not(kvw_session_peer_up(d.r));
    duo_up(&d);
    cr_expect(kvw_session_peer_up(d.r));
    cr_expect(kvw_session_peer_up(d.s));
    duo_close(&d);
}

/* Whatever its length, as long as its front says which version it is. */
Test(handshake, any_other_version_is_refused_with_both_numbers, .init = start)
{
    for (uint32_t n = KVW_HELLO_FRONT; n < 4000; n = n * 2 + 1) {
        uint8_t hello[4000] = {KVW_MSG_HELLO};
        const kvw_conn_id conn = fake_incoming(&d.rf);
        struct kvw_reject r;
        struct kvw_event ev;
        struct fake_msg m;

        kvw_store_le32(hello + 4, KVW_WIRE_MAGIC);
        kvw_store_le32(hello + 8, 7);
        fake_drop_sent(&d.rf);
        fake_message(&d.rf, conn, hello, n);
        duo_poll(&d);
        cr_assert(fake_take(&d.rf, KVW_MSG_REJECT, &m), "no REJECT for %u bytes", n);
        cr_expect_eq(m.conn.value, conn.value);
        cr_assert_eq(kvw_reject_decode(&r, m.msg, m.bytes), KVW_OK);
        cr_expect_eq(r.err, KVW_E_VERSION);
        cr_expect_eq(r.version, KVW_WIRE_VERSION);
        cr_expect_str_eq(r.text, "protocol version differs: here 1, peer 7");
        free(m.msg);
        cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev));
        cr_expect_eq(ev.err, KVW_E_VERSION);
        cr_expect_str_eq(ev.text, "protocol version differs: here 1, peer 7");
    }
    duo_close(&d);
}

Test(handshake, a_different_model_is_refused_on_both_sides_and_tried_again_slowly)
{
    struct kvw_event ev;

    duo_init(&d);
    d.s_cfg.fingerprint[0] = 0x3c;
    d.s_cfg.model_name = "other";
    duo_open(&d);
    duo_poll(&d);
    d.s_conn = d.sf.dialled;
    fake_dialled_up(&d.sf);
    d.r_conn = fake_incoming(&d.rf);
    duo_messages(&d);
    cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev));
    cr_expect_eq(ev.err, KVW_E_MISMATCH);
    cr_expect_str_eq(ev.text, "model fingerprint differs: here 0000000000000000.. (tiny), peer "
                              "3c00000000000000.. (other)");
    cr_assert(duo_event(d.s, KVW_EV_PEER_LOST, &ev));
    cr_expect_eq(ev.err, KVW_E_MISMATCH);
    cr_expect_str_eq(ev.text, "model fingerprint differs: here 3c00000000000000.. (other), peer "
                              "0000000000000000.. (tiny)");
    cr_expect_not(kvw_session_peer_up(d.r));
    cr_expect_not(kvw_session_peer_up(d.s));
    cr_expect_eq(d.sf.connects, 1);
    duo_sleep(&d, 900 * MS);
    cr_expect_eq(d.sf.connects, 1, "retried too soon");
    duo_sleep(&d, 300 * MS);
    cr_expect_eq(d.sf.connects, 2, "not retried");
    cr_expect_not(duo_event(d.s, KVW_EV_PEER_LOST, &ev), "reported twice");
    duo_close(&d);
}

/* The text of a REJECT reaches the refused side even if it saw nothing wrong itself. */
Test(handshake, a_refusal_by_the_peer_is_passed_on, .init = start)
{
    struct kvw_reject r = {KVW_E_VERSION, 9, "protocol version differs: here 9, peer 1"};
    uint8_t msg[KVW_MSG_SHORT_MAX];
    struct kvw_event ev;

    duo_poll(&d);
    fake_dialled_up(&d.sf);
    duo_poll(&d);
    fake_message(&d.sf, d.sf.dialled, msg, kvw_reject_encode(msg, &r));
    duo_poll(&d);
    cr_assert(duo_event(d.s, KVW_EV_PEER_LOST, &ev));
    cr_expect_eq(ev.err, KVW_E_VERSION);
    cr_expect_str_eq(ev.text, "refused by the peer: protocol version differs: here 9, peer 1");
    cr_expect_eq(d.sf.disconnects, 1);
    duo_close(&d);
}

/* Strangers that say nothing, rubbish, or the wrong thing, many at once. */
Test(handshake, strangers_do_not_disturb_the_peer, .init = start)
{
    static const char rubbish[] = "GET / HTTP/1.1\r\n\r\n";
    struct kvw_hello other = {.role = KVW_ROLE_SENDER,
                              .shape = {DUO_LAYERS + 1, 2, 32, 8, KVW_DTYPE_F16},
                              .codecs = 2,
                              .digests = 2,
                              .slots = 1,
                              .slot_bytes = 4160,
                              .xfers_max = 1};
    uint8_t msg[KVW_MSG_SHORT_MAX];
    struct kvw_event ev;

    duo_up(&d);
    duo_offer(&d, DUO_ID, 0);
    duo_stream(&d, DUO_ID);
    duo_push_all(&d, DUO_ID);
    for (int i = 0; i < 12; ++i) {
        const kvw_conn_id conn = fake_incoming(&d.rf);

        if (i % 3 == 1)
            fake_message(&d.rf, conn, rubbish, sizeof(rubbish));
        if (i % 3 == 2)
            fake_message(&d.rf, conn, msg, kvw_hello_encode(msg, &other));
        duo_messages(&d);
        fake_land(&d.rf, conn, 0, msg, 64, 0); /* and tries to write into our slots */
    }
    duo_commit(&d, DUO_ID);
    duo_run(&d);
    cr_assert(duo_event(d.r, KVW_EV_XFER_DONE, &ev));
    cr_expect_eq(ev.err, KVW_OK, "%s", ev.text);
    cr_expect(kvw_session_peer_up(d.r));
    duo_sleep(&d, 2500 * MS);
    cr_expect_not(duo_event(d.r, KVW_EV_PEER_LOST, &ev), "%s", ev.text);
    cr_expect_geq(d.rf.disconnects, 12, "strangers are shown out in the end");
    duo_close(&d);
}

/* A restarted peer gets in while its old connection still looks alive. */
Test(handshake, the_peer_may_come_anew, .init = start)
{
    uint8_t msg[KVW_MSG_SHORT_MAX];
    struct fake_msg hello;
    struct kvw_event ev;
    kvw_conn_id anew;

    duo_poll(&d);
    d.s_conn = d.sf.dialled;
    fake_dialled_up(&d.sf);
    d.r_conn = fake_incoming(&d.rf);
    duo_poll(&d);
    cr_assert(fake_take(&d.sf, KVW_MSG_HELLO, &hello));
    memcpy(msg, hello.msg, hello.bytes);
    fake_message(&d.rf, d.r_conn, hello.msg, hello.bytes);
    duo_messages(&d);
    cr_assert(duo_event(d.r, KVW_EV_PEER_UP, &ev));
    duo_offer(&d, DUO_ID, 0);
    duo_poll(&d);

    anew = fake_incoming(&d.rf);
    duo_poll(&d);
    cr_expect(kvw_session_peer_up(d.r));
    cr_expect_eq(d.rf.disconnects, 0, "a newcomer without HELLO changes nothing");
    fake_message(&d.rf, anew, msg, hello.bytes);
    duo_poll(&d);
    cr_expect_eq(d.rf.disconnects, 1);
    cr_assert(duo_event(d.r, KVW_EV_XFER_DONE, &ev));
    cr_expect_eq(ev.err, KVW_E_PEER_LOST);
    cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev));
    cr_assert(duo_event(d.r, KVW_EV_PEER_UP, &ev));
    free(hello.msg);
    duo_close(&d);
}

Test(handshake, a_silent_peer_is_given_up, .init = start)
{
    struct kvw_event ev;

    duo_poll(&d);
    fake_dialled_up(&d.sf);
    fake_incoming(&d.rf);
    duo_poll(&d);
    d.now += KVW_HELLO_TIMEOUT_NS - 1;
    duo_poll(&d);
    cr_expect_eq(d.sf.disconnects + d.rf.disconnects, 0);
    cr_expect_eq(kvw_session_deadline_ns(d.r), d.now + 1);
    d.now += 1;
    duo_poll(&d);
    cr_expect_eq(d.sf.disconnects, 1);
    cr_expect_eq(d.rf.disconnects, 1);
    cr_assert(duo_event(d.s, KVW_EV_PEER_LOST, &ev));
    cr_expect_str_eq(ev.text, "the peer sent no HELLO in time");
    cr_expect_not(duo_event(d.r, KVW_EV_PEER_LOST, &ev), "nobody chose to be knocked at");
    duo_close(&d);
}

/* At once, then 10, 20, 40, 80, 160, 250, 250 ms. */
Test(handshake, dials_with_back_off, .init = start)
{
    static const uint64_t waits[] = {0, 10, 20, 40, 80, 160, 250, 250, 250};

    duo_poll(&d);
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); ++i) {
        const uint32_t before = d.sf.connects;

        fake_down(&d.sf, d.sf.dialled, KVW_E_PEER_LOST);
        kvw_session_poll(d.s, d.now);
        if (waits[i] > 0) {
            cr_expect_eq(d.sf.connects, before);
            cr_expect_eq(kvw_session_deadline_ns(d.s), d.now + waits[i] * MS, "wait %zu", i);
            d.now += waits[i] * MS;
            kvw_session_poll(d.s, d.now);
        }
        cr_expect_eq(d.sf.connects, before + 1, "wait %zu", i);
    }
    duo_close(&d);
}

Test(handshake, messages_out_of_place_end_the_connection, .init = start)
{
    static const uint8_t kinds[] = {KVW_MSG_HELLO,
                                    KVW_MSG_OFFER,
                                    KVW_MSG_GRANT,
                                    KVW_MSG_DONE,
                                    KVW_MSG_RENEW,
                                    KVW_MSG_COMMIT,
                                    KVW_MSG_ABORT,
                                    0,
                                    200};

    for (size_t i = 0; i < sizeof(kinds); ++i) {
        uint8_t msg[20] = {kinds[i], 1, 2, 3};
        struct kvw_event ev;

        duo_up(&d);
        fake_message(&d.rf, d.r_conn, msg, sizeof(msg));
        duo_poll(&d);
        cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev), "kind %u", kinds[i]);
        cr_expect_eq(ev.err, KVW_E_PROTOCOL);
        cr_expect_not(kvw_session_peer_up(d.r));
        fake_down(&d.sf, d.s_conn, KVW_E_PEER_LOST);
        duo_sleep(&d, 300 * MS);
        cr_assert(duo_event(d.s, KVW_EV_PEER_LOST, &ev));
        fake_drop_sent(&d.rf);
        fake_drop_sent(&d.sf);
    }
    duo_close(&d);
}
