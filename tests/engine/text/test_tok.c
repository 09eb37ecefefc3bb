/* SPDX-License-Identifier: Apache-2.0 */
/* Text becomes the ids that llama.cpp gives it, and ids become the text again. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "../../../engine/text/tok_impl.h"
#include "tok_build.h"

static struct kve_tok *open_tok(struct gb *b)
{
    char why[KVE_WHY_BYTES] = "";
    struct kve_gguf *g;
    struct kve_tok *t = NULL;

    gb_finish(b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b->file.at, b->file.bytes, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_tok_open(&t, g, why), KVW_OK, "%s", why);
    kve_gguf_close(g);
    gb_free(b); /* the tokenizer keeps nothing of it */
    return t;
}

static struct kve_tok *small(const char *pre)
{
    struct gb b = {0};

    tb_vocabulary(&b, pre);
    return open_tok(&b);
}

static void expect_ids(const struct kve_tok *t, const char *text, size_t bytes, bool special,
                       const uint32_t *ids, size_t count)
{
    uint32_t *got = NULL;
    size_t n = 0;

    cr_assert_eq(kve_tok_encode(t, text, bytes, special, false, &got, &n), KVW_OK);
    cr_expect(n == count && (n == 0 || memcmp(got, ids, n * sizeof(*ids)) == 0),
              "\"%.60s\": %zu ids, first %u; not %zu, first %u", text, n, n > 0 ? got[0] : 0, count,
              count > 0 ? ids[0] : 0);
    free(got);
}

#define IDS(...) (const uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / 4
#define EXPECT_IDS(t, text, special, ...)                                                          \
    expect_ids(t, text, sizeof(text) - 1, special, IDS(__VA_ARGS__))
#define B(c) (TB_BYTE + (unsigned char)(c))

Test(tok, merges_go_by_rank_then_from_the_left)
{
    struct kve_tok *t = small("gpt-2");

    EXPECT_IDS(t, "hello", false, TB_HELLO);
    EXPECT_IDS(t, "hello world", false, TB_HELLO, TB_SPACE_W, B('o'), B('r'), B('l'), B('d'));
    EXPECT_IDS(t, "hel", false, TB_HE, B('l'));
    EXPECT_IDS(t, "ell", false, B('e'), TB_LL);
    EXPECT_IDS(t, "lll", false, TB_LL, B('l')); /* leftmost of equals */
    EXPECT_IDS(t, "aaaaaaa", false, TB_AAAA, TB_AA, B('a'));
    EXPECT_IDS(t, "h e", false, B('h'), B(' '), B('e')); /* pieces are never merged across */
    expect_ids(t, "", 0, true, NULL, 0);
    EXPECT_IDS(t, "\0", false, B(0));
    kve_tok_close(t);
}

Test(tok, special_tokens_are_cut_out)
{
    struct kve_tok *t = small("gpt-2");

    EXPECT_IDS(t, "<|im_start|>hello<|im_end|>", true, 1, TB_HELLO, 2);
    EXPECT_IDS(t, "<|im_end|><|im_end|>", true, 2, 2);
    EXPECT_IDS(t, "he<tool>llo", true, TB_HE, 3, TB_LL, B('o'));
    /* Without parse_special control tokens are text; user-defined ones never are. */
    EXPECT_IDS(t, "he<tool>llo", false, TB_HE, 3, TB_LL, B('o'));
    EXPECT_IDS(t, "<|im_", true, B('<'), B('|'), B('i'), B('m'), B('_'));
    uint32_t *ids;
    size_t n;
    cr_assert_eq(kve_tok_encode(t, "<|im_end|>", 10, false, false, &ids, &n), KVW_OK);
    cr_expect_eq(n, 10, "%zu", n);
    free(ids);
    kve_tok_close(t);
}

