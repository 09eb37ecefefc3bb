/* SPDX-License-Identifier: Apache-2.0 */
/* A path carries nothing before its own token has come back, from where it was asked; what may
 * leave on it is bounded by window and records. */
#include <criterion/criterion.h>

#include "../../../net/packet/path.h"

#define MS 1000000ull

static struct kvn_sent ring[KVN_SENT_FIRST];
static struct kvn_path p;
static const struct kvn_addr home = {.family = 4, .ip = {10, 0, 0, 1}, .port = 1},
                             away = {.family = 4, .ip = {10, 0, 0, 1}, .port = 2},
                             other = {.family = 4, .ip = {10, 0, 0, 1}, .port = 3};

static void begin(void)
{
    kvn_path_begin(&p, NULL, 3, ring);
    p.peer = home;
    kvn_cc_begin(&p.cc, 1200, 0, 1 << 20);
}

Test(path, a_token_opens_it)
{
    begin();
    cr_expect_not(kvn_path_response(&p, 0, 5), "nothing was asked");
    p.state = KVN_PATH_UNSURE;
    kvn_path_challenge(&p, 77, 100);
    cr_expect(p.challenge_at_ns == 100 && (p.due & KVN_DUE_CHALLENGE));
    cr_expect_not(kvn_path_response(&p, 76, 101));
    cr_expect_eq(p.state, KVN_PATH_UNSURE);
    cr_expect(kvn_path_response(&p, 77, 102));
    cr_expect(p.state == KVN_PATH_LIVE && p.challenge_at_ns == UINT64_MAX &&
              (p.due & KVN_DUE_CHALLENGE) == 0);
    cr_expect_not(kvn_path_response(&p, 77, 103), "it is open already");
}

Test(path, challenges_double_to_a_second)
{
    static const uint64_t want_ms[] = {10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000};

    begin();
    kvn_path_challenge(&p, 1, 0);
    for (uint32_t i = 0; i < sizeof(want_ms) / sizeof(want_ms[0]); ++i) {
        kvn_path_challenged(&p, 5);
        cr_expect_eq(p.challenge_at_ns, 5 + want_ms[i] * MS, "%u", i);
        cr_expect_not(p.due & KVN_DUE_CHALLENGE);
    }
    kvn_path_challenge(&p, 2, 0);
    kvn_path_challenged(&p, 5);
    cr_expect_eq(p.challenge_at_ns, 5 + 10 * MS, "another question begins anew");
}

/* One question in 10 ms, its token kept while it goes to one address, another for another. */
Test(path, a_new_address_is_asked_rarely)
{
    begin();
    p.state = KVN_PATH_LIVE;
    cr_expect_not(kvn_path_proved(&p, &(struct kvn_addr){.family = 0}, 0), "nobody was asked");
    kvn_path_suspect(&p, &away, 0, 11, 100);
    cr_expect(p.due & KVN_DUE_WHO);
    cr_expect(kvn_path_proved(&p, &away, 11));
    cr_expect_not(kvn_path_proved(&p, &away, 12));
    cr_expect_not(kvn_path_proved(&p, &other, 11));
    kvn_path_suspect(&p, &other, 0, 12, 100 + KVN_CHALLENGE_FIRST_NS - 1);
    cr_expect(kvn_path_proved(&p, &away, 11), "too soon for another question");
    kvn_path_suspect(&p, &away, 0, 13, 100 + KVN_CHALLENGE_FIRST_NS);
    cr_expect(kvn_path_proved(&p, &away, 11), "the same question");
    kvn_path_suspect(&p, &other, 0, 14, 100 + 2 * KVN_CHALLENGE_FIRST_NS);
    cr_expect(kvn_path_proved(&p, &other, 14) && !kvn_path_proved(&p, &away, 11));
}

Test(path, a_move_forgets_the_old_way)
{
    begin();
    p.state = KVN_PATH_LIVE;
    kvn_fit_begin(&p.fit, 8228);
    p.nack_doubt = 3;
    kvn_loss_was_late(&p.loss, 50);
    kvn_path_suspect(&p, &away, 2, 11, 100);
    p.due |= KVN_DUE_RESPONSE | KVN_DUE_NACK | KVN_DUE_PROBE;
    kvn_path_moved(&p, 200);
    cr_expect(kvn_addr_equal(&p.peer, &away) && p.source == 2 && p.move.to.family == 0);
    cr_expect_eq(p.due, KVN_DUE_RESPONSE);
    cr_expect(p.fit.payload == KVN_PAYLOAD_MIN && p.fit.search_at_ns == 200);
    cr_expect(p.nack_doubt == 0 && p.loss.reorder_packets == KVN_REORDER_MIN && p.ping_due);
    cr_expect(!p.seen.due, "nothing came that waits for an ACK");
    cr_expect_eq(p.count.moves, 1);
    cr_expect_not(kvn_path_proved(&p, &away, 11));
}

Test(path, the_window_is_what_holds_back)
{
    begin();
    p.state = KVN_PATH_UNSURE;
    cr_expect_not(kvn_path_open(&p));
    p.state = KVN_PATH_LIVE;
    p.out.bytes = p.cc.window - 1;
    cr_expect(kvn_path_open(&p));
    p.out.bytes = p.cc.window;
    cr_expect_not(kvn_path_open(&p));
    p.probe_credit = 1;
    cr_expect(kvn_path_open(&p));
    p.out.next = p.out.base + KVN_SENT_FIRST - KVN_SENT_FIRST / 8 - 1;
    cr_expect(kvn_path_open(&p));
    ++p.out.next;
    cr_expect_not(kvn_path_open(&p), "the last records are for ACKs");
}

Test(path, acks_are_asked_for_four_times_a_window)
{
    static const struct {
        uint32_t slices, every;
    } t[] = {{1, 1}, {4, 1}, {7, 1}, {8, 2}, {63, 15}, {64, 16}, {67, 16}, {68, 16}, {400, 16}};

    begin();
    for (uint32_t i = 0; i < sizeof(t) / sizeof(t[0]); ++i) {
        p.cc.window = (uint64_t)t[i].slices * p.cc.slice;
        kvn_path_ask_every(&p);
        cr_expect_eq(p.ask_every, t[i].every, "%u slices: %u", t[i].slices, p.ask_every);
    }
}

/* Waiting begins with the first packet that is out, and not again with each. */
Test(path, progress_counts_from_the_first_packet_out)
{
    begin();
    kvn_path_record(&p, &(struct kvn_sent){.sent_ns = 5, .state = KVN_SENT_FLYING, .bytes = 1});
    kvn_path_record(&p, &(struct kvn_sent){.sent_ns = 9, .state = KVN_SENT_FLYING, .bytes = 1});
    cr_expect_eq(p.progress_ns, 5);
}
