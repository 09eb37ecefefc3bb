/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV from one GPU's memory into another's, between a prefill and a decode node in two processes, on
 * the stand-in: kernels encode out of VRAM into pinned slots and decode out of pinned slots into
 * VRAM, by udp and by dpdk; or encode straight into the peer's VRAM, handed over by a descriptor,
 * while headers alone go by udp. Layers are ordered by events alone. Without each of the two orders
 * some bytes differ; a CPU that touches VRAM dies; a node that loses its peer gives all back.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvwire/node.h"
#include "side.h"

static char folder[64], address[32], link_path[80];

/* A port that nobody has now. */
static void choose_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof(at);
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);

    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    close(fd);
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(at.sin_port));
}

static void begin(void)
{
    char path[128];

    strcpy(folder, "/tmp/kvwire-pair-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/libkvwire-cuda.so", folder);
    cr_assert_eq(symlink(FAKEPLUGIN, path), 0);
    setenv("KVWIRE_PLUGINS", folder, 1);
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    choose_port();
    snprintf(link_path, sizeof(link_path), "%s/link.sock", folder);
}

static void end(void)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/libkvwire-cuda.so", folder);
    unlink(path);
    unlink(link_path);
    snprintf(path, sizeof(path), "%s.lock", link_path);
    unlink(path);
    cr_expect_eq(rmdir(folder), 0, "something is left in %s", folder);
}

TestSuite(gpu_pair, .init = begin, .fini = end, .timeout = 300);

static pid_t start(int (*side)(const struct side_args *), const struct side_args *a)
{
    const pid_t child = fork();

    if (child == 0)
        _exit(side(a));
    return child;
}