Test(tok, of_special_tokens_that_overlap_the_longer_wins)
{
    struct gb b = {0};
    struct gb_buf *k;

    gb_key_str(&b, "tokenizer.ggml.model", "gpt2");
    gb_key_str(&b, "tokenizer.ggml.pre", "gpt-2");
    k = gb_key_array(&b, "tokenizer.ggml.tokens", 8, 4);
    gb_string(k, "ab", 2);
    gb_string(k, "bcd", 3);
    gb_string(k, "a", 1);
    gb_string(k, "d", 1);
    k = gb_key_array(&b, "tokenizer.ggml.token_type", 5, 4);
    gb_u32(k, 3);
    gb_u32(k, 3);
    gb_u32(k, 1);
    gb_u32(k, 1);
    gb_key_array(&b, "tokenizer.ggml.merges", 8, 0);
    struct kve_tok *t = open_tok(&b);
    EXPECT_IDS(t, "abcd", true, 2, 1); /* not "ab", though it starts first */
    EXPECT_IDS(t, "abab", true, 0, 0);
    EXPECT_IDS(t, "xaxd", true, 2, 3); /* bytes without a token vanish */
    kve_tok_close(t);
}

Test(tok, bos_and_eos_are_added_if_file_and_caller_want_them)
{
    struct gb b = {0};
    uint32_t *ids;
    size_t n;

    tb_vocabulary(&b, "gpt-2");
    gb_key_bool(&b, "tokenizer.ggml.add_bos_token", 1);
    gb_key_bool(&b, "tokenizer.ggml.add_eos_token", 1);
    struct kve_tok *t = open_tok(&b);
    cr_assert_eq(kve_tok_encode(t, "hello", 5, false, true, &ids, &n), KVW_OK);
    cr_expect(n == 3 && ids[0] == 1 && ids[1] == TB_HELLO && ids[2] == 2);
    free(ids);
    cr_assert_eq(kve_tok_encode(t, "", 0, false, true, &ids, &n), KVW_OK);
    cr_expect(n == 2 && ids[0] == 1 && ids[1] == 2);
    free(ids);
    cr_assert_eq(kve_tok_encode(t, "hello", 5, false, false, &ids, &n), KVW_OK);
    cr_expect_eq(n, 1);
    free(ids);
    kve_tok_close(t);

    t = small("llama-bpe"); /* adds it unless the file says no */
    cr_assert_eq(kve_tok_encode(t, "hello", 5, false, true, &ids, &n), KVW_OK);
    cr_expect(n == 2 && ids[0] == 1);
    free(ids);
    kve_tok_close(t);
}

Test(tok, a_text_too_long_is_refused_before_it_is_read)
{
    struct kve_tok *t = small("gpt-2");
    uint32_t *ids = NULL;
    size_t n = 7;

    cr_expect_eq(kve_tok_encode(t, "", KVE_TEXT_BYTES_MAX + 1, false, false, &ids, &n),
                 KVW_E_INVALID);
    cr_expect(ids == NULL && n == 7);
    kve_tok_close(t);
}

#define BAD "\xef\xbf\xbd" /* U+FFFD */

Test(tok, what_is_not_utf8_is_read_as_llama_cpp_reads_it)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"a\xff", "a" BAD},
        {"\x80\x80", BAD BAD},
        {"\xe4\xbd", BAD BAD}, /* cut off: each byte by itself */
        {"\xe4\xbd!", BAD BAD "!"},
        {"\xc1\x81", "A"}, /* too long a form: what it means */
        {"\xe0\x81\x81", "A"},
        {"\xed\xa0\x80", "\xed\xa0\x80"},      /* a surrogate stays */
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD}, /* past U+10FFFF: llama.cpp aborts */
        {"\xf8\x88\x80\x80\x80", BAD BAD BAD BAD BAD},
        {"\xe4\xbd\xa0", "\xe4\xbd\xa0"},
    };
    struct kve_tok *t = small("gpt-2");

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        uint32_t *ids;
        size_t n, at = 0;

        cr_assert_eq(kve_tok_encode(t, rows[i].in, strlen(rows[i].in), false, false, &ids, &n),
                     KVW_OK);
        cr_assert_eq(n, strlen(rows[i].out), "row %zu: %zu bytes", i, n);
        for (; at < n; ++at)
            cr_expect_eq(ids[at], B(rows[i].out[at]), "row %zu, byte %zu", i, at);
        free(ids);
    }
    cr_expect(kve_utf8_sound("abcdefghijk\xe4\xbd\xa0\xf0\x9f\x98\x80", 18));
    cr_expect_not(kve_utf8_sound("\xed\xa0\x80", 3));
    cr_expect_not(kve_utf8_sound("\xc1\x81", 2));
    cr_expect_not(kve_utf8_sound("abcdefgh\xe4\xbd", 10));
    kve_tok_close(t);
}

/* ---- pieces ---- */

