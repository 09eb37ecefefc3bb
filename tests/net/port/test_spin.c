/* SPDX-License-Identifier: Apache-2.0 */
/* Looking before sleeping is tried after short sleeps only, given up when it is in vain, ever more
 * rarely so, and never costs more than a few per cent of a core. */
#include <criterion/criterion.h>

#include "../../../net/port/spin.h"

static bool looks(struct kvn_spin *s)
{
    return kvn_spin_until(s, 1000, UINT64_MAX) > 1000;
}

Test(spin, sleeps_at_first)
{
    struct kvn_spin s;

    kvn_spin_begin(&s, false);
    cr_expect(!looks(&s));
    for (uint32_t i = 0; i < 100; ++i) /* long sleeps, and such that time ended, teach nothing */
        kvn_spin_slept(&s, i % 2 ? KVN_SPIN_NS + 1 : 100, i % 2);
    cr_expect(!looks(&s));
}

Test(spin, looks_after_short_sleeps)
{
    struct kvn_spin s;

    kvn_spin_begin(&s, false);
    for (uint32_t i = 0; i < KVN_SPIN_NEED_MIN; ++i) {
        cr_expect(!looks(&s), "after %u", i);
        kvn_spin_slept(&s, KVN_SPIN_NS, true);
    }
    cr_expect_eq(kvn_spin_until(&s, 1000, UINT64_MAX), 1000 + KVN_SPIN_NS);
    cr_expect_eq(kvn_spin_until(&s, 1000, 1500), 1500, "not beyond the deadline");
    kvn_spin_looked(&s, true);
    cr_expect(looks(&s), "and goes on while it pays");
    kvn_spin_looked(&s, false);
    cr_expect(!looks(&s), "and stops when it doesn't");
}

/* Both ends on one core: every sleep is short, since the peer runs meanwhile, and every look is in
 * vain, since it can't. */
Test(spin, one_core)
{
    const uint32_t waits = 100000;
    uint64_t looked_ns = 0, slept_ns = 0;
    struct kvn_spin s;

    kvn_spin_begin(&s, false);
    for (uint32_t i = 0; i < waits; ++i) {
        if (looks(&s)) {
            looked_ns += KVN_SPIN_NS;
            kvn_spin_looked(&s, false);
        }
        slept_ns += 5000;
        kvn_spin_slept(&s, 5000, true);
    }
    cr_expect_leq(s.looks, 40);
    cr_expect_lt((double)looked_ns, 0.01 * (double)slept_ns);
    /* The peer gets a core of its own: looking is found to pay again. */
    for (uint32_t i = 0; i < 10 * KVN_SPIN_NEED_MAX; ++i) {
        if (looks(&s))
            kvn_spin_looked(&s, true);
        else
            kvn_spin_slept(&s, 5000, true);
    }
    cr_expect(looks(&s));
    cr_expect_eq(s.need, KVN_SPIN_NEED_MIN);
}

Test(spin, always)
{
    struct kvn_spin s;

    kvn_spin_begin(&s, true);
    kvn_spin_looked(&s, false);
    cr_expect_eq(kvn_spin_until(&s, 1000, 99999999), 99999999);
}
