/* SPDX-License-Identifier: Apache-2.0 */
/* keys.c - the tables of keys.h. tests/oracle/keys.py asks llama.cpp whether they are right. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "keys.h"

#define READ(key)                                                                                  \
    {                                                                                              \
        key, KVE_KEY_READ, 0, NULL                                                                 \
    }
#define ONLY KVE_KEY_ONLY
#define NO   KVE_KEY_NO_EFFECT

static const char yarn[] = "of YaRN, which rope.scaling.type asks for and which is refused";
static const char swa[] = "of layers with a sliding window, which this architecture has not";
static const char embed[] = "of embeddings, which aren't given out";
static const char shown[] = "is shown to people";
static const char sampling[] = "a default for sampling, which a request says itself";
static const char other_vocab[] = "of other tokenizer models";
static const char other_kind[] = "of tokenizer models and kinds that are refused";
static const char exact[] = "of activations rounded to fewer bits; ours stay floats";
static const char role[] = "names a token that the tokenizer never inserts by itself";

static const struct kve_key_rule general_rules[] = {
    READ("general.architecture"),
    READ("general.alignment"),
    READ("general.name"),
    READ("split.count"),
    {"split.no", NO, 0, "of a split model, which a split.count above 1 says"},
    {"split.tensors.count", NO, 0, "of a split model, which a split.count above 1 says"},
    {"general.type", NO, 0, shown},
    {"general.quantization_version", NO, 0, "each tensor says its own type"},
    {"general.file_type", NO, 0, "each tensor says its own type"},
    {"general.author", NO, 0, shown},
    {"general.version", NO, 0, shown},
    {"general.url", NO, 0, shown},
    {"general.description", NO, 0, shown},
    {"general.license", NO, 0, shown},
    {"general.source.url", NO, 0, shown},
    {"general.source.huggingface.repository", NO, 0, shown},
    {"general.tensor_extra.name", NO, 0, exact},
    {"general.tensor_extra.prec_a4", NO, 0, exact},
    {"general.sampling.sequence", NO, 0, sampling},
    {"general.sampling.top_k", NO, 0, sampling},
    {"general.sampling.top_p", NO, 0, sampling},
    {"general.sampling.min_p", NO, 0, sampling},
    {"general.sampling.xtc_probability", NO, 0, sampling},
    {"general.sampling.xtc_threshold", NO, 0, sampling},
    {"general.sampling.temp", NO, 0, sampling},
    {"general.sampling.penalty_last_n", NO, 0, sampling},
    {"general.sampling.penalty_repeat", NO, 0, sampling},
    {"general.sampling.mirostat", NO, 0, sampling},
    {"general.sampling.mirostat_tau", NO, 0, sampling},
    {"general.sampling.mirostat_eta", NO, 0, sampling},
};

/* What all architectures have; A is the name as a literal. */
#define COMMON(A)                                                                                  \
    READ(A ".context_length"), READ(A ".embedding_length"), READ(A ".block_count"),                \
        READ(A ".feed_forward_length"), READ(A ".vocab_size"), READ(A ".attention.head_count"),    \
        READ(A ".attention.head_count_kv"), READ(A ".attention.key_length"),                       \
        READ(A ".attention.value_length"), READ(A ".attention.layer_norm_rms_epsilon"),            \
        READ(A ".attention.sliding_window"), READ(A ".rope.dimension_count"),                      \
        READ(A ".rope.freq_base"), READ(A ".rope.scaling.type"), READ(A ".rope.scaling.factor"),   \
        READ(A ".rope.scale_linear"),                                                              \
        {A ".expert_count", ONLY, 0, "mixtures of experts aren't run"},                            \
        {A ".expert_used_count", ONLY, 0, "mixtures of experts aren't run"},                       \
        {A ".expert_group_count", ONLY, 0, "mixtures of experts aren't run"},                      \
        {A ".expert_group_used_count", ONLY, 0, "mixtures of experts aren't run"},                 \
        {A ".nextn_predict_layers", ONLY, 0, "layers that predict further tokens aren't run"},     \
        {A ".attention.causal", ONLY, 1, "attention to later tokens isn't run"},                   \
        {A ".attention.scale", ONLY, 0, "scores are scaled by 1/sqrt(key_length) alone"},          \
        {A ".attention.clamp_kqv", ONLY, 0, "Q, K and V aren't clamped"},                          \
        {A ".attention.max_alibi_bias", ONLY, 0, "ALiBi isn't run"},                               \
        {A ".attn_logit_softcapping", ONLY, 0, "scores aren't capped"},                            \
        {A ".logit_scale", ONLY, 1, "logits aren't scaled"},                                       \
        {A ".residual_scale", ONLY, 1, "residuals aren't scaled"},                                 \
        {A ".embedding_scale", ONLY, 1, "embeddings aren't scaled"},                               \
        {A ".use_parallel_residual", ONLY, 0, "attention comes before feed-forward"},              \
        {A ".rope.scaling.attn_factor", ONLY, 1, "rotations don't scale"},                         \
        {A ".rope.scaling.alpha", ONLY, 0, "rotations aren't scaled by an alpha"},                 \
        {A ".rope.scaling.finetuned", NO, 0, shown},                                               \
        {A ".rope.scaling.original_context_length", NO, 0, yarn},                                  \
        {A ".rope.scaling.yarn_log_multiplier", NO, 0, yarn},                                      \
        {A ".rope.scaling.yarn_ext_factor", NO, 0, yarn},                                          \
        {A ".rope.scaling.yarn_attn_factor", NO, 0, yarn},                                         \
        {A ".rope.scaling.yarn_beta_fast", NO, 0, yarn},                                           \
        {A ".rope.scaling.yarn_beta_slow", NO, 0, yarn},                                           \
        {A ".attention.layer_norm_epsilon", NO, 0, "of layer norms; ours are RMS norms"},          \
        {A ".tensor_data_layout", NO, 0, shown}, {A ".embedding_length_out", NO, 0, embed},        \
        {A ".pooling_type", NO, 0, embed}, {A ".classifier.output_labels", NO, 0, embed},          \
    {                                                                                              \
        A ".classifier.pooling_type", NO, 0, embed                                                 \
    }