static int outcome(pid_t child)
{
    int status = -1;

    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

struct pair {
    struct side_args p, d;
};

static struct pair pair_of(unsigned seed)
{
    return (struct pair){
        .p = {"udp", "127.0.0.1:0", address, seed, .tell = -1},
        .d = {"udp", address, NULL, seed + 100, .tell = -1},
    };
}

/* Over udp, streams by twins. */
static struct pair pair_by_twins(unsigned seed)
{
    struct pair pair = pair_of(seed);

    pair.p.twins = pair.d.twins = true;
    return pair;
}

static bool has_dpdk(void)
{
    return strstr(kvw_features(), "dpdk") != NULL;
}

/* Over the same-host link of DPDK, whose ends are the path of a socket. */
static struct pair pair_by_dpdk(unsigned seed)
{
    return (struct pair){
        .p = {"dpdk", link_path, NULL, seed, .tell = -1},
        .d = {"dpdk", link_path, NULL, seed + 100, .tell = -1},
    };
}

/* Both to their ends; prefill has to end well. Decode's outcome. */
static int run(const struct pair *pair)
{
    const pid_t d = start(side_decode, &pair->d), p = start(side_prefill, &pair->p);
    const int of_decode = outcome(d), of_prefill = outcome(p);

    if (of_decode == 0 || of_decode == SIDE_BYTES_DIFFER)
        cr_expect_eq(of_prefill, 0, "%d", of_prefill);
    return of_decode;
}

Test(gpu_pair, bytes_are_equal)
{
    for (unsigned seed = 1; seed <= 3; ++seed) {
        const struct pair pair = pair_of(seed);

        const int step = run(&pair);

        cr_expect_eq(step, 0, "seed %u: %d", seed, step);
    }
}

/* Out of VRAM into pinned slots, from there through rings of DPDK, and back. */
Test(gpu_pair, bytes_are_equal_by_dpdk)
{
    if (!has_dpdk())
        cr_skip_test("this build has no DPDK");
    for (unsigned seed = 21; seed <= 22; ++seed) {
        const struct pair pair = pair_by_dpdk(seed);
        const int step = run(&pair);

        cr_expect_eq(step, 0, "seed %u: %d", seed, step);
    }
}

static void equal_by_twins(bool chosen, bool into_host)
{
    for (unsigned seed = 31; seed <= 32; ++seed) {
        struct pair pair = pair_by_twins(seed);

        pair.p.chosen = pair.d.chosen = chosen;
        pair.d.into_host = into_host;

        const int step = run(&pair);

        cr_expect_eq(step, 0, "seed %u: %d", seed, step);
    }
}

/* Kernels of one process write into VRAM of the other; no stream crosses the transport. */
Test(gpu_pair, bytes_are_equal_by_twins_over)
{
    equal_by_twins(false, false);
}

/* Raw, if nobody names a codec: there is no wire to be saved. */
Test(gpu_pair, twins_choose_raw)
{
    equal_by_twins(true, false);
}

/* A pool in host memory: what came in VRAM is copied out for the CPU. */
Test(gpu_pair, twins_and_a_pool_in_host_memory)
{
    equal_by_twins(false, true);
}

/* The control of each order: without it some bytes differ under one of a few orders. */
static void expect_order(struct pair (*pair_of_seed)(unsigned), bool prefill)
{
    int last = 0;

    for (unsigned seed = 1; seed <= 8 && last == 0; ++seed) {
        struct pair pair = pair_of_seed(seed);

        (prefill ? &pair.p : &pair.d)->unordered = true;
        last = run(&pair);
    }
    cr_expect_eq(last, SIDE_BYTES_DIFFER, "%s: %d", prefill ? "prefill" : "decode", last);
}

Test(gpu_pair, prefill_must_push_after)
{
    expect_order(pair_of, true);
    expect_order(pair_by_twins, true);
    if (has_dpdk())
        expect_order(pair_by_dpdk, true);
}

Test(gpu_pair, decode_must_wait_for_layers)
{
    expect_order(pair_of, false);
    expect_order(pair_by_twins, false);
    if (has_dpdk())
        expect_order(pair_by_dpdk, false);
}

/* What makes the tests above say something: a CPU can't read VRAM, and a node that took it for host
 * memory would die of it. */
static int touch(const struct side_args *a)
{
    (void)a;
    return side_touch();
}

Test(gpu_pair, a_cpu_touch_is_fatal)
{
    struct pair pair = pair_of(1);

    cr_expect_eq(outcome(start(touch, &pair.p)), -SIGSEGV);
    pair.p.stop = SIDE_HOST_POOL;
    const pid_t d = start(side_decode, &pair.d);

    cr_expect_eq(outcome(start(side_prefill, &pair.p)), -SIGSEGV);
    kill(d, SIGKILL);
    (void)outcome(d);
}

/* One is killed between two layers, with kill -9. The other's transfer fails, and when its node is
 * closed all device memory, events and descriptors are back. */
static bool kill_one(struct pair pair, bool prefill)
{
    struct side_args *dies = prefill ? &pair.p : &pair.d, *lives = prefill ? &pair.d : &pair.p;
    int told[2];
    char byte;
    bool stopped;

    cr_assert_eq(pipe(told), 0);
    dies->stop = SIDE_STOPS;
    dies->tell = told[1];
    lives->stop = SIDE_SURVIVES;
    const pid_t d = start(side_decode, &pair.d), p = start(side_prefill, &pair.p);

    close(told[1]);
    stopped = read(told[0], &byte, 1) == 1; /* else they have lost each other before that */
    close(told[0]);
    kill(prefill ? p : d, SIGKILL);
    if (!stopped)
        kill(prefill ? d : p, SIGKILL);

    const int killed = outcome(prefill ? p : d), other = outcome(prefill ? d : p);

    if (stopped) {
        cr_expect_eq(killed, -SIGKILL);
        cr_expect_eq(other, 0, "the other one fails a step: %d", other);
    }
    return stopped;
}

static void kill_each(struct pair (*pair_of_seed)(unsigned))
{
    cr_expect(kill_one(pair_of_seed(5), true), "prefill never got to its second layer");
    cr_expect(kill_one(pair_of_seed(6), false), "decode never got to its second layer");
}

Test(gpu_pair, one_is_killed)
{
    kill_each(pair_of);
}

Test(gpu_pair, one_is_killed_by_twins)
{
    kill_each(pair_by_twins);
}

Test(gpu_pair, one_is_killed_by_dpdk)
{
    if (!has_dpdk())
        cr_skip_test("this build has no DPDK");
    kill_each(pair_by_dpdk);
}

static void *prefill_thread(void *arg)
{
    static int step;

    step = side_prefill(arg);
    return &step;
}

/* By loop: both nodes in one process, with queues of their own on one GPU. */
Test(gpu_pair, by_loop)
{
    struct pair pair = pair_of(9);
    pthread_t thread;
    void *step;

    pair.p = (struct side_args){"loop", "pair", NULL, 0, .shared = true, .tell = -1};
    pair.d = (struct side_args){"loop", "pair", NULL, 9, .shared = true, .tell = -1};
    cr_assert_eq(pthread_create(&thread, NULL, prefill_thread, &pair.p), 0);
    cr_expect_eq(side_decode(&pair.d), 0);
    pthread_join(thread, &step);
    cr_expect_eq(*(int *)step, 0);
}
