/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tiny.h - a small llama with random F32 weights, as a GGUF in memory, and its forward pass in
 * double, written from the architecture's description: one token at a time, every position of every
 * layer, nothing cached but K and V.
 */
#ifndef TESTS_TINY_H
#define TESTS_TINY_H

#include <math.h>

#include "../../../engine/kernels/half.h"
#include "../gguf/gguf_build.h"

struct tiny_shape {
    uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, rope_dims;
    bool tied, rope_freqs;
};

/* Nothing is a multiple of anything else, and heads * head_dim isn't hidden. */
static const struct tiny_shape tiny_odd = {.layers = 3,
                                           .hidden = 23,
                                           .heads = 6,
                                           .kv_heads = 2,
                                           .head_dim = 10,
                                           .ffn = 71,
                                           .vocab = 131,
                                           .rope_dims = 6,
                                           .rope_freqs = true};
/* Real models' head_dim, for which there are kernels of their own; panels of more than 64 rows. */
static const struct tiny_shape tiny_64 = {.layers = 2,
                                          .hidden = 96,
                                          .heads = 4,
                                          .kv_heads = 1,
                                          .head_dim = 64,
                                          .ffn = 160,
                                          .vocab = 300,
                                          .rope_dims = 64,
                                          .tied = true};

#define TINY_CONTEXT   640u
#define TINY_ROPE_BASE 500.0f
#define TINY_EPS       1e-5f

/* Weight i of the tensor with this name: a hash, so that builder and reference agree. */
static inline float tiny_weight(const char *name, uint64_t i)
{
    uint64_t h = 1469598103934665603ull;

    for (; *name != '\0'; ++name)
        h = (h ^ (unsigned char)*name) * 1099511628211ull;
    h = (h ^ i) * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9ull;
    h ^= h >> 32;
    return (float)((double)(h & 0xffffff) / 0x800000 - 1.0);
}

static inline float *tiny_values(const char *name, uint64_t n, float scale, float offset)
{
    float *v = malloc(n * sizeof(*v));

    for (uint64_t i = 0; i < n; ++i)
        v[i] = offset + scale * tiny_weight(name, i);
    return v;
}

static inline void tiny_matrix(struct gb *b, const char *name, uint32_t rows, uint32_t cols)
{
    float *v = tiny_values(name, (uint64_t)rows * cols, 2.0f / sqrtf((float)cols), 0);

    gb_tensor(b, name, KVE_TYPE_F32, 2, (uint64_t[]){cols, rows}, v, 4ull * rows * cols);
    free(v);
}

static inline void tiny_vector(struct gb *b, const char *name, uint32_t n)
{
    float *v = tiny_values(name, n, 0.5f, 1);

    gb_tensor(b, name, KVE_TYPE_F32, 1, (uint64_t[]){n}, v, 4ull * n);
    free(v);
}

static inline void tiny_keys(struct gb *b, const struct tiny_shape *s)
{
    gb_key_str(b, "general.architecture", "llama");
    gb_key_str(b, "general.name", "Tiny \x1b[31mModel");
    gb_key_u32(b, "llama.block_count", s->layers);
    gb_key_u32(b, "llama.context_length", TINY_CONTEXT);
    gb_key_u32(b, "llama.embedding_length", s->hidden);
    gb_key_u32(b, "llama.feed_forward_length", s->ffn);
    gb_key_u32(b, "llama.attention.head_count", s->heads);
    gb_key_u32(b, "llama.attention.head_count_kv", s->kv_heads);
    gb_key_u32(b, "llama.attention.key_length", s->head_dim);
    gb_key_u32(b, "llama.attention.value_length", s->head_dim);
    gb_key_u32(b, "llama.rope.dimension_count", s->rope_dims);
    gb_key_f32(b, "llama.rope.freq_base", TINY_ROPE_BASE);
    gb_key_f32(b, "llama.attention.layer_norm_rms_epsilon", TINY_EPS);
}

