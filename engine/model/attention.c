/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention.c - queries against the paged bf16 cache. Prefill goes through it in tiles with an
 * online softmax, so that no row of scores is ever whole; decode cuts the keys into segments and
 * adds up their parts in order. Both read back what was rounded to bf16, the chunk's own K and V
 * too: a cut between two chunks or two processes changes nothing.
 */
#include <math.h>
#include <string.h>

#include "run_scratch.h"

/* The first position that the query at position `at` sees in a layer with this window. */
static uint32_t first_seen(uint32_t window, uint32_t at)
{
    return window == 0 || at < window ? 0 : at - window + 1;
}

/* Keys or values of positions first .. first+n-1 of one head, widened: to[n][head_dim]. */
static void gather(const struct kve_pass *p, uint32_t kv, uint32_t head, uint32_t first, uint32_t n,
                   float *to)
{
    const struct kvw_pool *pool = p->kv;

    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t at = first + i;
        const unsigned char *from =
            kve_pool_at(pool, p->layer, kv, p->blocks[at / pool->block_tokens],
                        at % pool->block_tokens) +
            head * pool->head_stride;

        if (pool->dtype == KVW_DTYPE_F32)
            memcpy(to + (size_t)i * pool->head_dim, from, pool->head_dim * sizeof(*to));
        else
            p->r->kernels->from_bf16(to + (size_t)i * pool->head_dim,
                                     (const uint16_t *)(const void *)from, pool->head_dim);
    }
}

/* One tile: queries first .. first+n-1 of the chunk, the heads that share K/V head `head`. */
struct tile {
    struct kve_pass *p;
    struct kve_scratch *s;
    uint32_t head, first, n;
    uint32_t group, dim, window;
};

static float *query_at(const struct tile *t, uint32_t i)
{
    const struct kve_model_config *c = &t->p->r->m->config;

    return t->p->r->q + ((size_t)(t->first + i) * c->heads + t->head * t->group) * t->dim;
}

static void tile_begin(const struct tile *t)
{
    const float scale = t->p->r->m->config.attn_scale;
    const size_t row = (size_t)t->group * t->dim;

    for (uint32_t i = 0; i < t->n; ++i) {
        const float *q = query_at(t, i);

        for (size_t j = 0; j < row; ++j)
            t->s->query[i * row + j] = q[j] * scale;
    }
    for (uint32_t i = 0; i < t->n * t->group; ++i) {
        t->s->max[i] = -INFINITY;
        t->s->sum[i] = 0;
    }
    memset(t->s->out, 0, t->n * row * sizeof(float));
}

/* A row's scores of the keys key .. key+keys-1 to weights. It is of the query at position `at`. */
static void weigh(const struct tile *t, uint32_t row, uint32_t at, uint32_t key, uint32_t keys)
{
    struct kve_scratch *s = t->s;
    const uint32_t dim = t->dim, from = first_seen(t->window, at);
    const uint32_t end = at < key ? 0 : at - key < keys ? at - key + 1 : keys;
    const uint32_t skip = from <= key ? 0 : from - key < end ? from - key : end;
    float *scores = s->scores + (size_t)row * KVE_KEY_TILE;

    memset(scores, 0, skip * sizeof(*scores));

    const float keep = t->p->r->kernels->softmax_part(scores + skip, keys - skip, end - skip,
                                                      &s->max[row], &s->sum[row]);

    if (keep != 1.0f) {
        for (uint32_t d = 0; d < dim; ++d)
            s->out[row * dim + d] *= keep;
    }
}

/* Add the keys key .. key+keys-1. */
static kvw_err tile_add(const struct tile *t, uint32_t key, uint32_t keys)
{
    struct kve_scratch *s = t->s;
    const uint32_t rows = t->n * t->group, dim = t->dim;
    kvw_err err;

    gather(t->p, 0, t->head, key, keys, s->k);
    gather(t->p, 1, t->head, key, keys, s->v);
    err = kve_gemm(&(struct kve_gemm){.m = rows,
                                      .n = keys,
                                      .k = dim,
                                      .a = s->query,
                                      .b = s->k,
                                      .c = s->scores,
                                      .a_stride = dim,
                                      .b_stride = dim,
                                      .c_stride = KVE_KEY_TILE,
                                      .b_transposed = true});
    if (err != KVW_OK)
        return err;
    for (uint32_t i = 0; i < rows; ++i)
        weigh(t, i, t->p->base + t->first + i / t->group, key, keys);
    return kve_gemm(&(struct kve_gemm){.m = rows,
                                       .n = dim,
                                       .k = keys,
                                       .a = s->scores,
                                       .b = s->v,
                                       .c = s->out,
                                       .a_stride = KVE_KEY_TILE,
                                       .b_stride = dim,
                                       .c_stride = dim,
                                       .add = true});
}

