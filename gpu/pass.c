/* SPDX-License-Identifier: Apache-2.0 */
/* pass.c - the order of a forward pass: the same steps as ../engine/model/layer.c and forward.c. */
#include "pass.h"

const struct kvg_step_kernel kvg_step_kernels[KVG_STEPS] = {
    [KVG_STEP_EMBED] = {"kvg_embed", 0},
    [KVG_STEP_NORM] = {"kvg_norm", KVG_NORM_SHARED},
    [KVG_STEP_ATTEND_JOIN] = {"kvg_attend_join", 0},
    [KVG_STEP_TURN] = {"kvg_turn", KVG_TURN_SHARED},
    [KVG_STEP_ATTEND] = {"kvg_attend", KVG_ATTEND_SHARED},
    [KVG_STEP_ATTEND_64] = {"kvg_attend_64", KVG_TILE_SHARED(64)},
    [KVG_STEP_ATTEND_128] = {"kvg_attend_128", KVG_TILE_SHARED(128)},
    [KVG_STEP_ATTEND_PART] = {"kvg_attend_part", KVG_ATTEND_SHARED},
    [KVG_STEP_TURN_E4M3] = {"kvg_turn_e4m3", KVG_TURN_SHARED},
    [KVG_STEP_ATTEND_E4M3] = {"kvg_attend_e4m3", KVG_ATTEND_SHARED},
    [KVG_STEP_ATTEND_64_E4M3] = {"kvg_attend_64_e4m3", KVG_TILE_SHARED(64)},
    [KVG_STEP_ATTEND_128_E4M3] = {"kvg_attend_128_e4m3", KVG_TILE_SHARED(128)},
    [KVG_STEP_ATTEND_PART_E4M3] = {"kvg_attend_part_e4m3", KVG_ATTEND_SHARED},
    [KVG_STEP_GATE] = {"kvg_gate", 0},
    [KVG_STEP_PICK] = {"kvg_pick", KVG_PICK_SHARED},
};

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t qkv_rows(const struct kvg_model *m)
{
    return (m->heads + 2 * m->kv_heads) * m->dim;
}

uint32_t kvg_pass_wide(const struct kvg_model *m)
{
    return larger(m->hidden, larger(qkv_rows(m), 2 * m->ffn));
}

uint32_t kvg_pass_half(const struct kvg_model *m)
{
    return larger(m->hidden, larger(m->heads * m->dim, m->ffn));
}

uint32_t kvg_pass_parts(const struct kvg_model *m, uint32_t seq_tokens_max)
{
    return (seq_tokens_max + KVG_KEY_SEGMENT - 1) / KVG_KEY_SEGMENT * m->heads;
}

/* A pass on its way: x of the tokens that go on, and what is to be added to it before its next
 * norm. */
struct way {
    const struct kvg_pass *p;
    const struct kvg_layer *layer;
    float *x;
    uint32_t count, first; /* tokens that go on, and the first one's position */
    const float *add;      /* [count][hidden], or NULL */
    const float *add_norm;
};

static kvw_err launch(const struct way *w, enum kvg_step step, uint32_t grid, const void *params)
{
    return w->p->runner->launch(w->p->runner->arg, step, grid, params);
}

static bool is_fp8(const struct kvg_pass *p)
{
    return p->pool->dtype == KVW_DTYPE_F8_E4M3;
}

/* A step that touches pages. */
static kvw_err launch_paged(const struct way *w, enum kvg_step step, uint32_t grid,
                            const void *params)
{
    const int further = is_fp8(w->p) ? KVG_STEP_TURN_E4M3 - KVG_STEP_TURN : 0;

    return launch(w, (enum kvg_step)((int)step + further), grid, params);
}

static kvw_err multiply(const struct way *w, const struct kvg_product *product)
{
    return w->p->runner->multiply(w->p->runner->arg, product);
}