struct joined {
    const char *text;
    char out[512];
    size_t n;
};

static kvw_err join(void *arg, size_t at, size_t bytes)
{
    struct joined *j = arg;

    j->n += (size_t)snprintf(j->out + j->n, sizeof(j->out) - j->n, "%s%.*s", j->n > 0 ? "|" : "",
                             (int)bytes, j->text + at);
    return KVW_OK;
}

Test(tok, pieces_of_each_kind)
{
    static const struct {
        const char *kind, *text, *pieces;
    } rows[] = {
        {"gpt-2", "I'm here, it's 123", "I|'m| here|,| it|'s| 123"},
        {"gpt-2", "a  b   ", "a| | b|   "},
        {"gpt-2", "a \n\n b", "a| \n\n| b"},
        {"gpt-2", "a\nb", "a|\n|b"},
        {"gpt-2", "DON'T 'd", "DON|'|T| '|d"},
        {"smollm", "x123 45", "x|1|2|3| |4|5"},
        {"smollm", "a  1", "a|  |1"}, /* the spaces end a piece: all stay together */
        {"starcoder", "a1", "a|1"},
        {"qwen2", "a  b\n\n c", "a| | b|\n\n| c"},
        {"qwen2", "(x)123!\n", "(x|)|1|2|3|!\n"},
        {"qwen2", "DON'T  ", "DON|'T|  "},
        {"llama-bpe", "12345", "123|45"},
        {"llama3", "x\r\n\r\n y", "x|\r\n\r\n| y"},
        {"default", "a+b==1234", "a|+|b|==|123|4"},
        {"gpt-2", "\xc2\x85\xe1\xa0\x8e", "\xc2\x85|\xe1\xa0\x8e"}, /* U+180E is no space */
        {"gpt-2", "\xf0\x91\xbd\x90\xf0\x91\xbd\x90.", "\xf0\x91\xbd\x90\xf0\x91\xbd\x90|."},
        {"gpt-2", "", ""},
    };
    char why[KVE_WHY_BYTES];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct joined j = {.text = rows[i].text};
        struct kve_pre *pre;

        cr_assert_eq(kve_pre_open(&pre, (struct kve_str){rows[i].kind, strlen(rows[i].kind)}, why),
                     KVW_OK);
        cr_assert_eq(kve_pre_split(pre, j.text, strlen(j.text), join, &j), KVW_OK);
        cr_expect_str_eq(j.out, rows[i].pieces, "row %zu, %s: \"%s\", not \"%s\"", i, rows[i].kind,
                         j.out, rows[i].pieces);
        kve_pre_close(pre);
    }
}

static kvw_err stop_at_second(void *arg, size_t at, size_t bytes)
{
    (void)bytes;
    ++*(int *)arg;
    return at > 0 ? KVW_E_CANCELED : KVW_OK;
}

Test(tok, an_error_ends_the_split)
{
    char why[KVE_WHY_BYTES];
    struct kve_pre *pre;
    int calls = 0;

    cr_assert_eq(kve_pre_open(&pre, (struct kve_str){"smollm", 6}, why), KVW_OK);
    cr_expect_eq(kve_pre_split(pre, "a b c", 5, stop_at_second, &calls), KVW_E_CANCELED);
    cr_expect_eq(calls, 2);
    kve_pre_close(pre);
}

/* ---- long pieces ---- */

/* Merging by the letter of the rule: the pair of lowest rank, the leftmost, until there is none. */
static size_t merge_plainly(uint32_t *ids, size_t n)
{
    static const uint32_t merges[][3] = {{B('h'), B('e'), TB_HE},      {B('l'), B('l'), TB_LL},
                                         {TB_HE, TB_LL, TB_HELL},      {TB_HELL, B('o'), TB_HELLO},
                                         {B(' '), B('w'), TB_SPACE_W}, {B('a'), B('a'), TB_AA},
                                         {TB_AA, TB_AA, TB_AAAA}};

    for (size_t rank = 0; rank < sizeof(merges) / sizeof(merges[0]);) {
        size_t i = 0;

        while (i + 1 < n && !(ids[i] == merges[rank][0] && ids[i + 1] == merges[rank][1]))
            ++i;
        if (i + 1 >= n) {
            ++rank;
            continue;
        }
        ids[i] = merges[rank][2];
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof(*ids));
        --n;
        rank = 0;
    }
    return n;
}

