/* SPDX-License-Identifier: Apache-2.0 */
/* A file that isn't a llama that we run ends in one sentence naming the key or the tensor and its
 * value; a sound one gives its numbers, its name without control characters, and a fingerprint of
 * every byte. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../engine/model/model.h"
#include "tiny.h"

static kvw_err open_built(struct gb *b, struct kve_gguf **g, struct kve_model **m,
                          char why[KVE_WHY_BYTES])
{
    kvw_err err;

    why[0] = '\0';
    err = kve_gguf_open_bytes(g, b->file.at, b->file.bytes, why);
    cr_assert_eq(err, KVW_OK, "%s", why);
    return kve_model_open(m, *g, why);
}

Test(model, a_sound_one)
{
    struct gb b = {0};
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    uint8_t before[16], after[16];
    char why[KVE_WHY_BYTES];

    tiny_build(&b, &tiny_odd);
    cr_assert_eq(open_built(&b, &g, &m, why), KVW_OK, "%s", why);

    const struct kve_model_config *c = kve_model_config(m);

    cr_expect_eq(c->layers, tiny_odd.layers);
    cr_expect_eq(c->hidden, tiny_odd.hidden);
    cr_expect_eq(c->heads, tiny_odd.heads);
    cr_expect_eq(c->kv_heads, tiny_odd.kv_heads);
    cr_expect_eq(c->head_dim, tiny_odd.head_dim);
    cr_expect_eq(c->ffn, tiny_odd.ffn);
    cr_expect_eq(c->vocab, tiny_odd.vocab);
    cr_expect_eq(c->context, TINY_CONTEXT);
    cr_expect_eq(c->rope_dims, tiny_odd.rope_dims);
    cr_expect_eq(c->rope_base, TINY_ROPE_BASE);
    cr_expect_eq(c->rms_eps, TINY_EPS);
    cr_expect_str_eq(kve_model_name(m), "Tiny ?[31mModel");
    kve_model_fingerprint(m, before);
    b.file.at[b.file.bytes - 1] ^= 1;
    kve_model_fingerprint(m, after);
    cr_expect_neq(memcmp(before, after, sizeof(before)), 0);
    kve_model_close(m);
    kve_gguf_close(g);
    gb_free(&b);
    kve_model_close(NULL);
}

Test(model, what_a_file_may_leave_out)
{
    struct tiny_shape s = tiny_64;
    struct gb b = {0}, keys = {0};
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    char why[KVE_WHY_BYTES];

    s.hidden = s.heads * s.head_dim; /* so that head_dim needn't be said */
    s.kv_heads = s.heads;
    tiny_build(&b, &s);
    gb_key_str(&keys, "general.architecture", "llama");
    gb_key_u32(&keys, "llama.block_count", s.layers);
    gb_key_u64(&keys, "llama.context_length", 99);
    gb_key_u32(&keys, "llama.embedding_length", s.hidden);
    gb_key_u32(&keys, "llama.feed_forward_length", s.ffn);
    gb_key_u32(&keys, "llama.attention.head_count", s.heads);
    gb_key_f32(&keys, "llama.attention.layer_norm_rms_epsilon", TINY_EPS);
    free(b.keys.at);
    b.keys = keys.keys;
    b.key_count = keys.key_count;
    gb_finish(&b);
    cr_assert_eq(open_built(&b, &g, &m, why), KVW_OK, "%s", why);

    const struct kve_model_config *c = kve_model_config(m);

    cr_expect_eq(c->kv_heads, s.heads);
    cr_expect_eq(c->head_dim, 64);
    cr_expect_eq(c->rope_dims, 64);
    cr_expect_eq(c->rope_base, 10000.0f);
    cr_expect_str_eq(kve_model_name(m), "");
    kve_model_close(m);
    kve_gguf_close(g);
    gb_free(&b);
}

/* A sound file of tiny_odd's shape with one thing different. */
struct bad {
    const char *drop_key; /* left out */
    const char *key;      /* added, in place of drop_key */
    uint32_t value;
    const char *text;        /* the value where it is a string */
    const char *drop_tensor; /* left out */
    const char *tensor;      /* added, value x cols, or 1-D of value where cols is 0 */
    uint32_t cols;
    kvw_err err;
    const char *why; /* the sentence, whole */
};

#define KEY(k) .drop_key = (k), .key = (k)

