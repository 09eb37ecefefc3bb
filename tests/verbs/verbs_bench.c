/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_bench MODE SENDER LISTENER [VALUE...]: the verbs transport between two processes (asleep
 * when idle, but for lat), to stand beside perftest. A and B are local addresses as kvn_open()
 * takes them, B with a port.
 *
 *   bw BYTES PUTS        goodput of PUTS puts of BYTES, after two rounds of their places, "MB/s"
 *   lat BYTES ROUNDS     half the round trip of a put answered by a put, median "us"
 *   gather BLOCKS        4 KiB blocks at random, 64 gathered into a put, "MB/s" and work requests
 *   blocks BLOCKS        the same blocks, one put each
 *
 * KVW_BENCH_CPUS="S,L" in the environment keeps the sender on CPU S and the listener on CPU L.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "../../kvwire/wire.h"
#include "../../net/verbs/verbs.h"
#include "bench_side.h"

#define BLOCK 4096u
#define GROUP 64u
#define SLOTS 16u /* landing slots of a put's size that bw goes round */

/* MB/s of bytes in all, when each of puts has its PUT_DONE. */
static void report_rate(uint64_t begin, uint64_t bytes, uint64_t puts)
{
    struct kvn_verbs_counters c;

    while (me.done < puts && !me.down)
        step();
    const double s = (double)(now_ns() - begin) / 1e9;
    if (me.down || me.failed > 0)
        die("a put failed");
    kvn_verbs_counters(me.t, &c);
    printf("MB/s=%.2f writes=%llu sends=%llu doorbells=%llu signalled=%llu copied=%llu\n",
           (double)bytes / 1e6 / s, (unsigned long long)c.writes, (unsigned long long)c.sends,
           (unsigned long long)c.doorbells, (unsigned long long)c.signalled,
           (unsigned long long)c.copied_bytes);
}

static void put_all(uint32_t bytes, uint64_t puts)
{
    for (uint64_t n = 0; n < puts && !me.down;) {
        const uint64_t at = n % SLOTS * bytes;

        if (put(at, me.source + at, bytes, (uint32_t)n) == KVW_OK)
            ++n;
        else
            step();
        if (n % 8 == 0)
            step();
    }
}

static void bw(uint32_t bytes, uint64_t puts)
{
    uint64_t begin;

    put_all(bytes, 2 * SLOTS); /* each queue pair learns the places */
    while (me.done < 2 * SLOTS && !me.down)
        step();
    me.done = 0;
    begin = now_ns();
    put_all(bytes, puts);
    report_rate(begin, puts * bytes, puts);
}

static void blocks(uint64_t count, bool gather)
{
    const uint64_t begin = now_ns();
    uint8_t *stage = me.source + REGION - STAGES * GROUP * BLOCK;
    const uint32_t pool = (REGION - STAGES * GROUP * BLOCK) / BLOCK;
    uint64_t puts = 0, seed = 1;

    memset(me.free_stage, 1, sizeof(me.free_stage));
    for (uint64_t n = 0; n < count && !me.down;) {
        uint8_t *to = stage + puts % STAGES * GROUP * BLOCK;
        uint32_t take = gather ? (count - n < GROUP ? (uint32_t)(count - n) : GROUP) : 1;

        if (!gather) {
            const uint64_t at =
                ((seed * 6364136223846793005ull + 1442695040888963407ull) >> 33) % pool;

            if (put(at * BLOCK, me.source + at * BLOCK, BLOCK, (uint32_t)puts) == KVW_OK) {
                seed = seed * 6364136223846793005ull + 1442695040888963407ull;
                ++puts;
                ++n;
            } else {
                step();
            }
            if (puts % 8 == 0)
                step();
            continue;
        }
        while (!me.free_stage[puts % STAGES] && !me.down)
            step();
        me.free_stage[puts % STAGES] = 0;
        for (uint32_t i = 0; i < take; ++i) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            memcpy(to + (size_t)i * BLOCK, me.source + (seed >> 33) % pool * BLOCK, BLOCK);
        }
        while (put(puts % STAGES * GROUP * BLOCK, to, take * BLOCK, (uint32_t)puts) != KVW_OK)
            step();
        step();
        ++puts;
        n += take;
    }
    report_rate(begin, count * BLOCK, puts);
}

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static void lat(uint32_t bytes, uint32_t rounds)
{
    uint32_t *ns = calloc(rounds, sizeof(ns[0]));

    for (uint32_t n = 0; ns != NULL && n < rounds && !me.down; ++n) {
        const uint64_t begin = now_ns();

        if (put(0, me.source, bytes, n) != KVW_OK)
            die("put");
        while (me.landed <= n && !me.down)
            step();
        ns[n] = (uint32_t)((now_ns() - begin) / 2);
    }
    if (ns == NULL || me.down)
        die("lat");
    qsort(ns, rounds, sizeof(ns[0]), by_value);
    printf("us=%.2f p99=%.2f\n", ns[rounds / 2] / 1e3, ns[rounds * 99ull / 100] / 1e3);
    free(ns);
}

int main(int argc, char **argv)
{
    pid_t child;
    bool lat_mode;

    if (argc < 5)
        die("usage: verbs_bench bw|lat|gather|blocks SENDER LISTENER:PORT VALUE...");
    lat_mode = strcmp(argv[1], "lat") == 0;
    me.bytes = lat_mode || strcmp(argv[1], "bw") == 0 ? SLOTS * KVW_PUT_BYTES_MAX : REGION;
    child = listener(argv[3], lat_mode, -1);
    me.sleeps = !lat_mode;
    open_side(argv[2], false);
    join(argv[3]);
    if (strcmp(argv[1], "bw") == 0 && argc > 5 && (uint32_t)atoi(argv[4]) <= KVW_PUT_BYTES_MAX)
        bw((uint32_t)atoi(argv[4]), (uint64_t)atoll(argv[5]));
    else if (lat_mode && argc > 5)
        lat((uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]));
    else
        blocks((uint64_t)atoll(argv[4]), strcmp(argv[1], "gather") == 0);
    me.t->ops->close(me.t);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