static inline void tiny_layer(struct gb *b, const struct tiny_shape *s, uint32_t l)
{
    const uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    char n[9][48];
    static const char *const parts[] = {"attn_norm", "attn_q",   "attn_k", "attn_v",  "attn_output",
                                        "ffn_norm",  "ffn_gate", "ffn_up", "ffn_down"};

    for (int i = 0; i < 9; ++i)
        snprintf(n[i], sizeof(n[i]), "blk.%u.%s.weight", l, parts[i]);
    tiny_vector(b, n[0], s->hidden);
    tiny_matrix(b, n[1], q, s->hidden);
    tiny_matrix(b, n[2], kv, s->hidden);
    tiny_matrix(b, n[3], kv, s->hidden);
    tiny_matrix(b, n[4], s->hidden, q);
    tiny_vector(b, n[5], s->hidden);
    tiny_matrix(b, n[6], s->ffn, s->hidden);
    tiny_matrix(b, n[7], s->ffn, s->hidden);
    tiny_matrix(b, n[8], s->hidden, s->ffn);
}

static inline void tiny_build(struct gb *b, const struct tiny_shape *s)
{
    tiny_keys(b, s);
    tiny_matrix(b, "token_embd.weight", s->vocab, s->hidden);
    for (uint32_t l = 0; l < s->layers; ++l)
        tiny_layer(b, s, l);
    tiny_vector(b, "output_norm.weight", s->hidden);
    if (!s->tied)
        tiny_matrix(b, "output.weight", s->vocab, s->hidden);
    if (s->rope_freqs)
        tiny_vector(b, "rope_freqs.weight", s->rope_dims / 2);
    gb_finish(b);
}

/* y = W x, W being the matrix of that name. */
static inline void tiny_times(double *y, const char *name, const double *x, uint32_t rows,
                              uint32_t cols)
{
    float *w = tiny_values(name, (uint64_t)rows * cols, 2.0f / sqrtf((float)cols), 0);

    for (uint32_t r = 0; r < rows; ++r) {
        y[r] = 0;
        for (uint32_t c = 0; c < cols; ++c)
            y[r] += (double)w[(uint64_t)r * cols + c] * x[c];
    }
    free(w);
}

static inline void tiny_norm(double *y, const char *name, const double *x, uint32_t n)
{
    float *w = tiny_values(name, n, 0.5f, 1);
    double square = 0;

    for (uint32_t i = 0; i < n; ++i)
        square += x[i] * x[i];
    for (uint32_t i = 0; i < n; ++i)
        y[i] = x[i] / sqrt(square / n + (double)TINY_EPS) * (double)w[i];
    free(w);
}

static inline void tiny_rope(const struct tiny_shape *s, double *v, uint32_t heads, uint32_t pos)
{
    float *divisor = tiny_values("rope_freqs.weight", s->rope_dims / 2, 0.5f, 1);

    for (uint32_t h = 0; h < heads; ++h) {
        for (uint32_t i = 0; i < s->rope_dims / 2; ++i) {
            double *a = v + h * s->head_dim + 2 * i;
            const double angle = pos * pow((double)TINY_ROPE_BASE, -2.0 * i / s->rope_dims) /
                                 (s->rope_freqs ? (double)divisor[i] : 1);
            const double x = a[0], y = a[1];

            a[0] = x * cos(angle) - y * sin(angle);
            a[1] = x * sin(angle) + y * cos(angle);
        }
    }
    free(divisor);
}

struct tiny_ref {
    const struct tiny_shape *s;
    bool bf16;     /* round K and V as the cache does */
    double *kv[2]; /* [layer][position][kv_heads * head_dim] */
    uint32_t tokens;
    double *out; /* [vocab], for the caller's use */
};

/* Token i of the prompt that the tests use. */
static inline uint32_t tiny_token(const struct tiny_shape *s, uint32_t i)
{
    return (i * 37 + i * i) % s->vocab;
}

