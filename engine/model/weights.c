/* SPDX-License-Identifier: Apache-2.0 */
/* weights.c - a model's tensors, each of the shape that its numbers ask for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"

#define VOCAB_MAX (1u << 24)

/* A tensor of a layer: how it is called, and which part of an architecture has it (0: each). */
struct entry {
    const char *name;
    uint32_t part;
};

static const struct entry entries[] = {
    {"attn_norm.weight", 0},
    {"attn_q.weight", 0},
    {"attn_k.weight", 0},
    {"attn_v.weight", 0},
    {"attn_output.weight", 0},
    {"ffn_norm.weight", 0},
    {"ffn_gate.weight", 0},
    {"ffn_up.weight", 0},
    {"ffn_down.weight", 0},
    {"attn_q.bias", KVE_PART_BIAS},
    {"attn_k.bias", KVE_PART_BIAS},
    {"attn_v.bias", KVE_PART_BIAS},
    {"attn_q_norm.weight", KVE_PART_QK_NORM},
    {"attn_k_norm.weight", KVE_PART_QK_NORM},
    {"post_attention_norm.weight", KVE_PART_POST_NORM},
    {"post_ffw_norm.weight", KVE_PART_POST_NORM},
};
#define ENTRIES (sizeof(entries) / sizeof(entries[0]))

static bool has(const struct kve_model *m, const struct entry *e)
{
    return e->part == 0 || (m->arch->parts & e->part) != 0;
}

/* The floats of all vectors that an architecture's layers have, and of the last norm. */
static size_t vectors_room(const struct kve_model *m)
{
    const struct kve_model_config *c = &m->config;
    const uint32_t parts = m->arch->parts;
    size_t each = (size_t)2 * c->hidden;

    if (parts & KVE_PART_BIAS)
        each += (size_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
    if (parts & KVE_PART_QK_NORM)
        each += (size_t)2 * c->head_dim;
    if (parts & KVE_PART_POST_NORM)
        each += (size_t)2 * c->hidden;
    return c->layers * each + c->hidden;
}

/* A vector that the model keeps. */
static kvw_err keep(const struct kve_opening *o, const char *name, uint32_t n, const float **at)
{
    struct kve_model *m = o->m;
    float *to = m->vectors + m->vectors_used; /* vectors_room() counted it */

    m->vectors_used += n;
    *at = to;
    return kve_opening_vector(o, name, n, to);
}

/* The vectors that a llama hasn't. */
static kvw_err read_parts(const struct kve_opening *o, struct kve_layer *layer,
                          char name[ENTRIES][64])
{
    const struct kve_model_config *c = &o->m->config;
    const uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const struct {
        const float **at;
        uint32_t n;
    } parts[ENTRIES - 9] = {
        {&layer->bias_q, q},
        {&layer->bias_k, kv},
        {&layer->bias_v, kv},
        {&layer->norm_q, c->head_dim},
        {&layer->norm_k, c->head_dim},
        {&layer->post_attn_norm, c->hidden},
        {&layer->post_ffn_norm, c->hidden},
    };
    kvw_err err = KVW_OK;

    for (size_t i = 9; i < ENTRIES && err == KVW_OK; ++i) {
        if (has(o->m, &entries[i]))
            err = keep(o, name[i], parts[i - 9].n, parts[i - 9].at);
    }
    return err;
}

static kvw_err read_layer(const struct kve_opening *o, uint32_t l)
{
    const struct kve_model_config *c = &o->m->config;
    struct kve_layer *layer = &o->m->layers[l];
    const uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    char name[ENTRIES][64];
    kvw_err err;

    for (size_t i = 0; i < ENTRIES; ++i)
        snprintf(name[i], sizeof(name[i]), "blk.%u.%s", l, entries[i].name);
    if ((err = keep(o, name[0], c->hidden, &layer->attn_norm)) ||
        (err = kve_opening_matrix(o, name[1], q, c->hidden, &layer->attn_q)) ||
        (err = kve_opening_matrix(o, name[2], kv, c->hidden, &layer->attn_k)) ||
        (err = kve_opening_matrix(o, name[3], kv, c->hidden, &layer->attn_v)) ||
        (err = kve_opening_matrix(o, name[4], c->hidden, q, &layer->attn_output)) ||
        (err = keep(o, name[5], c->hidden, &layer->ffn_norm)) ||
        (err = kve_opening_matrix(o, name[6], c->ffn, c->hidden, &layer->ffn_gate)) ||
        (err = kve_opening_matrix(o, name[7], c->ffn, c->hidden, &layer->ffn_up)) ||
        (err = kve_opening_matrix(o, name[8], c->hidden, c->ffn, &layer->ffn_down)))
        return err;
    return read_parts(o, layer, name);
}

/* The embedding says how many tokens there are; a key that says otherwise is an error. */
static kvw_err read_ends(const struct kve_opening *o)
{
    struct kve_model *m = o->m;
    struct kve_model_config *c = &m->config;
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, "token_embd.weight");
    const uint64_t rows = t != NULL && t->dims == 2 ? t->ne[1] : 0;
    kvw_err err;

    if (t == NULL)
        return kve_opening_fail(o, KVW_E_FORMAT, "tensor token_embd.weight is missing");
    if (rows < 1 || rows > VOCAB_MAX)
        return kve_opening_fail(
            o, KVW_E_FORMAT, "tensor token_embd.weight has %" PRIu64 " rows; 1 to %u can be read",
            rows, VOCAB_MAX);
    if ((err = kve_opening_number(o, "vocab_size", rows, VOCAB_MAX, &c->vocab)) ||
        (err = kve_opening_matrix(o, "token_embd.weight", c->vocab, c->hidden, &m->token_embd)))
        return err;
    m->output = m->token_embd;
    if (kve_gguf_tensor_by_name(o->g, "output.weight") != NULL &&
        (err = kve_opening_matrix(o, "output.weight", c->vocab, c->hidden, &m->output)))
        return err;
    return keep(o, "output_norm.weight", c->hidden, &m->output_norm);
}

