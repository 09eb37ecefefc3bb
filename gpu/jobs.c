/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs.c - a queue of chunks for one GPU.
 *
 * What kernels read of a launch (descriptors) and work with (states) lies in rings, so that those
 * of one launch lie side by side. At most jobs_max of what has been launched hasn't ended, and as
 * much again may have ended of the launch that runs now; with what is skipped where a ring ends,
 * that is less than 4 * jobs_max entries. All else is a slot's.
 */
#include "jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "e.h"
#include "kernels.h"
#include "l0.h"

#define RINGS       4u
#define TICKET      16u /* bytes before each state; of a launch, the first's is used */
#define CTAS_A_PROC 4u  /* a multiprocessor has room for so many */

enum slot_state { SLOT_FREE = 0, SLOT_PENDING, SLOT_LAUNCHED };

struct slot {
    enum slot_state state;
    uint32_t coder;
    struct kvw_job *job;
    struct kvg_chunk chunk;
};

struct queue {
    struct kvw_jobs base;
    const struct kvg_device *dev;
    const struct kvg_driver *d;
    struct kvg_jobs_config cfg;
    struct kvg_kernels kernels;
    struct kvg_pool vram;
    struct kvg_pinned pinned;
    kvg_stream side;
    kvg_event entry, tail; /* after() and before(); the end of what was flushed */
    /* pinned */
    struct kvg_chunk *ring; /* RINGS * jobs_max */
    struct kvg_done *done;  /* jobs_max */
    uint32_t *tables;       /* jobs_max * table_blocks */
    /* VRAM: states (RINGS * jobs_max), then of each slot a table of columns and a spread */
    uint64_t state_stride, table_stride, spread_stride;
    uint32_t ring_next, epoch, pending_count;
    uint64_t launches;
    bool failed; /* the driver, for good */
    uint32_t *pending;
    struct slot slots[];
};

static struct queue *of(struct kvw_jobs *q)
{
    return (struct queue *)(void *)q;
}

static uint64_t aligned(uint64_t n)
{
    return (n + 15) / 16 * 16;
}

static unsigned char *state_at(const struct queue *q, uint32_t entry)
{
    return (unsigned char *)q->vram.mem.base + entry * q->state_stride;
}

static unsigned char *own_at(const struct queue *q, uint32_t slot)
{
    return state_at(q, RINGS * q->cfg.jobs_max) + slot * (q->table_stride + q->spread_stride);
}

/* ---- submit ---------------------------------------------------------------------------------- */

static kvw_err shape(struct kvg_chunk *c, const struct kvw_job *j)
{
    switch (j->codec->id) {
    case KVW_CODEC_RAW:
        return kvg_chunk_shape(c, &j->view);
    case KVW_CODEC_E8:
    case KVW_CODEC_E4:
        return kvg_e_shape(c, &j->view, (kvw_codec_id)j->codec->id,
                           j->kind == KVW_JOB_ENCODE ? &j->args : NULL);
    default:
        return kvg_l0_shape(c, &j->view);
    }
}

/* The part of the block table that the view needs, where kernels reach it. */
static kvw_err copy_table(struct queue *q, uint32_t slot, struct kvw_view *v)
{
    const uint32_t skip = v->first_token / v->block_tokens;
    const uint32_t first = v->first_token % v->block_tokens;
    const uint64_t need = ((uint64_t)first + v->tokens + v->block_tokens - 1) / v->block_tokens;
    uint32_t *to = q->tables + (size_t)slot * q->cfg.table_blocks;

    if (need > q->cfg.table_blocks)
        return KVW_E_UNSUPPORTED;
    memcpy(to, v->blocks + skip, need * sizeof(*to));
    v->blocks = to;
    v->first_token = first;
    return KVW_OK;
}

