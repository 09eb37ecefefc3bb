/* SPDX-License-Identifier: Apache-2.0 */
#include "model_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "../kvwire/wire.h"
#include "kernels.h"

#define HIDDEN_MAX  65536u
#define FFN_MAX     (1u << 20)
#define VOCAB_MAX   (1u << 24)
#define CONTEXT_MAX KVW_XFER_TOKENS_MAX

/* One open: the model as it grows, and where the sentence goes. */
struct opening {
    struct kve_model *m;
    const struct kve_gguf *g;
    char *why;
};

KVW_PRINTF(3, 4)
static kvw_err fail(const struct opening *o, kvw_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(o->why, KVE_WHY_BYTES, format, args);
    va_end(args);
    return err;
}

/* A whole number from a key; absent: the default, unless that is UINT64_MAX, "must be there". */
static kvw_err number(const struct opening *o, const char *key, uint64_t absent, uint32_t max,
                      uint32_t *v)
{
    uint64_t value = absent;
    const kvw_err err = kve_gguf_u64(o->g, key, &value);

    if (err == KVW_E_NOTFOUND && absent == UINT64_MAX)
        return fail(o, KVW_E_FORMAT, "%s is missing", key);
    if (err != KVW_OK && err != KVW_E_NOTFOUND)
        return fail(o, KVW_E_FORMAT, "%s isn't one whole number", key);
    if (value < 1 || value > max)
        return fail(o, KVW_E_FORMAT, "%s is %" PRIu64 "; 1 to %u can be read", key, value, max);
    *v = (uint32_t)value;
    return KVW_OK;
}

/* A positive real number from a key; absent: the default, unless that is 0. */
static kvw_err real(const struct opening *o, const char *key, float absent, float *v)
{
    float value = absent;
    const kvw_err err = kve_gguf_f32(o->g, key, &value);

    if (err == KVW_E_NOTFOUND && absent == 0)
        return fail(o, KVW_E_FORMAT, "%s is missing", key);
    if (err != KVW_OK && err != KVW_E_NOTFOUND)
        return fail(o, KVW_E_FORMAT, "%s isn't one real number", key);
    if (!(value > 0) || !isfinite(value))
        return fail(o, KVW_E_FORMAT, "%s is %g; a positive number was expected", key,
                    (double)value);
    *v = value;
    return KVW_OK;
}

