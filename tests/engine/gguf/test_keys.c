/* SPDX-License-Identifier: Apache-2.0 */
/* Every key of keys.c's table is what the table says: read, so that a wrong type is an error that
 * names it; refused by name unless it has the one value that changes nothing; or without effect on
 * a single bit of logits and ids. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../engine/gguf/keys.h"
#include "../../../engine/model/model.h"
#include "../../../engine/text/tok.h"
#include "../model/tiny.h"
#include "../text/tok_build.h"

enum {
    BLOCK = 8,
    PROMPT = 24,
};

static const char text[] = "hello  W\xc3\x96rld<tool> <|im_start|>aaaa \n";

/* What a file says: its logits after a prompt, and a text's ids. */
struct said {
    float logits[TB_VOCAB];
    uint32_t *ids;
    size_t count;
};

/* Rule i of the tables that a llama with a byte-level vocabulary falls under; NULL: no more. */
static const struct kve_key_rule *rule_at(size_t i)
{
    static const char *const tables[] = {"general.", "llama.", KVE_KEYS_BPE};

    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); ++t) {
        size_t count;
        const struct kve_key_rule *rules = kve_key_rules(tables[t], &count);

        if (i < count)
            return &rules[i];
        i -= count;
    }
    return NULL;
}

static void build(struct gb *b)
{
    struct tiny_shape s = tiny_64;

    s.vocab = TB_VOCAB;
    tiny_build(b, &s);
    tb_vocabulary(b, "gpt-2");
    gb_finish(b);
}

/* Open all of it as kvserve does. */
static kvw_err open_all(struct gb *b, struct kve_gguf **g, struct kve_model **m, struct kve_tok **t,
                        char why[KVE_WHY_BYTES])
{
    kvw_err err;

    gb_finish(b);
    why[0] = '\0';
    if ((err = kve_gguf_open_bytes(g, b->file.at, b->file.bytes, why)) == KVW_OK &&
        (err = kve_model_open(m, *g, why)) == KVW_OK)
        err = kve_tok_open(t, *g, why);
    return err;
}

static void close_all(struct kve_gguf *g, struct kve_model *m, struct kve_tok *t)
{
    kve_tok_close(t);
    kve_model_close(m);
    kve_gguf_close(g);
}

static kvw_err error_of(struct gb *b, char why[KVE_WHY_BYTES])
{
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    struct kve_tok *t = NULL;
    const kvw_err err = open_all(b, &g, &m, &t, why);

    close_all(g, m, t);
    return err;
}