/* x += what is left to add, normed with `norm` to half; norm NULL: only the sum. */
static kvw_err norm(struct way *w, const float *norm)
{
    const struct kvg_norm params = {
        .x = w->x,
        .add = w->add,
        .add_norm = w->add_norm,
        .norm = norm,
        .y = norm != NULL ? w->p->scratch.half : NULL,
        .width = w->p->m->hidden,
        .eps = w->p->m->eps,
    };

    if (norm == NULL && w->add == NULL)
        return KVW_OK;
    w->add = w->add_norm = NULL;
    return launch(w, KVG_STEP_NORM, w->count, &params);
}

/* x += half times weights[hidden][cols], now, or with a norm of it by the next norm(). */
static kvw_err add_product(struct way *w, const uint16_t *weights, uint32_t cols,
                           const float *post_norm)
{
    const struct kvg_product product = {
        .w = weights,
        .x = w->p->scratch.half,
        .y = post_norm == NULL ? w->x : w->p->scratch.wide,
        .tokens = w->count,
        .rows = w->p->m->hidden,
        .cols = cols,
        .add = post_norm == NULL,
    };

    if (post_norm != NULL) {
        w->add = product.y;
        w->add_norm = post_norm;
    }
    return multiply(w, &product);
}

static struct kvg_paged pages_of(const struct kvg_pass *p, uint32_t layer)
{
    unsigned char *k = (unsigned char *)p->pool->mem.base + layer * p->pool->layer_stride;

    return (struct kvg_paged){
        .k = k,
        .v = k + p->pool->kv_stride,
        .blocks = p->blocks,
        .block_stride = p->pool->block_stride,
        .token_stride = p->pool->token_stride,
        .head_stride = p->pool->head_stride,
        .block_tokens = p->pool->block_tokens,
    };
}

/* One launch, or one for each sequence. */
static kvw_err turn_all(const struct way *w, struct kvg_turn turn)
{
    const uint32_t heads = turn.heads + 2 * turn.kv_heads;
    const struct kvg_row *rows = w->p->rows;
    kvw_err err = KVW_OK;

    if (rows == NULL)
        return launch_paged(w, KVG_STEP_TURN, kvg_warps_grid(turn.tokens * heads), &turn);
    turn.tokens = 1;
    for (uint32_t i = 0; i < w->count && err == KVW_OK; ++i) {
        turn.first = rows[i].first;
        turn.kv.blocks = rows[i].blocks;
        err = launch_paged(w, KVG_STEP_TURN, kvg_warps_grid(heads), &turn);
        turn.qkv += (size_t)heads * turn.dim;
        turn.q += (size_t)turn.heads * turn.dim;
    }
    return err;
}

/* Q to scratch, K and V to their pages, of all of the way's tokens. */
static kvw_err project(struct way *w, const struct kvg_paged *pages)
{
    const struct kvg_model *m = w->p->m;
    const struct kvg_scratch *s = &w->p->scratch;
    const struct kvg_product product = {
        .w = w->layer->qkv,
        .x = s->half,
        .y = s->wide,
        .tokens = w->count,
        .rows = qkv_rows(m),
        .cols = m->hidden,
    };
    const struct kvg_turn turn = {
        .qkv = s->wide,
        .bias = w->layer->bias,
        .norm_q = w->layer->norm_q,
        .norm_k = w->layer->norm_k,
        .turn = w->layer->turn,
        .q = s->q,
        .kv = *pages,
        .tokens = w->count,
        .first = w->first,
        .heads = m->heads,
        .kv_heads = m->kv_heads,
        .dim = m->dim,
        .pairs = m->pairs,
        .halves = m->halves,
        .eps = m->eps,
        .k_scale = w->layer->k_scale,
        .v_scale = w->layer->v_scale,
    };
    kvw_err err = norm(w, w->layer->attn_norm);

    if (err == KVW_OK)
        err = multiply(w, &product);
    return err != KVW_OK ? err : turn_all(w, turn);
}