/* A job's chunk, all but what the launch gives it. */
static kvw_err prepare(struct queue *q, uint32_t slot, const struct kvw_job *j)
{
    struct kvg_chunk *c = &q->slots[slot].chunk;
    const bool encode = j->kind == KVW_JOB_ENCODE;
    const void *stream = encode ? j->to : j->from;
    const uint64_t raw = kvw_view_bytes(&j->view);
    const uint64_t bytes = encode ? j->to_bytes : j->stream_bytes;
    kvw_err err = shape(c, j);

    if (err != KVW_OK)
        return err;
    if (raw > q->cfg.chunk_bytes || c->columns > q->cfg.columns)
        return KVW_E_UNSUPPORTED;
    if (stream == NULL || (uintptr_t)stream % 16 != 0 ||
        (encode ? bytes < j->codec->bound(raw) : bytes > UINT32_MAX / 2))
        return KVW_E_INVALID;
    c->stream = (unsigned char *)(uintptr_t)stream; /* of decode only read */
    c->stream_bytes = (uint32_t)(bytes < UINT32_MAX / 2 ? bytes : UINT32_MAX / 2);
    c->table = (uint16_t *)(void *)own_at(q, slot);
    c->spread = (uint32_t *)(void *)(own_at(q, slot) + q->table_stride);
    c->done = &q->done[slot];
    return copy_table(q, slot, &c->view);
}

static kvw_err submit(struct kvw_jobs *jobs, struct kvw_job *j)
{
    struct queue *q = of(jobs);
    const uint32_t coder = kvg_coder_find(j->codec->id, j->view.dtype);
    uint32_t slot = 0;
    kvw_err err;

    if (coder == KVG_CODERS || j->digest != KVW_DIGEST_LANES || j->args.book != NULL)
        return KVW_E_UNSUPPORTED;
    while (slot < q->cfg.jobs_max && q->slots[slot].state != SLOT_FREE)
        ++slot;
    if (slot == q->cfg.jobs_max)
        return KVW_E_AGAIN;
    if ((err = prepare(q, slot, j)) != KVW_OK)
        return err;
    q->slots[slot].state = SLOT_PENDING;
    q->slots[slot].job = j;
    q->slots[slot].coder = coder;
    q->pending[q->pending_count++] = slot;
    j->slot = slot;
    kvw_job_set(j, KVW_JOB_QUEUED);
    return KVW_OK;
}

/* ---- flush ----------------------------------------------------------------------------------- */

/* n entries of the rings side by side. */
static uint32_t take_entries(struct queue *q, uint32_t n)
{
    const uint32_t all = RINGS * q->cfg.jobs_max;
    const uint32_t at = q->ring_next + n <= all ? q->ring_next : 0;

    q->ring_next = at + n;
    return at;
}

static kvg_result launch(struct queue *q, kvg_kernel kernel, uint32_t ctas, uint32_t shared_bytes,
                         struct kvg_batch *batch)
{
    void *params[] = {batch};
    const struct kvg_launch config = {
        .grid_x = ctas < q->cfg.ctas ? ctas : q->cfg.ctas,
        .grid_y = 1,
        .grid_z = 1,
        .block_x = KVG_THREADS,
        .block_y = 1,
        .block_z = 1,
        .shared_bytes = shared_bytes,
        .stream = q->side,
    };

    ++q->launches;
    return q->d->launch(&config, kernel, params, NULL);
}

/* Zeros for their states, then the kernels of one coder and direction. */
static kvg_result launch_all(struct queue *q, uint32_t coder, enum kvw_job_kind kind, uint32_t at,
                             struct kvg_batch *batch)
{
    const struct kvg_kernel_pair *pair = &kvg_coders[coder].pair[kind];
    kvg_result r = q->d->fill((kvg_devptr)(uintptr_t)state_at(q, at), 0,
                              batch->count * q->state_stride, q->side);

    if (r == KVG_CU_SUCCESS && pair->by_chunk != NULL)
        r = launch(q, q->kernels.by_chunk[coder][kind], batch->count, pair->by_chunk_shared, batch);
    if (r == KVG_CU_SUCCESS)
        r = launch(q, q->kernels.by_block[coder][kind], batch->blocks, pair->by_block_shared,
                   batch);
    return r;
}

