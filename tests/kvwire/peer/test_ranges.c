/* SPDX-License-Identifier: Apache-2.0 */
/* The ranges of a layer say exactly which tokens are in place, and their pool loses no span. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/peer/ranges.h"
#include "../kv.h"

#define TOKENS 64u
#define SPANS  8u

/* Against a plain bitmap, in random order, with a pool that is often dry. */
Test(ranges, agrees_with_a_bitmap)
{
    for (uint64_t seed = 1; seed <= 300; ++seed) {
        uint64_t state = seed;
        bool in[TOKENS] = {false};
        struct kvw_span spans[SPANS];
        struct kvw_span_pool pool;
        struct kvw_ranges r;

        kvw_span_pool_init(&pool, spans, SPANS);
        kvw_ranges_init(&r);
        for (uint32_t i = 0; i < 400; ++i) {
            const uint32_t first = t_below(&state, TOKENS);
            const uint32_t end = first + 1 + t_below(&state, 4);
            uint32_t prefix = 0, free_spans = SPANS;
            bool any = false;

            if (end > TOKENS)
                continue;
            for (uint32_t t = first; t < end; ++t)
                any = any || in[t];
            cr_assert_eq(kvw_ranges_overlap(&r, &pool, first, end), any, "seed %lu", seed);
            if (!any && kvw_ranges_add(&r, &pool, first, end) == KVW_OK)
                memset(&in[first], true, end - first);
            while (prefix < TOKENS && in[prefix])
                ++prefix;
            cr_assert_eq(r.prefix, prefix, "seed %lu", seed);
            for (uint32_t t = prefix; t + 1 < TOKENS; ++t) /* one span per gap and run after it */
                free_spans -= !in[t] && in[t + 1];
            cr_assert_eq(pool.free_count, free_spans, "seed %lu", seed);
        }
        kvw_ranges_free(&r, &pool);
        cr_assert_eq(pool.free_count, SPANS);
    }
}

Test(ranges, a_dry_pool_changes_nothing)
{
    struct kvw_span span;
    struct kvw_span_pool pool;
    struct kvw_ranges r;

    kvw_span_pool_init(&pool, &span, 1);
    kvw_ranges_init(&r);
    cr_assert_eq(kvw_ranges_add(&r, &pool, 10, 20), KVW_OK);
    cr_expect_eq(kvw_ranges_add(&r, &pool, 30, 40), KVW_E_NOMEM);
    cr_expect_not(kvw_ranges_overlap(&r, &pool, 20, 100));
    cr_expect(kvw_ranges_overlap(&r, &pool, 19, 20));
    cr_assert_eq(kvw_ranges_add(&r, &pool, 0, 10), KVW_OK); /* joins, and frees the span */
    cr_expect_eq(r.prefix, 20);
    cr_expect_eq(pool.free_count, 1);
}
