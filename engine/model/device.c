/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - tells a GPU's plugin what a model is made of, and gives it chunks to compute. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../gpu/loaded.h"
#include "ops.h"
#include "run_scratch.h"

_Static_assert(KVE_WHY_BYTES >= KVW_GPU_TEXT, "a plugin's sentence fits");
_Static_assert((int)KVG_GGUF_Q8_0 == (int)KVE_TYPE_Q8_0 && (int)KVG_TURNS >= (int)KVE_ROPES,
               "types have GGUF's numbers, and rotations have room");

/* What a run on a device has. */
struct device_run {
    const struct kvg_loaded_calls *calls;
    struct kvg_loaded *loaded;
};

static const struct kvg_loaded_calls *calls_of(const struct kve_device *d)
{
    const struct kvg_loaded_calls *calls = d->plugin->model;

    return calls != NULL && calls->abi == KVG_LOADED_ABI ? calls : NULL;
}

kvw_err kve_device_open(struct kve_device *d, int ordinal, char why[KVE_WHY_BYTES])
{
    kvw_err err;

    *d = (struct kve_device){0};
    if ((err = kvw_gpu_load(&d->plugin, why)) != KVW_OK)
        return err;
    if (calls_of(d) == NULL) {
        snprintf(why, KVE_WHY_BYTES, "the plugin for GPUs runs no models of this build");
        return KVW_E_UNSUPPORTED;
    }
    if ((err = d->plugin->open(&d->gpu, ordinal, why)) == KVW_OK)
        d->text = d->plugin->ladder(d->gpu);
    else
        d->gpu = NULL;
    return err;
}

void kve_device_close(struct kve_device *d)
{
    if (d->gpu == NULL)
        return;
    if (d->kv != NULL)
        d->plugin->mem_close(d->gpu, d->kv);
    d->plugin->close(d->gpu);
    *d = (struct kve_device){0};
}

kvw_err kve_device_kvcache(struct kve_device *d, struct kve_kvcache *kv,
                           const struct kvw_pool *shape, char why[KVE_WHY_BYTES])
{
    struct kvw_pool p = *shape;
    uint64_t bytes;
    kvw_err err = kve_kvcache_lay_out(&p);

    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "no such KV cache can be: %s", kvw_strerror(err));
        return err;
    }
    bytes = p.mem.bytes;
    if ((err = d->plugin->pool_open(d->gpu, bytes, &d->kv, why)) != KVW_OK) {
        d->kv = NULL;
        return err;
    }
    p.mem = *d->kv;
    p.mem.bytes = bytes;
    err = kve_kvcache_open_over(kv, &p);
    if (err != KVW_OK)
        snprintf(why, KVE_WHY_BYTES, "no memory for the lists of %u blocks", p.blocks);
    return err;
}

/* ---- what the model is made of --------------------------------------------------------------- */

static struct kvg_matrix matrix_of(const struct kve_matrix *m)
{
    return (struct kvg_matrix){.at = m->at,
                               .row_bytes = m->row_bytes,
                               .rows = m->rows,
                               .cols = m->cols,
                               .type = (uint32_t)m->type};
}

static struct kvg_weights_layer layer_of(const struct kve_layer *l)
{
    return (struct kvg_weights_layer){
        .q = matrix_of(&l->attn_q),
        .k = matrix_of(&l->attn_k),
        .v = matrix_of(&l->attn_v),
        .output = matrix_of(&l->attn_output),
        .gate = matrix_of(&l->ffn_gate),
        .up = matrix_of(&l->ffn_up),
        .down = matrix_of(&l->ffn_down),
        .attn_norm = l->attn_norm,
        .ffn_norm = l->ffn_norm,
        .bias_q = l->bias_q,
        .bias_k = l->bias_k,
        .bias_v = l->bias_v,
        .norm_q = l->norm_q,
        .norm_k = l->norm_k,
        .post_attn_norm = l->post_attn_norm,
        .post_ffn_norm = l->post_ffn_norm,
        .turn = l->rope,
        .window = l->window,
        .k_scale = 1, /* no key of a GGUF names any */
        .v_scale = 1,
    };
}

static struct kvg_weights weights_of(const struct kve_model *m,
                                     const struct kvg_weights_layer *layers, float *const *turns)
{
    const struct kve_model_config *c = &m->config;
    struct kvg_weights w = {
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
        .embd = matrix_of(&m->token_embd),
        .logits = matrix_of(&m->output),
        .output_norm = m->output_norm,
        .layer = layers,
    };

    for (uint32_t i = 0; i < m->ropes; ++i)
        w.turns[i] = turns[i];
    return w;
}

/* [positions][rope_dims]; NULL: no memory */
static float *turns_of(const struct kve_model *m, uint32_t rope, uint32_t positions)
{
    const size_t row = m->config.rope_dims;
    float *turns = calloc(positions, row * sizeof(*turns));

    for (uint32_t at = 0; turns != NULL && at < positions; ++at)
        kve_rope_turn(turns + at * row, m->speeds[rope], (uint32_t)row / 2, at);
    return turns;
}

