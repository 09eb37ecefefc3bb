/* SPDX-License-Identifier: Apache-2.0 */
/* The window stays between floor and ceiling, doubles until a queue shows, is cut by delay, marks
 * and losses as SPEC.md 8 says, and packets leave no faster than the pace. */
#include <criterion/criterion.h>

#include "../../../net/packet/cc.h"
#include "../../../net/packet/wire.h"

#define SLICE 1000u
#define US    1000ull
#define MS    (1000 * US)

static struct kvn_cc cc;

static struct kvn_cc_ack news(uint64_t rtt_ns, uint64_t base_ns, uint64_t bytes)
{
    return (struct kvn_cc_ack){.now_ns = 1000 * US,
                               .rtt_ns = rtt_ns,
                               .sent_ns = 900 * US,
                               .base_ns = base_ns,
                               .bytes = bytes,
                               .packets = 1,
                               .full = true};
}

Test(cc, begins_with_four_slices_within_the_ceiling)
{
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    cr_expect(cc.window == 4 * SLICE && cc.floor == 2 * SLICE && cc.ceiling == 100 * SLICE);
    kvn_cc_begin(&cc, SLICE, 0, 3 * SLICE);
    cr_expect(cc.window == 3 * SLICE && cc.floor == 2 * SLICE);
    kvn_cc_begin(&cc, SLICE, 0, SLICE);
    cr_expect(cc.window == SLICE && cc.floor == SLICE);
}

/* Doubling lasts while a round trip takes at most a quarter longer than the least. */
Test(cc, doubling_ends_at_a_quarter_of_queue)
{
    struct kvn_cc_ack a = news(125 * US, 100 * US, SLICE);

    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    kvn_cc_acked(&cc, &a);
    cr_expect(cc.slow_start && cc.window == 5 * SLICE, "%llu", (unsigned long long)cc.window);
    a.full = false;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 5 * SLICE, "what isn't used doesn't grow");
    a.rtt_ns = 125 * US + 1;
    kvn_cc_acked(&cc, &a);
    cr_expect(!cc.slow_start && cc.window == 5 * SLICE / 2, "%llu", (unsigned long long)cc.window);
}

Test(cc, doubling_tolerates_the_hosts_slack)
{
    struct kvn_cc_ack a = news(600 * US, 100 * US, SLICE);

    kvn_cc_begin(&cc, SLICE, 500 * US, 100 * SLICE);
    kvn_cc_acked(&cc, &a);
    cr_expect(cc.slow_start);
    a.rtt_ns += 1;
    kvn_cc_acked(&cc, &a);
    cr_expect_not(cc.slow_start);
}

Test(cc, doubling_ends_at_a_mark)
{
    struct kvn_cc_ack a = news(100 * US, 100 * US, SLICE);

    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    a.marked = 1;
    kvn_cc_acked(&cc, &a);
    cr_expect_not(cc.slow_start);
    cr_expect_eq(cc.window, 2 * SLICE);
}

/* Never above the ceiling, never below the floor. */
Test(cc, bounds)
{
    struct kvn_cc_ack a = news(100 * US, 100 * US, 1000 * SLICE);

    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 100 * SLICE);
    for (uint32_t i = 0; i < 20; ++i) {
        cc.round_window = cc.window;
        kvn_cc_lost(&cc, 1000 * SLICE);
    }
    cr_expect_eq(cc.window, 2 * SLICE);
}

/* A loss takes what was lost, half of the window at most in a round trip; late, it is
 * given back. */
