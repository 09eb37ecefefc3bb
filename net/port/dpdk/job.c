/* SPDX-License-Identifier: Apache-2.0 */
#include "job.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "eal.h"
#include "sock.h"

#define BREAK_EVERY_NS 20000000ull

/* Shared by the caller and the thread; the last one to leave frees it. */
struct job {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, left_behind;
    void (*fn)(void *arg);
    void *arg;
};

uint64_t kvn_dpdk_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct job *job_new(void (*fn)(void *arg), void *arg)
{
    struct job *j = calloc(1, sizeof(*j));
    pthread_condattr_t attr;

    if (j == NULL)
        return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->changed, &attr);
    pthread_condattr_destroy(&attr);
    j->fn = fn;
    j->arg = arg;
    return j;
}

static void job_free(struct job *j)
{
    pthread_cond_destroy(&j->changed);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

static void *job_main(void *arg)
{
    struct job *j = arg;
    bool left_behind;

    j->fn(j->arg);
    pthread_mutex_lock(&j->lock);
    j->done = true;
    left_behind = j->left_behind;
    pthread_cond_signal(&j->changed);
    pthread_mutex_unlock(&j->lock);
    if (left_behind)
        job_free(j);
    return NULL;
}

/* With j->lock held: wait until done or until_ns. */
static bool wait_done(struct job *j, uint64_t until_ns)
{
    const struct timespec ts = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                .tv_nsec = (long)(until_ns % 1000000000u)};

    while (!j->done)
        if (pthread_cond_timedwait(&j->changed, &j->lock, &ts) != 0)
            break;
    return j->done;
}

kvn_dpdk_job_end kvn_dpdk_job_run(void (*fn)(void *arg), void *arg, uint64_t until_ns,
                                  const char *break_path)
{
    struct job *j = job_new(fn, arg);
    kvn_dpdk_job_end end = KVN_DPDK_JOB_DONE;
    pthread_t thread;
    sigset_t before;
    int rc;

    if (j == NULL)
        return KVN_DPDK_JOB_NO_THREAD;
    kvn_dpdk_signals_block(&before); /* inherited */
    rc = pthread_create(&thread, NULL, job_main, j);
    kvn_dpdk_signals_restore(&before);
    if (rc != 0) {
        job_free(j);
        return KVN_DPDK_JOB_NO_THREAD;
    }

    pthread_mutex_lock(&j->lock);
    if (!wait_done(j, until_ns)) {
        const uint64_t give_up_ns = kvn_dpdk_now_ns() + KVN_DPDK_BREAK_NS;

        end = KVN_DPDK_JOB_ABANDONED;
        while (end == KVN_DPDK_JOB_ABANDONED && kvn_dpdk_now_ns() < give_up_ns) {
            kvn_dpdk_sock_break(break_path);
            if (wait_done(j, kvn_dpdk_now_ns() + BREAK_EVERY_NS))
                end = KVN_DPDK_JOB_BROKEN;
        }
        j->left_behind = end == KVN_DPDK_JOB_ABANDONED;
    }
    pthread_mutex_unlock(&j->lock);
    if (end == KVN_DPDK_JOB_ABANDONED) {
        pthread_detach(thread);
    } else {
        pthread_join(thread, NULL);
        job_free(j);
    }
    return end;
}
