/* SPDX-License-Identifier: Apache-2.0 */
/* The region that holds an address is the one that a walk over all of them finds, whatever
 * overlaps, comes and goes; and a row of pieces is theirs, byte for byte. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../../kvwire/batch/runs.h"
#include "../kv.h"

#define MANY 400u

static bool holds(const struct kvw_region *r, uint64_t base, uint64_t bytes)
{
    return base >= r->base && base + bytes <= r->base + r->bytes;
}

/* 2: one with the rights; 1: one without; 0: none. */
static int best(const struct kvw_regions *g, uint64_t base, uint64_t bytes, uint32_t rights)
{
    int found = 0;

    for (uint32_t i = 0; i < g->count; ++i)
        if (holds(&g->list[i], base, bytes)) {
            const int now = (g->list[i].rights & rights) == rights ? 2 : 1;

            found = now > found ? now : found;
        }
    return found;
}

static void ask(const struct kvw_regions *g, uint64_t *random, uint32_t *hint)
{
    const uint64_t base = t_below(random, 100000), bytes = 1 + t_below(random, 300);
    const uint32_t rights = t_below(random, 4);
    const struct kvw_region *r = kvw_regions_at(g, base, bytes, rights, hint);
    const int want = best(g, base, bytes, rights);

    cr_assert_eq(r != NULL, want > 0, "%llu + %llu", (unsigned long long)base,
                 (unsigned long long)bytes);
    if (r == NULL)
        return;
    cr_assert(holds(r, base, bytes));
    cr_assert_eq((r->rights & rights) == rights, want == 2, "%llu + %llu, rights %u",
                 (unsigned long long)base, (unsigned long long)bytes, rights);
}

Test(regions, found_as_by_a_walk)
{
    struct kvw_regions g = {.list = NULL};
    uint64_t random = 3;
    uint32_t hint = 0, id = 0;

    for (uint32_t step = 0; step < 3000; ++step) {
        const struct kvw_region r = {.base = t_below(&random, 100000),
                                     .bytes = 1 + t_below(&random, step % 7 == 0 ? 20000 : 600),
                                     .id = ++id,
                                     .rights = t_below(&random, 4)};

        if (g.count < MANY)
            cr_assert_eq(kvw_regions_add(&g, &r), KVW_OK);
        if (g.count == MANY || t_below(&random, 3) == 0)
            cr_assert(kvw_regions_remove(&g, g.list[t_below(&random, g.count)].id));
        for (uint32_t k = 0; k < 10; ++k)
            ask(&g, &random, &hint);
    }
    cr_assert_not(kvw_regions_remove(&g, id + 1));
    kvw_regions_free(&g);
}

/* Up to the last address there is, and not beyond it. */
Test(regions, at_the_end_of_memory)
{
    struct kvw_regions g = {.list = NULL};
    const struct kvw_region last = {.base = UINT64_MAX - 99, .bytes = 100, .id = 1, .rights = 3};
    uint32_t hint = 7;

    cr_expect_null(kvw_regions_at(&g, 5, 1, 0, &hint));
    cr_assert_eq(kvw_regions_add(&g, &last), KVW_OK);
    cr_expect_not_null(kvw_regions_at(&g, UINT64_MAX - 9, 10, 1, &hint));
    cr_expect_null(kvw_regions_at(&g, UINT64_MAX - 100, 10, 1, &hint));
    kvw_regions_free(&g);
}

/* What is gathered is what byte after byte says, wherever it begins and ends; and scattered again
 * it lies where it was. Pieces of one length, in disorder, are gathered several at a time. */
Test(regions, gather_and_scatter_are_byte_for_byte)
{
    static const uint32_t lengths[] = {256, 1024, 100, 4096, 257, 768};
    static uint8_t memory[1 << 20], row[1 << 20], part[1 << 20], before[1 << 20];
    uint64_t state = 7;

    for (uint32_t seed = 1; seed <= 20; ++seed) {
        struct kvw_runs l = {.runs = NULL};
        uint32_t at = 0, n = 0;

        for (uint32_t i = 0; i < sizeof(memory); ++i)
            memory[i] = (uint8_t)(t_below(&state, 256));
        for (uint32_t i = 0; i < 60;
             ++i) { /* places go down, so that none touches the one before */
            const uint32_t bytes = lengths[t_below(&state, seed % 2 != 0 ? 6 : 2)];
            const uint32_t place = sizeof(memory) - (i + 1) * 8192 + t_below(&state, 3000);

            cr_assert_eq(kvw_runs_add(&l, 1, (uintptr_t)memory + place, bytes), KVW_OK);
            memcpy(row + n, memory + place, bytes);
            n += bytes;
        }
        for (uint32_t tries = 0; tries < 20; ++tries) {
            const uint32_t first = t_below(&state, n), len = 1 + t_below(&state, n - first);

            at = tries == 0 ? 0 : first;
            kvw_runs_gather(&l, at, part, tries == 0 ? n : len);
            cr_assert_arr_eq(part, row + at, tries == 0 ? n : len, "seed %u", seed);
        }
        memcpy(before, memory, sizeof(memory));
        for (uint32_t i = 0; i < 60; ++i)
            memset((void *)(uintptr_t)l.runs[i < l.count ? i : 0].base, 0, 100);
        kvw_runs_scatter(&l, 0, row, n);
        cr_assert_arr_eq(memory, before, sizeof(memory), "seed %u", seed);
        kvw_runs_free(&l);
    }
}
