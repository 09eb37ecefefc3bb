/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin.c - libkvwire-cuda.so: this folder behind kvwire/gpu.h. The kernels come with it, as
 * kvg_image.
 */
#include "../kvwire/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "foreign.h"
#include "image.h"
#include "jobs.h"
#include "kernels.h"
#include "load.h"
#include "share.h"

/* Memory that was given. */
struct held {
    struct held *next;
    bool is_pool;
    struct kvg_pool pool;
    struct kvg_pinned pinned;
    struct kvg_share share; /* of the pool, if it is shared */
};

_Static_assert(KVG_TOKEN_BYTES == KVW_GPU_TOKEN, "the same token");
_Static_assert(sizeof(struct kvg_ipc) == KVW_GPU_IPC, "the same name");

struct kvw_gpu {
    struct kvg_driver driver;
    struct kvg_device dev;
    struct held *held;
    char ladder[KVW_GPU_TEXT];
};

/* Which rung a pool takes here, asked of a small one. */
static kvw_err look_at_ladder(struct kvw_gpu *g, char *why)
{
    struct kvg_pool pool;
    const kvw_err err = kvg_pool_open(&pool, &g->dev, 1, why, KVW_GPU_TEXT);
    const char *rung;

    if (err != KVW_OK)
        return err;
    rung = strchr(pool.ladder, ':');
    snprintf(g->ladder, sizeof(g->ladder), "GPU %d (%s, sm_%d)%.160s", g->dev.ordinal, g->dev.name,
             g->dev.arch, rung != NULL ? rung : "");
    kvg_pool_close(&pool);
    return KVW_OK;
}

static kvw_err look_at_kernels(struct kvw_gpu *g, char *why)
{
    struct kvg_kernels k;
    const kvw_err err = kvg_kernels_load(&k, &g->dev, kvg_image, why, KVW_GPU_TEXT);

    if (err == KVW_OK)
        kvg_kernels_unload(&k, &g->dev);
    return err;
}

static kvw_err open_gpu(struct kvw_gpu **out, int ordinal, char *why)
{
    struct kvw_gpu *g = calloc(1, sizeof(*g));
    kvw_err err;

    if (g == NULL) {
        snprintf(why, KVW_GPU_TEXT, "CUDA: no memory to open GPU %d", ordinal);
        return KVW_E_NOMEM;
    }
    if ((err = kvg_driver_open(&g->driver, why, KVW_GPU_TEXT)) != KVW_OK)
        goto free_it;
    if ((err = kvg_device_open(&g->dev, &g->driver, ordinal, why, KVW_GPU_TEXT)) != KVW_OK)
        goto close_driver;
    if ((err = look_at_kernels(g, why)) != KVW_OK || (err = look_at_ladder(g, why)) != KVW_OK)
        goto close_device;
    *out = g;
    return KVW_OK;

close_device:
    kvg_device_close(&g->dev);
close_driver:
    kvg_driver_close(&g->driver);
free_it:
    free(g);
    return err;
}

static void close_gpu(struct kvw_gpu *g)
{
    kvg_device_close(&g->dev);
    kvg_driver_close(&g->driver);
    free(g);
}

