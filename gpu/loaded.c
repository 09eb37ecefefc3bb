/* SPDX-License-Identifier: Apache-2.0 */
/* loaded.c - a model in VRAM: its memory, and calls of it, each a pass (pass.h) on one stream. */
#include "load.h"
#include "mem.h"
#include "upload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kvg_loaded {
    const struct kvg_device *dev;
    const struct kvg_driver *d;
    struct kvg_limits limits;
    uint32_t table_blocks; /* of a sequence, at most */
    kvg_stream stream;
    struct kvg_run run;
    struct kvg_runner runner; /* run's, but whom a call names is told */
    struct kvg_blas *blas;
    void *workspace;
    struct kvg_pool vram;
    struct kvg_pinned pinned;
    struct kvg_model model;
    struct kvg_layer *layers;
    struct kvg_row *rows;       /* [seqs_max] */
    struct kvg_scratch scratch; /* VRAM, and so are the next three */
    uint32_t *ids;              /* tokens, then a table of each sequence */
    float *logits;              /* [seqs_max][vocab] */
    uint32_t *token;            /* [seqs_max] */
    uint32_t *ids_in;           /* pinned: what is copied to ids, */
    float *logits_out;          /* and from logits */
    bool busy;                  /* ids_in may still be read */
    const struct kvg_call *call;
};

static kvw_err failed(const struct kvg_loaded *l, kvg_result r, char *why)
{
    if (r == KVG_CU_SUCCESS)
        return KVW_OK;
    if (why != NULL)
        snprintf(why, KVW_GPU_TEXT, "CUDA: GPU %d: %s", l->dev->ordinal, kvg_driver_error(l->d, r));
    return kvg_driver_code(r);
}

static kvg_devptr address(const void *p)
{
    return (kvg_devptr)(uintptr_t)p;
}

/* ---- the runner ------------------------------------------------------------------------------ */

static kvw_err launch(void *arg, enum kvg_step step, uint32_t grid, const void *params)
{
    struct kvg_loaded *l = arg;

    return l->run.runner.launch(l->run.runner.arg, step, grid, params);
}

static kvw_err multiply(void *arg, const struct kvg_product *p)
{
    struct kvg_loaded *l = arg;

    return l->run.runner.multiply(l->run.runner.arg, p);
}

static kvw_err written(void *arg, uint32_t layer)
{
    const struct kvg_call *c = ((struct kvg_loaded *)arg)->call;

    return c->written != NULL ? c->written(c->arg, layer) : KVW_OK;
}

static kvw_err await(void *arg, uint32_t layer)
{
    const struct kvg_call *c = ((struct kvg_loaded *)arg)->call;

    return c->wait != NULL ? c->wait(c->arg, layer) : KVW_OK;
}

/* ---- open ------------------------------------------------------------------------------------ */

static uint64_t ids_max(const struct kvg_loaded *l)
{
    return l->limits.tokens_max + (uint64_t)l->limits.seqs_max * l->table_blocks;
}

/* Everything in VRAM, in the one order. */
static kvw_err lay_out(struct kvg_loaded *l, struct kvg_upload *u, const struct kvg_weights *w)
{
    const uint32_t n = l->limits.tokens_max, seqs = l->limits.seqs_max;
    const struct kvg_model *m = &l->model;
    uint64_t parts;
    kvw_err err;

    l->workspace = kvg_upload_take(u, KVG_BLAS_WORKSPACE);
    err = kvg_upload_weights(u, w, l->limits.seq_tokens_max, &l->model, l->layers);
    parts = kvg_pass_parts(m, l->limits.seq_tokens_max);
    l->scratch = (struct kvg_scratch){
        .x = kvg_upload_take(u, (uint64_t)sizeof(float) * n * m->hidden),
        .wide = kvg_upload_take(u, (uint64_t)sizeof(float) * n * kvg_pass_wide(m)),
        .q = kvg_upload_take(u, (uint64_t)sizeof(uint16_t) * n * m->heads * m->dim),
        .half = kvg_upload_take(u, (uint64_t)sizeof(uint16_t) * n * kvg_pass_half(m)),
        .part_max = kvg_upload_take(u, sizeof(float) * parts),
        .part_sum = kvg_upload_take(u, sizeof(float) * parts),
        .part_out = kvg_upload_take(u, sizeof(float) * parts * m->dim),
        .tokens_max = n,
        .seq_tokens_max = l->limits.seq_tokens_max,
    };
    l->ids = kvg_upload_take(u, ids_max(l) * sizeof(*l->ids));
    l->logits = kvg_upload_take(u, (uint64_t)sizeof(float) * seqs * m->vocab);
    l->token = kvg_upload_take(u, seqs * sizeof(*l->token));
    return err;
}

