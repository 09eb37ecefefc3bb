/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker is believed to hold: exactly the blocks used last, beginnings only, under any order
 * of adding, forgetting and lowering the limit. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "../../../engine/route/prompts.h"

/* Beginnings count: a hole ends the match. */
Test(prompts, a_match_ends_at_the_first_block_that_is_not_held)
{
    const uint64_t all[5] = {1, 2, 3, 4, 5}, odd[5] = {1, 2, 9, 4, 5}, other[2] = {7, 1};
    struct kve_prompts_held p = {0};

    kve_prompts_held_limit(&p, 10);
    cr_expect_eq(kve_prompts_held_match(&p, all, 5), 0, "nothing is held at first");
    kve_prompts_held_add(&p, all, 5);
    cr_expect_eq(kve_prompts_held_match(&p, all, 5), 5);
    cr_expect_eq(kve_prompts_held_match(&p, odd, 5), 2);
    cr_expect_eq(kve_prompts_held_match(&p, other, 2), 0);
    kve_prompts_held_free(&p);
    cr_expect_eq(kve_prompts_held_match(&p, all, 5), 0, "given back");
}

/* Of a prompt its end goes first, as its beginning serves more; of two prompts the older. */
Test(prompts, the_least_recently_used_end_is_forgotten_first)
{
    const uint64_t a[4] = {1, 2, 3, 4}, b[3] = {11, 12, 13};
    struct kve_prompts_held p = {0};

    kve_prompts_held_limit(&p, 5);
    kve_prompts_held_add(&p, a, 4);
    kve_prompts_held_add(&p, b, 3);
    cr_expect_eq(kve_prompts_held_match(&p, a, 4), 2);
    cr_expect_eq(kve_prompts_held_match(&p, b, 3), 3);
    kve_prompts_held_add(&p, a, 2);
    kve_prompts_held_limit(&p, 3);
    cr_expect_eq(kve_prompts_held_match(&p, a, 4), 2, "used again, so newer than b");
    cr_expect_eq(kve_prompts_held_match(&p, b, 3), 1);
    kve_prompts_held_limit(&p, 0);
    cr_expect_eq(p.count, 0);
    kve_prompts_held_free(&p);
}

enum {
    IDS = 300,
    LIMIT = 50,
    ROUNDS = 20000,
};

/* Beside a list that is kept by moving everything. */
Test(prompts, equals_a_plain_list_over_many_random_steps)
{
    uint64_t list[IDS]; /* newest first */
    uint32_t n = 0, limit = LIMIT;
    struct kve_prompts_held p = {0};

    srand(7);
    kve_prompts_held_limit(&p, limit);
    for (uint32_t round = 0; round < ROUNDS; ++round) {
        /* Many ids share their low bits, so that buckets collide. */
        const uint64_t id = (uint64_t)(rand() % IDS) << (rand() % 2 ? 0 : 32);
        uint32_t at = 0;

        if (rand() % 100 == 0) {
            limit = 1 + (uint32_t)rand() % LIMIT;
            kve_prompts_held_limit(&p, limit);
            n = n < limit ? n : limit;
        }
        while (at < n && list[at] != id)
            ++at;
        cr_assert_eq(kve_prompts_held_match(&p, &id, 1), at < n, "round %u", round);
        if (at == n)
            n = n < limit ? n + 1 : limit;
        for (at = at < n ? at : n - 1; at > 0; --at)
            list[at] = list[at - 1];
        list[0] = id;
        kve_prompts_held_add(&p, &id, 1);
        cr_assert_eq(p.count, n, "round %u", round);
    }
    kve_prompts_held_free(&p);
}