/* The model to the GPU, within the run's numbers. */
static kvw_err load(const struct kve_device *d, struct kve_run *r, uint32_t block_tokens, char *why)
{
    const struct kve_model *m = r->m;
    const struct kvg_limits limits = {.tokens_max = r->token_rows,
                                      .seq_tokens_max = r->seq_tokens_max,
                                      .seqs_max = KVE_BATCH_MAX,
                                      .block_tokens = block_tokens};
    struct kvg_weights_layer *layers = calloc(m->config.layers, sizeof(*layers));
    struct device_run *run = r->device;
    float *turns[KVE_ROPES] = {NULL};
    bool have = layers != NULL;
    kvw_err err = KVW_E_NOMEM;

    for (uint32_t i = 0; i < m->ropes && have; ++i)
        have = (turns[i] = turns_of(m, i, r->seq_tokens_max)) != NULL;
    for (uint32_t i = 0; i < m->config.layers && have; ++i)
        layers[i] = layer_of(&m->layers[i]);
    snprintf(why, KVE_WHY_BYTES, "no memory to describe the model");
    if (have) {
        const struct kvg_weights w = weights_of(m, layers, turns);

        err = run->calls->open(&run->loaded, d->gpu, &w, &limits, why);
    }
    for (uint32_t i = 0; i < KVE_ROPES; ++i)
        free(turns[i]);
    free(layers);
    return err;
}

/* ---- a chunk --------------------------------------------------------------------------------- */

struct on_way {
    const struct kve_pass *p;
    const struct kve_hooks *hooks; /* may be NULL */
};

static kvw_err go_on(const struct kve_hooks *h)
{
    return h != NULL && h->cancel != NULL && h->cancel(h->arg) ? KVW_E_CANCELED : KVW_OK;
}

static kvw_err on_written(void *arg, uint32_t layer)
{
    const struct on_way *w = arg;

    if (w->hooks != NULL && w->hooks->layer_written != NULL)
        w->hooks->layer_written(w->hooks->arg, layer, w->p->base + w->p->count);
    return go_on(w->hooks);
}

static kvw_err on_wait(void *arg, uint32_t layer)
{
    const struct on_way *w = arg;

    return w->hooks != NULL && w->hooks->layer_wait != NULL
               ? w->hooks->layer_wait(w->hooks->arg, layer)
               : KVW_OK;
}

static kvw_err run_chunk(struct kve_pass *p, const struct kve_hooks *hooks, uint32_t outputs,
                         float *logits)
{
    struct on_way w = {.p = p, .hooks = hooks};
    struct device_run *run = p->r->device;
    struct kvg_sequence seq[KVE_BATCH_MAX];
    const struct kvg_call call = {
        .pool = p->kv,
        .seq = seq,
        .seqs = p->seqs != NULL ? p->count : 1,
        .tokens = p->tokens,
        .count = p->count,
        .logits = outputs > 0 ? logits : NULL,
        .written = on_written,
        .wait = on_wait,
        .arg = &w,
    };
    kvw_err err = go_on(hooks);

    if (err != KVW_OK)
        return err;
    if (outputs > call.seqs)
        return KVW_E_UNSUPPORTED; /* kve_score() is the CPU's */
    for (uint32_t i = 0; i < call.seqs; ++i)
        seq[i] = (struct kvg_sequence){.blocks = kve_pass_blocks(p, i),
                                       .first = kve_pass_position(p, i)};
    return run->calls->call(run->loaded, &call);
}

static void close_run(struct kve_run *r)
{
    struct device_run *run = r->device;

    if (run->loaded != NULL)
        run->calls->close(run->loaded);
    free(run);
}

static void *stream_of(const struct kve_run *r)
{
    const struct device_run *run = r->device;

    return run->calls->stream(run->loaded);
}

static const struct kve_steps steps = {
    .run_chunk = run_chunk, .close = close_run, .stream = stream_of};

kvw_err kve_device_run(const struct kve_device *d, struct kve_run **out, const struct kve_model *m,
                       uint32_t prefill_tokens, uint32_t block_tokens, char why[KVE_WHY_BYTES])
{
    struct device_run *run = calloc(1, sizeof(*run));
    struct kve_run *r = NULL;
    kvw_err err = run == NULL ? KVW_E_NOMEM
                              : kve_run_make(&r, m, prefill_tokens, kve_model_config(m)->context);

    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "no run can be opened: %s", kvw_strerror(err));
        free(run);
        return err;
    }
    run->calls = calls_of(d);
    r->device = run;
    r->steps = &steps;
    err = load(d, r, block_tokens, why);
    if (err == KVW_OK)
        *out = r;
    else
        kve_run_close(r);
    return err;
}