/* What only layers with windows and caps have: of no effect on the others, or refused. */
#define PLAIN(A)                                                                                   \
    {A ".rope.freq_base_swa", NO, 0, swa}, {A ".attention.sliding_window_pattern", NO, 0, swa},    \
        {A ".rope.dimension_count_swa", NO, 0, swa}, {A ".attention.key_length_swa", NO, 0, swa},  \
        {A ".attention.value_length_swa", NO, 0, swa},                                             \
    {                                                                                              \
        A ".final_logit_softcapping", ONLY, 0, "logits aren't capped"                              \
    }

static const struct kve_key_rule llama_rules[] = {COMMON("llama"), PLAIN("llama")};
static const struct kve_key_rule qwen2_rules[] = {COMMON("qwen2"), PLAIN("qwen2")};
static const struct kve_key_rule qwen3_rules[] = {COMMON("qwen3"), PLAIN("qwen3")};
static const struct kve_key_rule gemma3_rules[] = {
    COMMON("gemma3"),
    READ("gemma3.rope.freq_base_swa"),
    READ("gemma3.attention.sliding_window_pattern"),
    READ("gemma3.final_logit_softcapping"),
};

/* What both tokenizer models have. */
#define VOCABULARY                                                                                 \
    READ("tokenizer.ggml.model"), READ("tokenizer.ggml.tokens"),                                   \
        READ("tokenizer.ggml.token_type"), READ("tokenizer.ggml.bos_token_id"),                    \
        READ("tokenizer.ggml.eos_token_id"), READ("tokenizer.ggml.eot_token_id"),                  \
        READ("tokenizer.ggml.eom_token_id"), READ("tokenizer.ggml.fim_pre_token_id"),              \
        READ("tokenizer.ggml.fim_suf_token_id"), READ("tokenizer.ggml.fim_mid_token_id"),          \
        READ("tokenizer.ggml.fim_pad_token_id"), READ("tokenizer.ggml.fim_rep_token_id"),          \
        READ("tokenizer.ggml.fim_sep_token_id"), READ("tokenizer.ggml.prefix_token_id"),           \
        READ("tokenizer.ggml.suffix_token_id"), READ("tokenizer.ggml.middle_token_id"),            \
        READ("tokenizer.ggml.add_bos_token"), READ("tokenizer.ggml.add_eos_token"),                \
        READ("tokenizer.chat_template"),                                                           \
        {"tokenizer.ggml.suppress_tokens", KVE_KEY_EMPTY, 0, "no token is suppressed"},            \
        {"tokenizer.ggml.normalizer.lowercase", NO, 0, other_kind},                                \
        {"tokenizer.ggml.normalizer.strip_accents", NO, 0, other_kind},                            \
        {"tokenizer.ggml.token_type_count", NO, 0, other_vocab},                                   \
        {"tokenizer.ggml.add_sep_token", NO, 0, other_vocab},                                      \
        {"tokenizer.ggml.remove_extra_whitespaces", NO, 0, other_vocab},                           \
        {"tokenizer.ggml.precompiled_charsmap", NO, 0, other_vocab},                               \
        {"tokenizer.huggingface.json", NO, 0, "another program's form of the same vocabulary"},    \
        {"tokenizer.rwkv.world", NO, 0, other_vocab},                                              \
        {"tokenizer.ggml.unknown_token_id", NO, 0, role},                                          \
        {"tokenizer.ggml.seperator_token_id", NO, 0, role},                                        \
        {"tokenizer.ggml.padding_token_id", NO, 0, role},                                          \
        {"tokenizer.ggml.cls_token_id", NO, 0, role},                                              \
    {                                                                                              \
        "tokenizer.ggml.mask_token_id", NO, 0, role                                                \
    }