static bool str_is(struct kve_str s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

/* Things that would change the arithmetic and that forward.c doesn't do. */
static kvw_err check_architecture(const struct opening *o)
{
    struct kve_str s;
    uint64_t experts = 0;

    if (kve_gguf_str(o->g, "general.architecture", &s) != KVW_OK)
        return fail(o, KVW_E_FORMAT, "general.architecture is missing or isn't a string");
    if (!str_is(s, "llama"))
        return fail(o, KVW_E_UNSUPPORTED, "general.architecture is \"%.*s\"; only \"llama\" is run",
                    s.bytes > 64 ? 64 : (int)s.bytes, s.at);
    if (kve_gguf_u64(o->g, "llama.expert_count", &experts) == KVW_OK && experts != 0)
        return fail(o, KVW_E_UNSUPPORTED,
                    "llama.expert_count is %" PRIu64 "; mixtures of experts aren't run", experts);
    if (kve_gguf_str(o->g, "llama.rope.scaling.type", &s) == KVW_OK && !str_is(s, "none") &&
        !str_is(s, "linear"))
        return fail(o, KVW_E_UNSUPPORTED,
                    "llama.rope.scaling.type is \"%.*s\"; \"none\" and \"linear\" are run",
                    s.bytes > 64 ? 64 : (int)s.bytes, s.at);
    return KVW_OK;
}

static kvw_err read_shape(const struct opening *o)
{
    struct kve_model_config *c = &o->m->config;
    kvw_err err;

    if ((err = number(o, "llama.block_count", UINT64_MAX, KVW_LAYERS_MAX, &c->layers)) ||
        (err = number(o, "llama.embedding_length", UINT64_MAX, HIDDEN_MAX, &c->hidden)) ||
        (err = number(o, "llama.feed_forward_length", UINT64_MAX, FFN_MAX, &c->ffn)) ||
        (err = number(o, "llama.context_length", UINT64_MAX, CONTEXT_MAX, &c->context)) ||
        (err = number(o, "llama.attention.head_count", UINT64_MAX, KVW_HEADS_MAX, &c->heads)) ||
        (err = number(o, "llama.attention.head_count_kv", c->heads, KVW_HEADS_MAX, &c->kv_heads)))
        return err;
    if (c->heads % c->kv_heads != 0 || c->heads / c->kv_heads > KVE_GROUP_MAX)
        return fail(o, KVW_E_FORMAT,
                    "llama.attention.head_count is %u, which %u K/V heads can't share in groups of "
                    "1 to %u",
                    c->heads, c->kv_heads, KVE_GROUP_MAX);

    uint32_t value_dim;
    const uint32_t usual = c->hidden / c->heads;

    if ((err = number(o, "llama.attention.key_length", usual, KVW_HEAD_DIM_MAX, &c->head_dim)) ||
        (err = number(o, "llama.attention.value_length", usual, KVW_HEAD_DIM_MAX, &value_dim)) ||
        (err =
             number(o, "llama.rope.dimension_count", c->head_dim, KVW_HEAD_DIM_MAX, &c->rope_dims)))
        return err;
    if (value_dim != c->head_dim)
        return fail(o, KVW_E_UNSUPPORTED,
                    "llama.attention.value_length is %u and key_length %u; they must be equal",
                    value_dim, c->head_dim);
    if (c->rope_dims % 2 != 0 || c->rope_dims > c->head_dim)
        return fail(o, KVW_E_FORMAT,
                    "llama.rope.dimension_count is %u; an even number up to %u was expected",
                    c->rope_dims, c->head_dim);
    if ((err = real(o, "llama.attention.layer_norm_rms_epsilon", 0, &c->rms_eps)))
        return err;
    return real(o, "llama.rope.freq_base", 10000.0f, &c->rope_base);
}

/* A matrix of the shape that the configuration asks for. */
static kvw_err matrix(const struct opening *o, const char *name, uint32_t rows, uint32_t cols,
                      struct kve_matrix *w)
{
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, name);

    if (t == NULL)
        return fail(o, KVW_E_FORMAT, "tensor %s is missing", name);
    if (t->dims != 2 || t->ne[0] != cols || t->ne[1] != rows)
        return fail(o, KVW_E_FORMAT,
                    "tensor %s is %" PRIu64 " x %" PRIu64 " (%u dimensions); %u x %u was expected",
                    name, t->ne[0], t->dims > 1 ? t->ne[1] : 1, t->dims, cols, rows);
    *w = (struct kve_matrix){
        .at = t->at, .row_bytes = t->bytes / rows, .rows = rows, .cols = cols, .type = t->type};
    return KVW_OK;
}

/* A vector, widened into values. */
static kvw_err vector(const struct opening *o, const char *name, uint32_t n, float *values)
{
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, name);

    if (t == NULL)
        return fail(o, KVW_E_FORMAT, "tensor %s is missing", name);
    if (t->dims != 1 || t->ne[0] != n)
        return fail(o, KVW_E_FORMAT,
                    "tensor %s has %u dimensions, the first of %" PRIu64 "; one of %u was expected",
                    name, t->dims, t->ne[0], n);
    kve_dequantise(t->type, t->at, values, n);
    return KVW_OK;
}

static const char *const layer_tensors[] = {"attn_norm", "attn_q",      "attn_k",
                                            "attn_v",    "attn_output", "ffn_norm",
                                            "ffn_gate",  "ffn_up",      "ffn_down"};
#define LAYER_TENSORS (sizeof(layer_tensors) / sizeof(layer_tensors[0]))

