/* SPDX-License-Identifier: Apache-2.0 */
/* sim_world FIRST COUNT [OFF]: live COUNT seeds from FIRST on; those that break a promise are
 * printed, with the faults that they need. KVN_WORLD=hash prints what each run came to,
 * KVN_WORLD_TIME=1 the seconds of CPU as perf/budgets.csv wants them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

static struct t_world world;

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(uint64_t seed, uint32_t off)
{
    char failed[sizeof(world.failed)];

    memcpy(failed, world.failed, sizeof(failed));
    if (off == 0)
        off = t_world_shrink(&world, seed);
    printf("FAILED seed %llu: %s\n  smallest: off %#x: %s\n  with:", (unsigned long long)seed,
           failed, off, world.failed);
    for (uint32_t i = 0; i < T_FAULTS; ++i)
        if (world.may[i])
            printf(" %s", t_fault_name[i]);
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    const uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    const uint32_t off = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 0) : 0;
    const bool hashes = getenv("KVN_WORLD") != NULL;
    uint64_t failed = 0, packets = 0, puts = 0, msgs = 0, downs = 0;
    const double began = seconds();

    for (uint64_t seed = first; seed < first + count; ++seed) {
        const bool ok = t_world_run(&world, seed, off);

        packets += world.packets;
        puts += world.puts;
        msgs += world.msgs;
        downs += world.downs;
        if (hashes)
            printf("%llu %016llx\n", (unsigned long long)seed, (unsigned long long)world.hash);
        if (!ok) {
            ++failed;
            report(seed, off);
        }
    }
    printf("%llu seeds from %llu, %llu failed; %llu packets, %llu puts, %llu messages, %llu "
           "connections fell; %.1f s of CPU\n",
           (unsigned long long)count, (unsigned long long)first, (unsigned long long)failed,
           (unsigned long long)packets, (unsigned long long)puts, (unsigned long long)msgs,
           (unsigned long long)downs, seconds() - began);
    if (getenv("KVN_WORLD_TIME") != NULL)
        printf("RESULT %.2f\n", failed == 0 ? seconds() - began : 1e9);
    return failed > 0;
}