static const struct kve_key_rule bpe_rules[] = {
    VOCABULARY,
    READ("tokenizer.ggml.pre"),
    READ("tokenizer.ggml.merges"),
    {"tokenizer.ggml.scores", NO, 0, other_vocab},
    {"tokenizer.ggml.add_space_prefix", NO, 0, other_vocab},
};

static const struct kve_key_rule spm_rules[] = {
    VOCABULARY,
    READ("tokenizer.ggml.scores"),
    READ("tokenizer.ggml.add_space_prefix"),
    {"tokenizer.ggml.pre", NO, 0, other_vocab},
    {"tokenizer.ggml.merges", NO, 0, other_vocab},
};

static const struct table {
    const char *of;
    const struct kve_key_rule *rules;
    size_t count;
} tables[] = {
#define TABLE(of, rules)                                                                           \
    {                                                                                              \
        of, rules, sizeof(rules) / sizeof(rules[0])                                                \
    }
    TABLE("general.", general_rules), TABLE("llama.", llama_rules),
    TABLE("qwen2.", qwen2_rules),     TABLE("qwen3.", qwen3_rules),
    TABLE("gemma3.", gemma3_rules),   TABLE(KVE_KEYS_BPE, bpe_rules),
    TABLE(KVE_KEYS_SPM, spm_rules),
};

static const struct table *find(const char *of)
{
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); ++i)
        if (strcmp(tables[i].of, of) == 0)
            return &tables[i];
    return NULL;
}

const struct kve_key_rule *kve_key_rules(const char *of, size_t *count)
{
    const struct table *t = find(of);

    *count = t == NULL ? 0 : t->count;
    return t == NULL ? NULL : t->rules;
}

static bool has_rule(const struct table *t, struct kve_str name)
{
    for (size_t i = 0; i < t->count; ++i)
        if (strlen(t->rules[i].key) == name.bytes &&
            memcmp(t->rules[i].key, name.at, name.bytes) == 0)
            return true;
    return false;
}

/* A scalar of any numeric type. */
static bool number(const struct kve_gguf *g, const char *key, double *v)
{
    uint64_t whole;
    float real;
    bool truth;

    if (kve_gguf_u64(g, key, &whole) == KVW_OK)
        *v = (double)whole;
    else if (kve_gguf_f32(g, key, &real) == KVW_OK)
        *v = (double)real;
    else if (kve_gguf_bool(g, key, &truth) == KVW_OK)
        *v = truth;
    else
        return false;
    return true;
}

static kvw_err check(const struct kve_gguf *g, const struct kve_key_rule *rule,
                     char why[KVE_WHY_BYTES])
{
    uint64_t count;
    double v;

    if (kve_gguf_u64(g, rule->key, &count) == KVW_E_NOTFOUND)
        return KVW_OK;
    if (rule->use == KVE_KEY_EMPTY) {
        if (kve_gguf_array_count(g, rule->key, &count) != KVW_OK) {
            snprintf(why, KVE_WHY_BYTES, "%s isn't an array", rule->key);
            return KVW_E_FORMAT;
        }
        if (count == 0)
            return KVW_OK;
        snprintf(why, KVE_WHY_BYTES, "%s has %" PRIu64 " entries; %s", rule->key, count,
                 rule->note);
        return KVW_E_UNSUPPORTED;
    }
    if (!number(g, rule->key, &v)) {
        snprintf(why, KVE_WHY_BYTES, "%s isn't one number", rule->key);
        return KVW_E_FORMAT;
    }
    if (v == rule->only)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "%s is %g, not %g; %s", rule->key, v, rule->only, rule->note);
    return KVW_E_UNSUPPORTED;
}

static kvw_err check_unknown(const struct kve_gguf *g, const struct table *t,
                             char why[KVE_WHY_BYTES])
{
    const size_t n = strlen(t->of);

    for (uint64_t i = 0; i < kve_gguf_key_count(g); ++i) {
        const struct kve_str name = kve_gguf_key_name(g, i);

        if (name.bytes < n || memcmp(name.at, t->of, n) != 0 || has_rule(t, name))
            continue;
        snprintf(why, KVE_WHY_BYTES, "key %.*s isn't known; it may change what the model says",
                 name.bytes > 80 ? 80 : (int)name.bytes, name.at);
        return KVW_E_UNSUPPORTED;
    }
    return KVW_OK;
}

kvw_err kve_keys_check(const struct kve_gguf *g, const char *of, char why[KVE_WHY_BYTES])
{
    const struct table *t = find(of);
    const bool closed = strncmp(of, "tokenizer.", 10) != 0;

    if (t == NULL) {
        snprintf(why, KVE_WHY_BYTES, "no table says what the keys of \"%s\" mean", of);
        return KVW_E_UNSUPPORTED;
    }
    for (size_t i = 0; i < t->count; ++i) {
        const struct kve_key_rule *rule = &t->rules[i];

        if (rule->use != KVE_KEY_ONLY && rule->use != KVE_KEY_EMPTY)
            continue;
        const kvw_err err = check(g, rule, why);
        if (err != KVW_OK)
            return err;
    }
    return closed ? check_unknown(g, t, why) : KVW_OK;
}