/* A job that the GPU will not do. It is no longer the queue's. */
static void give_up(struct queue *q, uint32_t slot)
{
    struct kvw_job *j = q->slots[slot].job;

    q->slots[slot].state = SLOT_FREE;
    j->err = KVW_E_DEVICE;
    kvw_job_set(j, KVW_JOB_DONE);
}

static uint32_t next_epoch(struct queue *q)
{
    if (++q->epoch == 0)
        q->epoch = 1;
    return q->epoch;
}

/* The pending jobs from the first on that are of its coder and direction, in one launch. */
static kvg_result flush_like_first(struct queue *q)
{
    const struct slot *first = &q->slots[q->pending[0]];
    const uint32_t coder = first->coder;
    const enum kvw_job_kind kind = first->job->kind;
    const uint32_t at = take_entries(q, q->pending_count); /* or fewer: the rest goes back */
    struct kvg_batch batch = {&q->ring[at], (uint32_t *)(void *)state_at(q, at), 0, 0};
    uint32_t kept = 0;

    for (uint32_t i = 0; i < q->pending_count; ++i) {
        struct slot *s = &q->slots[q->pending[i]];
        struct kvg_chunk *c = &q->ring[at + batch.count];

        if (s->coder != coder || s->job->kind != kind) {
            q->pending[kept++] = q->pending[i];
            continue;
        }
        *c = s->chunk;
        c->first_block = batch.blocks;
        c->state = (struct kvg_state *)(void *)(state_at(q, at + batch.count) + TICKET);
        c->epoch = s->chunk.epoch = next_epoch(q);
        batch.blocks += c->blocks;
        ++batch.count;
        s->state = SLOT_LAUNCHED;
        kvw_job_set(s->job, KVW_JOB_RUNNING);
    }
    q->ring_next -= q->pending_count - batch.count;
    q->pending_count = kept;
    return launch_all(q, coder, kind, at, &batch);
}

/* The results, if the record is this launch's. */
static bool take(struct queue *q, struct kvw_job *j)
{
    struct slot *s = &q->slots[j->slot];
    const struct kvg_done *d = &q->done[j->slot];

    if (__atomic_load_n(&d->epoch, __ATOMIC_ACQUIRE) != s->chunk.epoch)
        return false;
    j->err = d->fault != 0 ? KVW_E_CODEC : KVW_OK;
    j->digest_value = d->digest;
    j->ns = 0;
    if (j->kind == KVW_JOB_ENCODE)
        j->stream_bytes = d->bytes;
    s->state = SLOT_FREE;
    kvw_job_set(j, KVW_JOB_DONE);
    return true;
}

/* The driver has failed: once nothing runs any more, all jobs have ended badly. */
static void fail(struct queue *q)
{
    q->failed = true;
    (void)q->d->stream_synchronize(q->side);
    for (uint32_t i = 0; i < q->cfg.jobs_max; ++i)
        if (q->slots[i].state == SLOT_PENDING ||
            (q->slots[i].state == SLOT_LAUNCHED && !take(q, q->slots[i].job)))
            give_up(q, i);
    q->pending_count = 0;
}

static void flush(struct kvw_jobs *jobs)
{
    struct queue *q = of(jobs);
    kvg_result r = KVG_CU_SUCCESS;

    if (q->pending_count == 0)
        return;
    if (q->failed || kvg_device_enter(q->dev) != KVW_OK) {
        fail(q);
        return;
    }
    while (q->pending_count > 0 && r == KVG_CU_SUCCESS)
        r = flush_like_first(q);
    if (r == KVG_CU_SUCCESS)
        r = q->d->event_record(q->tail, q->side, 0);
    if (r != KVG_CU_SUCCESS)
        fail(q);
}

/* ---- done ------------------------------------------------------------------------------------ */

static bool is_launched(const struct kvw_job *j)
{
    return kvw_job_state_of(j) == KVW_JOB_RUNNING;
}