Test(cc, losses_and_late_ones)
{
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    cc.window = cc.round_window = 40 * SLICE;
    kvn_cc_lost(&cc, 3 * SLICE);
    cr_expect(cc.window == 37 * SLICE && !cc.slow_start && !cc.young);
    kvn_cc_lost(&cc, 30 * SLICE);
    cr_expect_eq(cc.window, 20 * SLICE);
    kvn_cc_lost(&cc, 5 * SLICE);
    cr_expect_eq(cc.window, 20 * SLICE, "half at most");
    kvn_cc_late(&cc, 19 * SLICE); /* half of the 38 that were lost: half of the 20 */
    cr_expect_eq(cc.window, 30 * SLICE, "%llu", (unsigned long long)cc.window);
    kvn_cc_late(&cc, 20 * SLICE);
    cr_expect_eq(cc.window, 30 * SLICE, "more than is left of them: of an earlier round trip");
    kvn_cc_late(&cc, 19 * SLICE);
    cr_expect_eq(cc.window, 40 * SLICE);
    kvn_cc_late(&cc, 0);
    cr_expect_eq(cc.window, 40 * SLICE);
}

/* A few losses in a round trip are damage: the doubling goes on. Many are a full queue. */
Test(cc, damage_does_not_end_the_doubling)
{
    kvn_cc_begin(&cc, SLICE, 0, 1000 * SLICE);
    cc.window = cc.round_window = 320 * SLICE;
    kvn_cc_lost(&cc, 10 * SLICE);
    cr_expect(cc.slow_start && cc.young && cc.window == 310 * SLICE, "a thirty-second");
    kvn_cc_lost(&cc, SLICE);
    cr_expect(!cc.slow_start && !cc.young, "one more");
    kvn_cc_begin(&cc, SLICE, 0, 1000 * SLICE);
    kvn_cc_lost(&cc, 2 * SLICE);
    cr_expect(cc.slow_start, "of a small window two are few");
    kvn_cc_lost(&cc, SLICE);
    cr_expect_not(cc.slow_start);
}

/* What the ends have room for is meant for short round trips. */
Test(cc, a_long_path_holds_more)
{
    struct kvn_cc_ack a = news(100 * MS, 100 * MS, 1000 * SLICE);

    cr_expect_eq(kvn_cc_reach(100, 9 * MS, 0), 100);
    cr_expect_eq(kvn_cc_reach(100, 10 * MS, 0), 200);
    cr_expect_eq(kvn_cc_reach(100, 17 * MS, 8 * MS), 100, "the hosts' lateness isn't the wire's");
    cr_expect_eq(kvn_cc_reach(100, 1000 * MS, 0), 3200);
    cr_expect_eq(kvn_cc_reach(100, UINT64_MAX, 0), 100, "nothing is known yet");
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    for (uint32_t i = 0; i < 4; ++i)
        kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 2000 * SLICE, "%llu", (unsigned long long)cc.window);
}

/* A slice a round trip would fill a long path in minutes, and is less than damage takes. */
Test(cc, a_large_window_grows_by_a_share)
{
    struct kvn_cc_ack a = news(100 * MS, 100 * MS, SLICE);

    kvn_cc_begin(&cc, SLICE, 0, 1000 * SLICE);
    cc.slow_start = cc.young = false;
    cc.window = cc.round_window = 1024 * SLICE;
    a.sent_ns = 1;
    a.full = true;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 1028 * SLICE, "%llu", (unsigned long long)cc.window);
}

/* Four round trips decide, by their least: one alone may have been held up. */
Test(cc, delay_cuts_by_the_least_of_four)
{
    struct kvn_cc_ack a = news(400 * US, 100 * US, 0);

    kvn_cc_begin(&cc, SLICE, 0, 1000 * SLICE);
    cc.window = cc.round_window = 100 * SLICE;
    cc.slow_start = false;
    a.full = false;
    a.sent_ns = 1; /* no round trip ends */
    cc.round_ns = 2;
    for (uint32_t i = 0; i < 3; ++i)
        kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 100 * SLICE, "three");
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 50 * SLICE, "never below half: %llu", (unsigned long long)cc.window);
    cr_expect_eq(cc.cut_ns, a.now_ns);
    for (uint32_t i = 0; i < 8; ++i)
        kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 50 * SLICE, "they left before the cut");
    a.sent_ns = a.now_ns;
    cc.round_ns = a.now_ns + 1;
    for (uint32_t i = 0; i < 3; ++i)
        kvn_cc_acked(&cc, &a);
    a.rtt_ns = 110 * US;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 50 * SLICE, "one was quick: no queue");
}