static kvw_err open_pinned(struct kvg_loaded *l, char *why)
{
    const uint64_t logits = (uint64_t)sizeof(float) * l->limits.seqs_max * l->model.vocab;
    const kvw_err err = kvg_pinned_open(
        &l->pinned, l->dev, logits + ids_max(l) * sizeof(*l->ids_in), why, KVW_GPU_TEXT);

    if (err != KVW_OK)
        return err;
    l->logits_out = l->pinned.mem.base;
    l->ids_in = (uint32_t *)(void *)((char *)l->pinned.mem.base + logits);
    return KVW_OK;
}

/* What is cheap to find missing comes before the weights are copied. */
static kvw_err open_all(struct kvg_loaded *l, const void *image, const struct kvg_weights *w,
                        char *why)
{
    struct kvg_upload u = {.run = &l->run, .why = why};
    kvw_err err = failed(l, l->d->stream_create(&l->stream, KVG_CU_STREAM_NON_BLOCKING, 0), why);

    if (err == KVW_OK)
        err = kvg_run_open(&l->run, l->dev, image, why, KVW_GPU_TEXT);
    l->run.stream = l->stream;
    if (err == KVW_OK)
        err = lay_out(l, &u, w);
    if (err == KVW_OK)
        err = kvg_pool_open(&l->vram, l->dev, u.used, why, KVW_GPU_TEXT);
    if (err == KVW_OK)
        err = open_pinned(l, why);
    if (err == KVW_OK)
        err = kvg_blas_open(&l->blas, l->vram.mem.base, KVG_BLAS_WORKSPACE, why, KVW_GPU_TEXT);
    if (err != KVW_OK)
        return err;
    l->run.blas = l->blas;
    u.base = l->vram.mem.base;
    u.used = 0;
    err = lay_out(l, &u, w);
    return err != KVW_OK ? err : failed(l, l->d->stream_synchronize(l->stream), why);
}

static bool are_sane(const struct kvg_limits *limits)
{
    return limits->tokens_max > 0 && limits->seq_tokens_max > 0 && limits->seqs_max > 0 &&
           limits->seqs_max <= limits->tokens_max && limits->block_tokens > 0;
}

kvw_err kvg_loaded_open(struct kvg_loaded **out, const struct kvg_load *how, char *why)
{
    struct kvg_loaded *l = calloc(1, sizeof(*l));
    const struct kvg_limits *limits = how->limits;
    kvw_err err = KVW_E_NOMEM;

    if (!are_sane(limits) || how->weights->dim > KVG_DIM_MAX) {
        snprintf(why, KVW_GPU_TEXT, "CUDA: limits of 0, or heads of more than %u values",
                 KVG_DIM_MAX);
        free(l);
        return KVW_E_UNSUPPORTED;
    }
    snprintf(why, KVW_GPU_TEXT, "CUDA: no memory to keep note of a model");
    if (l == NULL)
        return KVW_E_NOMEM;
    l->dev = how->dev;
    l->d = how->dev->driver;
    l->limits = *limits;
    l->table_blocks = (limits->seq_tokens_max + limits->block_tokens - 1) / limits->block_tokens;
    l->runner = (struct kvg_runner){
        .arg = l, .launch = launch, .multiply = multiply, .written = written, .wait = await};
    l->layers = calloc(how->weights->layers, sizeof(*l->layers));
    l->rows = calloc(limits->seqs_max, sizeof(*l->rows));
    if (l->layers != NULL && l->rows != NULL)
        err = open_all(l, how->image, how->weights, why);
    if (err == KVW_OK)
        *out = l;
    else
        kvg_loaded_close(l);
    return err;
}

