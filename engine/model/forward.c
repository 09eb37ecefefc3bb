/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forward.c - the llama forward pass. Prefill takes a chunk of tokens through every layer with
 * matrix products; decode takes one token with matrix-vector products; the last layer of a prefill
 * is decode's as soon as K and V are stored, because only the last token's output is wanted.
 */
#include <string.h>

#include "run_scratch.h"

/* Weight bytes in one item of a matrix-vector step: some microseconds of reading. */
#define ITEM_BYTES 32768u

/* y = x W^T for up to three matrices with the same input, in one step. */
struct project {
    struct kve_run *r;
    const float *x;
    uint32_t tokens;
    uint32_t parts;
    struct {
        const struct kve_matrix *w;
        float *y; /* [tokens][w->rows] */
    } part[3];
    bool add;           /* y += */
    uint32_t item_rows; /* rows of one matrix in an item */
};

static uint32_t items_of(const struct kve_matrix *w, uint32_t item_rows)
{
    return (w->rows + item_rows - 1) / item_rows;
}

/* Which rows an item stands for; moves *item to the number inside its part. */
static uint32_t part_of(const struct project *j, uint32_t *item)
{
    uint32_t part = 0;

    while (*item >= items_of(j->part[part].w, j->item_rows))
        *item -= items_of(j->part[part++].w, j->item_rows);
    return part;
}

static uint32_t rows_of(const struct kve_matrix *w, uint32_t first, uint32_t item_rows)
{
    return w->rows - first < item_rows ? w->rows - first : item_rows;
}

static void project_panel(void *arg, uint32_t item, uint32_t worker)
{
    const struct project *j = arg;
    const uint32_t part = part_of(j, &item);
    const struct kve_matrix *w = j->part[part].w;
    const uint32_t first = item * j->item_rows;

    if (kve_matmul_panel(j->r->kernels,
                         &(struct kve_panel){.w = w,
                                             .first = first,
                                             .rows = rows_of(w, first, j->item_rows),
                                             .x = j->x,
                                             .tokens = j->tokens,
                                             .y = j->part[part].y + first,
                                             .y_stride = w->rows,
                                             .add = j->add,
                                             .scratch = j->r->scratch[worker].panel}) != KVW_OK)
        atomic_store(&j->r->failed, true);
}

static void project_rows(void *arg, uint32_t item, uint32_t worker)
{
    const struct project *j = arg;
    const uint32_t part = part_of(j, &item);
    const struct kve_matrix *w = j->part[part].w;
    const uint32_t first = item * j->item_rows, rows = rows_of(w, first, j->item_rows);
    float *y = j->part[part].y + first;

    if (!j->add) {
        j->r->kernels->matvec(w, first, rows, j->x, y);
        return;
    }

    float *sum = j->r->scratch[worker].panel; /* item_rows of them fit: see row_items() */

    j->r->kernels->matvec(w, first, rows, j->x, sum);
    for (uint32_t i = 0; i < rows; ++i)
        y[i] += sum[i];
}

/* Rows per item of a matrix-vector step. At most KVE_PANEL_ROWS * 4, which scratch can hold. */
static uint32_t row_items(const struct kve_matrix *w)
{
    const uint64_t rows = ITEM_BYTES / w->row_bytes / 4 * 4;

    return rows < 4 ? 4 : rows > KVE_PANEL_ROWS ? KVE_PANEL_ROWS : (uint32_t)rows;
}

static void project(struct project *j)
{
    uint32_t items = 0;

    j->item_rows = j->tokens > 1 ? KVE_PANEL_ROWS : row_items(j->part[0].w);
    for (uint32_t i = 0; i < j->parts; ++i)
        items += items_of(j->part[i].w, j->item_rows);
    kve_pool_run(j->r->pool, items, j->tokens > 1 ? project_panel : project_rows, j);
}

