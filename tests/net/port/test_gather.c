/* SPDX-License-Identifier: Apache-2.0 */
/* Packets are left to gather only after many short sleeps that brought a few each, as long as that
 * spares sleeps, and ever more rarely where it doesn't. */
#include <criterion/criterion.h>

#include "../../../net/port/gather.h"

static void thin_sleeps(struct kvn_gather *g, uint32_t count)
{
    for (uint32_t i = 0; i < count; ++i)
        kvn_gather_slept(g, 12000, true, 1);
}

Test(gather, sleeps_at_first)
{
    struct kvn_gather g;

    kvn_gather_begin(&g);
    cr_expect(!g.on);
    for (uint32_t i = 0; i < 100 * KVN_GATHER_NEED_MIN; ++i) { /* each breaks the row */
        kvn_gather_slept(&g, 12000, true, 1);
        if (i % 4 == 0)
            kvn_gather_slept(&g, 12000, false, 1); /* its time was over */
        else if (i % 4 == 1)
            kvn_gather_slept(&g, KVN_GATHER_NS + 1, true, 1);
        else if (i % 4 == 2)
            kvn_gather_slept(&g, 12000, true, KVN_GATHER_THIN + 1);
        else
            kvn_gather_slept(&g, 12000, true, 0);
        cr_assert(!g.on, "after %u", i);
    }
}

Test(gather, naps_while_it_pays)
{
    struct kvn_gather g;

    kvn_gather_begin(&g);
    thin_sleeps(&g, KVN_GATHER_NEED_MIN - 1);
    cr_expect(!g.on);
    thin_sleeps(&g, 1);
    cr_expect(g.on);
    for (uint32_t i = 0; i < 100; ++i) {
        kvn_gather_napped(&g, KVN_GATHER_MIN);
        cr_assert(g.on);
    }
    kvn_gather_napped(&g, KVN_GATHER_MIN - 1);
    cr_expect(!g.on, "and stops when it doesn't");
    cr_expect_eq(g.naps, 101);
    thin_sleeps(&g, 2 * KVN_GATHER_NEED_MIN - 1);
    cr_expect(!g.on, "and then takes twice as many sleeps");
    thin_sleeps(&g, 1);
    cr_expect(g.on);
    kvn_gather_napped(&g, KVN_GATHER_MIN);
    cr_expect_eq(g.need, KVN_GATHER_NEED_MIN, "until it pays again");
}

/* One packet there, one back, and so on: each nap delays the answer. */
Test(gather, questions_and_answers)
{
    const uint32_t waits = 100000;
    uint64_t asleep_ns = 0;
    struct kvn_gather g;

    kvn_gather_begin(&g);
    for (uint32_t i = 0; i < waits; ++i) {
        if (g.on) {
            asleep_ns += KVN_GATHER_NS;
            kvn_gather_napped(&g, 1);
        } else {
            asleep_ns += 20000;
            kvn_gather_slept(&g, 20000, true, 1);
        }
    }
    cr_expect_leq(g.naps, 40);
    cr_expect_lt((double)asleep_ns, 1.01 * waits * 20000);
}
