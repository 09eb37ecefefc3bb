/* SPDX-License-Identifier: Apache-2.0 */
/* Each event sets exactly the timers that timers.h says, to the nanosecond. */
#include <criterion/criterion.h>

#include "../../../net/packet/timers.h"
#include "../../../net/packet/wire.h"

#define MS 1000000ull

static struct kvn_timers t;

Test(timers, none_run_when_stopped)
{
    kvn_timers_stop(&t);
    cr_expect_eq(kvn_timers_next(&t), UINT64_MAX);
    for (uint32_t i = 0; i < KVN_TIMERS; ++i)
        cr_expect_not(kvn_timers_due(&t, (enum kvn_timer)i, UINT64_MAX - 1));
}

Test(timers, hellos_double_up_to_160_ms)
{
    static const uint64_t want[] = {10, 20, 40, 80, 160, 160, 160, 160, 160, 160};

    kvn_timers_began(&t, 5, 2000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_CONNECT], 5 + 2000 * MS);
    for (uint32_t i = 0; i < 10; ++i) {
        kvn_timers_hello_sent(&t, 5, i + 1);
        cr_expect_eq(t.at_ns[KVN_TIMER_HELLO], 5 + want[i] * MS, "%u", i);
    }
    kvn_timers_hello_sent(&t, 5, 1u << 31);
    cr_expect_eq(t.at_ns[KVN_TIMER_HELLO], 5 + 160 * MS);
    cr_expect_eq(kvn_timers_next(&t), 5 + 160 * MS);
    kvn_timers_up(&t);
    cr_expect_eq(kvn_timers_next(&t), UINT64_MAX);
}

Test(timers, silence)
{
    kvn_timers_stop(&t);
    kvn_timers_heard(&t, 100, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 100 + 250 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 100 + 1000 * MS);
    kvn_timers_pinged(&t, 100 + 250 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 100 + 500 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 100 + 1000 * MS, "asking isn't hearing");
    cr_expect_not(kvn_timers_due(&t, KVN_TIMER_DEAD, 99 + 1000 * MS));
    cr_expect(kvn_timers_due(&t, KVN_TIMER_DEAD, 100 + 1000 * MS));
}

/* An absence is forgiven once per silence. */
Test(timers, an_absence_is_excused_once)
{
    kvn_timers_stop(&t);
    kvn_timers_heard(&t, 0, 1000);
    kvn_timers_was_away(&t, 100, 50);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 1000, "never earlier");
    kvn_timers_heard(&t, 0, 1000);
    kvn_timers_was_away(&t, 5000, 50);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 5050);
    kvn_timers_was_away(&t, 6000, 50);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 5050);
    kvn_timers_heard(&t, 6000, 1000);
    kvn_timers_was_away(&t, 9000, 50);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 9050);
}

Test(timers, an_ack_waits_from_the_first)
{
    kvn_timers_stop(&t);
    kvn_timers_ack_owed(&t, 100);
    kvn_timers_ack_owed(&t, 500);
    cr_expect_eq(t.at_ns[KVN_TIMER_ACK], 100 + KVN_ACK_DELAY_NS);
    kvn_timers_ack_sent(&t);
    cr_expect_eq(kvn_timers_next(&t), UINT64_MAX);
}

Test(timers, flight_search_and_stall)
{
    kvn_timers_stop(&t);
    kvn_timers_flight(&t, 7, 8, 9);
    cr_expect_eq(t.at_ns[KVN_TIMER_LOSS], 7);
    cr_expect_eq(t.at_ns[KVN_TIMER_PROBE], 8);
    cr_expect_eq(t.at_ns[KVN_TIMER_CHALLENGE], 9);
    kvn_timers_search(&t, 6);
    cr_expect_eq(t.at_ns[KVN_TIMER_SEARCH], 6);
    kvn_timers_stall(&t, 5);
    cr_expect_eq(t.at_ns[KVN_TIMER_STALL], 5);
    for (uint32_t i = 0; i < KVN_TIMERS; ++i) {
        kvn_timers_stop(&t);
        t.at_ns[i] = 1000 + i;
        cr_expect_eq(kvn_timers_next(&t), 1000 + i, "timer %u isn't looked at", i);
    }
}

Test(timers, an_end_leaves_only_the_linger)
{
    kvn_timers_heard(&t, 0, 1000);
    kvn_timers_ended(&t, 100, true);
    cr_expect_eq(kvn_timers_next(&t), 100 + KVN_LINGER_NS);
    cr_expect_eq(t.at_ns[KVN_TIMER_LINGER], 100 + KVN_LINGER_NS);
    kvn_timers_ended(&t, 100, false);
    cr_expect_eq(kvn_timers_next(&t), 100);
}

/* An idle peer is asked later, once; and at times that many connections have in common. */
Test(timers, idle_peers_are_asked_together)
{
    kvn_timers_stop(&t);
    kvn_timers_heard(&t, 1000 * MS + 7, 1000 * MS);
    kvn_timers_idle(&t, 1000 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 2000 * MS + 7);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 3000 * MS + 7);
    kvn_timers_idle(&t, 1000 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 2000 * MS + 7, "put off twice");
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 3000 * MS + 7, "put off twice");
    kvn_timers_ping_together(&t, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 2000 * MS);
    kvn_timers_ping_together(&t, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 2000 * MS);
    kvn_timers_pinged(&t, 2000 * MS, 1000 * MS);
    kvn_timers_idle(&t, 1000 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 2250 * MS, "one has left without an answer");
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 3000 * MS + 7);
    kvn_timers_heard(&t, 2100 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 3100 * MS);
    kvn_timers_stop(&t);
    kvn_timers_ping_together(&t, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], UINT64_MAX);
}

/* Once something is sent to it, the usual time is enough to find that it has gone. */
Test(timers, who_is_used_again_is_asked_soon)
{
    kvn_timers_stop(&t);
    kvn_timers_used(&t, 1000 * MS, 1000 * MS);
    cr_expect_eq(kvn_timers_next(&t), UINT64_MAX, "nothing ran");
    kvn_timers_heard(&t, 1000 * MS, 1000 * MS);
    kvn_timers_used(&t, 1500 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 1250 * MS, "it was due earlier");
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 2000 * MS, "it was due earlier");
    kvn_timers_heard(&t, 1000 * MS, 1000 * MS);
    kvn_timers_idle(&t, 1000 * MS, 1000 * MS);
    kvn_timers_used(&t, 1500 * MS, 1000 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_PING], 1750 * MS);
    cr_expect_eq(t.at_ns[KVN_TIMER_DEAD], 2500 * MS);
}
