/* SPDX-License-Identifier: Apache-2.0 */
/* A set of ranges holds exactly what a bitmap of the same operations holds, in order, and within
 * its bound. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../net/packet/ranges.h"

#define SPACE 600u

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

static void check(const struct kvn_ranges *set, const bool *map, bool may_hold_more)
{
    for (uint32_t i = 0; i < set->count; ++i) {
        cr_assert_lt(set->range[i].first, set->range[i].end);
        if (i > 0)
            cr_assert_gt(set->range[i].first, set->range[i - 1].end);
    }
    for (uint32_t n = 0; n < SPACE; ++n)
        cr_assert(kvn_ranges_has(set, n) == map[n] || (may_hold_more && !map[n]), "number %u", n);
}

Test(ranges, same_as_a_bitmap)
{
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        struct kvn_ranges set = {.count = 0};
        bool map[SPACE] = {false};
        uint64_t random = seed;

        for (int step = 0; step < 150; ++step) {
            const uint32_t first = next_random(&random) % (SPACE - 40);
            const uint32_t n = 1 + next_random(&random) % (seed % 3 ? 4 : 39);
            bool there = true;

            for (uint32_t i = first; i < first + n; ++i)
                there = there && map[i];
            if (next_random(&random) % 4 == 0) {
                const bool full = set.count == KVN_RANGES_MAX;
                kvn_ranges_remove(&set, first, first + n);
                if (full && kvn_ranges_has(&set, first))
                    continue; /* it would have split a range: refused as a whole */
                memset(map + first, false, n);
            } else {
                const enum kvn_ranges_result r = kvn_ranges_add(&set, first, first + n);
                cr_assert_eq(r == KVN_RANGES_THERE, there, "seed %d", (int)seed);
                if (r == KVN_RANGES_FULL)
                    cr_assert_eq(set.count, KVN_RANGES_MAX);
                else
                    memset(map + first, true, n);
            }
            check(&set, map, false);
        }
    }
}

/* When it is full: add says so and changes nothing, add_cover takes more than it was given. */
Test(ranges, full)
{
    struct kvn_ranges set = {.count = 0};
    bool map[SPACE] = {false};

    for (uint32_t i = 0; i < KVN_RANGES_MAX; ++i) {
        cr_assert_eq(kvn_ranges_add(&set, 3 * i, 3 * i + 1), KVN_RANGES_ADDED);
        map[3 * i] = true;
    }
    cr_expect_eq(kvn_ranges_add(&set, 590, 591), KVN_RANGES_FULL);
    cr_expect_eq(kvn_ranges_add(&set, 6, 7), KVN_RANGES_THERE);
    check(&set, map, false);
    kvn_ranges_add_cover(&set, 590, 591);
    map[590] = true;
    check(&set, map, true);
    cr_expect_eq(set.count, KVN_RANGES_MAX);
    cr_expect(kvn_ranges_has(&set, 590));
    cr_expect_eq(kvn_ranges_shift(&set).first, 0);
    cr_expect_not(kvn_ranges_has(&set, 0));
}