/* One query, in segments of keys. */
static kvw_err attend_one(const struct way *w, const struct kvg_attend *params)
{
    const uint32_t window = params->window, first = params->first;
    const uint32_t keys = window != 0 && first >= window ? window : first + 1;
    const uint32_t parts = kvg_pass_parts(w->p->m, keys);
    const kvw_err err = launch_paged(w, KVG_STEP_ATTEND_PART, kvg_warps_grid(parts), params);

    return err != KVW_OK ? err
                         : launch(w, KVG_STEP_ATTEND_JOIN, kvg_warps_grid(params->heads), params);
}

/* Whether tensor cores can: what steps.h says of their kernels. */
static bool is_aligned(const struct way *w, const struct kvg_attend *params)
{
    const struct kvg_paged *kv = &params->kv;
    const uint64_t eight = is_fp8(w->p) ? 8 : 16; /* values */

    return params->dim % 8 == 0 && params->dim <= 128 &&
           ((uint64_t)(uintptr_t)kv->k | (uint64_t)(uintptr_t)kv->v | kv->block_stride |
            kv->token_stride | kv->head_stride) %
                   eight ==
               0;
}

static kvw_err attend_many(const struct way *w, const struct kvg_attend *params)
{
    if (!is_aligned(w, params))
        return launch_paged(w, KVG_STEP_ATTEND, kvg_warps_grid(params->tokens * params->heads),
                            params);
    return launch_paged(w, params->dim <= 64 ? KVG_STEP_ATTEND_64 : KVG_STEP_ATTEND_128,
                        kvg_tiles_grid(params->tokens, params->heads, params->group), params);
}

/* From q of the last w->count tokens to half. */
static kvw_err attend(const struct way *w, const struct kvg_paged *pages)
{
    const struct kvg_model *m = w->p->m;
    const struct kvg_scratch *s = &w->p->scratch;
    const size_t row = (size_t)m->heads * m->dim;
    struct kvg_attend params = {
        .q = s->q + (w->p->count - w->count) * row,
        .out = s->half,
        .kv = *pages,
        .tokens = w->count,
        .first = w->first,
        .heads = m->heads,
        .group = m->heads / m->kv_heads,
        .dim = m->dim,
        .window = w->layer->window,
        .scale = is_fp8(w->p) ? m->attn_scale * w->layer->k_scale : m->attn_scale,
        .out_scale = is_fp8(w->p) ? w->layer->v_scale : 1,
        .part_max = s->part_max,
        .part_sum = s->part_sum,
        .part_out = s->part_out,
    };
    kvw_err err = KVW_OK;

    if (w->p->rows == NULL)
        return w->count == 1 ? attend_one(w, &params) : attend_many(w, &params);
    params.tokens = 1;
    for (uint32_t i = 0; i < w->count && err == KVW_OK; ++i) {
        params.first = w->p->rows[i].first;
        params.kv.blocks = w->p->rows[i].blocks;
        err = attend_one(w, &params);
        params.q += row;
        params.out += row;
    }
    return err;
}

static kvw_err feed_forward(struct way *w)
{
    const struct kvg_model *m = w->p->m;
    const struct kvg_scratch *s = &w->p->scratch;
    const struct kvg_product product = {
        .w = w->layer->gate_up,
        .x = s->half,
        .y = s->wide,
        .tokens = w->count,
        .rows = 2 * m->ffn,
        .cols = m->hidden,
    };
    const struct kvg_gate gate = {
        .in = s->wide, .y = s->half, .tokens = w->count, .width = m->ffn, .gelu = m->gelu};
    kvw_err err = norm(w, w->layer->ffn_norm);

    if (err == KVW_OK)
        err = multiply(w, &product);
    if (err == KVW_OK)
        err = launch(w, KVG_STEP_GATE, kvg_threads_grid((uint64_t)w->count * m->ffn), &gate);
    return err != KVW_OK ? err : add_product(w, w->layer->down, m->ffn, w->layer->post_ffn_norm);
}

/* Only the last `count` tokens go on. What is left to add is nothing: project() took it. */
static void drop_all_but(struct way *w, uint32_t count)
{
    w->x += (size_t)(w->count - count) * w->p->m->hidden;
    w->first += w->count - count;
    w->count = count;
}