static const struct bad bads[] = {
    {KEY("general.architecture"), .text = "phi3", .err = KVW_E_UNSUPPORTED,
     .why = "general.architecture is \"phi3\"; these are run: \"llama\", \"qwen2\", \"qwen3\", "
            "\"gemma3\""},
    {.drop_key = "general.architecture",
     .err = KVW_E_FORMAT,
     .why = "general.architecture is missing or isn't a string"},
    {.drop_key = "llama.block_count", .err = KVW_E_FORMAT, .why = "llama.block_count is missing"},
    {KEY("llama.block_count"), .value = 0, .err = KVW_E_FORMAT,
     .why = "llama.block_count is 0; 1 to 512 can be read"},
    {KEY("llama.block_count"), .value = 513, .err = KVW_E_FORMAT,
     .why = "llama.block_count is 513; 1 to 512 can be read"},
    {KEY("llama.block_count"), .value = 4, .err = KVW_E_FORMAT,
     .why = "tensor blk.3.attn_norm.weight is missing"},
    {KEY("llama.block_count"), .value = 2, .err = KVW_E_UNSUPPORTED,
     .why = "tensor blk.2.attn_norm.weight belongs to nothing that a llama of 2 layers has"},
    {KEY("llama.embedding_length"), .text = "many", .err = KVW_E_FORMAT,
     .why = "llama.embedding_length isn't one whole number"},
    {KEY("llama.embedding_length"), .value = 24, .err = KVW_E_FORMAT,
     .why = "tensor token_embd.weight is 23 x 131 (2 dimensions); 24 x 131 was expected"},
    {KEY("llama.feed_forward_length"), .value = 70, .err = KVW_E_FORMAT,
     .why = "tensor blk.0.ffn_gate.weight is 23 x 71 (2 dimensions); 23 x 70 was expected"},
    {KEY("llama.attention.head_count_kv"), .value = 4, .err = KVW_E_FORMAT,
     .why = "llama.attention.head_count is 6, which 4 K/V heads can't share in groups of 1 to 64"},
    {KEY("llama.attention.head_count_kv"), .value = 3, .err = KVW_E_FORMAT,
     .why = "tensor blk.0.attn_k.weight is 23 x 20 (2 dimensions); 23 x 30 was expected"},
    {KEY("llama.attention.value_length"), .value = 8, .err = KVW_E_UNSUPPORTED,
     .why = "llama.attention.value_length is 8 and key_length 10; they must be equal"},
    {KEY("llama.rope.dimension_count"), .value = 5, .err = KVW_E_FORMAT,
     .why = "llama.rope.dimension_count is 5; an even number up to 10 was expected"},
    {KEY("llama.rope.dimension_count"), .value = 12, .err = KVW_E_FORMAT,
     .why = "llama.rope.dimension_count is 12; an even number up to 10 was expected"},
    {KEY("llama.rope.dimension_count"), .value = 4, .err = KVW_E_FORMAT,
     .why = "tensor rope_freqs.weight has 1 dimensions, the first of 3; one of 2 was expected"},
    {.key = "llama.rope.scaling.type",
     .text = "yarn",
     .err = KVW_E_UNSUPPORTED,
     .why = "llama.rope.scaling.type is \"yarn\"; \"none\" and \"linear\" are run"},
    {.key = "llama.expert_count",
     .value = 8,
     .err = KVW_E_UNSUPPORTED,
     .why = "llama.expert_count is 8, not 0; mixtures of experts aren't run"},
    {.key = "llama.vocab_size",
     .value = 130,
     .err = KVW_E_FORMAT,
     .why = "tensor token_embd.weight is 23 x 131 (2 dimensions); 23 x 130 was expected"},
    {.drop_key = "llama.attention.layer_norm_rms_epsilon",
     .err = KVW_E_FORMAT,
     .why = "llama.attention.layer_norm_rms_epsilon is missing"},
    {.drop_tensor = "token_embd.weight",
     .err = KVW_E_FORMAT,
     .why = "tensor token_embd.weight is missing"},
    {.drop_tensor = "output_norm.weight",
     .err = KVW_E_FORMAT,
     .why = "tensor output_norm.weight is missing"},
    {.drop_tensor = "blk.1.ffn_down.weight",
     .err = KVW_E_FORMAT,
     .why = "tensor blk.1.ffn_down.weight is missing"},
    {.drop_tensor = "blk.2.attn_v.weight",
     .tensor = "blk.2.attn_v.weight",
     .value = 20,
     .cols = 22,
     .err = KVW_E_FORMAT,
     .why = "tensor blk.2.attn_v.weight is 22 x 20 (2 dimensions); 23 x 20 was expected"},
    {.drop_tensor = "blk.1.ffn_norm.weight",
     .tensor = "blk.1.ffn_norm.weight",
     .value = 22,
     .err = KVW_E_FORMAT,
     .why =
         "tensor blk.1.ffn_norm.weight has 1 dimensions, the first of 22; one of 23 was expected"},
    {.tensor = "blk.0.attn_q.bias",
     .value = 60,
     .err = KVW_E_UNSUPPORTED,
     .why = "tensor blk.0.attn_q.bias belongs to nothing that a llama of 3 layers has"},
};

