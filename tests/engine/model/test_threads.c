/* SPDX-License-Identifier: Apache-2.0 */
/* A pool calls each item of each step exactly once, whatever its workers are up to. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "../../../engine/model/threads.h"

enum {
    ITEMS = 64,
};

struct step {
    atomic_uint calls[ITEMS];
    atomic_uint foreign; /* items run by a worker number out of range */
    uint32_t threads;
};

static void count(void *arg, uint32_t item, uint32_t worker)
{
    struct step *s = arg;

    atomic_fetch_add(&s->calls[item], 1);
    atomic_fetch_add(&s->foreign, worker >= s->threads);
}

static atomic_uint begun;

static void begin(void)
{
    atomic_fetch_add(&begun, 1);
}

Test(threads, every_item_once)
{
    for (uint32_t threads = 1; threads <= 5; ++threads) {
        struct step s = {.threads = threads};
        struct kve_pool *p = NULL;

        cr_assert_eq(kve_pool_open(&p, threads, begin), KVW_OK);
        cr_assert_eq(kve_pool_threads(p), threads);
        for (uint32_t round = 1; round <= 2000; ++round) {
            const uint32_t items = round * 7 % (ITEMS + 1);

            for (uint32_t i = 0; i < ITEMS; ++i)
                atomic_store(&s.calls[i], 0);
            kve_pool_run(p, items, count, &s);
            for (uint32_t i = 0; i < ITEMS; ++i)
                cr_assert_eq(atomic_load(&s.calls[i]), i < items, "%u threads, round %u, item %u",
                             threads, round, i);
        }
        cr_assert_eq(atomic_load(&s.foreign), 0);
        kve_pool_close(p);
        cr_assert_leq(atomic_load(&begun), threads * (threads - 1) / 2);
    }
    cr_assert_eq(atomic_load(&begun), 10, "each new thread begins once");
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void together(void *arg, uint32_t item, uint32_t worker)
{
    (void)item, (void)worker;
    pthread_barrier_wait(arg);
}

static int64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Each item waits until four have begun: with a worker left asleep the run never ends. */
Test(threads, sleepers_wake, .timeout = 60)
{
    struct kve_pool *p = NULL;
    pthread_barrier_t four;

    cr_assert_eq(pthread_barrier_init(&four, NULL, 4), 0);
    cr_assert_eq(kve_pool_open(&p, 4, NULL), KVW_OK);
    for (int round = 0; round < 5; ++round) {
        sleep_ms(20); /* longer than anyone spins */
        kve_pool_run(p, 8, together, &four);
    }
    kve_pool_close(p);
    pthread_barrier_destroy(&four);
}

Test(threads, idle_workers_take_no_time)
{
    struct kve_pool *p = NULL;
    int64_t used;

    cr_assert_eq(kve_pool_open(&p, 3, NULL), KVW_OK);
    sleep_ms(20); /* longer than anyone spins */
    used = -cpu_ns();
    sleep_ms(300);
    used += cpu_ns();
    cr_assert_lt(used, 100000000, "%lld ns", (long long)used);
    kve_pool_close(p);
}

Test(threads, arguments)
{
    struct kve_pool *p = NULL;

    cr_assert_eq(kve_pool_open(&p, 0, NULL), KVW_E_INVALID);
    cr_assert_eq(kve_pool_open(&p, KVE_THREADS_MAX + 1, NULL), KVW_E_INVALID);
    cr_assert_null(p);
    kve_pool_close(NULL);
}