static void ask(struct gb *b, struct said *said)
{
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    struct kve_tok *t = NULL;
    struct kve_run *run = NULL;
    struct kve_kvcache kv = {0};
    uint32_t tokens[PROMPT], blocks[PROMPT / BLOCK];
    struct kve_seq seq = {.blocks = blocks, .block_count = PROMPT / BLOCK};
    char why[KVE_WHY_BYTES];

    cr_assert_eq(open_all(b, &g, &m, &t, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_run_open(&run, m, 1, 0, PROMPT), KVW_OK);
    cr_assert_eq(kve_kvcache_open(&kv, tiny_64.layers, tiny_64.kv_heads, tiny_64.head_dim, BLOCK,
                                  PROMPT / BLOCK),
                 KVW_OK);
    cr_assert_eq(kve_kvcache_alloc(&kv, PROMPT / BLOCK, blocks), KVW_OK);
    for (uint32_t i = 0; i < PROMPT; ++i)
        tokens[i] = (i * 37 + i * i) % TB_VOCAB;
    cr_assert_eq(kve_prefill(run, &kv, &seq, tokens, PROMPT, NULL, said->logits), KVW_OK);
    cr_assert_eq(kve_tok_encode(t, text, sizeof(text) - 1, true, true, &said->ids, &said->count),
                 KVW_OK);
    kve_kvcache_close(&kv);
    kve_run_close(run);
    close_all(g, m, t);
}

static bool same(const struct said *a, const struct said *b)
{
    return memcmp(a->logits, b->logits, sizeof(a->logits)) == 0 && a->count == b->count &&
           memcmp(a->ids, b->ids, a->count * sizeof(*a->ids)) == 0;
}

/* What the file says with one real number (or two) more. */
static struct said with(const char *key, float value, const char *key2, float value2,
                        const char *type)
{
    struct gb b = {0};
    struct said said = {0};

    build(&b);
    if (key != NULL)
        gb_key_f32(&b, key, value);
    if (key2 != NULL)
        gb_key_f32(&b, key2, value2);
    if (type != NULL)
        gb_key_str(&b, "llama.rope.scaling.type", type);
    ask(&b, &said);
    gb_free(&b);
    return said;
}

/* An array of doubles: no key that is read is one. */
static void wrong_type(struct gb *b, const char *key)
{
    gb_drop_key(b, key);
    gb_u64(gb_key_array(b, key, 12, 1), 0x4000000000000000);
}

Test(keys, what_is_read_is_refused_by_name_when_its_type_is_wrong)
{
    const struct kve_key_rule *rule;
    size_t read = 0;

    for (size_t i = 0; (rule = rule_at(i)) != NULL; ++i) {
        struct gb b = {0};
        char why[KVE_WHY_BYTES];

        if (rule->use != KVE_KEY_READ)
            continue;
        ++read;
        build(&b);
        wrong_type(&b, rule->key);
        cr_expect_eq(error_of(&b, why), KVW_E_FORMAT, "%s: %s", rule->key, why);
        cr_expect_not_null(strstr(why, rule->key), "%s: %s", rule->key, why);
        gb_free(&b);
    }
    cr_expect_gt(read, 30, "%zu", read);
}

static void expect(const char *key, double value, kvw_err want)
{
    struct gb b = {0};
    char why[KVE_WHY_BYTES];

    build(&b);
    gb_key_f32(&b, key, (float)value);
    cr_expect_eq(error_of(&b, why), want, "%s = %g: %s", key, value, why);
    cr_expect(want == KVW_OK || strncmp(why, key, strlen(key)) == 0, "%s", why);
    gb_free(&b);
}

Test(keys, what_is_not_run_is_refused_unless_it_changes_nothing)
{
    const struct kve_key_rule *rule;
    size_t only = 0;

    for (size_t i = 0; (rule = rule_at(i)) != NULL; ++i) {
        struct gb b = {0};
        char why[KVE_WHY_BYTES];

        if (rule->use != KVE_KEY_ONLY)
            continue;
        ++only;
        expect(rule->key, rule->only, KVW_OK);
        expect(rule->key, rule->only + 0.25, KVW_E_UNSUPPORTED);
        expect(rule->key, -1, KVW_E_UNSUPPORTED);
        expect(rule->key, NAN, KVW_E_UNSUPPORTED);
        build(&b);
        gb_key_bool(&b, rule->key, rule->only == 0);
        cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED, "%s: %s", rule->key, why);
        gb_drop_key(&b, rule->key);
        gb_key_str(&b, rule->key, "1");
        cr_expect_eq(error_of(&b, why), KVW_E_FORMAT, "%s: %s", rule->key, why);
        gb_free(&b);
    }
    cr_expect_gt(only, 15, "%zu", only);
}

Test(keys, a_list_that_must_be_empty)
{
    static const char key[] = "tokenizer.ggml.suppress_tokens";
    struct gb b = {0};
    char why[KVE_WHY_BYTES];

    build(&b);
    gb_key_array(&b, key, 5, 0);
    cr_expect_eq(error_of(&b, why), KVW_OK, "%s", why);
    gb_drop_key(&b, key);
    gb_u32(gb_key_array(&b, key, 5, 1), 7);
    cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED);
    cr_expect_eq(strncmp(why, key, strlen(key)), 0, "%s", why);
    gb_drop_key(&b, key);
    gb_key_u32(&b, key, 7);
    cr_expect_eq(error_of(&b, why), KVW_E_FORMAT);
    gb_free(&b);
}