/* ffn = silu(gate x) * (up x) */
struct gate_up {
    struct kve_run *r;
    const struct kve_layer *layer;
    const float *x;
    float *ffn; /* [tokens][ffn] */
    uint32_t tokens;
    uint32_t item_rows;
};

static void gate_up_panel(void *arg, uint32_t item, uint32_t worker)
{
    const struct gate_up *j = arg;
    struct kve_run *r = j->r;
    const uint32_t ffn = r->m->config.ffn, first = item * j->item_rows;
    struct kve_panel p = {.w = &j->layer->ffn_gate,
                          .first = first,
                          .rows = rows_of(&j->layer->ffn_gate, first, j->item_rows),
                          .x = j->x,
                          .tokens = j->tokens,
                          .y = j->ffn + first,
                          .y_stride = ffn,
                          .scratch = r->scratch[worker].panel};

    if (kve_matmul_panel(r->kernels, &p) != KVW_OK)
        atomic_store(&r->failed, true);
    p.w = &j->layer->ffn_up;
    p.y = r->scratch[worker].up;
    p.y_stride = KVE_PANEL_ROWS;
    if (kve_matmul_panel(r->kernels, &p) != KVW_OK)
        atomic_store(&r->failed, true);
    for (uint32_t t = 0; t < j->tokens; ++t)
        r->kernels->silu_mul(j->ffn + (size_t)t * ffn + first, p.y + (size_t)t * KVE_PANEL_ROWS,
                             p.rows);
}

static void gate_up_rows(void *arg, uint32_t item, uint32_t worker)
{
    const struct gate_up *j = arg;
    struct kve_run *r = j->r;
    const uint32_t first = item * j->item_rows;
    const uint32_t rows = rows_of(&j->layer->ffn_gate, first, j->item_rows);
    float *up = r->scratch[worker].panel;

    r->kernels->matvec(&j->layer->ffn_gate, first, rows, j->x, j->ffn + first);
    r->kernels->matvec(&j->layer->ffn_up, first, rows, j->x, up);
    r->kernels->silu_mul(j->ffn + first, up, rows);
}

static void gate_up(struct gate_up *j)
{
    const struct kve_matrix *w = &j->layer->ffn_gate;

    j->item_rows = j->tokens > 1 ? KVE_PANEL_ROWS : row_items(w);
    kve_pool_run(j->r->pool, items_of(w, j->item_rows),
                 j->tokens > 1 ? gate_up_panel : gate_up_rows, j);
}

static void norm_rows(const struct kve_run *r, float *y, const float *x, const float *w,
                      uint32_t tokens)
{
    const struct kve_model_config *c = &r->m->config;

    for (uint32_t t = 0; t < tokens; ++t)
        r->kernels->rmsnorm(y + (size_t)t * c->hidden, x + (size_t)t * c->hidden, w, c->hidden,
                            c->rms_eps);
}

/* K, turned, and V of every token of the chunk to their places in the cache. */
static void store_kv(const struct kve_pass *p)
{
    const struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kvw_pool *kv = p->kv;
    const size_t row = (size_t)c->kv_heads * c->head_dim;

    for (uint32_t t = 0; t < p->count; ++t) {
        const uint32_t at = p->base + t, slot = at % kv->block_tokens;
        const uint32_t block = p->blocks[at / kv->block_tokens];

        kve_rope_apply(r->k + t * row, c->kv_heads, c->head_dim, r->turn + (size_t)t * c->rope_dims,
                       c->rope_dims / 2);
        kve_pool_store(kv, r->kernels, kve_pool_at(kv, p->layer, 0, block, slot), r->k + t * row);
        kve_pool_store(kv, r->kernels, kve_pool_at(kv, p->layer, 1, block, slot), r->v + t * row);
    }
}