static bool done(struct kvw_jobs *jobs, struct kvw_job *j)
{
    struct queue *q = of(jobs);
    kvg_result r;

    if (!is_launched(j) || take(q, j))
        return kvw_job_done(j);
    r = kvg_device_enter(q->dev) == KVW_OK ? q->d->event_query(q->tail) : KVG_CU_INVALID_CONTEXT;
    if (r == KVG_CU_NOT_READY)
        return take(q, j);
    if (!take(q, j)) /* it has ended without a record, or the driver is lost */
        fail(q);
    return true;
}

static void drop(struct kvw_jobs *jobs, struct kvw_job *j)
{
    struct queue *q = of(jobs);
    uint32_t kept = 0;

    if (is_launched(j)) {
        if (kvg_device_enter(q->dev) == KVW_OK)
            (void)q->d->stream_synchronize(q->side);
        (void)done(jobs, j);
        return;
    }
    if (kvw_job_state_of(j) != KVW_JOB_QUEUED)
        return;
    for (uint32_t i = 0; i < q->pending_count; ++i)
        if (q->pending[i] != j->slot)
            q->pending[kept++] = q->pending[i];
    q->pending_count = kept;
    q->slots[j->slot].state = SLOT_FREE;
    kvw_job_set(j, KVW_JOB_IDLE);
}

/* ---- order with other streams ---------------------------------------------------------------- */

/* `later` goes on when what `earlier` has now has ended. */
static kvw_err order(struct queue *q, kvg_stream earlier, kvg_stream later)
{
    kvw_err err = kvg_device_enter(q->dev);
    kvg_result r;

    if (err != KVW_OK)
        return err;
    r = q->d->event_record(q->entry, earlier, 0);
    if (r == KVG_CU_SUCCESS)
        r = q->d->stream_wait_event(later, q->entry, 0);
    return r == KVG_CU_SUCCESS ? KVW_OK : KVW_E_DEVICE;
}

static kvw_err after(struct kvw_jobs *jobs, void *stream)
{
    return order(of(jobs), stream, of(jobs)->side);
}

static kvw_err before(struct kvw_jobs *jobs, void *stream)
{
    return order(of(jobs), of(jobs)->side, stream);
}

/* ---- open and close -------------------------------------------------------------------------- */

static void release(struct queue *q)
{
    if (kvg_device_enter(q->dev) == KVW_OK) {
        if (q->side != NULL) {
            (void)q->d->stream_synchronize(q->side);
            (void)q->d->stream_destroy(q->side);
        }
        if (q->entry != NULL)
            (void)q->d->event_destroy(q->entry);
        if (q->tail != NULL)
            (void)q->d->event_destroy(q->tail);
        kvg_kernels_unload(&q->kernels, q->dev);
    }
    kvg_pinned_close(&q->pinned);
    kvg_pool_close(&q->vram);
    free(q->pending);
    free(q);
}

static void close_queue(struct kvw_jobs *jobs)
{
    release(of(jobs));
}

static const struct kvw_jobs_ops ops = {
    .submit = submit,
    .flush = flush,
    .done = done,
    .drop = drop,
    .after = after,
    .before = before,
    .close = close_queue,
};

/* The name of a field that is out of its range, or NULL. */
static const char *fault_of(const struct kvg_jobs_config *c)
{
    if (c->image == NULL)
        return "image";
    if (c->jobs_max == 0 || c->jobs_max > KVG_JOBS_MAX)
        return "jobs_max";
    if (c->chunk_bytes == 0 || c->chunk_bytes > KVG_BYTES_MAX)
        return "chunk_bytes";
    if (c->columns == 0 || c->columns > KVG_BYTES_MAX)
        return "columns";
    return c->table_blocks == 0 || c->table_blocks > KVG_BYTES_MAX ? "table_blocks" : NULL;
}

