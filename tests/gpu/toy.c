/* SPDX-License-Identifier: Apache-2.0 */
/* toy.c - opens the model, rounds its weights, and gives both sides the same ones. */
#include "toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "e4m3.h"
#include "engine/model/model_impl.h"
#include "engine/model/ops.h"

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "toy: %s\n", what);
    exit(1);
}

static void *keep(struct toy *t, size_t bytes)
{
    void *p = calloc(1, bytes);

    need(p != NULL && t->kept_count < sizeof(t->kept) / sizeof(t->kept[0]), "no room");
    return t->kept[t->kept_count++] = p;
}

void toy_dequantise(uint32_t type, const void *blocks, uint16_t *values, uint32_t count)
{
    float *wide = malloc(count * sizeof(*wide));

    need(wide != NULL, "no memory");
    kve_dequantise((kve_type)type, blocks, wide, count);
    kve_kernels()->to_bf16(values, wide, count);
    free(wide);
}

/* The matrices, one below the other, in bf16; each of them is that part of it from now on. */
static const uint16_t *join(struct toy *t, struct kve_matrix *const *parts, uint32_t count)
{
    const uint32_t cols = parts[0]->cols;
    uint32_t rows = 0;
    uint16_t *all, *to;

    for (uint32_t i = 0; i < count; ++i)
        rows += parts[i]->rows;
    all = to = keep(t, (size_t)rows * cols * sizeof(*all));
    for (uint32_t i = 0; i < count; ++i) {
        struct kve_matrix *m = parts[i];

        for (uint32_t r = 0; r < m->rows; ++r)
            toy_dequantise(m->type, kve_matrix_row(m, r), to + (size_t)r * cols, cols);
        m->at = (const unsigned char *)to;
        m->row_bytes = cols * sizeof(*to);
        m->type = KVE_TYPE_BF16;
        to += (size_t)m->rows * cols;
    }
    return all;
}

static const float *join_biases(struct toy *t, const struct kve_layer *l)
{
    const size_t q = l->attn_q.rows, kv = l->attn_k.rows;
    float *all;

    if (l->bias_q == NULL)
        return NULL;
    all = keep(t, (q + 2 * kv) * sizeof(*all));
    memcpy(all, l->bias_q, q * sizeof(*all));
    memcpy(all + q, l->bias_k, kv * sizeof(*all));
    memcpy(all + q + kv, l->bias_v, kv * sizeof(*all));
    return all;
}

static const float *turns(struct toy *t, const double *speeds, uint32_t pairs)
{
    float *turn = keep(t, (size_t)TOY_TOKENS * 2 * pairs * sizeof(*turn));

    for (uint32_t at = 0; at < TOY_TOKENS; ++at)
        kve_rope_turn(turn + (size_t)at * 2 * pairs, speeds, pairs, at);
    return turn;
}

static void take_layers(struct toy *t, struct kve_model *m)
{
    const float *turn[KVE_ROPES];

    for (uint32_t i = 0; i < m->ropes; ++i)
        turn[i] = turns(t, m->speeds[i], m->config.rope_dims / 2);
    t->layers = keep(t, m->config.layers * sizeof(*t->layers));
    for (uint32_t i = 0; i < m->config.layers; ++i) {
        struct kve_layer *l = &m->layers[i];

        t->layers[i] = (struct kvg_layer){
            .qkv = join(t, (struct kve_matrix *[]){&l->attn_q, &l->attn_k, &l->attn_v}, 3),
            .output = join(t, (struct kve_matrix *[]){&l->attn_output}, 1),
            .gate_up = join(t, (struct kve_matrix *[]){&l->ffn_gate, &l->ffn_up}, 2),
            .down = join(t, (struct kve_matrix *[]){&l->ffn_down}, 1),
            .attn_norm = l->attn_norm,
            .ffn_norm = l->ffn_norm,
            .bias = join_biases(t, l),
            .norm_q = l->norm_q,
            .norm_k = l->norm_k,
            .post_attn_norm = l->post_attn_norm,
            .post_ffn_norm = l->post_ffn_norm,
            .turn = turn[l->rope],
            .window = l->window,
            .k_scale = 0.011f * (float)(i + 2), /* no powers of two, and no two the same */
            .v_scale = 0.013f * (float)(i + 1),
        };
    }
}

static void take_model(struct toy *t, struct kve_model *m)
{
    const struct kve_model_config *c = &m->config;
    const bool tied = m->output.at == m->token_embd.at;

    take_layers(t, m);
    t->gpu = (struct kvg_model){
        .layers = c->layers,
        .hidden = c->hidden,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .dim = c->head_dim,
        .ffn = c->ffn,
        .vocab = c->vocab,
        .pairs = c->rope_dims / 2,
        .halves = c->rope_halves,
        .gelu = c->gelu,
        .eps = c->rms_eps,
        .embd_scale = c->embd_scale,
        .attn_scale = c->attn_scale,
        .softcap = c->softcap,
        .embd = join(t, (struct kve_matrix *[]){&m->token_embd}, 1),
        .output_norm = m->output_norm,
        .layer = t->layers,
    };
    if (tied)
        m->output = m->token_embd;
    t->gpu.logits = tied ? t->gpu.embd : join(t, (struct kve_matrix *[]){&m->output}, 1);
}