void kvg_loaded_close(struct kvg_loaded *l)
{
    if (l == NULL)
        return;
    if (l->stream != NULL) {
        (void)l->d->stream_synchronize(l->stream);
        (void)l->d->stream_destroy(l->stream);
    }
    kvg_blas_close(l->blas);
    kvg_run_close(&l->run);
    if (l->pinned.dev != NULL)
        kvg_pinned_close(&l->pinned);
    if (l->vram.dev != NULL)
        kvg_pool_close(&l->vram);
    free(l->rows);
    free(l->layers);
    free(l);
}

void *kvg_loaded_stream(const struct kvg_loaded *l)
{
    return l->stream;
}

/* ---- a call ---------------------------------------------------------------------------------- */

static kvw_err settle(struct kvg_loaded *l)
{
    const kvg_result r = l->busy ? l->d->stream_synchronize(l->stream) : KVG_CU_SUCCESS;

    l->busy = false;
    return failed(l, r, NULL);
}

static bool fits(const struct kvg_loaded *l, const struct kvg_call *c)
{
    if (c->count == 0 || c->count > l->limits.tokens_max ||
        (c->seqs != 1 && (c->seqs != c->count || c->seqs > l->limits.seqs_max)) ||
        c->pool->block_tokens != l->limits.block_tokens)
        return false;
    for (uint32_t i = 0; i < c->seqs; ++i)
        if ((uint64_t)c->seq[i].first + (c->seqs == 1 ? c->count : 1) > l->limits.seq_tokens_max)
            return false;
    return true;
}

/* Tokens and tables to the GPU. */
static kvw_err send_ids(struct kvg_loaded *l, const struct kvg_call *c)
{
    const uint32_t tokens = c->seqs == 1 ? c->count : 1, unit = l->limits.block_tokens;
    uint64_t used = c->count;

    memcpy(l->ids_in, c->tokens, c->count * sizeof(*l->ids_in));
    for (uint32_t i = 0; i < c->seqs; ++i) {
        const uint32_t blocks = (c->seq[i].first + tokens + unit - 1) / unit;

        memcpy(l->ids_in + used, c->seq[i].blocks, blocks * sizeof(*l->ids_in));
        l->rows[i] = (struct kvg_row){.blocks = l->ids + used, .first = c->seq[i].first};
        used += blocks;
    }
    l->busy = true;
    return failed(
        l, l->d->copy(address(l->ids), address(l->ids_in), used * sizeof(*l->ids), l->stream),
        NULL);
}

static kvw_err enqueue(struct kvg_loaded *l, const struct kvg_call *c)
{
    const struct kvg_pass p = {
        .m = &l->model,
        .runner = &l->runner,
        .scratch = l->scratch,
        .pool = c->pool,
        .blocks = l->rows[0].blocks,
        .tokens = l->ids,
        .count = c->count,
        .first = l->rows[0].first,
        .rows = c->seqs > 1 ? l->rows : NULL,
        .logits = c->logits != NULL ? l->logits : NULL,
        .token = c->logits != NULL ? l->token : NULL,
    };
    const uint64_t bytes = (uint64_t)sizeof(float) * c->seqs * l->model.vocab;
    kvw_err err;

    l->call = c;
    err = kvg_pass_run(&p);
    l->call = NULL;
    if (err != KVW_OK || c->logits == NULL)
        return err;
    return failed(l, l->d->copy(address(l->logits_out), address(l->logits), bytes, l->stream),
                  NULL);
}

kvw_err kvg_loaded_call(struct kvg_loaded *l, const struct kvg_call *c)
{
    kvw_err err, settled;

    if (!fits(l, c))
        return KVW_E_INVALID;
    err = settle(l);
    if (err == KVW_OK)
        err = send_ids(l, c);
    if (err == KVW_OK)
        err = enqueue(l, c);
    if (err == KVW_OK && c->logits == NULL)
        return KVW_OK;
    settled = settle(l);
    err = err != KVW_OK ? err : settled;
    if (err == KVW_OK)
        memcpy(c->logits, l->logits_out, (uint64_t)sizeof(float) * c->seqs * l->model.vocab);
    return err;
}