static inline void tiny_attend(struct tiny_ref *t, uint32_t layer, const double *q, double *out)
{
    const struct tiny_shape *s = t->s;
    const uint32_t row = s->kv_heads * s->head_dim;

    for (uint32_t h = 0; h < s->heads; ++h) {
        const uint32_t kvh = h / (s->heads / s->kv_heads);
        double whole = 0, *weight = malloc((t->tokens + 1) * sizeof(*weight));

        for (uint32_t p = 0; p <= t->tokens; ++p) {
            const uint64_t at = ((uint64_t)layer * TINY_CONTEXT + p) * row + kvh * s->head_dim;
            double score = 0;

            for (uint32_t d = 0; d < s->head_dim; ++d)
                score += q[h * s->head_dim + d] * t->kv[0][at + d];
            weight[p] = exp(score / sqrt(s->head_dim));
            whole += weight[p];
        }
        for (uint32_t d = 0; d < s->head_dim; ++d) {
            out[h * s->head_dim + d] = 0;
            for (uint32_t p = 0; p <= t->tokens; ++p)
                out[h * s->head_dim + d] +=
                    weight[p] / whole *
                    t->kv[1][((uint64_t)layer * TINY_CONTEXT + p) * row + kvh * s->head_dim + d];
        }
        free(weight);
    }
}

static inline void tiny_ref_layer(struct tiny_ref *t, uint32_t l, double *x)
{
    const struct tiny_shape *s = t->s;
    const uint32_t qn = s->heads * s->head_dim, row = s->kv_heads * s->head_dim;
    double norm[256], q[512], out[512], y[256], gate[256], up[256];
    char n[9][48];
    static const char *const parts[] = {"attn_norm", "attn_q",   "attn_k", "attn_v",  "attn_output",
                                        "ffn_norm",  "ffn_gate", "ffn_up", "ffn_down"};

    for (int i = 0; i < 9; ++i)
        snprintf(n[i], sizeof(n[i]), "blk.%u.%s.weight", l, parts[i]);
    tiny_norm(norm, n[0], x, s->hidden);
    tiny_times(q, n[1], norm, qn, s->hidden);
    tiny_rope(s, q, s->heads, t->tokens);
    for (int k = 0; k < 2; ++k) {
        double *at = t->kv[k] + ((uint64_t)l * TINY_CONTEXT + t->tokens) * row;

        tiny_times(at, n[2 + k], norm, row, s->hidden);
        if (k == 0)
            tiny_rope(s, at, s->kv_heads, t->tokens);
        for (uint32_t i = 0; t->bf16 && i < row; ++i)
            at[i] = (double)kve_bf16_to_f32(kve_f32_to_bf16((float)at[i]));
    }
    tiny_attend(t, l, q, out);
    tiny_times(y, n[4], out, s->hidden, qn);
    for (uint32_t i = 0; i < s->hidden; ++i)
        x[i] += y[i];
    tiny_norm(norm, n[5], x, s->hidden);
    tiny_times(gate, n[6], norm, s->ffn, s->hidden);
    tiny_times(up, n[7], norm, s->ffn, s->hidden);
    for (uint32_t i = 0; i < s->ffn; ++i)
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    tiny_times(y, n[8], gate, s->hidden, s->ffn);
    for (uint32_t i = 0; i < s->hidden; ++i)
        x[i] += y[i];
}

static inline void tiny_ref_open(struct tiny_ref *t, const struct tiny_shape *s, bool bf16)
{
    *t = (struct tiny_ref){.s = s, .bf16 = bf16, .out = calloc(s->vocab, sizeof(double))};
    for (int k = 0; k < 2; ++k)
        t->kv[k] =
            calloc((size_t)s->layers * TINY_CONTEXT * s->kv_heads * s->head_dim, sizeof(double));
}

/* One more token; logits (vocab of them) may be NULL. */
static inline void tiny_ref_token(struct tiny_ref *t, uint32_t token, double *logits)
{
    const struct tiny_shape *s = t->s;
    double x[256], norm[256];

    for (uint32_t i = 0; i < s->hidden; ++i)
        x[i] = (double)(2.0f / sqrtf((float)s->hidden) *
                        tiny_weight("token_embd.weight", (uint64_t)token * s->hidden + i));
    for (uint32_t l = 0; l < s->layers; ++l)
        tiny_ref_layer(t, l, x);
    if (logits != NULL) {
        tiny_norm(norm, "output_norm.weight", x, s->hidden);
        tiny_times(logits, s->tied ? "token_embd.weight" : "output.weight", norm, s->vocab,
                   s->hidden);
    }
    ++t->tokens;
}

static inline void tiny_ref_close(struct tiny_ref *t)
{
    free(t->kv[0]);
    free(t->kv[1]);
    free(t->out);
}

#endif