static struct kve_kvcache *open_kv(struct toy *t, kvw_dtype dtype)
{
    struct kvw_pool p = {.layers = t->gpu.layers,
                         .blocks = TOY_BLOCKS,
                         .block_tokens = TOY_BLOCK,
                         .kv_heads = t->gpu.kv_heads,
                         .head_dim = t->gpu.dim,
                         .dtype = dtype,
                         .mem = {.kind = KVW_MEM_HOST, .dmabuf_fd = -1}};
    struct kve_kvcache *kv = keep(t, sizeof(*kv));

    need(kve_kvcache_lay_out(&p) == KVW_OK, "no such K/V cache");
    p.mem.base = keep(t, p.mem.bytes);
    need(kve_kvcache_open_over(kv, &p) == KVW_OK, "no K/V cache");
    memset(kv->pool.mem.base, 0xff, kv->pool.mem.bytes); /* NaNs: what nobody wrote is seen */
    return kv;
}

static void open_toy(struct toy *t, const char *path, kvw_dtype cpu, kvw_dtype gpu)
{
    char why[KVE_WHY_BYTES] = "";

    memset(t, 0, sizeof(*t));
    need(kve_gguf_open(&t->gguf, path, why) == KVW_OK, why);
    need(kve_model_open(&t->cpu, t->gguf, why) == KVW_OK, why);
    take_model(t, t->cpu);
    need(kve_run_open(&t->run, t->cpu, 1, 0, TOY_TOKENS) == KVW_OK, "no run");
    t->cpu_kv = open_kv(t, cpu);
    t->gpu_kv = open_kv(t, gpu);
    t->cpu_pool = &t->cpu_kv->pool;
    t->gpu_pool = &t->gpu_kv->pool;
    for (uint32_t i = 0; i < TOY_BLOCKS; ++i)
        t->blocks[i] = (i * 5 + 1) % TOY_BLOCKS; /* 5 and TOY_BLOCKS have no common factor */
}

void toy_open(struct toy *t, const char *path)
{
    open_toy(t, path, KVW_DTYPE_BF16, KVW_DTYPE_BF16);
}

void toy_open_fp8(struct toy *t, const char *path)
{
    open_toy(t, path, KVW_DTYPE_F32, KVW_DTYPE_F8_E4M3);
}

void toy_close(struct toy *t)
{
    kve_kvcache_close(t->cpu_kv);
    kve_kvcache_close(t->gpu_kv);
    kve_run_close(t->run);
    kve_model_close(t->cpu);
    kve_gguf_close(t->gguf);
    while (t->kept_count > 0)
        free(t->kept[--t->kept_count]);
}

float toy_scale(const struct toy *t, uint32_t layer, bool v)
{
    return v ? t->layers[layer].v_scale : t->layers[layer].k_scale;
}

/* A row of K or V, as fp8 has it. */
static void round_row(float *row, uint32_t n, float scale)
{
    for (uint32_t i = 0; i < n; ++i)
        row[i] = (float)t_e4m3_value(t_e4m3_nearest(row[i] / scale)) * scale;
}

/* Again what was rounded before stays as it is. */
static void round_layer(void *arg, uint32_t layer, uint32_t tokens)
{
    const struct toy *t = arg;
    const struct kvw_pool *p = t->cpu_pool;

    for (uint32_t at = 0; at < tokens; ++at)
        for (uint32_t kv = 0; kv < 2; ++kv)
            round_row((float *)(void *)kve_pool_at(p, layer, kv, t->blocks[at / p->block_tokens],
                                                   at % p->block_tokens),
                      p->kv_heads * p->head_dim, toy_scale(t, layer, kv == 1));
}

void toy_run(struct toy *t, const uint32_t *tokens, uint32_t count, float *logits)
{
    struct kve_seq seq = {.blocks = t->blocks, .block_count = TOY_BLOCKS, .tokens = t->cpu_tokens};
    const struct kve_hooks rounding = {.arg = t, .layer_written = round_layer};
    const struct kve_hooks *hooks = t->gpu_pool->dtype == KVW_DTYPE_F8_E4M3 ? &rounding : NULL;
    const kvw_err err = count == 1
                            ? kve_decode(t->run, t->cpu_kv, &seq, tokens[0], hooks, logits)
                            : kve_prefill(t->run, t->cpu_kv, &seq, tokens, count, hooks, logits);

    need(err == KVW_OK, "the CPU's pass failed");
    t->cpu_tokens = seq.tokens;
}