static const char *ladder(struct kvw_gpu *g)
{
    return g->ladder;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static const struct kvw_mem *mem_of(const struct held *h)
{
    return h->is_pool ? &h->pool.mem : &h->pinned.mem;
}

/* What is asked for. */
struct wanted {
    enum { POOL, PINNED, REACHED, ADOPTED, BY_IPC } kind;
    uint64_t bytes;
    void *base;       /* ADOPTED */
    const void *name; /* REACHED: a token; BY_IPC: a struct kvg_ipc, anywhere */
};

static kvw_err get(struct kvw_gpu *g, struct held *h, const struct wanted *w, char *why)
{
    struct kvg_ipc ipc;

    switch (w->kind) {
    case POOL:
        return kvg_pool_open(&h->pool, &g->dev, w->bytes, why, KVW_GPU_TEXT);
    case REACHED:
        return kvg_share_reach(&h->pool, &g->dev, w->name, w->bytes, why, KVW_GPU_TEXT);
    case ADOPTED:
        return kvg_pool_adopt(&h->pool, &g->dev, w->base, w->bytes, why, KVW_GPU_TEXT);
    case BY_IPC:
        memcpy(&ipc, w->name, sizeof(ipc));
        return kvg_pool_ipc_open(&h->pool, &g->dev, &ipc, w->bytes, why, KVW_GPU_TEXT);
    default:
        return kvg_pinned_open(&h->pinned, &g->dev, w->bytes, why, KVW_GPU_TEXT);
    }
}

static kvw_err hold(struct kvw_gpu *g, const struct wanted *w, const struct kvw_mem **mem,
                    char *why)
{
    struct held *h = calloc(1, sizeof(*h));
    kvw_err err;

    if (h == NULL) {
        snprintf(why, KVW_GPU_TEXT, "CUDA: no memory to keep note of %llu bytes",
                 (unsigned long long)w->bytes);
        return KVW_E_NOMEM;
    }
    h->is_pool = w->kind != PINNED;
    err = get(g, h, w, why);
    if (err != KVW_OK) {
        free(h);
        return err;
    }
    h->next = g->held;
    g->held = h;
    *mem = mem_of(h);
    return KVW_OK;
}

static kvw_err pool_open(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem, char *why)
{
    return hold(g, &(struct wanted){.kind = POOL, .bytes = bytes}, mem, why);
}

static kvw_err pinned_open(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem, char *why)
{
    return hold(g, &(struct wanted){.kind = PINNED, .bytes = bytes}, mem, why);
}

static kvw_err reach(struct kvw_gpu *g, const uint8_t token[KVW_GPU_TOKEN], uint64_t bytes,
                     const struct kvw_mem **mem, char *why)
{
    return hold(g, &(struct wanted){.kind = REACHED, .bytes = bytes, .name = token}, mem, why);
}

static kvw_err pool_adopt(struct kvw_gpu *g, void *base, uint64_t bytes, const struct kvw_mem **mem,
                          char *why)
{
    return hold(g, &(struct wanted){.kind = ADOPTED, .bytes = bytes, .base = base}, mem, why);
}

static kvw_err pool_ipc_open(struct kvw_gpu *g, const void *ipc, uint64_t bytes,
                             const struct kvw_mem **mem, char *why)
{
    return hold(g, &(struct wanted){.kind = BY_IPC, .bytes = bytes, .name = ipc}, mem, why);
}

/* NULL: it isn't one. */
static struct held *pool_of(const struct kvw_gpu *g, const struct kvw_mem *mem, char *why)
{
    struct held *h = g->held;

    while (h != NULL && mem != mem_of(h))
        h = h->next;
    if (h != NULL && h->is_pool)
        return h;
    snprintf(why, KVW_GPU_TEXT, "CUDA: only a pool of this GPU's can be shared");
    return NULL;
}

static kvw_err pool_ipc(struct kvw_gpu *g, const struct kvw_mem *mem, void *ipc, char *why)
{
    const struct held *h = pool_of(g, mem, why);
    struct kvg_ipc of;
    kvw_err err;

    if (h == NULL)
        return KVW_E_UNSUPPORTED;
    if ((err = kvg_pool_ipc(&h->pool, &of, why, KVW_GPU_TEXT)) == KVW_OK)
        memcpy(ipc, &of, sizeof(of));
    return err;
}

static kvw_err share(struct kvw_gpu *g, const struct kvw_mem *mem, uint8_t token[KVW_GPU_TOKEN],
                     char *why)
{
    struct held *h = pool_of(g, mem, why);
    kvw_err err = KVW_OK;

    if (h == NULL)
        return KVW_E_UNSUPPORTED;
    if (h->pool.handle == 0) {
        snprintf(why, KVW_GPU_TEXT, "CUDA: memory of another allocator has no descriptor");
        return KVW_E_UNSUPPORTED;
    }
    if (!h->share.on)
        err = kvg_share_open(&h->share, &h->pool, why, KVW_GPU_TEXT);
    if (err == KVW_OK)
        memcpy(token, h->share.token, KVW_GPU_TOKEN);
    return err;
}

static void mem_close(struct kvw_gpu *g, const struct kvw_mem *mem)
{
    struct held **at = &g->held, *h;

    while ((h = *at) != NULL && mem != mem_of(h))
        at = &h->next;
    if (h == NULL)
        return;
    *at = h->next;
    kvg_share_close(&h->share);
    if (h->is_pool)
        kvg_pool_close(&h->pool);
    else
        kvg_pinned_close(&h->pinned);
    free(h);
}

static kvw_err jobs_open(struct kvw_gpu *g, const struct kvw_gpu_jobs *cfg, struct kvw_jobs **q,
                         char *why)
{
    const struct kvg_jobs_config with = {
        .image = kvg_image,
        .jobs_max = cfg->jobs_max,
        .chunk_bytes = cfg->chunk_bytes,
        .columns = cfg->columns,
        .table_blocks = cfg->table_blocks,
        .ctas = cfg->ctas,
    };

    return kvg_jobs_open(q, &g->dev, &with, why, KVW_GPU_TEXT);
}

static bool takes(const struct kvw_gpu *g, uint32_t codec)
{
    bool any = false;

    (void)g; /* every GPU that opens has all kernels */
    for (uint32_t i = 0; i < KVG_CODERS && codec < 64; ++i)
        any = any || (kvg_coders[i].codecs >> codec & 1) != 0;
    return any;
}

static kvw_err model_open(struct kvg_loaded **l, struct kvw_gpu *g, const struct kvg_weights *w,
                          const struct kvg_limits *limits, char *why)
{
    const struct kvg_load how = {
        .dev = &g->dev, .image = kvg_image, .weights = w, .limits = limits};

    return kvg_loaded_open(l, &how, why);
}

static const struct kvg_loaded_calls model = {
    .abi = KVG_LOADED_ABI,
    .open = model_open,
    .close = kvg_loaded_close,
    .call = kvg_loaded_call,
    .stream = kvg_loaded_stream,
};

KVW_API extern const struct kvw_gpu_plugin kvw_gpu_plugin;
const struct kvw_gpu_plugin kvw_gpu_plugin = {
    .abi = KVW_GPU_ABI,
    .version = KVW_VERSION,
    .open = open_gpu,
    .close = close_gpu,
    .ladder = ladder,
    .pool_open = pool_open,
    .pinned_open = pinned_open,
    .mem_close = mem_close,
    .jobs_open = jobs_open,
    .takes = takes,
    .model = &model,
    .share = share,
    .reach = reach,
    .pool_adopt = pool_adopt,
    .pool_ipc = pool_ipc,
    .pool_ipc_open = pool_ipc_open,
};