static void tile_end(const struct tile *t)
{
    for (uint32_t i = 0; i < t->n; ++i) {
        float *q = query_at(t, i);

        for (uint32_t g = 0; g < t->group; ++g) {
            const uint32_t row = i * t->group + g;
            const float whole = 1.0f / t->s->sum[row];

            for (uint32_t d = 0; d < t->dim; ++d)
                q[g * t->dim + d] = t->s->out[row * t->dim + d] * whole;
        }
    }
}

static void attend_tile(void *arg, uint32_t item, uint32_t worker)
{
    struct kve_pass *p = arg;
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    struct tile t = {
        .p = p,
        .s = &r->scratch[worker],
        .head = item % c->kv_heads,
        .first = item / c->kv_heads * r->query_tokens,
        .group = c->heads / c->kv_heads,
        .dim = c->head_dim,
        .window = r->m->layers[p->layer].window,
    };

    t.n = p->count - t.first < r->query_tokens ? p->count - t.first : r->query_tokens;
    tile_begin(&t);

    const uint32_t end = p->base + t.first + t.n; /* what the last query sees */

    for (uint32_t key = first_seen(t.window, p->base + t.first); key < end; key += KVE_KEY_TILE) {
        const uint32_t keys = end - key < KVE_KEY_TILE ? end - key : KVE_KEY_TILE;

        if (tile_add(&t, key, keys) != KVW_OK)
            atomic_store(&r->failed, true);
    }
    tile_end(&t);
}

void kve_attend_chunk(struct kve_pass *p)
{
    const uint32_t tiles = (p->count + p->r->query_tokens - 1) / p->r->query_tokens;

    /* Late tiles see the most keys and have the highest numbers, which the pool takes first. */
    kve_pool_run(p->r->pool, tiles * p->r->m->config.kv_heads, attend_tile, p);
}

struct one {
    struct kve_pass *p;
    const float *q;       /* scaled */
    uint32_t first, keys; /* positions first .. keys-1 are seen */
};

static void attend_segment(void *arg, uint32_t item, uint32_t worker)
{
    const struct one *o = arg;
    struct kve_run *r = o->p->r;
    const struct kvw_pool *pool = o->p->kv;
    const struct kve_model_config *c = &r->m->config;
    const uint32_t first = o->first + item * KVE_KEY_SEGMENT, group = c->heads / c->kv_heads;
    const uint32_t left = o->keys - first;

    for (uint32_t h = 0; h < c->kv_heads; ++h) {
        const size_t head = (size_t)item * c->heads + h * group;

        r->kernels->attend(&(struct kve_attend){
            .k = kve_pool_at(pool, o->p->layer, 0, 0, 0) + h * pool->head_stride,
            .v = kve_pool_at(pool, o->p->layer, 1, 0, 0) + h * pool->head_stride,
            .blocks = o->p->blocks,
            .block_stride = pool->block_stride,
            .token_stride = pool->token_stride,
            .block_tokens = pool->block_tokens,
            .first = first,
            .last = first + (left < KVE_KEY_SEGMENT ? left : KVE_KEY_SEGMENT),
            .f32 = pool->dtype == KVW_DTYPE_F32,
            .fetch_bytes = h == 0 ? (uint32_t)pool->token_stride : 0,
            .fetch_ahead = 8 * pool->token_stride,
            .head_dim = c->head_dim,
            .group = group,
            .q = o->q + (size_t)h * group * c->head_dim,
            .scores = r->scratch[worker].scores,
            .row = r->scratch[worker].k,
            .max = r->part_max + head,
            .sum = r->part_sum + head,
            .out = r->part_out + head * c->head_dim,
        });
    }
}

void kve_attend_one(struct kve_pass *p, float *q, uint32_t position)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const uint32_t first = first_seen(r->m->layers[p->layer].window, position);
    const uint32_t segments = (position - first) / KVE_KEY_SEGMENT + 1;
    struct one o = {.p = p, .q = q, .first = first, .keys = position + 1};

    for (uint32_t i = 0; i < c->heads * c->head_dim; ++i)
        q[i] *= c->attn_scale;
    kve_pool_run(r->pool, segments, attend_segment, &o);
    for (uint32_t h = 0; h < c->heads; ++h) {
        float max = -INFINITY, sum = 0, *out = q + (size_t)h * c->head_dim;

        for (uint32_t s = 0; s < segments; ++s)
            max = fmaxf(max, r->part_max[(size_t)s * c->heads + h]);
        memset(out, 0, c->head_dim * sizeof(*out));
        for (uint32_t s = 0; s < segments; ++s) {
            const size_t at = (size_t)s * c->heads + h;
            const float weight = expf(r->part_max[at] - max);

            sum += r->part_sum[at] * weight;
            for (uint32_t d = 0; d < c->head_dim; ++d)
                out[d] += r->part_out[at * c->head_dim + d] * weight;
        }
        for (uint32_t d = 0; d < c->head_dim; ++d)
            out[d] /= sum;
    }
}