/* outputs: how many of the last tokens need this layer's output. */
static kvw_err run_layer(struct way *w, uint32_t l, uint32_t outputs)
{
    const struct kvg_pass *p = w->p;
    const struct kvg_runner *r = p->runner;
    const struct kvg_paged pages = pages_of(p, l);
    kvw_err err;

    w->layer = &p->m->layer[l];
    err = project(w, &pages);
    if (err == KVW_OK && r->written != NULL)
        err = r->written(r->arg, l);
    if (err != KVW_OK || outputs == 0)
        return err;
    if (r->wait != NULL && (p->first > 0 || p->rows != NULL))
        err = r->wait(r->arg, l);
    drop_all_but(w, outputs);
    if (err == KVW_OK)
        err = attend(w, &pages);
    if (err == KVW_OK)
        err = add_product(w, w->layer->output, p->m->heads * p->m->dim, w->layer->post_attn_norm);
    return err != KVW_OK ? err : feed_forward(w);
}

static kvw_err finish(struct way *w)
{
    const struct kvg_model *m = w->p->m;
    const struct kvg_product product = {
        .w = m->logits,
        .x = w->p->scratch.half,
        .y = w->p->logits,
        .tokens = w->count,
        .rows = m->vocab,
        .cols = m->hidden,
    };
    const struct kvg_pick pick = {
        .logits = w->p->logits, .token = w->p->token, .count = m->vocab, .cap = m->softcap};
    kvw_err err = norm(w, m->output_norm);

    if (err == KVW_OK)
        err = multiply(w, &product);
    return err != KVW_OK ? err : launch(w, KVG_STEP_PICK, w->count, &pick);
}

/* Where the longest sequence ends. */
static uint64_t end_of(const struct kvg_pass *p)
{
    uint64_t end = 0;

    if (p->rows == NULL)
        return (uint64_t)p->first + p->count;
    for (uint32_t i = 0; i < p->count; ++i)
        end = p->rows[i].first + 1ull > end ? p->rows[i].first + 1ull : end;
    return end;
}

/* Pages of a type that there are kernels for, and scales for those. */
static bool has_pages(const struct kvg_pass *p)
{
    for (uint32_t l = 0; is_fp8(p) && l < p->m->layers; ++l)
        if (!(p->m->layer[l].k_scale > 0) || !(p->m->layer[l].v_scale > 0))
            return false;
    return is_fp8(p) || p->pool->dtype == KVW_DTYPE_BF16;
}

static bool fits(const struct kvg_pass *p)
{
    const struct kvg_model *m = p->m;
    const struct kvw_pool *pool = p->pool;

    return p->count > 0 && p->count <= p->scratch.tokens_max &&
           end_of(p) <= p->scratch.seq_tokens_max && pool->layers == m->layers &&
           pool->kv_heads == m->kv_heads && pool->head_dim == m->dim && has_pages(p) &&
           m->dim <= KVG_DIM_MAX && m->heads % m->kv_heads == 0 && 2 * m->pairs <= m->dim &&
           (p->logits == NULL) == (p->token == NULL);
}

kvw_err kvg_pass_run(const struct kvg_pass *p)
{
    const struct kvg_model *m = p->m;
    struct way w = {.p = p, .x = p->scratch.x, .count = p->count, .first = p->first};
    const struct kvg_embed embed = {.tokens = p->tokens,
                                    .table = m->embd,
                                    .x = w.x,
                                    .width = m->hidden,
                                    .scale = m->embd_scale};
    kvw_err err;

    if (!fits(p))
        return KVW_E_INVALID;
    err = launch(&w, KVG_STEP_EMBED, p->count, &embed);
    for (uint32_t l = 0; l < m->layers && err == KVW_OK; ++l) {
        const uint32_t last = p->rows != NULL ? w.count : 1, wanted = p->logits != NULL ? last : 0;

        err = run_layer(&w, l, l + 1 < m->layers ? w.count : wanted);
    }
    return err != KVW_OK || p->logits == NULL ? err : finish(&w);
}