static bool known(const struct kve_model *m, struct kve_str name)
{
    char text[80], *end;

    if (kve_str_is(name, "token_embd.weight") || kve_str_is(name, "output.weight") ||
        kve_str_is(name, "output_norm.weight") ||
        (m->arch->rope_freqs && kve_str_is(name, "rope_freqs.weight")))
        return true;
    if (name.bytes >= sizeof(text) || name.bytes < 5 || memcmp(name.at, "blk.", 4) != 0)
        return false;
    memcpy(text, name.at, name.bytes);
    text[name.bytes] = '\0';
    if (strtoul(text + 4, &end, 10) >= m->config.layers || *end != '.')
        return false;
    for (size_t i = 0; i < ENTRIES; ++i) {
        if (has(m, &entries[i]) && strcmp(end + 1, entries[i].name) == 0)
            return true;
    }
    return false;
}

/* A tensor that we don't use (a bias, a gate of experts) would change what the model says. */
static kvw_err check_unknown(const struct kve_opening *o)
{
    for (uint64_t i = 0; i < kve_gguf_tensor_count(o->g); ++i) {
        const struct kve_str name = kve_gguf_tensor(o->g, i)->name;

        if (!known(o->m, name))
            return kve_opening_fail(
                o, KVW_E_UNSUPPORTED, "tensor %.*s belongs to nothing that a %s of %u layers has",
                (int)(name.bytes > 80 ? 80 : name.bytes), name.at, o->arch, o->m->config.layers);
    }
    return KVW_OK;
}

kvw_err kve_weights_find(const struct kve_opening *o)
{
    struct kve_model *m = o->m;
    const struct kve_model_config *c = &m->config;
    kvw_err err;

    m->layers = calloc(c->layers, sizeof(*m->layers));
    m->vectors = calloc(vectors_room(m), sizeof(*m->vectors));
    if (m->layers == NULL || m->vectors == NULL)
        return kve_opening_fail(o, KVW_E_NOMEM, "no memory for the index of %u layers", c->layers);
    if ((err = read_ends(o)))
        return err;
    for (uint32_t l = 0; l < c->layers; ++l) {
        if ((err = read_layer(o, l)))
            return err;
    }
    return check_unknown(o);
}
