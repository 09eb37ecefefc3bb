/* SPDX-License-Identifier: Apache-2.0 */
/* threads.c - the workers of a forward pass: they take items of a step, and sleep between. */
#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* About two hand-overs between cores of a virtual machine: long enough to catch the next step of
 * the same token, short enough that a process on the same core loses little by it. */
#define SPIN_NS 20000

struct worker {
    struct kve_pool *pool;
    pthread_t thread;
    uint32_t index;
};

/*
 * One step: run() writes fn, arg, items and done, then stores left = items. Whoever moves left from
 * n to n-1 owns item n-1, and the step can't end before that item has been counted in done; so fn
 * and arg are read only after such a move and never change under a reader. A worker that was late
 * for one step and takes an item of the next does no harm.
 */
struct kve_pool {
    _Atomic uint32_t left;     /* items that nobody has taken; idle workers sleep on it while 0 */
    _Atomic uint32_t sleepers; /* workers in, or about to enter, the futex on left */
    _Atomic uint32_t done;     /* items that have returned; run() sleeps on it */
    _Atomic uint32_t waiting;  /* run() is in, or about to enter, the futex on done */
    _Atomic bool stop;
    kve_item_fn fn;
    void *arg;
    uint32_t items;
    uint32_t threads;
    long spin_ns;
    void (*begin)(void);
    struct worker *workers; /* threads - 1 */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t while_value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* Wait a little for *word to differ from value; false when the time is over. */
static bool spin_while(const struct kve_pool *p, _Atomic uint32_t *word, uint32_t value)
{
    if (p->spin_ns == 0)
        return atomic_load_explicit(word, memory_order_acquire) != value;

    const long end = now_ns() + p->spin_ns;

    do {
        for (int i = 0; i < 16; ++i) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                return true;
            relax();
        }
    } while (now_ns() < end);
    return false;
}

/* Take and run items until none is left. */
static void work(struct kve_pool *p, uint32_t worker)
{
    uint32_t left = atomic_load_explicit(&p->left, memory_order_acquire);

    while (left > 0 && !atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        if (!atomic_compare_exchange_weak_explicit(&p->left, &left, left - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        const uint32_t items = p->items; /* before done: after it, the next step may begin */

        p->fn(p->arg, left - 1, worker);
        /* Both sequentially consistent: either run() sees this item, or we see that it waits. */
        if (atomic_fetch_add(&p->done, 1) + 1 == items && atomic_load(&p->waiting) != 0)
            futex_wake(&p->done, 1);
        left = atomic_load_explicit(&p->left, memory_order_acquire);
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct kve_pool *p = w->pool;

    if (p->begin != NULL)
        p->begin();
    while (!atomic_load_explicit(&p->stop, memory_order_acquire)) {
        work(p, w->index);
        if (spin_while(p, &p->left, 0))
            continue;
        /* Pairs with run(): either it sees a sleeper, or the futex sees that left isn't 0. */
        atomic_fetch_add(&p->sleepers, 1);
        futex_wait(&p->left, 0);
        atomic_fetch_sub(&p->sleepers, 1);
    }
    return NULL;
}

void kve_pool_run(struct kve_pool *p, uint32_t items, kve_item_fn fn, void *arg)
{
    if (items == 0)
        return;
    if (p->threads == 1 || items == 1) {
        for (uint32_t i = items; i > 0; --i)
            fn(arg, i - 1, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->items = items;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store(&p->left, items);

    const uint32_t sleepers = atomic_load(&p->sleepers);

    if (sleepers > 0)
        futex_wake(&p->left, sleepers < items - 1 ? sleepers : items - 1);
    work(p, 0);

    uint32_t done = atomic_load_explicit(&p->done, memory_order_acquire);

    while (done < items) {
        if (!spin_while(p, &p->done, done)) {
            atomic_store(&p->waiting, 1);
            done = atomic_load(&p->done);
            if (done < items)
                futex_wait(&p->done, done);
            atomic_store(&p->waiting, 0);
        }
        done = atomic_load_explicit(&p->done, memory_order_acquire);
    }
}

static void stop_workers(struct kve_pool *p, uint32_t count)
{
    atomic_store(&p->stop, true);
    atomic_store(&p->left, 1); /* nobody takes it: stop is looked at first */
    futex_wake(&p->left, KVE_THREADS_MAX);
    for (uint32_t i = 0; i < count; ++i)
        pthread_join(p->workers[i].thread, NULL);
}

static bool cores_suffice(uint32_t threads)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 && (uint32_t)CPU_COUNT(&set) >= threads;
}

kvw_err kve_pool_open(struct kve_pool **out, uint32_t threads, void (*begin)(void))
{
    if (threads == 0 || threads > KVE_THREADS_MAX)
        return KVW_E_INVALID;

    struct kve_pool *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return KVW_E_NOMEM;
    p->threads = threads;
    p->begin = begin;
    p->spin_ns = cores_suffice(threads) ? SPIN_NS : 0;
    p->workers = calloc(threads, sizeof(*p->workers));
    if (p->workers == NULL)
        goto free_pool;
    for (uint32_t i = 0; i + 1 < threads; ++i) {
        p->workers[i] = (struct worker){.pool = p, .index = i + 1};
        if (pthread_create(&p->workers[i].thread, NULL, worker_main, &p->workers[i]) != 0) {
            stop_workers(p, i);
            goto free_workers;
        }
    }
    *out = p;
    return KVW_OK;

free_workers:
    free(p->workers);
free_pool:
    free(p);
    return KVW_E_NOMEM;
}

void kve_pool_close(struct kve_pool *p)
{
    if (p == NULL)
        return;
    stop_workers(p, p->threads - 1);
    free(p->workers);
    free(p);
}

uint32_t kve_pool_threads(const struct kve_pool *p)
{
    return p->threads;
}