static kvw_err read_layer(const struct opening *o, uint32_t l)
{
    const struct kve_model_config *c = &o->m->config;
    struct kve_layer *layer = &o->m->layers[l];
    const uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    float *attn_norm = o->m->norms + (size_t)2 * l * c->hidden;
    float *ffn_norm = attn_norm + c->hidden;
    char name[LAYER_TENSORS][64];
    kvw_err err;

    for (size_t i = 0; i < LAYER_TENSORS; ++i)
        snprintf(name[i], sizeof(name[i]), "blk.%u.%s.weight", l, layer_tensors[i]);
    if ((err = vector(o, name[0], c->hidden, attn_norm)) ||
        (err = matrix(o, name[1], q, c->hidden, &layer->attn_q)) ||
        (err = matrix(o, name[2], kv, c->hidden, &layer->attn_k)) ||
        (err = matrix(o, name[3], kv, c->hidden, &layer->attn_v)) ||
        (err = matrix(o, name[4], c->hidden, q, &layer->attn_output)) ||
        (err = vector(o, name[5], c->hidden, ffn_norm)) ||
        (err = matrix(o, name[6], c->ffn, c->hidden, &layer->ffn_gate)) ||
        (err = matrix(o, name[7], c->ffn, c->hidden, &layer->ffn_up)) ||
        (err = matrix(o, name[8], c->hidden, c->ffn, &layer->ffn_down)))
        return err;
    layer->attn_norm = attn_norm;
    layer->ffn_norm = ffn_norm;
    return KVW_OK;
}

/* The embedding says how many tokens there are; a key that says otherwise is an error. */
static kvw_err read_ends(const struct opening *o)
{
    struct kve_model *m = o->m;
    struct kve_model_config *c = &m->config;
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, "token_embd.weight");
    const uint64_t rows = t != NULL && t->dims == 2 ? t->ne[1] : 0;
    float *norm = m->norms + (size_t)2 * c->layers * c->hidden;
    kvw_err err;

    if (t == NULL)
        return fail(o, KVW_E_FORMAT, "tensor token_embd.weight is missing");
    if (rows < 1 || rows > VOCAB_MAX)
        return fail(o, KVW_E_FORMAT,
                    "tensor token_embd.weight has %" PRIu64 " rows; 1 to %u can be read", rows,
                    VOCAB_MAX);
    if ((err = number(o, "llama.vocab_size", rows, VOCAB_MAX, &c->vocab)) ||
        (err = matrix(o, "token_embd.weight", c->vocab, c->hidden, &m->token_embd)))
        return err;
    m->output = m->token_embd;
    if (kve_gguf_tensor_by_name(o->g, "output.weight") != NULL &&
        (err = matrix(o, "output.weight", c->vocab, c->hidden, &m->output)))
        return err;
    m->output_norm = norm;
    return vector(o, "output_norm.weight", c->hidden, norm);
}

/* Speed i is base^(-2i/dims), divided by the file's own factors where it has some (Llama 3.1). */
static kvw_err read_rope(const struct opening *o)
{
    const struct kve_model_config *c = &o->m->config;
    const uint32_t n = c->rope_dims / 2;
    float scale = 1, divisors[KVW_HEAD_DIM_MAX / 2];
    struct kve_str type;
    kvw_err err;

    for (uint32_t i = 0; i < n; ++i)
        divisors[i] = 1;
    if (kve_gguf_tensor_by_name(o->g, "rope_freqs.weight") != NULL &&
        (err = vector(o, "rope_freqs.weight", n, divisors)))
        return err;
    if (kve_gguf_str(o->g, "llama.rope.scaling.type", &type) != KVW_OK || str_is(type, "linear")) {
        if ((err = real(o, "llama.rope.scaling.factor", 1, &scale)))
            return err;
    }
    for (uint32_t i = 0; i < n; ++i) {
        if (!(divisors[i] > 0) || !isfinite(divisors[i]))
            return fail(o, KVW_E_FORMAT, "rope_freqs.weight[%u] is %g; it must be positive", i,
                        (double)divisors[i]);
        o->m->speeds[i] = pow((double)c->rope_base, -2.0 * i / c->rope_dims) / (double)divisors[i] /
                          (double)scale;
    }
    o->m->rope_speed = o->m->speeds;
    return KVW_OK;
}