Test(tok, long_pieces_merge_as_short_ones)
{
    static const char letters[] = "hhelloaaa";
    struct kve_tok *t = small("gpt-2");
    uint32_t random = 1;

    for (size_t length = 1; length < 400; ++length) {
        char text[400];
        uint32_t ids[400];

        for (size_t i = 0; i < length; ++i) {
            random = random * 1664525 + 1013904223;
            text[i] = letters[(random >> 16) % (sizeof(letters) - 1)];
            ids[i] = B(text[i]);
        }
        expect_ids(t, text, length, false, ids, merge_plainly(ids, length));
    }
    kve_tok_close(t);
}

Test(tok, a_megabyte_in_one_piece_is_not_quadratic, .timeout = 20)
{
    const size_t n = 1 << 20;
    struct kve_tok *t = small("smollm");
    char *text = malloc(n);
    uint32_t *ids;
    size_t count;

    for (int c = 0; c < 3; ++c) {
        memset(text, "a \n"[c], n);
        cr_assert_eq(kve_tok_encode(t, text, n, true, false, &ids, &count), KVW_OK);
        cr_expect_eq(count, c == 0 ? n / 4 : n);
        free(ids);
    }
    free(text);
    kve_tok_close(t);
}

/* ---- back to text ---- */

Test(tok, what_was_encoded_decodes_to_itself)
{
    static const char *const kinds[] = {"gpt-2", "smollm", "qwen2", "llama-bpe", "default"};
    uint32_t random = 7;

    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); ++k) {
        struct kve_tok *t = small(kinds[k]);

        for (int round = 0; round < 400; ++round) {
            char text[4 * 200], back[8 * 200];
            size_t n = 0, at = 0, count;
            uint32_t *ids;

            for (int i = 0; i < round / 2; ++i) {
                random = random * 1664525 + 1013904223;
                uint32_t cp = (random >> 11) % (round % 3 == 0 ? 0x80 : 0x110000);
                cp = cp >= 0xd800 && cp <= 0xdfff ? ' ' : cp;
                n += kve_utf8_put(cp, text + n);
            }
            cr_assert_eq(kve_tok_encode(t, text, n, round % 2 == 1, false, &ids, &count), KVW_OK);
            for (size_t i = 0; i < count; ++i) {
                const struct kve_str s = kve_tok_piece(t, ids[i]);
                memcpy(back + at, s.at, s.bytes);
                at += s.bytes;
            }
            cr_assert(at == n && memcmp(back, text, n) == 0, "%s, round %d", kinds[k], round);
            free(ids);
        }
        kve_tok_close(t);
    }
}

