/* SPDX-License-Identifier: Apache-2.0 */
/* A thousand random lives over the whole fault model keep every promise that world.h lists, and
 * each comes out the same when it is lived again. KVN_SIM_SEED=<n> runs one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "world.h"

#define SEEDS 1000u
#ifdef __SANITIZE_ADDRESS__
#define SECONDS_MAX 240 /* of CPU, for all of them; they take 35 on 2 x AMD EPYC */
#else
#define SECONDS_MAX 120 /* 5 */
#endif

static struct t_world world; /* big; each test has its own process */

static void run(uint64_t seed)
{
    if (t_world_run(&world, seed, 0))
        return;
    cr_assert(false, "sim_world %llu 1: %s", (unsigned long long)seed, world.failed);
}

/* Every other seed, so that the two halves take their time side by side. */
static void run_half(uint64_t first)
{
    const char *one = getenv("KVN_SIM_SEED");

    if (one != NULL) {
        run(strtoull(one, NULL, 10));
        return;
    }
    for (uint64_t seed = first; seed <= SEEDS; seed += 2)
        run(seed);
    printf("# %u lives: %.1f s of CPU\n", SEEDS / 2, (double)clock() / CLOCKS_PER_SEC);
    cr_expect_lt(clock(), SECONDS_MAX / 2 * (clock_t)CLOCKS_PER_SEC);
}

Test(world, odd_seeds, .timeout = 300)
{
    run_half(1);
}

Test(world, even_seeds, .timeout = 300)
{
    run_half(2);
}

Test(world, the_same_again, .timeout = 300)
{
    uint64_t hash[30];

    for (uint64_t seed = 0; seed < 30; ++seed) {
        run(seed);
        hash[seed] = world.hash;
    }
    for (uint64_t seed = 0; seed < 30; ++seed) {
        run(seed);
        cr_expect_eq(world.hash, hash[seed], "seed %llu differs", (unsigned long long)seed);
        cr_expect(seed == 0 || hash[seed] != hash[seed - 1]);
    }
}
