/* SPDX-License-Identifier: Apache-2.0 */
/* layer.c - a layer: norm, attention's inputs and outputs, norm, gated feed-forward, and what an
 * architecture has between them. */
#include "arch.h"
#include "steps.h"

/* rows[tokens][n] += bias[n] */
static void add_bias(float *rows, const float *bias, uint32_t tokens, size_t n)
{
    if (bias == NULL)
        return;
    for (uint32_t t = 0; t < tokens; ++t, rows += n) {
        for (size_t i = 0; i < n; ++i)
            rows[i] += bias[i];
    }
}

/* Each of a token's heads normed, where the layer has a norm for them, and turned. */
static void turn_heads(const struct kve_pass *p, float *heads, uint32_t count, const float *norm,
                       uint32_t token)
{
    const struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const float *turn = r->turn[r->m->layers[p->layer].rope] + (size_t)token * c->rope_dims;

    for (uint32_t h = 0; norm != NULL && h < count; ++h) {
        float *head = heads + (size_t)h * c->head_dim;

        r->kernels->rmsnorm(head, head, norm, c->head_dim, c->rms_eps);
    }
    if (c->rope_halves)
        kve_rope_halves(heads, count, c->head_dim, turn, c->rope_dims / 2);
    else
        kve_rope_neighbours(heads, count, c->head_dim, turn, c->rope_dims / 2);
}

/* K, turned, and V of every token of the chunk to their places in the cache. */
static void store_kv(const struct kve_pass *p)
{
    const struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_layer *layer = &r->m->layers[p->layer];
    const struct kvw_pool *kv = p->kv;
    const size_t row = (size_t)c->kv_heads * c->head_dim;

    add_bias(r->k, layer->bias_k, p->count, row);
    add_bias(r->v, layer->bias_v, p->count, row);
    for (uint32_t t = 0; t < p->count; ++t) {
        const uint32_t at = kve_pass_position(p, t), slot = at % kv->block_tokens;
        const uint32_t block = kve_pass_blocks(p, t)[at / kv->block_tokens];

        turn_heads(p, r->k + t * row, c->kv_heads, layer->norm_k, t);
        kve_pool_store(kv, r->kernels, kve_pool_at(kv, p->layer, 0, block, slot), r->k + t * row);
        kve_pool_store(kv, r->kernels, kve_pool_at(kv, p->layer, 1, block, slot), r->v + t * row);
    }
}

void kve_layer_begin(struct kve_pass *p, uint32_t from)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_layer *layer = &r->m->layers[p->layer];
    const size_t row = (size_t)c->heads * c->head_dim;

    kve_norm_rows(r, r->norm, r->x, layer->attn_norm, p->count);
    kve_project(&(struct kve_project){
        .r = r,
        .x = r->norm,
        .tokens = p->count,
        .parts = from == 0 ? 3 : 2,
        .part = {{&layer->attn_k, r->k}, {&layer->attn_v, r->v}, {&layer->attn_q, r->q}}});
    if (from > 0 && from < p->count)
        kve_project(&(struct kve_project){.r = r,
                                          .x = r->norm + (size_t)from * c->hidden,
                                          .tokens = p->count - from,
                                          .parts = 1,
                                          .part = {{&layer->attn_q, r->q + from * row}}});
    add_bias(r->q + from * row, layer->bias_q, p->count - from, row);
    for (uint32_t t = from; t < p->count; ++t)
        turn_heads(p, r->q + t * row, c->heads, layer->norm_q, t);
    store_kv(p);
}

/* x[tokens][hidden] += in W^T, or with a norm += that of it. */
static void add_product(struct kve_run *r, const struct kve_matrix *w, const float *norm,
                        const float *in, float *x, uint32_t tokens)
{
    const size_t n = (size_t)tokens * r->m->config.hidden;
    float *y = norm == NULL ? x : r->norm;

    kve_project(&(struct kve_project){
        .r = r, .x = in, .tokens = tokens, .parts = 1, .part = {{w, y}}, .add = norm == NULL});
    if (norm == NULL)
        return;
    kve_norm_rows(r, y, y, norm, tokens);
    for (size_t i = 0; i < n; ++i)
        x[i] += y[i];
}

void kve_layer_end(struct kve_pass *p, uint32_t first, uint32_t tokens)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_layer *layer = &r->m->layers[p->layer];
    float *x = r->x + (size_t)first * c->hidden;
    const float *q = r->q + (size_t)first * c->heads * c->head_dim;

    add_product(r, &layer->attn_output, layer->post_attn_norm, q, x, tokens);
    kve_norm_rows(r, r->norm, x, layer->ffn_norm, tokens);
    kve_gate_up(&(struct kve_gate_up){
        .r = r, .layer = layer, .x = r->norm, .ffn = r->ffn, .tokens = tokens});
    add_product(r, &layer->ffn_down, layer->post_ffn_norm, r->ffn, x, tokens);
}