Test(keys, what_has_no_effect_changes_no_bit)
{
    const struct kve_key_rule *rule;
    size_t without = 0;
    const struct said plain = with(NULL, 0, NULL, 0, NULL);

    for (size_t i = 0; (rule = rule_at(i)) != NULL; ++i) {
        if (rule->use != KVE_KEY_NO_EFFECT)
            continue;
        cr_expect_not_null(rule->note, "%s: why not?", rule->key);
        const struct said said = with(rule->key, 3, NULL, 0, NULL);
        cr_expect(same(&plain, &said), "%s", rule->key);
        ++without;
        free(said.ids);
    }
    cr_expect_gt(without, 40, "%zu", without);
    const struct said other = with("llama.rope.scale_linear", 1.01f, NULL, 0, NULL);
    cr_expect_not(same(&plain, &other), "the control: a key that has an effect");
    free(other.ids);
    free(plain.ids);
}

Test(keys, a_rotation_is_scaled_by_the_key_s_new_name_or_else_its_old_one)
{
    static const char now[] = "llama.rope.scaling.factor", old[] = "llama.rope.scale_linear";
    const struct said plain = with(NULL, 0, NULL, 0, NULL), by4 = with(now, 4, NULL, 0, NULL);
    const struct {
        struct said said;
        const struct said *like;
        const char *what;
    } rows[] = {
        {with(old, 4, NULL, 0, NULL), &by4, "the old name alone"},
        {with(old, 8, now, 4, NULL), &by4, "both"},
        {with(old, 4, NULL, 0, "linear"), &by4, "the old name, and linear said"},
        {with(old, 4, now, 4, "none"), &plain, "none"},
        {with(old, 1, NULL, 0, NULL), &plain, "by 1"},
    };

    cr_expect_not(same(&plain, &by4));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        cr_expect(same(&rows[i].said, rows[i].like), "%s", rows[i].what);
        free(rows[i].said.ids);
    }
    free(plain.ids);
    free(by4.ids);
}

Test(keys, an_unknown_key_of_the_model_is_refused)
{
    struct gb b = {0};
    char why[KVE_WHY_BYTES];

    build(&b);
    gb_key_u32(&b, "tokenizer.ggml.something_new", 1);
    gb_key_u32(&b, "general.something_new", 1);
    gb_key_u32(&b, "llamas.are.animals", 1);
    cr_expect_eq(error_of(&b, why), KVW_OK, "%s", why);
    gb_key_u32(&b, "llama.something\x1b[31m", 1);
    cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(why,
                     "key llama.something?[31m isn't known; it may change what the model says");
    gb_free(&b);
}

Test(keys, a_window_is_refused_unless_it_is_as_long_as_the_context)
{
    static const struct {
        uint32_t window;
        kvw_err err;
    } rows[] = {
        {0, KVW_OK},
        {TINY_CONTEXT, KVW_OK},
        {TINY_CONTEXT - 1, KVW_E_UNSUPPORTED},
        {1, KVW_E_UNSUPPORTED},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct gb b = {0};
        char why[KVE_WHY_BYTES];

        build(&b);
        gb_key_u32(&b, "llama.attention.sliding_window", rows[i].window);
        cr_expect_eq(error_of(&b, why), rows[i].err, "%u: %s", rows[i].window, why);
        gb_free(&b);
    }
}

Test(keys, names_whose_tokens_strip_blanks_are_refused)
{
    static const char *const names[] = {"Phi-3 mini", "a phi3", "ModernBERT modern-BERT"};
    char why[KVE_WHY_BYTES];
    struct gb b = {0};

    build(&b);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i) {
        gb_drop_key(&b, "general.name");
        gb_key_str(&b, "general.name", names[i]);
        cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED, "%s", names[i]);
        cr_expect_eq(strncmp(why, "general.name has ", 17), 0, "%s", why);
    }
    gb_drop_key(&b, "general.name");
    gb_key_str(&b, "general.name", "Phi-4");
    cr_expect_eq(error_of(&b, why), KVW_OK, "%s", why);
    gb_free(&b);
}

