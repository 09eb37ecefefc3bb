/* SPDX-License-Identifier: Apache-2.0 */
/* A path is taken for narrow only when eight long packets in a row vanish while short ones arrive,
 * and longer packets are tried again: at once, twice each, down the steps, then ever later. */
#include <criterion/criterion.h>

#include "../../../net/packet/fit.h"

#define S 1000000000ull

static struct kvn_fit f;

/* Lose n long packets that leave from `at` on; each loss is noticed when it leaves. */
static void lose(uint32_t n, uint64_t at)
{
    for (uint32_t i = 0; i < n; ++i) {
        kvn_fit_lost(&f, at + i);
        (void)kvn_fit_hole(&f, 0, at + i);
    }
}

Test(fit, eight_in_a_row_and_not_seven)
{
    kvn_fit_begin(&f, 8228);
    lose(7, 1000);
    cr_expect_not(kvn_fit_hole(&f, 2000, 3000), "seven");
    lose(1, 1007);
    cr_expect(kvn_fit_hole(&f, 2000, 3000));
    cr_expect_not(kvn_fit_hole(&f, 1000, 3000), "nothing arrived since the first was missed");
    cr_expect(kvn_fit_hole(&f, 1001, 3000));
}

Test(fit, a_long_packet_that_arrives_ends_the_row)
{
    kvn_fit_begin(&f, 8228);
    lose(7, 1000);
    kvn_fit_arrived(&f, 1007);
    lose(1, 1008);
    cr_expect_eq(f.lost, 1);
    kvn_fit_arrived(&f, 900); /* an older one says nothing of those after it */
    cr_expect_eq(f.lost, 1);
    kvn_fit_lost(&f, 1007);
    cr_expect_eq(f.lost, 1, "a younger one came through");
}

/* One burst that was all under way when the first loss was noticed isn't enough. */
Test(fit, one_must_be_sent_after_the_first_loss)
{
    kvn_fit_begin(&f, 8228);
    for (uint32_t i = 0; i < 20; ++i)
        kvn_fit_lost(&f, 1000 + i);
    cr_expect_not(kvn_fit_hole(&f, 5000, 2000));
    kvn_fit_lost(&f, 1999);
    cr_expect_not(kvn_fit_hole(&f, 5000, 2001));
    kvn_fit_lost(&f, 2000);
    cr_expect(kvn_fit_hole(&f, 5000, 2001));
}

Test(fit, the_shortest_never_falls)
{
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    lose(20, 1000);
    cr_expect_not(kvn_fit_hole(&f, 5000, 6000));
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN + 1);
    lose(20, 1000);
    cr_expect(kvn_fit_hole(&f, 5000, 6000));
}

/* The probe is lost, and something else arrived. Returns what is tried next; 0: nothing. */
static uint32_t fails(uint32_t limit, uint64_t now)
{
    kvn_fit_probe_lost(&f, f.trying, true);
    return kvn_fit_search(&f, limit, now) ? f.trying : 0;
}

Test(fit, steps_down_twice_each_then_waits)
{
    static const uint64_t wait_s[] = {1, 10, 20, 40, 80, 160, 320, 600, 600};
    uint64_t now = 5 * S;

    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    cr_expect_not(kvn_fit_search(&f, 9000, now), "nobody asked");
    kvn_fit_search_now(&f, now);
    for (uint32_t i = 0; i < 9; ++i) {
        cr_assert(kvn_fit_search(&f, 9000, now));
        cr_expect_eq(f.trying, 9000);
        cr_expect_not(kvn_fit_search(&f, 9000, now), "its fate isn't known");
        cr_expect_eq(fails(9000, now), 9000);
        cr_expect_eq(fails(9000, now), 8952);
        cr_expect_eq(fails(9000, now), 8952);
        cr_expect_eq(fails(9000, now), 3952);
        cr_expect_eq(fails(9000, now), 3952);
        cr_expect_eq(fails(9000, now), 1452);
        cr_expect_eq(fails(9000, now), 1452);
        cr_expect_eq(fails(9000, now), 0);
        cr_expect_eq(f.search_at_ns, now + wait_s[i] * S, "%u: %llu", i,
                     (unsigned long long)((f.search_at_ns - now) / S));
        cr_expect_not(kvn_fit_search(&f, 9000, f.search_at_ns - 1));
        now = f.search_at_ns;
    }
    cr_expect_eq(f.payload, KVN_PAYLOAD_MIN);
}