static bool is(struct kve_str s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

Test(tok, pieces_and_flags_of_tokens)
{
    struct kve_tok *t = small("gpt-2");

    cr_expect_eq(kve_tok_vocab(t), TB_VOCAB);
    cr_expect(is(kve_tok_piece(t, 1), "<|im_start|>"));
    cr_expect(is(kve_tok_piece(t, TB_SPACE_W), " w"));
    cr_expect(is(kve_tok_piece(t, B('\n')), "\n"));
    cr_expect(is(kve_tok_piece(t, B('\xad')), "\xad"));
    cr_expect(is(kve_tok_piece(t, TB_VOCAB), ""));
    for (uint32_t i = 0; i < TB_VOCAB + 2; ++i) {
        cr_expect_eq(kve_tok_is_control(t, i), i < 3, "%u", i);
        /* <|im_end|> by its key, <|endoftext|> by its text */
        cr_expect_eq(kve_tok_is_end(t, i), i == 0 || i == 2, "%u", i);
    }
    kve_tok_close(t);
}

Test(tok, odd_tokens)
{
    struct gb b = {0};
    struct gb_buf *k;
    static const char *const texts[] = {"<0x41>", "", "\xe4\xbd\xa0", "<|im_end|>", "unused", "x"};
    static const uint32_t types[] = {6, 1, 1, 1, 5, 99};

    gb_key_str(&b, "tokenizer.ggml.model", "gpt2");
    k = gb_key_array(&b, "tokenizer.ggml.tokens", 8, 6);
    for (int i = 0; i < 6; ++i)
        gb_string(k, texts[i], strlen(texts[i]));
    k = gb_key_array(&b, "tokenizer.ggml.token_type", 5, 6);
    for (int i = 0; i < 6; ++i)
        gb_u32(k, types[i]);
    gb_key_array(&b, "tokenizer.ggml.merges", 8, 0);
    struct kve_tok *t = open_tok(&b);
    cr_expect(is(kve_tok_piece(t, 0), "A"));
    cr_expect(is(kve_tok_piece(t, 1), "[EMPTY_1]"));
    cr_expect(is(kve_tok_piece(t, 2), "\xe4\xbd\xa0"), "stands for no bytes: kept");
    cr_expect(kve_tok_is_control(t, 3) && kve_tok_is_end(t, 3), "whatever its type says");
    cr_expect(is(kve_tok_piece(t, 4), "") && is(kve_tok_piece(t, 5), ""));
    kve_tok_close(t);
}

/* ---- files that are refused ---- */

static void tokens(struct gb *b, const char *a, const char *second)
{
    struct gb_buf *k = gb_key_array(b, "tokenizer.ggml.tokens", 8, 2);

    gb_string(k, a, strlen(a));
    gb_string(k, second, strlen(second));
}

static void no_model(struct gb *b)
{
    tokens(b, "a", "b");
}

static void model_bert(struct gb *b)
{
    gb_key_str(b, "tokenizer.ggml.model", "bert");
}

static void pre_unknown(struct gb *b)
{
    tb_vocabulary(b, "tekken-9");
}

static void pre_two_words(struct gb *b)
{
    tb_vocabulary(b, "smollm starcoder");
}

static void pre_number(struct gb *b)
{
    gb_key_str(b, "tokenizer.ggml.model", "gpt2");
    gb_key_u32(b, "tokenizer.ggml.pre", 1);
}

static void no_tokens(struct gb *b)
{
    gb_key_str(b, "tokenizer.ggml.model", "gpt2");
}

static void tokens_none(struct gb *b)
{
    no_tokens(b);
    gb_key_array(b, "tokenizer.ggml.tokens", 8, 0);
}

static void tokens_numbers(struct gb *b)
{
    no_tokens(b);
    gb_u32(gb_key_array(b, "tokenizer.ggml.tokens", 4, 1), 5);
}

static void tokens_twice(struct gb *b)
{
    no_tokens(b);
    tokens(b, "same", "same");
    gb_key_array(b, "tokenizer.ggml.merges", 8, 0);
}

static void no_merges(struct gb *b)
{
    no_tokens(b);
    tokens(b, "a", "b");
}

static void merges_numbers(struct gb *b)
{
    no_merges(b);
    gb_u32(gb_key_array(b, "tokenizer.ggml.merges", 4, 1), 5);
}

static void types_short(struct gb *b)
{
    no_merges(b);
    gb_u32(gb_key_array(b, "tokenizer.ggml.token_type", 5, 1), 1);
}

static void types_strings(struct gb *b)
{
    struct gb_buf *k;

    no_merges(b);
    k = gb_key_array(b, "tokenizer.ggml.token_type", 8, 2);
    gb_string(k, "", 0);
    gb_string(k, "", 0);
}

static void eos_outside(struct gb *b)
{
    no_merges(b);
    gb_key_array(b, "tokenizer.ggml.merges", 8, 0);
    gb_key_u32(b, "tokenizer.ggml.eos_token_id", 2);
}

static void bos_missing(struct gb *b)
{
    no_merges(b);
    gb_key_array(b, "tokenizer.ggml.merges", 8, 0);
    gb_key_bool(b, "tokenizer.ggml.add_bos_token", 1);
}

static const struct {
    void (*build)(struct gb *b);
    kvw_err err;
    const char *words;
} refused[] = {
    {no_model, KVW_E_FORMAT, "tokenizer.ggml.model is missing"},
    {model_bert, KVW_E_UNSUPPORTED, "tokenizer.ggml.model is \"bert\""},
    {pre_unknown, KVW_E_UNSUPPORTED, "tokenizer.ggml.pre is \"tekken-9\""},
    {pre_two_words, KVW_E_UNSUPPORTED, "\"smollm starcoder\""},
    {pre_number, KVW_E_FORMAT, "tokenizer.ggml.pre is not a string"},
    {no_tokens, KVW_E_FORMAT, "tokenizer.ggml.tokens is missing"},
    {tokens_none, KVW_E_FORMAT, "tokenizer.ggml.tokens has 0"},
    {tokens_numbers, KVW_E_FORMAT, "tokenizer.ggml.tokens is not an array of strings"},
    {tokens_twice, KVW_E_FORMAT, "tokens 0 and 1 are both \"same\""},
    {no_merges, KVW_E_FORMAT, "tokenizer.ggml.merges is missing"},
    {merges_numbers, KVW_E_FORMAT, "tokenizer.ggml.merges is not an array of strings"},
    {types_short, KVW_E_FORMAT, "tokenizer.ggml.token_type is not an array of at least 2"},
    {types_strings, KVW_E_FORMAT, "tokenizer.ggml.token_type is not an array of integers"},
    {eos_outside, KVW_E_FORMAT, "tokenizer.ggml.eos_token_id is 2"},
    {bos_missing, KVW_E_FORMAT, "tokenizer.ggml.bos_token_id is missing"},
};

Test(tok, an_unsound_vocabulary_is_refused_with_the_reason)
{
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); ++i) {
        char why[KVE_WHY_BYTES] = "";
        struct gb b = {0};
        struct kve_gguf *g;
        struct kve_tok *t = NULL;

        refused[i].build(&b);
        gb_finish(&b);
        cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
        cr_expect_eq(kve_tok_open(&t, g, why), refused[i].err, "row %zu", i);
        cr_expect(strstr(why, refused[i].words) != NULL, "row %zu: \"%s\" has no \"%s\"", i, why,
                  refused[i].words);
        cr_expect_null(t);
        kve_gguf_close(g);
        gb_free(&b);
    }
}