Test(keys, eos_goes_behind_a_text_where_the_file_says_so)
{
    struct gb b = {0};
    struct said said = {0}, plain = with(NULL, 0, NULL, 0, NULL);
    char why[KVE_WHY_BYTES];

    build(&b);
    gb_key_bool(&b, "tokenizer.ggml.add_eos_token", 1);
    gb_key_bool(&b, "tokenizer.ggml.add_bos_token", 1);
    ask(&b, &said);
    cr_assert_eq(said.count, plain.count + 2);
    cr_expect_eq(said.ids[0], 1);
    cr_expect_eq(said.ids[said.count - 1], 2);
    cr_expect_eq(memcmp(said.ids + 1, plain.ids, plain.count * sizeof(*plain.ids)), 0);
    gb_drop_key(&b, "tokenizer.ggml.eos_token_id");
    cr_expect_eq(error_of(&b, why), KVW_E_FORMAT);
    cr_expect_str_eq(
        why, "tokenizer.ggml.add_eos_token is true but tokenizer.ggml.eos_token_id is missing");
    gb_free(&b);
    free(said.ids);
    free(plain.ids);
}

/* <fim_prefix> is found by its text, and made a control token, only where no key names one. */
Test(keys, the_old_name_of_a_token_s_key_counts)
{
    static const char *const keys[] = {NULL, "tokenizer.ggml.fim_pre_token_id",
                                       "tokenizer.ggml.prefix_token_id"};

    for (size_t i = 0; i < 3; ++i) {
        struct gb b = {0};
        struct kve_gguf *g = NULL;
        struct kve_tok *t = NULL;
        char why[KVE_WHY_BYTES];
        struct gb_buf *k;

        gb_key_str(&b, "tokenizer.ggml.model", "gpt2");
        k = gb_key_array(&b, "tokenizer.ggml.tokens", 8, 2);
        gb_string(k, "a", 1);
        gb_string(k, "<fim_prefix>", 12);
        gb_key_array(&b, "tokenizer.ggml.merges", 8, 0);
        if (keys[i] != NULL)
            gb_key_u32(&b, keys[i], 0);
        gb_finish(&b);
        cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
        cr_assert_eq(kve_tok_open(&t, g, why), KVW_OK, "%s", why);
        cr_expect_eq(kve_tok_is_control(t, 1), keys[i] == NULL, "%zu", i);
        kve_tok_close(t);
        kve_gguf_close(g);
        gb_free(&b);
    }
}

/* Both end up on terminals and in JSON. */
Test(keys, a_name_and_a_sentence_that_quote_the_file_are_text)
{
    struct gb b = {0};
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    struct kve_tok *t = NULL;
    char why[KVE_WHY_BYTES], name[100];

    build(&b);
    memset(name, 'x', 94);
    strcpy(name + 94, "\xc3\xa4"); /* the 95 bytes that there is room for end inside of it */
    gb_drop_key(&b, "general.name");
    gb_key_str(&b, "general.name", name);
    cr_assert_eq(open_all(&b, &g, &m, &t, why), KVW_OK, "%s", why);
    cr_expect_eq(strlen(kve_model_name(m)), 94);
    close_all(g, m, t);
    gb_drop_key(&b, "general.name");
    gb_key_str(&b, "general.name", "\xed\xa0\x80\x07");
    cr_assert_eq(open_all(&b, &g, &m, &t, why), KVW_OK, "%s", why);
    cr_expect_str_eq(kve_model_name(m), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd?");
    close_all(g, m, t);
    gb_key_str(&b, "llama.rope.scaling.type", "\xff\x1b]0;");
    cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(why, "llama.rope.scaling.type is \"??]0;\"; \"none\" and \"linear\" are run");
    gb_drop_key(&b, "llama.rope.scaling.type");
    gb_drop_key(&b, "tokenizer.ggml.pre");
    gb_key_str(&b, "tokenizer.ggml.pre", "\xc0\x9b");
    cr_expect_eq(error_of(&b, why), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(why, "tokenizer.ggml.pre is \"??\", which isn't a kind we know");
    gb_free(&b);
}
