/* SPDX-License-Identifier: Apache-2.0 */
/* upload.c - copies weights to VRAM piece by piece, where kernels make bf16 of them. */
#include "upload.h"

#include <stdio.h>
#include <string.h>

/* The types that there are kernels for; BF16 is copied. */
static const struct type {
    uint32_t type;
    const char *kernel; /* NULL: none is needed */
} types[] = {
    {KVG_GGUF_F32, "kvg_dequantise_f32"},
    {KVG_GGUF_F16, "kvg_dequantise_f16"},
    {KVG_GGUF_Q4_0, "kvg_dequantise_q4_0"},
    {KVG_GGUF_Q4_1, "kvg_dequantise_q4_1"},
    {KVG_GGUF_Q5_0, "kvg_dequantise_q5_0"},
    {KVG_GGUF_Q5_1, "kvg_dequantise_q5_1"},
    {KVG_GGUF_Q8_0, "kvg_dequantise_q8_0"},
    {KVG_GGUF_Q4_K, "kvg_dequantise_q4_k"},
    {KVG_GGUF_Q5_K, "kvg_dequantise_q5_k"},
    {KVG_GGUF_Q6_K, "kvg_dequantise_q6_k"},
    {KVG_GGUF_BF16, NULL},
};

static kvg_devptr address(const void *p)
{
    return (kvg_devptr)(uintptr_t)p;
}

void *kvg_upload_take(struct kvg_upload *u, uint64_t bytes)
{
    void *at = u->base != NULL ? u->base + u->used : NULL;

    u->used += (bytes + 255) / 256 * 256;
    return at;
}

static kvw_err failed(struct kvg_upload *u, const char *what, kvg_result r)
{
    const struct kvg_device *dev = u->run->dev;

    if (r == KVG_CU_SUCCESS)
        return KVW_OK;
    snprintf(u->why, KVW_GPU_TEXT, "CUDA: GPU %d: %s: %s", dev->ordinal, what,
             kvg_driver_error(dev->driver, r));
    return kvg_driver_code(r);
}

static kvw_err copy(struct kvg_upload *u, void *to, const void *from, uint64_t bytes)
{
    return failed(u, "copying weights",
                  u->run->dev->driver->copy(address(to), address(from), bytes, u->run->stream));
}

/* *to: NULL of NULL. */
static kvw_err vector(struct kvg_upload *u, const float *from, uint64_t count, const float **to)
{
    void *at;

    *to = NULL;
    if (from == NULL)
        return KVW_OK;
    *to = at = kvg_upload_take(u, count * sizeof(*from));
    return u->base != NULL ? copy(u, at, from, count * sizeof(*from)) : KVW_OK;
}

static const struct type *type_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); ++i)
        if (types[i].type == type)
            return &types[i];
    return NULL;
}

/* So many bytes of whole rows, which are in the staging memory, to `to`. */
static kvw_err widen(struct kvg_upload *u, const char *name, uint16_t *to, uint64_t count)
{
    const struct kvg_driver *d = u->run->dev->driver;
    const struct kvg_dequantise params = {.from = u->staging, .to = to, .count = count};
    const struct kvg_launch config = {
        .grid_x = kvg_threads_grid(count),
        .grid_y = 1,
        .grid_z = 1,
        .block_x = KVG_STEP_THREADS,
        .block_y = 1,
        .block_z = 1,
        .stream = u->run->stream,
    };
    void *values[] = {(void *)(uintptr_t)&params};
    kvg_kernel kernel;
    kvg_result r = d->library_kernel(&kernel, u->run->library, name);

    if (r == KVG_CU_SUCCESS)
        r = d->launch(&config, kernel, values, NULL);
    return failed(u, name, r);
}

static kvw_err rows_to(struct kvg_upload *u, const struct kvg_matrix *m, uint16_t *to)
{
    const struct type *type = type_of(m->type);
    const uint32_t step = (uint32_t)(KVG_UPLOAD_BYTES / m->row_bytes);
    kvw_err err = KVW_OK;

    for (uint32_t row = 0; row < m->rows && err == KVW_OK; row += step) {
        const uint32_t n = m->rows - row < step ? m->rows - row : step;
        const char *from = (const char *)m->at + row * m->row_bytes;
        uint16_t *at = to + (uint64_t)row * m->cols;

        err = copy(u, type->kernel != NULL ? u->staging : at, from, n * m->row_bytes);
        if (err == KVW_OK && type->kernel != NULL)
            err = widen(u, type->kernel, at, (uint64_t)n * m->cols);
    }
    return err;
}

static kvw_err check(struct kvg_upload *u, const struct kvg_matrix *m)
{
    if (type_of(m->type) == NULL)
        snprintf(u->why, KVW_GPU_TEXT, "CUDA: no kernel reads weights of GGUF's type %u", m->type);
    else if (m->row_bytes == 0 || m->row_bytes > KVG_UPLOAD_BYTES)
        snprintf(u->why, KVW_GPU_TEXT, "CUDA: a row of weights has %llu bytes, and %u at most fit",
                 (unsigned long long)m->row_bytes, KVG_UPLOAD_BYTES);
    else
        return KVW_OK;
    return KVW_E_UNSUPPORTED;
}

