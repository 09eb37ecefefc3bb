/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_bench MODE SENDER LISTENER [VALUE...]: the verbs transport between two processes (asleep
 * when idle, but for lat), to stand beside perftest. A and B are local addresses as kvn_open()
 * takes them, B with a port.
 *
 *   bw BYTES PUTS        goodput of PUTS puts of BYTES, "MB/s"
 *   lat BYTES ROUNDS     half the round trip of a put answered by a put, median "us"
 *   gather BLOCKS        4 KiB blocks at random, 64 gathered into a put, "MB/s" and work requests
 *   blocks BLOCKS        the same blocks, one put each
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../kvwire/wire.h"
#include "../../net/net.h"
#include "../../net/verbs/verbs.h"

#define REGION     (64u << 20)
#define BLOCK      4096u
#define GROUP      64u
#define STAGES     16u
#define GIVE_UP_NS 60000000000ull

struct side {
    struct kvw_transport *t;
    kvw_conn_id conn;
    bool up, down, key_known;
    uint64_t landed, done, failed;
    struct kvw_region_key mine, peer;
    uint8_t *region, *source;
};

static struct side me;
static uint8_t free_stage[STAGES];
static bool echo, sleeps;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "verbs_bench: %s\n", what);
    _exit(1);
}

static kvw_err put(uint64_t offset, const void *from, uint32_t bytes, uint32_t n)
{
    const struct kvw_put p = {.key = me.peer,
                              .offset = offset,
                              .iov = {{from, bytes}},
                              .iov_count = 1,
                              .imm = n,
                              .cookie = n};
    const kvw_err err = me.t->ops->put(me.t, me.conn, &p);

    if (err != KVW_OK && err != KVW_E_AGAIN)
        die(kvw_strerror(err));
    return err;
}

static void step(void)
{
    struct kvw_transport_event ev[32];
    const uint32_t n = me.t->ops->poll(me.t, now_ns(), ev, 32);

    if (n == 0 && sleeps)
        me.t->ops->wait(me.t, me.t->ops->deadline_ns(me.t), -1);
    for (uint32_t i = 0; i < n; ++i) {
        if (ev[i].kind == KVW_TEV_CONN_UP) {
            me.up = true;
            me.conn = ev[i].conn;
        } else if (ev[i].kind == KVW_TEV_CONN_DOWN) {
            if (ev[i].err != KVW_E_PEER_LOST)
                fprintf(stderr, "verbs_bench: %s\n", ev[i].text);
            me.down = true;
        } else if (ev[i].kind == KVW_TEV_MESSAGE && ev[i].bytes == sizeof(me.peer)) {
            memcpy(&me.peer, ev[i].msg, sizeof(me.peer));
            me.key_known = true;
        } else if (ev[i].kind == KVW_TEV_PUT_LANDED) {
            ++me.landed;
            if (echo)
                (void)put(ev[i].offset, me.source, ev[i].bytes, ev[i].imm);
        } else if (ev[i].kind == KVW_TEV_PUT_DONE) {
            ++me.done;
            me.failed += ev[i].err != KVW_OK;
            free_stage[ev[i].cookie % STAGES] = 1;
        }
    }
}

static void open_side(const char *local, bool listener)
{
    const struct kvn_config cfg = {.local = local, .listener = listener};
    char why[KVN_WHY_BYTES];
    struct kvw_mem mem = {.bytes = REGION, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};

    if (kvn_open(&me.t, "verbs", &cfg, why) != KVW_OK)
        die(why);
    me.region = mmap(NULL, 2 * (size_t)REGION, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (me.region == MAP_FAILED)
        die("no memory");
    me.source = me.region + REGION;
    for (uint32_t i = 0; i < REGION; i += 64)
        me.source[i] = (uint8_t)(i >> 6);
    mem.base = me.region;
    if (me.t->ops->region_add(me.t, &mem, NULL, NULL, &me.mine) != KVW_OK)
        die(kvn_verbs_about(me.t));
    mem.base = me.source;
    if (me.t->ops->source_add(me.t, &mem) != KVW_OK)
        die(kvn_verbs_about(me.t));
}

static void swap_keys(void)
{
    const uint64_t end = now_ns() + GIVE_UP_NS;

    while (!me.up && !me.down && now_ns() < end)
        step();
    if (!me.up || me.t->ops->send(me.t, me.conn, &me.mine, sizeof(me.mine)) != KVW_OK)
        die("not joined");
    while (!me.key_known && !me.down && now_ns() < end)
        step();
}

static void listener(const char *local, bool answers)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_side(local, true);
    if (me.t->ops->listen(me.t) != KVW_OK)
        die("listen");
    swap_keys();
    echo = answers;
    while (!me.down)
        step();
    me.t->ops->close(me.t);
    _exit(0);
}

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

static void bw(uint32_t bytes, uint64_t puts)
{
    const uint32_t slots = REGION / bytes < 32 ? REGION / bytes : 32;
    const uint64_t begin = now_ns();

    for (uint64_t n = 0; n < puts && !me.down;) {
        const uint64_t at = n % slots * bytes;

        if (put(at, me.source + at, bytes, (uint32_t)n) == KVW_OK)
            ++n;
        else
            step();
        if (n % 8 == 0)
            step();
    }
    report_rate(begin, puts * bytes, puts);
}

static void blocks(uint64_t count, bool gather)
{
    const uint64_t begin = now_ns();
    uint8_t *stage = me.source + REGION - STAGES * GROUP * BLOCK;
    const uint32_t pool = (REGION - STAGES * GROUP * BLOCK) / BLOCK;
    uint64_t puts = 0, seed = 1;

    memset(free_stage, 1, sizeof(free_stage));
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
        while (!free_stage[puts % STAGES] && !me.down)
            step();
        free_stage[puts % STAGES] = 0;
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
    uint64_t end;
    pid_t child;

    if (argc < 5)
        die("usage: verbs_bench bw|lat|gather|blocks SENDER LISTENER:PORT VALUE...");
    sleeps = strcmp(argv[1], "lat") != 0;
    if ((child = fork()) == 0)
        listener(argv[3], strcmp(argv[1], "lat") == 0);
    open_side(argv[2], false);
    end = now_ns() + GIVE_UP_NS;
    do { /* until the listener is there */
        me.down = false;
        if (me.t->ops->connect(me.t, strtok(argv[3], ","), now_ns(), &me.conn) != KVW_OK)
            die("LISTENER is ADDR:PORT[,...]");
        while (!me.up && !me.down)
            step();
        if (me.down)
            usleep(50000);
    } while (!me.up && now_ns() < end);
    swap_keys();
    if (strcmp(argv[1], "bw") == 0 && argc > 5)
        bw((uint32_t)atoi(argv[4]), (uint64_t)atoll(argv[5]));
    else if (strcmp(argv[1], "lat") == 0 && argc > 5)
        lat((uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5]));
    else
        blocks((uint64_t)atoll(argv[4]), strcmp(argv[1], "gather") == 0);
    me.t->ops->close(me.t);
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}
