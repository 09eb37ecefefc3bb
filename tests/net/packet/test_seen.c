/* SPDX-License-Identifier: Apache-2.0 */
/* No number is acted on twice, an ACK names exactly what came, and 32 bits tell the
 * whole number. */
#include <criterion/criterion.h>

#include "../../../net/packet/seen.h"

static struct kvn_seen s;
static struct kvn_ack a;

static void add(uint64_t pn)
{
    cr_assert_not(kvn_seen_has(&s, pn), "%llu", (unsigned long long)pn);
    kvn_seen_add(&s, pn, pn * 1000);
    cr_assert(kvn_seen_has(&s, pn) || pn < s.floor);
}

Test(seen, each_once)
{
    kvn_seen_begin(&s);
    cr_expect(kvn_seen_has(&s, 0), "0 is no number");
    cr_expect_not(kvn_seen_has(&s, 1));
    add(1);
    add(2);
    add(5);
    add(4);
    cr_expect_not(kvn_seen_has(&s, 3));
    cr_expect_not(kvn_seen_has(&s, 6));
    cr_expect(s.largest == 5 && s.largest_ns == 5000);
    add(3);
    cr_expect_eq(s.ranges.count, 1);
}

Test(seen, an_ack_names_ranges_downwards)
{
    kvn_seen_begin(&s);
    add(1);
    add(2);
    add(7);
    add(5);
    s.unacked = 9;
    s.due = true;
    kvn_seen_tell(&s, &a, 7000 + 64 * 3 + 63);
    cr_expect(a.largest == 7 && a.delay == 3 && a.count == 3);
    cr_expect(a.range[0].first == 7 && a.range[0].end == 8);
    cr_expect(a.range[1].first == 5 && a.range[1].end == 6);
    cr_expect(a.range[2].first == 1 && a.range[2].end == 3);
    cr_expect(s.unacked == 0 && !s.due);
}

/* Gaps are bounded: the lowest is forgotten, and everything below counts as seen. */
Test(seen, the_floor_rises)
{
    kvn_seen_begin(&s);
    for (uint32_t i = 0; i < KVN_RANGES_MAX; ++i)
        add(10 + 2 * i);
    cr_expect_not(kvn_seen_has(&s, 5));
    kvn_seen_tell(&s, &a, 0);
    cr_expect_eq(a.count, KVN_ACK_RANGES_MAX);
    cr_expect_eq(a.range[KVN_ACK_RANGES_MAX - 1].first, 10 + 2 * (KVN_RANGES_MAX - 32));
    add(10 + 2 * KVN_RANGES_MAX);
    cr_expect_eq(s.floor, 11);
    cr_expect(kvn_seen_has(&s, 10) && kvn_seen_has(&s, 5), "forgotten numbers count as seen");
    cr_expect_not(kvn_seen_has(&s, 11));
    cr_expect_eq(s.largest, 10 + 2 * KVN_RANGES_MAX);
    kvn_seen_add(&s, 11, 0); /* lower than all, in a full set: not remembered, nothing else lost */
    cr_expect(kvn_seen_has(&s, 12));
}

Test(seen, the_whole_number)
{
    static const struct {
        uint64_t largest;
        uint32_t low;
        uint64_t want;
    } t[] = {
        {0, 1, 1},
        {0, 0x7fffffff, 0x7fffffff},
        {0, 0x80000000u, 0x80000000u},
        {0, 0x80000001u, 0x80000001u},
        {0, 0xffffffffu, 0xffffffffu},
        {0, 0, 0},
        {99, 100, 100},
        {99, 99, 99},
        {0xffffffffull, 0, 0x100000000ull},
        {0xffffffffull, 0xffffffffu, 0xffffffffull},
        {0x100000000ull, 0xffffffffu, 0xffffffffull},
        {0x1ffffffffull, 0x7fffffff, 0x27fffffffull},
        {0x1ffffffffull, 0x80000000u, 0x180000000ull},
    };

    for (uint32_t i = 0; i < sizeof(t) / sizeof(t[0]); ++i)
        cr_expect_eq(kvn_seen_number(t[i].largest, t[i].low), t[i].want, "%u: %llx", i,
                     (unsigned long long)kvn_seen_number(t[i].largest, t[i].low));
}