static bool is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

/* What was built, without a key or a tensor: the builder can't forget, so the file is read back and
 * its index written anew. */
static void rebuild(struct gb *to, const struct bad *bad)
{
    struct gb whole = {0};
    struct kve_gguf *g = NULL;
    char why[KVE_WHY_BYTES];
    static const char *const numbers[] = {
        "llama.block_count",          "llama.context_length",
        "llama.embedding_length",     "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.head_count_kv",
        "llama.attention.key_length", "llama.attention.value_length",
        "llama.rope.dimension_count"};

    tiny_build(&whole, &tiny_odd);
    cr_assert_eq(kve_gguf_open_bytes(&g, whole.file.at, whole.file.bytes, why), KVW_OK);
    if (!is(bad->drop_key, "general.architecture"))
        gb_key_str(to, "general.architecture", "llama");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); ++i) {
        uint64_t v;

        cr_assert_eq(kve_gguf_u64(g, numbers[i], &v), KVW_OK);
        if (!is(bad->drop_key, numbers[i]))
            gb_key_u32(to, numbers[i], (uint32_t)v);
    }
    if (!is(bad->drop_key, "llama.attention.layer_norm_rms_epsilon"))
        gb_key_f32(to, "llama.attention.layer_norm_rms_epsilon", TINY_EPS);
    if (bad->key != NULL && bad->text != NULL)
        gb_key_str(to, bad->key, bad->text);
    else if (bad->key != NULL)
        gb_key_u32(to, bad->key, bad->value);
    for (uint64_t i = 0; i < kve_gguf_tensor_count(g); ++i) {
        const struct kve_tensor *t = kve_gguf_tensor(g, i);
        char name[64];

        snprintf(name, sizeof(name), "%.*s", (int)t->name.bytes, t->name.at);
        if (!is(bad->drop_tensor, name))
            gb_tensor(to, name, t->type, t->dims, t->ne, t->at, t->bytes);
    }
    if (bad->tensor != NULL)
        gb_tensor(to, bad->tensor, KVE_TYPE_F32, bad->cols != 0 ? 2 : 1,
                  bad->cols != 0 ? (uint64_t[]){bad->cols, bad->value} : (uint64_t[]){bad->value},
                  NULL, 4ull * bad->value * (bad->cols != 0 ? bad->cols : 1));
    gb_finish(to);
    kve_gguf_close(g);
    gb_free(&whole);
}

Test(model, one_sentence_for_each_fault)
{
    for (size_t i = 0; i < sizeof(bads) / sizeof(bads[0]); ++i) {
        struct gb b = {0};
        struct kve_gguf *g = NULL;
        struct kve_model *m = NULL;
        char why[KVE_WHY_BYTES];

        rebuild(&b, &bads[i]);
        cr_expect_eq(open_built(&b, &g, &m, why), bads[i].err, "row %zu", i);
        cr_expect_str_eq(why, bads[i].why, "row %zu: \"%s\"", i, why);
        cr_expect_null(m);
        kve_model_close(m);
        kve_gguf_close(g);
        gb_free(&b);
    }
}

Test(model, real_numbers_must_be_positive)
{
    static const float values[] = {0.0f, -1.0f, NAN, INFINITY};
    static const char *const keys[] = {"llama.rope.scaling.factor", "llama.rope.freq_base"};

    for (size_t k = 0; k < 2; ++k) {
        for (size_t v = 0; v < 4; ++v) {
            static const struct bad nothing = {0};
            struct gb b = {0};
            struct kve_gguf *g = NULL;
            struct kve_model *m = NULL;
            char why[KVE_WHY_BYTES];

            rebuild(&b, &nothing); /* has neither key */
            gb_key_f32(&b, keys[k], values[v]);
            gb_finish(&b);
            cr_expect_eq(open_built(&b, &g, &m, why), KVW_E_FORMAT, "%s", keys[k]);
            cr_expect(strstr(why, keys[k]) == why && strstr(why, "positive") != NULL, "%s", why);
            kve_gguf_close(g);
            gb_free(&b);
        }
    }
}