/* Attention's output and the feed-forward block, added to the tokens' residual stream. */
static void finish_layer(struct kve_pass *p, uint32_t first, uint32_t tokens)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_layer *layer = &r->m->layers[p->layer];
    float *x = r->x + (size_t)first * c->hidden;
    float *q = r->q + (size_t)first * c->heads * c->head_dim;

    project(&(struct project){.r = r,
                              .x = q,
                              .tokens = tokens,
                              .parts = 1,
                              .part = {{&layer->attn_output, x}},
                              .add = true});
    norm_rows(r, r->norm, x, layer->ffn_norm, tokens);
    gate_up(
        &(struct gate_up){.r = r, .layer = layer, .x = r->norm, .ffn = r->ffn, .tokens = tokens});
    project(&(struct project){.r = r,
                              .x = r->ffn,
                              .tokens = tokens,
                              .parts = 1,
                              .part = {{&layer->ffn_down, x}},
                              .add = true});
}

/* K and V of the chunk into the cache, and the queries of tokens from .. count-1 into r->q. */
static void begin_layer(struct kve_pass *p, uint32_t from)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_layer *layer = &r->m->layers[p->layer];
    const size_t row = (size_t)c->heads * c->head_dim;

    norm_rows(r, r->norm, r->x, layer->attn_norm, p->count);
    project(&(struct project){
        .r = r,
        .x = r->norm,
        .tokens = p->count,
        .parts = from == 0 ? 3 : 2,
        .part = {{&layer->attn_k, r->k}, {&layer->attn_v, r->v}, {&layer->attn_q, r->q}}});
    if (from > 0 && from < p->count)
        project(&(struct project){.r = r,
                                  .x = r->norm + (size_t)from * c->hidden,
                                  .tokens = p->count - from,
                                  .parts = 1,
                                  .part = {{&layer->attn_q, r->q + from * row}}});
    for (uint32_t t = from; t < p->count; ++t)
        kve_rope_apply(r->q + t * row, c->heads, c->head_dim, r->turn + (size_t)t * c->rope_dims,
                       c->rope_dims / 2);
    store_kv(p);
}

/* One layer. outputs: how many of the chunk's last tokens need this layer's output: all of them,
 * except in the last layer. */
static kvw_err run_layer(struct kve_pass *p, const struct kve_hooks *hooks, uint32_t outputs)
{
    struct kve_run *r = p->r;
    const size_t row = (size_t)r->m->config.heads * r->m->config.head_dim;
    const uint32_t from = p->count - outputs;

    if (hooks != NULL && hooks->cancel != NULL && hooks->cancel(hooks->arg))
        return KVW_E_CANCELED;
    begin_layer(p, from);
    if (atomic_load(&r->failed))
        return KVW_E_NOMEM;
    if (hooks != NULL && hooks->layer_written != NULL)
        hooks->layer_written(hooks->arg, p->layer, p->base + p->count);
    if (outputs == 0)
        return KVW_OK;
    if (hooks != NULL && hooks->layer_wait != NULL && p->base > 0) {
        const kvw_err err = hooks->layer_wait(hooks->arg, p->layer);

        if (err != KVW_OK)
            return err;
    }
    if (outputs == 1)
        kve_attend_one(p, r->q + from * row, p->base + from);
    else
        kve_attend_chunk(p);
    finish_layer(p, from, outputs);
    return atomic_load(&r->failed) ? KVW_E_NOMEM : KVW_OK;
}

/* All layers for one chunk; logits[outputs][vocab] of its last `outputs` tokens. */
static kvw_err run_chunk(struct kve_pass *p, const struct kve_hooks *hooks, uint32_t outputs,
                         float *logits)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_matrix *embd = &r->m->token_embd;

    for (uint32_t t = 0; t < p->count; ++t) {
        r->kernels->dequantise(embd->type, kve_matrix_row(embd, p->tokens[t]),
                               r->x + (size_t)t * c->hidden, c->hidden);
        kve_rope_turn(r->turn + (size_t)t * c->rope_dims, r->m->rope_speed, c->rope_dims / 2,
                      p->base + t);
    }
    for (p->layer = 0; p->layer < c->layers; ++p->layer) {
        const bool last = p->layer + 1 == c->layers;
        const kvw_err err = run_layer(p, hooks, !last ? p->count : outputs);

        if (err != KVW_OK)
            return err;
    }
    if (outputs > 0) {
        norm_rows(r, r->norm, r->x + (size_t)(p->count - outputs) * c->hidden, r->m->output_norm,
                  outputs);
        project(&(struct project){.r = r,
                                  .x = r->norm,
                                  .tokens = outputs,
                                  .parts = 1,
                                  .part = {{&r->m->output, logits}}});
    }
    return atomic_load(&r->failed) ? KVW_E_NOMEM : KVW_OK;
}

