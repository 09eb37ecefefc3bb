/* SPDX-License-Identifier: Apache-2.0 */
/* run_scratch.c - opening and closing a kve_run: its workers and its arena. */
#include <stdlib.h>

#include "run_scratch.h"

#define PREFILL_TOKENS     512u   /* the default, about; longer chunks gain nothing here */
#define CUT_TOKENS         64u    /* least in a product: 96 gain 2 % of speed, 16 lose 20 % */
#define PREFILL_TOKENS_MAX 65536u /* scratch grows with it */

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Hand out n floats of the arena, each part on a cache line of its own. With base NULL only the
 * sum grows: the same walk measures and then hands out. */
static float *take(float *base, size_t *used, size_t n)
{
    float *at = base == NULL ? NULL : base + *used;

    *used += (n + 15) / 16 * 16;
    return at;
}

static void lay_out_scratch(struct kve_run *r, struct kve_scratch *s, size_t *used)
{
    const struct kve_model_config *c = &r->m->config;
    const size_t heads = c->heads, dim = c->head_dim;
    const size_t rows = (size_t)r->query_tokens * (c->heads / c->kv_heads);
    const size_t widest =
        most(most(c->hidden, c->ffn), most(c->heads * c->head_dim, KVE_BATCH_MAX));
    const size_t tile = rows * KVE_KEY_TILE, segment = heads * KVE_KEY_SEGMENT;

    s->panel = take(r->arena, used, KVE_PANEL_ROWS * widest);
    s->up = take(r->arena, used, (size_t)r->token_rows * KVE_PANEL_ROWS);
    s->query = take(r->arena, used, rows * dim);
    s->out = take(r->arena, used, rows * dim);
    s->scores = take(r->arena, used, tile > segment ? tile : segment);
    s->k = take(r->arena, used, KVE_KEY_TILE * dim);
    s->v = take(r->arena, used, KVE_KEY_TILE * dim);
    s->max = take(r->arena, used, rows);
    s->sum = take(r->arena, used, rows);
}

/* Returns the floats needed. */
static size_t lay_out(struct kve_run *r, uint32_t threads)
{
    const struct kve_model_config *c = &r->m->config;
    const size_t n = r->token_rows, heads = c->heads, dim = c->head_dim;
    const size_t parts = (r->seq_tokens_max / KVE_KEY_SEGMENT + 1) * heads;
    size_t used = 0;

    r->x = take(r->arena, &used, n * c->hidden);
    r->norm = take(r->arena, &used, n * c->hidden);
    r->q = take(r->arena, &used, n * heads * dim);
    r->k = take(r->arena, &used, n * c->kv_heads * dim);
    r->v = take(r->arena, &used, n * c->kv_heads * dim);
    r->ffn = take(r->arena, &used, n * c->ffn);
    for (uint32_t i = 0; i < r->m->ropes; ++i)
        r->turn[i] = take(r->arena, &used, n * c->rope_dims);
    r->part_max = take(r->arena, &used, parts);
    r->part_sum = take(r->arena, &used, parts);
    r->part_out = take(r->arena, &used, parts * dim);
    for (uint32_t i = 0; i < threads; ++i)
        lay_out_scratch(r, &r->scratch[i], &used);
    return used;
}

static void worker_begin(void)
{
    (void)kve_matmul_thread_begin();
}

/* In whole sixteens where there are so many: then kve_run_cut() is in whole blocks, too. */
static uint32_t query_tokens_of(uint32_t group)
{
    const uint32_t n = KVE_QUERY_ROWS / group;

    return n >= 16 ? n / 16 * 16 : most(n, 1);
}

uint32_t kve_run_cut(const struct kve_run *r)
{
    /* chunks, products and tiles of queries begin at the same positions then, wherever the rest
     * begins */
    if (r->prefill_tokens % r->cut_tokens == 0 || r->prefill_tokens == r->seq_tokens_max)
        return r->cut_tokens;
    return r->prefill_tokens;
}

kvw_err kve_run_make(struct kve_run **out, const struct kve_model *m, uint32_t prefill_tokens,
                     uint32_t seq_tokens_max)
{
    const struct kve_model_config *c = &m->config;

    if (prefill_tokens > PREFILL_TOKENS_MAX || seq_tokens_max == 0 || seq_tokens_max > c->context)
        return KVW_E_INVALID;

    struct kve_run *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return KVW_E_NOMEM;
    r->m = m;
    r->kernels = kve_kernels();
    r->seq_tokens_max = seq_tokens_max;
    r->query_tokens = query_tokens_of(c->heads / c->kv_heads);
    r->cut_tokens = (CUT_TOKENS + r->query_tokens - 1) / r->query_tokens * r->query_tokens;
    if (prefill_tokens == 0) /* see kve_run_cut() */
        prefill_tokens = PREFILL_TOKENS / r->cut_tokens * r->cut_tokens;
    r->prefill_tokens = least(prefill_tokens, seq_tokens_max);
    r->token_rows = most(r->prefill_tokens, KVE_BATCH_MAX);
    *out = r;
    return KVW_OK;
}

kvw_err kve_run_open(struct kve_run **out, const struct kve_model *m, uint32_t threads,
                     uint32_t prefill_tokens, uint32_t seq_tokens_max)
{
    struct kve_run *r;
    kvw_err err;

    if (threads == 0 || threads > KVE_THREADS_MAX)
        return KVW_E_INVALID;
    if ((err = kve_run_make(&r, m, prefill_tokens, seq_tokens_max)) != KVW_OK)
        return err;
    err = KVW_E_NOMEM;
    r->scratch = calloc(threads, sizeof(*r->scratch));
    if (r->scratch == NULL)
        goto free_run;
    r->arena = aligned_alloc(64, lay_out(r, threads) * sizeof(*r->arena));
    if (r->arena == NULL)
        goto free_scratch;
    lay_out(r, threads);
    if ((err = kve_pool_open(&r->pool, threads, worker_begin)) != KVW_OK)
        goto free_arena;
    *out = r;
    return KVW_OK;

free_arena:
    free(r->arena);
free_scratch:
    free(r->scratch);
free_run:
    free(r);
    return err;
}

void *kve_run_stream(const struct kve_run *r)
{
    return r->steps != NULL ? r->steps->stream(r) : NULL;
}

void kve_run_close(struct kve_run *r)
{
    if (r == NULL)
        return;
    if (r->steps != NULL)
        r->steps->close(r);
    kve_pool_close(r->pool);
    free(r->arena);
    free(r->scratch);
    free(r);
}