/* After a cut, a slice a round trip; nothing while the window isn't used. */
Test(cc, grows_by_a_slice_a_round_trip)
{
    struct kvn_cc_ack a = news(100 * US, 100 * US, 0);

    kvn_cc_begin(&cc, SLICE, 0, 1000 * SLICE);
    cc.window = 100 * SLICE;
    cc.slow_start = cc.young = false;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 101 * SLICE);
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 101 * SLICE, "the same round trip");
    a.now_ns += 100 * US;
    a.sent_ns = cc.round_ns;
    a.full = false;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 101 * SLICE, "not used");
    cc.window = 4 * SLICE;
    a.full = true;
    a.now_ns += 100 * US;
    a.sent_ns = cc.round_ns;
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(cc.window, 4 * SLICE + SLICE / 2, "an eighth of a small one");
}

Test(cc, longer_packets_lift_the_floor)
{
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    kvn_cc_slice(&cc, 8 * SLICE);
    cr_expect(cc.floor == 16 * SLICE && cc.window == 16 * SLICE && cc.slice == 8 * SLICE);
    kvn_cc_slice(&cc, SLICE);
    cr_expect(cc.floor == 2 * SLICE && cc.window == 16 * SLICE);
}

/* Two packets at once, the third a packet's time later. */
Test(cc, pace)
{
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    cr_expect_eq(kvn_cc_send_at(&cc, 0), 0, "no rate is known");
    kvn_cc_guess(&cc, 800 * US); /* 4 slices, twice, in 800 us: 100 us each */
    kvn_cc_sent(&cc, SLICE, 1000 * US);
    kvn_cc_sent(&cc, SLICE, 1000 * US);
    cr_expect_eq(kvn_cc_send_at(&cc, 1000 * US), 0);
    kvn_cc_sent(&cc, SLICE, 1000 * US);
    cr_expect_eq(kvn_cc_send_at(&cc, 1000 * US) / US, 1100, "%llu",
                 (unsigned long long)kvn_cc_send_at(&cc, 1000 * US));
    cr_expect_eq(kvn_cc_send_at(&cc, 1100 * US), 0);
    kvn_cc_sent(&cc, SLICE, 5000 * US);
    cr_expect_eq(kvn_cc_send_at(&cc, 5000 * US), 0, "idle time isn't saved, nor owed");
    cr_expect(cc.due_ns > 5000 * US && cc.due_ns <= 5100 * US);
}

/* The handshake took long because the peer was away: the first round trip corrects the pace, and
 * what was sent by the wrong one doesn't hold up the rest. */
Test(cc, a_pace_that_was_wrong)
{
    struct kvn_cc_ack a = news(100 * US, 100 * US, SLICE);

    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    kvn_cc_guess(&cc, 40000 * US);
    for (uint32_t i = 0; i < 3; ++i)
        kvn_cc_sent(&cc, SLICE, 900 * US);
    cr_expect_eq(kvn_cc_send_at(&cc, 1000 * US) / US, 5900);
    kvn_cc_acked(&cc, &a);
    cr_expect_eq(kvn_cc_send_at(&cc, 1000 * US), 0);
    cr_expect_leq(cc.due_ns, 1000 * US);
}

/* A clock that was set back doesn't stop the sender. */
Test(cc, a_clock_that_steps_back)
{
    kvn_cc_begin(&cc, SLICE, 0, 100 * SLICE);
    kvn_cc_guess(&cc, 800 * US);
    for (uint32_t i = 0; i < 4; ++i)
        kvn_cc_sent(&cc, SLICE, 900000 * US);
    cr_expect_neq(kvn_cc_send_at(&cc, 900000 * US), 0);
    cr_expect_eq(kvn_cc_send_at(&cc, 1000 * US), 0);
}