static bool arguments_fit(const struct kve_run *r, const struct kve_kvcache *kv,
                          const struct kve_seq *seq, const uint32_t *tokens, uint32_t count)
{
    const struct kve_model_config *c = &r->m->config;
    const struct kvw_pool *p = &kv->pool;
    const uint64_t end = (uint64_t)seq->tokens + count;

    if (p->layers != c->layers || p->kv_heads != c->kv_heads || p->head_dim != c->head_dim ||
        (p->dtype != KVW_DTYPE_BF16 && p->dtype != KVW_DTYPE_F32) || count == 0 ||
        end > r->seq_tokens_max || end > (uint64_t)seq->block_count * p->block_tokens)
        return false;
    for (uint32_t i = 0; i < count; ++i) {
        if (tokens[i] >= c->vocab)
            return false;
    }
    for (uint64_t b = 0; b * p->block_tokens < end; ++b) {
        if (seq->blocks[b] >= p->blocks)
            return false;
    }
    return true;
}

/* tokens in chunks; logits of the last one, or of all of them, one after the other; NULL: none. */
static kvw_err run_tokens(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                          const uint32_t *tokens, uint32_t count, const struct kve_hooks *hooks,
                          float *logits, bool all)
{
    kvw_err err = KVW_OK;

    if (!arguments_fit(r, kv, seq, tokens, count))
        return KVW_E_INVALID;

    const int before = kve_matmul_thread_begin();

    atomic_store(&r->failed, false);
    for (uint32_t done = 0; err == KVW_OK && done < count;) {
        const uint32_t left = count - done;
        struct kve_pass p = {.r = r,
                             .kv = &kv->pool,
                             .blocks = seq->blocks,
                             .tokens = tokens + done,
                             .count = left < r->prefill_tokens ? left : r->prefill_tokens,
                             .base = seq->tokens + done};

        uint32_t outputs = 0;

        if (logits != NULL && (all || done + p.count == count))
            outputs = all ? p.count : 1;
        err = run_chunk(&p, hooks, outputs,
                        all ? logits + (size_t)done * r->m->config.vocab : logits);
        done += p.count;
    }
    kve_matmul_thread_end(before);
    if (err == KVW_OK)
        seq->tokens += count;
    return err;
}

kvw_err kve_prefill(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                    const uint32_t *tokens, uint32_t count, const struct kve_hooks *hooks,
                    float *logits)
{
    return run_tokens(r, kv, seq, tokens, count, hooks, logits, false);
}

kvw_err kve_score(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                  const uint32_t *tokens, uint32_t count, float *logits)
{
    return run_tokens(r, kv, seq, tokens, count, NULL, logits, true);
}

kvw_err kve_decode(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq, uint32_t token,
                   const struct kve_hooks *hooks, float *logits)
{
    if (!arguments_fit(r, kv, seq, &token, 1))
        return KVW_E_INVALID;

    struct kve_pass p = {.r = r,
                         .kv = &kv->pool,
                         .blocks = seq->blocks,
                         .tokens = &token,
                         .count = 1,
                         .base = seq->tokens};
    const kvw_err err = run_chunk(&p, hooks, logits != NULL ? 1 : 0, logits);

    if (err == KVW_OK)
        ++seq->tokens;
    return err;
}