Test(fit, what_arrives_is_used)
{
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    kvn_fit_search_now(&f, 0);
    cr_assert(kvn_fit_search(&f, 8228, 0));
    kvn_fit_probe_arrived(&f, 1452); /* of an earlier search */
    cr_expect_not(kvn_fit_search(&f, 8228, 0));
    cr_expect_eq(f.payload, KVN_PAYLOAD_MIN);
    kvn_fit_probe_arrived(&f, 8228);
    cr_expect_not(kvn_fit_search(&f, 8228, 0));
    cr_expect(f.payload == 8228 && f.trying == 0 && f.search_at_ns == UINT64_MAX);
}

/* A step that arrives is used, and the whole is tried later. */
Test(fit, a_step_is_used_and_more_tried_later)
{
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    kvn_fit_search_now(&f, 0);
    cr_assert(kvn_fit_search(&f, 8228, 0));
    fails(8228, 0);
    cr_assert_eq(fails(8228, 0), 3952);
    kvn_fit_probe_arrived(&f, 3952);
    cr_expect_not(kvn_fit_search(&f, 8228, 0));
    cr_expect_eq(f.payload, 3952);
    cr_expect_eq(f.search_at_ns, S);
    cr_assert(kvn_fit_search(&f, 8228, S));
    cr_expect_eq(f.trying, 8228);
    fails(8228, S);
    cr_expect_eq(fails(8228, S), 0, "nothing between 3952 and 8228");
}

/* Silence says nothing about lengths: the same again, as often as it takes. */
Test(fit, a_probe_lost_in_silence_does_not_count)
{
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    kvn_fit_search_now(&f, 0);
    cr_assert(kvn_fit_search(&f, 8228, 0));
    for (uint32_t i = 0; i < 10; ++i) {
        kvn_fit_probe_lost(&f, 8228, false);
        cr_assert(kvn_fit_search(&f, 8228, 0));
        cr_expect_eq(f.trying, 8228);
    }
    cr_expect_eq(fails(8228, 0), 8228);
    cr_expect_eq(fails(8228, 0), 3952);
    kvn_fit_probe_lost(&f, 8228, true); /* of before */
    cr_expect_not(kvn_fit_search(&f, 8228, 0));
}

/* The ends take less than is tried: no second probe of that length. */
Test(fit, a_limit_that_falls_meanwhile)
{
    kvn_fit_begin(&f, KVN_PAYLOAD_MIN);
    kvn_fit_search_now(&f, 0);
    cr_assert(kvn_fit_search(&f, 8228, 0));
    cr_expect_eq(fails(1472, 0), 1452);
}

Test(fit, a_fall_is_tried_again_after_a_second)
{
    kvn_fit_begin(&f, 8228);
    lose(8, 10);
    kvn_fit_fall(&f, KVN_PAYLOAD_MIN, 7);
    cr_expect(f.payload == KVN_PAYLOAD_MIN && f.lost == 0 && f.search_at_ns == 7 + S);
    kvn_fit_search_now(&f, 8);
    cr_expect_eq(f.search_at_ns, 7 + S, "planned already");
    cr_assert(kvn_fit_search(&f, 1300, 7 + S));
    cr_expect_eq(f.trying, 1300);
    cr_expect_eq(fails(1300, 7 + S), 1300);
    cr_expect_eq(fails(1300, 7 + S), 0);
    cr_expect_eq(f.search_at_ns, 7 + 11 * S);
}
