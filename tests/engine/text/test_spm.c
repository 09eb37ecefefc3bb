/* SPDX-License-Identifier: Apache-2.0 */
/* A "llama" vocabulary gives llama.cpp's ids (tests/golden/tokenizer_spm.txt) for texts of every
 * kind, whole or cut off, with spaces put before them or not; no text is merged into a control
 * token; a file that lacks what merging needs is refused with the reason. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../../../engine/text/tok.h"
#include "../gguf/gguf_build.h"

enum { NAMES = 2 };

static const char *const names[NAMES] = {"gemma3", "gemma3-long"};

static struct kve_tok *open_family(const char *name)
{
    char path[512], why[KVE_WHY_BYTES] = "";
    struct kve_gguf *g = NULL;
    struct kve_tok *t = NULL;

    snprintf(path, sizeof(path), "%s/%s.gguf", FAMILIES, name);
    cr_assert_eq(kve_gguf_open(&g, path, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_tok_open(&t, g, why), KVW_OK, "%s", why);
    kve_gguf_close(g);
    return t;
}

/* Whether the row's ids are ours; rest: "special text-in-hex ids". */
static bool row_agrees(const struct kve_tok *t, const char *rest)
{
    char *text = malloc(strlen(rest) + 1), *next;
    uint32_t *ids = malloc((strlen(rest) + 1) * sizeof(*ids)), *got = NULL;
    size_t bytes = 0, count = 0, n = 0;
    const char *at = rest + 2;

    for (unsigned byte; *at != ' ' && sscanf(at, "%2x", &byte) == 1; at += 2)
        text[bytes++] = (char)byte;
    for (++at; *at >= '0' && *at <= '9'; at = *next == ',' ? next + 1 : next)
        ids[count++] = (uint32_t)strtoul(at, &next, 10);
    cr_assert_eq(kve_tok_encode(t, text, bytes, rest[0] == '1', false, &got, &n), KVW_OK);

    const bool same = n == count && memcmp(got, ids, n * sizeof(*ids)) == 0;

    free(text);
    free(ids);
    free(got);
    return same;
}

/* Rows of names[of], read by the vocabulary of names[by]; returns how many agree. */
static size_t agreeing(size_t of, size_t by, size_t *rows)
{
    struct kve_tok *t = open_family(names[by]);
    char *line = NULL;
    size_t bytes = 0, number = 0, agree = 0;
    FILE *f = fopen(GOLDEN_SPM, "r");
    const size_t n = strlen(names[of]);

    cr_assert_not_null(f, "%s", GOLDEN_SPM);
    for (*rows = 0; ++number, getline(&line, &bytes, f) > 0;) {
        if (strncmp(line, names[of], n) != 0 || line[n] != ' ')
            continue;
        ++*rows;
        if (row_agrees(t, line + n + 1))
            ++agree;
        else if (of == by)
            cr_log_error("line %zu differs", number);
    }
    free(line);
    fclose(f);
    kve_tok_close(t);
    return agree;
}

Test(spm, gives_the_ids_that_llama_cpp_gave)
{
    for (size_t i = 0; i < NAMES; ++i) {
        size_t rows;
        const size_t agree = agreeing(i, i, &rows);

        cr_expect_gt(rows, 100, "only %zu rows", rows);
        cr_expect_eq(agree, rows, "%s: %zu of %zu", names[i], agree, rows);
    }
}

/* The control: the same vocabulary, which puts a space before each text. */
Test(spm, a_space_before_the_text_is_the_files_wish)
{
    size_t rows;
    const size_t agree = agreeing(0, 1, &rows);

    cr_expect_lt(agree, rows / 10, "%zu of %zu", agree, rows);
}

static const char *const few[] = {"<unk>", "a", "b", "ab", "c", "bc", "abc"};
enum { FEW = sizeof(few) / sizeof(few[0]) };

/* "ab" is a control token, "bc" and "abc" are what texts may be merged into. Without the token of
 * byte `missing`. */