/* Matrices of the same width, one below the other. */
static kvw_err matrix(struct kvg_upload *u, const struct kvg_matrix *const *parts, uint32_t count,
                      const uint16_t **to)
{
    uint64_t values = 0;
    uint16_t *at;
    kvw_err err = KVW_OK;

    for (uint32_t i = 0; i < count && err == KVW_OK; ++i) {
        err = check(u, parts[i]);
        values += (uint64_t)parts[i]->rows * parts[i]->cols;
    }
    *to = at = kvg_upload_take(u, values * sizeof(*at));
    for (uint32_t i = 0; u->base != NULL && i < count && err == KVW_OK; ++i) {
        err = rows_to(u, parts[i], at);
        at += (uint64_t)parts[i]->rows * parts[i]->cols;
    }
    return err;
}

/* One below the other, all or none. */
static kvw_err biases(struct kvg_upload *u, const struct kvg_weights_layer *l, const float **to)
{
    const float *const parts[] = {l->bias_q, l->bias_k, l->bias_v};
    const uint32_t rows[] = {l->q.rows, l->k.rows, l->v.rows};
    kvw_err err = KVW_OK;
    char *at;

    *to = NULL;
    if (l->bias_q == NULL)
        return KVW_OK;
    at = kvg_upload_take(u, ((uint64_t)rows[0] + rows[1] + rows[2]) * sizeof(float));
    *to = (const float *)(const void *)at;
    for (uint32_t i = 0; u->base != NULL && i < 3 && err == KVW_OK; ++i) {
        err = copy(u, at, parts[i], rows[i] * sizeof(float));
        at += rows[i] * sizeof(float);
    }
    return err;
}

static kvw_err layer(struct kvg_upload *u, const struct kvg_weights *w,
                     const struct kvg_weights_layer *from, struct kvg_layer *to)
{
    const struct {
        const float *from, **to;
        uint32_t count;
    } vectors[] = {
        {from->attn_norm, &to->attn_norm, w->hidden},
        {from->ffn_norm, &to->ffn_norm, w->hidden},
        {from->norm_q, &to->norm_q, w->dim},
        {from->norm_k, &to->norm_k, w->dim},
        {from->post_attn_norm, &to->post_attn_norm, w->hidden},
        {from->post_ffn_norm, &to->post_ffn_norm, w->hidden},
    };
    const struct kvg_matrix *const qkv[] = {&from->q, &from->k, &from->v};
    const struct kvg_matrix *const gate_up[] = {&from->gate, &from->up};
    const struct kvg_matrix *const output = &from->output, *const down = &from->down;
    kvw_err err = matrix(u, qkv, 3, &to->qkv);

    if (err == KVW_OK)
        err = matrix(u, &output, 1, &to->output);
    if (err == KVW_OK)
        err = matrix(u, gate_up, 2, &to->gate_up);
    if (err == KVW_OK)
        err = matrix(u, &down, 1, &to->down);
    if (err == KVW_OK)
        err = biases(u, from, &to->bias);
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]) && err == KVW_OK; ++i)
        err = vector(u, vectors[i].from, vectors[i].count, vectors[i].to);
    to->window = from->window;
    to->k_scale = from->k_scale;
    to->v_scale = from->v_scale;
    return err;
}

static void take_numbers(struct kvg_model *m, const struct kvg_weights *w)
{
    *m = (struct kvg_model){
        .layers = w->layers,
        .hidden = w->hidden,
        .heads = w->heads,
        .kv_heads = w->kv_heads,
        .dim = w->dim,
        .ffn = w->ffn,
        .vocab = w->vocab,
        .pairs = w->pairs,
        .halves = w->halves,
        .gelu = w->gelu,
        .eps = w->eps,
        .embd_scale = w->embd_scale,
        .attn_scale = w->attn_scale,
        .softcap = w->softcap,
    };
}

kvw_err kvg_upload_weights(struct kvg_upload *u, const struct kvg_weights *w,
                           uint32_t seq_tokens_max, struct kvg_model *m, struct kvg_layer *layers)
{
    const struct kvg_matrix *const embd = &w->embd, *const logits = &w->logits;
    const float *turns[KVG_TURNS] = {NULL};
    kvw_err err;

    take_numbers(m, w);
    m->layer = layers;
    u->staging = kvg_upload_take(u, KVG_UPLOAD_BYTES);
    err = matrix(u, &embd, 1, &m->embd);
    m->logits = m->embd;
    if (err == KVW_OK && logits->at != embd->at)
        err = matrix(u, &logits, 1, &m->logits);
    if (err == KVW_OK)
        err = vector(u, w->output_norm, w->hidden, &m->output_norm);
    for (uint32_t i = 0; i < KVG_TURNS && err == KVW_OK; ++i)
        err = vector(u, w->turns[i], 2ull * seq_tokens_max * w->pairs, &turns[i]);
    for (uint32_t i = 0; i < w->layers && err == KVW_OK; ++i) {
        err = layer(u, w, &w->layer[i], &layers[i]);
        layers[i].turn = turns[w->layer[i].turn];
    }
    return err;
}
