/* SPDX-License-Identifier: Apache-2.0 */
#include "encode.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct worker {
    struct kvw_encoders *pool;
    pthread_t thread;
    void *scratch;
};

struct kvw_encoders {
    struct kvw_jobs base;
    pid_t pid; /* that has the threads: a child of fork() has none */
    struct kvw_clock clock;
    void (*wake)(void *arg);
    void *wake_arg;
    uint32_t threads; /* running */
    struct worker workers[KVW_ENCODERS_MAX];

    pthread_mutex_t mutex; /* guards what follows and every change of a job's state */
    pthread_cond_t work;   /* something was queued, or stop */
    pthread_cond_t idle;   /* a job became DONE */
    bool stop;
    uint32_t head, count, max;
    struct kvw_job *queue[]; /* max; NULL: dropped */
};

static void run(struct kvw_job *j, void *scratch, const struct kvw_clock *clock)
{
    const uint64_t begin = clock->now_ns != NULL ? clock->now_ns(clock->arg) : 0;
    struct kvw_digest digest;

    j->err = kvw_digest_begin_chunk(&digest, j->digest, &j->view);
    if (j->err == KVW_OK && j->kind == KVW_JOB_DECODE)
        j->err =
            j->codec->decode(j->from, j->stream_bytes, j->args.book, &j->view, &digest, scratch);
    else if (j->err == KVW_OK)
        j->err = j->codec->encode(&j->view, &j->args, j->to, j->to_bytes, &j->stream_bytes, &digest,
                                  scratch);
    if (j->err == KVW_OK)
        j->digest_value = kvw_digest_value(&digest);
    j->ns = clock->now_ns != NULL ? clock->now_ns(clock->arg) - begin : 0;
}

void kvw_job_run(struct kvw_job *j, void *scratch, const struct kvw_clock *clock)
{
    run(j, scratch, clock);
    kvw_job_set(j, KVW_JOB_DONE);
}

/* The oldest job that wasn't dropped, or NULL. The mutex is held. */
static struct kvw_job *next(struct kvw_encoders *e)
{
    struct kvw_job *j = NULL;

    while (j == NULL && e->count > 0) {
        j = e->queue[e->head];
        e->head = (e->head + 1) % e->max;
        --e->count;
    }
    return j;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct kvw_encoders *e = w->pool;

    pthread_mutex_lock(&e->mutex);
    while (!e->stop) {
        struct kvw_job *j = next(e);

        if (j == NULL) {
            pthread_cond_wait(&e->work, &e->mutex);
            continue;
        }
        kvw_job_set(j, KVW_JOB_RUNNING);
        pthread_mutex_unlock(&e->mutex);
        run(j, w->scratch, &e->clock);
        pthread_mutex_lock(&e->mutex);
        kvw_job_set(j, KVW_JOB_DONE);
        pthread_cond_broadcast(&e->idle);
        if (e->wake != NULL)
            e->wake(e->wake_arg);
    }
    pthread_mutex_unlock(&e->mutex);
    return NULL;
}

static const struct kvw_jobs_ops ops;

kvw_err kvw_encoders_open(struct kvw_encoders **out, uint32_t threads, uint32_t queue_max,
                          uint64_t scratch_bytes, const struct kvw_clock *clock,
                          void (*wake)(void *arg), void *wake_arg)
{
    struct kvw_encoders *e = calloc(1, sizeof(*e) + queue_max * sizeof(e->queue[0]));

    if (e == NULL)
        return KVW_E_NOMEM;
    e->base.ops = &ops;
    e->pid = getpid();
    e->clock = *clock;
    e->wake = wake;
    e->wake_arg = wake_arg;
    e->max = queue_max;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->idle, NULL);
    for (uint32_t i = 0; i < threads; ++i) {
        struct worker *w = &e->workers[i];

        w->pool = e;
        w->scratch = aligned_alloc(64, (scratch_bytes + 64) / 64 * 64);
        if (w->scratch == NULL || pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            free(w->scratch);
            kvw_encoders_close(e);
            return KVW_E_NOMEM;
        }
        ++e->threads;
    }
    *out = e;
    return KVW_OK;
}

void kvw_encoders_close(struct kvw_encoders *e)
{
    if (e == NULL || e->pid != getpid())
        return;
    pthread_mutex_lock(&e->mutex);
    e->stop = true;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->mutex);
    for (uint32_t i = 0; i < e->threads; ++i) {
        pthread_join(e->workers[i].thread, NULL);
        free(e->workers[i].scratch);
    }
    pthread_cond_destroy(&e->idle);
    pthread_cond_destroy(&e->work);
    pthread_mutex_destroy(&e->mutex);
    free(e);
}

kvw_err kvw_encoders_submit(struct kvw_encoders *e, struct kvw_job *j)
{
    kvw_err err = KVW_E_AGAIN;

    pthread_mutex_lock(&e->mutex);
    if (e->count < e->max) {
        kvw_job_set(j, KVW_JOB_QUEUED);
        e->queue[(e->head + e->count++) % e->max] = j;
        pthread_cond_signal(&e->work);
        err = KVW_OK;
    }
    pthread_mutex_unlock(&e->mutex);
    return err;
}

void kvw_encoders_drop(struct kvw_encoders *e, struct kvw_job *j)
{
    pthread_mutex_lock(&e->mutex);
    for (uint32_t i = 0; i < e->count; ++i) {
        struct kvw_job **at = &e->queue[(e->head + i) % e->max];

        if (*at == j)
            *at = NULL;
    }
    if (kvw_job_state_of(j) == KVW_JOB_QUEUED)
        kvw_job_set(j, KVW_JOB_IDLE);
    while (kvw_job_state_of(j) == KVW_JOB_RUNNING)
        pthread_cond_wait(&e->idle, &e->mutex);
    pthread_mutex_unlock(&e->mutex);
}

/* ---- by the table of job.h ------------------------------------------------------------------- */

static struct kvw_encoders *of(struct kvw_jobs *q)
{
    return (struct kvw_encoders *)(void *)q;
}

static kvw_err submit(struct kvw_jobs *q, struct kvw_job *j)
{
    return kvw_encoders_submit(of(q), j);
}

static void flush(struct kvw_jobs *q)
{
    (void)q; /* a job begins when a thread is free */
}

static bool done(struct kvw_jobs *q, struct kvw_job *j)
{
    (void)q;
    return kvw_job_done(j);
}

static void drop(struct kvw_jobs *q, struct kvw_job *j)
{
    kvw_encoders_drop(of(q), j);
}

static void close_queue(struct kvw_jobs *q)
{
    kvw_encoders_close(of(q));
}

static const struct kvw_jobs_ops ops = {
    .submit = submit,
    .flush = flush,
    .done = done,
    .drop = drop,
    .close = close_queue,
};

struct kvw_jobs *kvw_encoders_jobs(struct kvw_encoders *e)
{
    return &e->base;
}