static void small(struct gb *b, int missing, uint32_t scores)
{
    const uint32_t count = FEW + 256 - (missing >= 0);
    struct gb_buf *keys;

    gb_key_str(b, "tokenizer.ggml.model", "llama");
    gb_key_bool(b, "tokenizer.ggml.add_space_prefix", 0);
    gb_key_bool(b, "tokenizer.ggml.add_bos_token", 0);
    keys = gb_key_array(b, "tokenizer.ggml.tokens", 8, count);
    for (int i = 0; i < FEW; ++i)
        gb_string(keys, few[i], strlen(few[i]));
    for (int i = 0; i < 256; ++i) {
        char spelled[8];

        snprintf(spelled, sizeof(spelled), "<0x%02X>", (unsigned)i);
        if (i != missing)
            gb_string(keys, spelled, 6);
    }
    keys = gb_key_array(b, "tokenizer.ggml.token_type", 5, count);
    for (uint32_t i = 0; i < count; ++i)
        gb_u32(keys, i == 0 ? 2 : i == 3 ? 3 : i < FEW ? 1 : 6);
    keys = gb_key_array(b, "tokenizer.ggml.scores", 6, scores);
    for (uint32_t i = 0; i < scores; ++i)
        gb_u32(keys, 0);
    gb_finish(b);
}

static kvw_err open_small(struct gb *b, struct kve_tok **t, char why[KVE_WHY_BYTES])
{
    struct kve_gguf *g = NULL;
    kvw_err err;

    why[0] = '\0';
    cr_assert_eq(kve_gguf_open_bytes(&g, b->file.at, b->file.bytes, why), KVW_OK, "%s", why);
    err = kve_tok_open(t, g, why);
    kve_gguf_close(g);
    gb_free(b);
    return err;
}

static void expect_ids(const struct kve_tok *t, const char *text, bool special, size_t n,
                       const uint32_t *want)
{
    uint32_t *ids = NULL;
    size_t count = 0;

    cr_assert_eq(kve_tok_encode(t, text, strlen(text), special, false, &ids, &count), KVW_OK);
    cr_expect(count == n && (n == 0 || memcmp(ids, want, n * sizeof(*ids)) == 0), "\"%s\": %zu ids",
              text, count);
    free(ids);
}

Test(spm, no_text_is_merged_into_a_control_token)
{
    struct gb b = {0};
    struct kve_tok *t = NULL;
    char why[KVE_WHY_BYTES];

    small(&b, -1, FEW + 256);
    cr_assert_eq(open_small(&b, &t, why), KVW_OK, "%s", why);
    expect_ids(t, "ab", false, 2, (uint32_t[]){1, 2});
    expect_ids(t, "ab", true, 1, (uint32_t[]){3});
    expect_ids(t, "abc", false, 1, (uint32_t[]){6}); /* by "bc" */
    expect_ids(t, "abcab", false, 3, (uint32_t[]){6, 1, 2});
    expect_ids(t, "<unk>", false, 5,
               (uint32_t[]){FEW + '<', FEW + 'u', FEW + 'n', FEW + 'k', FEW + '>'});
    expect_ids(t,
               "\xc3\xa4"
               "b\xe4",
               false, 4, (uint32_t[]){FEW + 0xc3, FEW + 0xa4, 2, FEW + 0xe4});
    expect_ids(t, "", false, 0, NULL);
    kve_tok_close(t);
}

Test(spm, what_merging_needs_is_missing)
{
    static const struct {
        int missing;
        uint32_t scores;
        const char *words;
    } rows[] = {
        {0x0a, FEW + 256, "\"<0x0A>\" is missing"},
        {-1, FEW, "tokenizer.ggml.scores is not an array of at least 263 entries"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct gb b = {0};
        struct kve_tok *t = NULL;
        char why[KVE_WHY_BYTES];

        small(&b, rows[i].missing, rows[i].scores);
        cr_expect_eq(open_small(&b, &t, why), KVW_E_FORMAT, "%zu", i);
        cr_expect(strstr(why, rows[i].words) != NULL, "%s", why);
    }
}