static bool known(const struct kve_model *m, struct kve_str name)
{
    static const char *const others[] = {"token_embd.weight", "output.weight", "output_norm.weight",
                                         "rope_freqs.weight"};
    char text[80], *end;

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); ++i) {
        if (str_is(name, others[i]))
            return true;
    }
    if (name.bytes >= sizeof(text) || name.bytes < 5 || memcmp(name.at, "blk.", 4) != 0)
        return false;
    memcpy(text, name.at, name.bytes);
    text[name.bytes] = '\0';
    if (strtoul(text + 4, &end, 10) >= m->config.layers)
        return false;
    for (size_t i = 0; i < LAYER_TENSORS; ++i) {
        char suffix[32];

        snprintf(suffix, sizeof(suffix), ".%s.weight", layer_tensors[i]);
        if (strcmp(end, suffix) == 0)
            return true;
    }
    return false;
}

/* A tensor that we don't use (a bias, a gate of experts) would change what the model says. */
static kvw_err check_unknown(const struct opening *o)
{
    for (uint64_t i = 0; i < kve_gguf_tensor_count(o->g); ++i) {
        const struct kve_str name = kve_gguf_tensor(o->g, i)->name;

        if (!known(o->m, name))
            return fail(o, KVW_E_UNSUPPORTED,
                        "tensor %.*s belongs to nothing that a llama of %u layers has",
                        (int)(name.bytes > 80 ? 80 : name.bytes), name.at, o->m->config.layers);
    }
    return KVW_OK;
}

static void read_name(const struct opening *o)
{
    struct kve_str s;
    size_t n;

    if (kve_gguf_str(o->g, "general.name", &s) != KVW_OK)
        return;
    n = s.bytes < KVE_NAME_BYTES - 1 ? s.bytes : KVE_NAME_BYTES - 1;
    for (size_t i = 0; i < n; ++i) /* it goes to terminals: no control characters */
        o->m->name[i] = (unsigned char)s.at[i] < 32 || s.at[i] == 127 ? '?' : s.at[i];
}

static kvw_err read_weights(const struct opening *o)
{
    struct kve_model *m = o->m;
    const struct kve_model_config *c = &m->config;
    kvw_err err;

    m->layers = calloc(c->layers, sizeof(*m->layers));
    m->norms = calloc((size_t)2 * c->layers + 1, c->hidden * sizeof(*m->norms));
    m->speeds = calloc(c->rope_dims / 2, sizeof(*m->speeds));
    if (m->layers == NULL || m->norms == NULL || m->speeds == NULL)
        return fail(o, KVW_E_NOMEM, "no memory for the index of %u layers", c->layers);
    if ((err = read_ends(o)) || (err = read_rope(o)))
        return err;
    for (uint32_t l = 0; l < c->layers; ++l) {
        if ((err = read_layer(o, l)))
            return err;
    }
    return check_unknown(o);
}

kvw_err kve_model_open(struct kve_model **out, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct opening o = {.m = calloc(1, sizeof(struct kve_model)), .g = g, .why = why};
    kvw_err err;

    if (o.m == NULL)
        return fail(&o, KVW_E_NOMEM, "no memory for the model");
    o.m->gguf = g;
    if ((err = check_architecture(&o)) || (err = read_shape(&o)) || (err = read_weights(&o))) {
        kve_model_close(o.m);
        return err;
    }
    read_name(&o);
    *out = o.m;
    return KVW_OK;
}

void kve_model_close(struct kve_model *m)
{
    if (m == NULL)
        return;
    free(m->speeds);
    free(m->norms);
    free(m->layers);
    free(m);
}

const struct kve_model_config *kve_model_config(const struct kve_model *m)
{
    return &m->config;
}

const char *kve_model_name(const struct kve_model *m)
{
    return m->name;
}

void kve_model_fingerprint(const struct kve_model *m, uint8_t out[16])
{
    uint64_t bytes;
    const void *file = kve_gguf_bytes(m->gguf, &bytes);
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(file, bytes));
    memcpy(out, canonical.digest, 16);
}