/* Its memory of both kinds. */
static kvw_err take_memory(struct queue *q, char *text, size_t text_bytes)
{
    const uint64_t jobs = q->cfg.jobs_max, columns = q->cfg.columns;
    const uint64_t units = q->cfg.chunk_bytes / (KVG_UNIT_MAX / 2) + 1; /* of one byte a value */
    const uint64_t chunks = RINGS * jobs * sizeof(struct kvg_chunk);
    kvw_err err;

    q->state_stride = TICKET + aligned(sizeof(struct kvg_state) + 4 * units);
    q->table_stride =
        aligned(2 * ((columns < KVG_UNIT_MAX ? columns : KVG_UNIT_MAX) + KVG_TABLE_PAST));
    q->spread_stride = aligned(12 * columns);
    err =
        kvg_pool_open(&q->vram, q->dev,
                      RINGS * jobs * q->state_stride + jobs * (q->table_stride + q->spread_stride),
                      text, text_bytes);
    if (err == KVW_OK)
        err = kvg_pinned_open(&q->pinned, q->dev,
                              chunks + jobs * (sizeof(struct kvg_done) +
                                               sizeof(uint32_t) * (uint64_t)q->cfg.table_blocks),
                              text, text_bytes);
    if (err != KVW_OK)
        return err;
    memset(q->pinned.mem.base, 0, q->pinned.mem.bytes);
    q->ring = q->pinned.mem.base;
    q->done = (struct kvg_done *)(void *)((unsigned char *)q->pinned.mem.base + chunks);
    q->tables = (uint32_t *)(void *)(q->done + jobs);
    return KVW_OK;
}

static kvw_err take_streams(struct queue *q, char *text, size_t text_bytes)
{
    kvg_result r = q->d->stream_create(&q->side, KVG_CU_STREAM_NON_BLOCKING, 0);

    if (r == KVG_CU_SUCCESS)
        r = q->d->event_create(&q->entry, KVG_CU_EVENT_DISABLE_TIMING);
    if (r == KVG_CU_SUCCESS)
        r = q->d->event_create(&q->tail, KVG_CU_EVENT_DISABLE_TIMING);
    if (r == KVG_CU_SUCCESS)
        return KVW_OK;
    snprintf(text, text_bytes, "CUDA: GPU %d: a stream and events for jobs: %s", q->dev->ordinal,
             kvg_driver_error(q->d, r));
    return kvg_driver_code(r);
}

kvw_err kvg_jobs_open(struct kvw_jobs **out, const struct kvg_device *dev,
                      const struct kvg_jobs_config *cfg, char *text, size_t text_bytes)
{
    const char *field = fault_of(cfg);
    struct queue *q;
    kvw_err err;

    if (field != NULL) {
        snprintf(text, text_bytes, "CUDA: a queue of jobs whose %s is out of its range", field);
        return KVW_E_INVALID;
    }
    if ((err = kvg_device_enter(dev)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its context can't be entered", dev->ordinal);
        return err;
    }
    q = calloc(1, sizeof(*q) + cfg->jobs_max * sizeof(q->slots[0]));
    if (q == NULL || (q->pending = calloc(cfg->jobs_max, sizeof(q->pending[0]))) == NULL) {
        free(q);
        snprintf(text, text_bytes, "CUDA: no memory for %u jobs", cfg->jobs_max);
        return KVW_E_NOMEM;
    }
    q->base.ops = &ops;
    q->dev = dev;
    q->d = dev->driver;
    q->cfg = *cfg;
    if (q->cfg.ctas == 0)
        q->cfg.ctas = CTAS_A_PROC * (uint32_t)dev->multiprocessors;
    err = kvg_kernels_load(&q->kernels, dev, cfg->image, text, text_bytes);
    if (err == KVW_OK)
        err = take_memory(q, text, text_bytes);
    if (err == KVW_OK)
        err = take_streams(q, text, text_bytes);
    if (err != KVW_OK) {
        release(q);
        return err;
    }
    *out = &q->base;
    return KVW_OK;
}

uint64_t kvg_jobs_launches(const struct kvw_jobs *q)
{
    return ((const struct queue *)(const void *)q)->launches;
}