/* ---- chat ---- */

static void expect_chat(const struct kve_tok *t, const struct kve_chat_message *m, size_t n,
                        const char *expected)
{
    char why[KVE_WHY_BYTES] = "", *text = NULL;

    cr_assert_eq(kve_tok_chat(t, m, n, &text, why), KVW_OK, "%s", why);
    cr_expect_str_eq(text, expected);
    free(text);
}

Test(tok, chatml_with_the_templates_own_system_turn)
{
    const struct kve_chat_message m[] = {
        {"system", "Be kind."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};
    struct kve_tok *t = small("smollm");

    expect_chat(t, m, 2,
                "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\n");
    expect_chat(t, m + 1, 3,
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
                "<|im_start|>assistant\n");
    expect_chat(t, m + 1, 0, "<|im_start|>assistant\n");
    kve_tok_close(t);
}

/* The known shape in three parts, around what its system turn says. */
#define HEAD                                                                                       \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '"
#define TAIL                                                                                       \
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "             \
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"                              \
    "{{ '<|im_start|>assistant\n' }}{% endif %}"

Test(tok, which_templates_are_known)
{
    static const struct {
        const char *text, *name, *system;
    } rows[] = {
        {TB_TEMPLATE, "chatml with a system turn", "Be brief."},
        {HEAD "<|im_start|>system\nAbc.<|im_end|>\n" TAIL, "chatml with a system turn", "Abc."},
        {HEAD "<|im_start|>system\\nAbc.<|im_end|>\\n" TAIL, "chatml with a system turn", "Abc."},
        {HEAD "<|im_start|>system\n<|im_end|>\n" TAIL, "chatml with a system turn", NULL},
        {HEAD "<|im_start|>system\n{{ x }}<|im_end|>\n" TAIL, NULL, NULL},
        {HEAD "<|im_start|>system\nAbc.<|im_end|>\n\n" TAIL, NULL, "Abc."},
        {HEAD "<|im_start|>system\nAbc.<|im_end|>\n" TAIL " ", NULL, "Abc."},
        {"{{ '<|im_start|>system\nA\n' }}", NULL, NULL},
        {"[INST] {{ x }} [/INST]", NULL, NULL},
        {"", NULL, NULL},
        {"<|im_start|>system", NULL, NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct kve_chat chat;

        cr_assert_eq(kve_chat_open(&chat, (struct kve_str){rows[i].text, strlen(rows[i].text)}),
                     KVW_OK);
        const char *name = kve_chat_name(&chat);
        cr_expect((name == NULL) == (rows[i].name == NULL), "row %zu", i);
        if (name != NULL && rows[i].name != NULL)
            cr_expect_str_eq(name, rows[i].name, "row %zu", i);
        cr_expect((chat.system == NULL) == (rows[i].system == NULL), "row %zu", i);
        if (chat.system != NULL && rows[i].system != NULL)
            cr_expect_str_eq(chat.system, rows[i].system, "row %zu", i);
        kve_chat_close(&chat);
    }
}

Test(tok, an_unknown_template_is_refused_by_its_hash)
{
    struct kve_chat chat;
    char why[KVE_WHY_BYTES] = "", *text = NULL;
    const struct kve_chat_messages m = {&(struct kve_chat_message){"user", "Hi"}, 1};

    cr_assert_eq(kve_chat_open(&chat, (struct kve_str){"[INST]", 6}), KVW_OK);
    cr_expect_eq(kve_chat_prompt(&chat, (struct kve_str){"", 0}, &m, &text, why),
                 KVW_E_UNSUPPORTED);
    cr_expect(strstr(why, "tokenizer.chat_template (6 bytes, hash ") == why &&
                  strstr(why, "is none that is known: chatml") != NULL &&
                  strstr(why, "Qwen3, Gemma 3, Llama 3") != NULL,
              "%s", why);
    kve_chat_close(&chat);
}

Test(tok, no_template_no_chat)
{
    const struct kve_chat_message m = {"user", "Hi"};
    char why[KVE_WHY_BYTES] = "", *text = NULL;
    struct gb b = {0};

    no_merges(&b);
    gb_key_array(&b, "tokenizer.ggml.merges", 8, 0);
    struct kve_tok *t = open_tok(&b);
    cr_expect_eq(kve_tok_chat(t, &m, 1, &text, why), KVW_E_UNSUPPORTED);
    cr_expect(strstr(why, "tokenizer.chat_template") != NULL && text == NULL, "%s", why);
    kve_tok_close(t);
}

/* ---- the real vocabulary ---- */

/* KVE_MODEL, or where the README says to put it. */
static const char *model_path(char *room, size_t bytes)
{
    const char *path = getenv("KVE_MODEL"), *home = getenv("HOME");

    if (path == NULL) {
        snprintf(room, bytes, "%s/.cache/kvwire/SmolLM2-135M-Instruct.Q4_1.gguf",
                 home == NULL ? "" : home);
        path = room;
    }
    if (access(path, R_OK) != 0)
        cr_skip_test("no model file at %s (set KVE_MODEL)", path);
    return path;
}

/* One line of the golden file: whether special tokens are parsed, the text in hex, the ids. */
static void expect_line(const struct kve_tok *t, const char *line, size_t number)
{
    char *text = malloc(strlen(line) + 1), *next;
    uint32_t *ids = malloc((strlen(line) + 1) * sizeof(*ids)), *got = NULL;
    size_t bytes = 0, count = 0, n = 0;
    const char *at = line + 2;

    for (unsigned byte; sscanf(at, "%2x", &byte) == 1 && *at != ' '; at += 2)
        text[bytes++] = (char)byte;
    for (++at; *at >= '0' && *at <= '9'; at = *next == ',' ? next + 1 : next)
        ids[count++] = (uint32_t)strtoul(at, &next, 10);
    cr_assert_eq(kve_tok_encode(t, text, bytes, line[0] == '1', false, &got, &n), KVW_OK);
    cr_expect(n == count && memcmp(got, ids, n * sizeof(*ids)) == 0,
              "line %zu: %zu ids instead of %zu", number, n, count);
    free(text);
    free(ids);
    free(got);
}

Test(tok, smollm2_gives_the_ids_that_llama_cpp_gave)
{
    char room[512], why[KVE_WHY_BYTES], *line = NULL;
    const char *path = model_path(room, sizeof(room));
    size_t bytes = 0, number = 0, strings = 0;
    struct kve_gguf *g;
    struct kve_tok *t;
    FILE *f = fopen(GOLDEN, "r");

    cr_assert_not_null(f, "%s", GOLDEN);
    cr_assert_eq(kve_gguf_open(&g, path, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_tok_open(&t, g, why), KVW_OK, "%s", why);
    kve_gguf_close(g);
    while (++number, getline(&line, &bytes, f) > 0) {
        if (line[0] == '#')
            continue;
        expect_line(t, line, number);
        ++strings;
    }
    cr_expect_gt(strings, 300, "only %zu strings", strings);
    free(line);
    fclose(f);

    const struct kve_chat_message m = {"user", "Hi"};
    expect_chat(t, &m, 1,
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
                "Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    kve_tok_close(t);
}
