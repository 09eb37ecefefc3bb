/* SPDX-License-Identifier: Apache-2.0 */
/* sim_speed [SENDERS]: millions of packets that the simulator and the protocol on both ends move in
 * a second of one core: one sender, or up to 16, to one receiver, slices of 8 KiB at 100 Gb/s, for
 * 20 ms; the best of fifteen, as other work shares the core. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "star.h"

static struct t_star star;

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    const int asked = argc > 1 ? atoi(argv[1]) : 1;
    const uint32_t senders = asked >= 1 && asked <= (int)T_STAR_MAX ? (uint32_t)asked : 1;
    double best = 0;

    for (uint64_t round = 1; round <= 15; ++round) {
        struct kvn_sim_stats before, after;
        double begin, rate;

        t_star_open(&star, round, senders, 2 * T_BDP, 0);
        for (uint32_t i = 0; i < senders; ++i)
            star.sender[i].sends = true;
        kvn_sim_stats(star.sim, &before);
        begin = seconds();
        t_star_run(&star, kvn_sim_now(star.sim) + 20000000);
        kvn_sim_stats(star.sim, &after);
        rate = (double)(after.delivered - before.delivered) / (seconds() - begin) / 1e6;
        printf("%llu packets, %.2f M/s\n", (unsigned long long)(after.delivered - before.delivered),
               rate);
        best = rate > best ? rate : best;
        t_star_close(&star);
    }
    printf("RESULT %.3f\n", best);
    return 0;
}
