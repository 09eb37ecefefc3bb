/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forward.c - the forward pass, whatever the architecture. Prefill takes a chunk of tokens through
 * every layer with matrix products; decode takes one token with matrix-vector products; the last
 * layer of a prefill is decode's as soon as K and V are stored, because only the last token's
 * output is wanted.
 */
#include <math.h>

#include "arch.h"
#include "steps.h"

/* A batch's queries, each against its own sequence. */
static void attend_each(const struct kve_pass *p)
{
    const size_t row = (size_t)p->r->m->config.heads * p->r->m->config.head_dim;
    struct kve_pass one = *p;

    for (uint32_t t = 0; t < p->count; ++t) {
        one.blocks = p->seqs[t]->blocks;
        kve_attend_one(&one, p->r->q + t * row, p->seqs[t]->tokens);
    }
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
    kve_layer_begin(p, from);
    if (atomic_load(&r->failed))
        return KVW_E_NOMEM;
    if (hooks != NULL && hooks->layer_written != NULL)
        hooks->layer_written(hooks->arg, p->layer, p->base + p->count);
    if (outputs == 0)
        return KVW_OK;
    if (hooks != NULL && hooks->layer_wait != NULL && (p->base > 0 || p->seqs != NULL)) {
        const kvw_err err = hooks->layer_wait(hooks->arg, p->layer);

        if (err != KVW_OK)
            return err;
    }
    if (p->seqs != NULL)
        attend_each(p);
    else if (outputs == 1)
        kve_attend_one(p, r->q + from * row, p->base + from);
    else
        kve_attend_chunk(p);
    kve_layer_end(p, from, outputs);
    return atomic_load(&r->failed) ? KVW_E_NOMEM : KVW_OK;
}

/* r->x and the turns of the chunk's tokens. */
static void begin_chunk(const struct kve_pass *p)
{
    const struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;
    const struct kve_matrix *embd = &r->m->token_embd;

    for (uint32_t t = 0; t < p->count; ++t) {
        float *x = r->x + (size_t)t * c->hidden;

        r->kernels->dequantise(embd->type, kve_matrix_row(embd, p->tokens[t]), x, c->hidden);
        for (uint32_t i = 0; c->embd_scale != 1 && i < c->hidden; ++i)
            x[i] *= c->embd_scale;
        for (uint32_t i = 0; i < r->m->ropes; ++i)
            kve_rope_turn(r->turn[i] + (size_t)t * c->rope_dims, r->m->speeds[i], c->rope_dims / 2,
                          kve_pass_position(p, t));
    }
}

static void cap_logits(const struct kve_model_config *c, float *logits, uint32_t rows)
{
    for (size_t i = 0; c->softcap != 0 && i < (size_t)rows * c->vocab; ++i)
        logits[i] = c->softcap * tanhf(logits[i] / c->softcap);
}

/* All layers for one chunk; logits[outputs][vocab] of its last `outputs` tokens. */
static kvw_err run_chunk(struct kve_pass *p, const struct kve_hooks *hooks, uint32_t outputs,
                         float *logits)
{
    struct kve_run *r = p->r;
    const struct kve_model_config *c = &r->m->config;

    if (r->steps != NULL)
        return r->steps->run_chunk(p, hooks, outputs, logits);
    begin_chunk(p);
    for (p->layer = 0; p->layer < c->layers; ++p->layer) {
        const bool last = p->layer + 1 == c->layers;
        const kvw_err err = run_layer(p, hooks, !last ? p->count : outputs);

        if (err != KVW_OK)
            return err;
    }
    if (outputs > 0) {
        kve_norm_rows(r, r->norm, r->x + (size_t)(p->count - outputs) * c->hidden,
                      r->m->output_norm, outputs);
        kve_project(&(struct kve_project){.r = r,
                                          .x = r->norm,
                                          .tokens = outputs,
                                          .parts = 1,
                                          .part = {{&r->m->output, logits}}});
        cap_logits(c, logits, outputs);
    }
    return atomic_load(&r->failed) ? KVW_E_NOMEM : KVW_OK;
}

/* The CPU K and V in bf16 or floats, a GPU those in bf16 or fp8. */
static bool takes(const struct kve_run *r, kvw_dtype dtype)
{
    return dtype == KVW_DTYPE_BF16 ||
           dtype == (r->steps != NULL ? KVW_DTYPE_F8_E4M3 : KVW_DTYPE_F32);
}

static bool arguments_fit(const struct kve_run *r, const struct kve_kvcache *kv,
                          const struct kve_seq *seq, const uint32_t *tokens, uint32_t count)
{
    const struct kve_model_config *c = &r->m->config;
    const struct kvw_pool *p = &kv->pool;
    const uint64_t end = (uint64_t)seq->tokens + count;

    if (p->layers != c->layers || p->kv_heads != c->kv_heads || p->head_dim != c->head_dim ||
        !takes(r, p->dtype) || count == 0 || end > r->seq_tokens_max ||
        end > (uint64_t)seq->block_count * p->block_tokens)
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

/* How many of the tokens that are left go into the next chunk: as many as fit, but a rest that
 * would be too short for its products to be added up as in a longer chunk gets some of them. */
static uint32_t chunk_of(const struct kve_run *r, uint32_t left)
{
    const uint32_t most = r->prefill_tokens, unit = r->cut_tokens;

    if (left <= most)
        return left;
    if (left - most < KVE_REST_MIN && most >= 2 * KVE_REST_MIN && most > unit)
        return (most - 1) / unit * unit; /* see kve_run_cut() */
    return most;
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
        struct kve_pass p = {.r = r,
                             .kv = &kv->pool,
                             .blocks = seq->blocks,
                             .tokens = tokens + done,
                             .count = chunk_of(r, count - done),
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

kvw_err kve_decode_batch(struct kve_run *r, struct kve_kvcache *kv, const struct kve_batch *batch,
                         const struct kve_hooks *hooks)
{
    const struct kve_hooks only = {.arg = hooks != NULL ? hooks->arg : NULL,
                                   .cancel = hooks != NULL ? hooks->cancel : NULL,
                                   .layer_wait = hooks != NULL ? hooks->layer_wait : NULL};
    struct kve_pass p = {.r = r,
                         .kv = &kv->pool,
                         .seqs = batch->seqs,
                         .tokens = batch->tokens,
                         .count = batch->count};

    if (batch->count == 0 || batch->count > KVE_BATCH_MAX)
        return KVW_E_INVALID;
    for (uint32_t i = 0; i < batch->count; ++i) {
        if (!arguments_fit(r, kv, batch->seqs[i], &batch->tokens[i], 1))
            return KVW_E_INVALID;
    }
    r->apart = true;
    const kvw_err err = run_chunk(&p, &only, batch->count, batch->logits);
    r->apart = false;
    for (uint32_t i = 0; err == KVW_OK && i < batch->count; ++i)
        ++batch->seqs[i]->tokens;
    return err;
}
