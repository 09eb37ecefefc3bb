/* SPDX-License-Identifier: Apache-2.0 */
/* Each line of a batch is read whole, counted, and taken field by field or refused by name. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../engine/serve/batch.h"
#include "../../../engine/gguf/gguf.h"

enum {
    VOCAB = 100,
};

static char path[32];
static struct kve_batch batch;

static void write_file(const char *text, size_t n)
{
    strcpy(path, "/tmp/kve-batch-XXXXXX");
    const int fd = mkstemp(path);

    cr_assert(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    close(fd);
}

static void open_batch(const char *text, size_t n)
{
    char why[KVE_WHY_BYTES];

    write_file(text, n);
    cr_assert_eq(kve_batch_open(&batch, path, why), KVW_OK);
    unlink(path);
}

Test(batch, lines_are_counted_and_blank_ones_skipped)
{
    static const char text[] = "\none\n \t\r\n\n\0\ntwo\r\nthree";
    static const struct {
        const char *line;
        size_t bytes;
        uint64_t number;
    } want[] = {{"one", 3, 2}, {"\0", 1, 5}, {"two\r", 4, 6}, {"three", 5, 7}};
    char why[KVE_WHY_BYTES] = "";

    open_batch(text, sizeof(text) - 1);
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); ++i) {
        cr_assert_eq(kve_batch_next(&batch, why), KVW_OK);
        cr_expect_eq(batch.number, want[i].number, "row %zu", i);
        cr_assert_eq(batch.bytes, want[i].bytes, "row %zu", i);
        cr_expect_eq(memcmp(batch.line, want[i].line, want[i].bytes + 1), 0, "row %zu", i);
    }
    cr_expect_eq(kve_batch_next(&batch, why), KVW_E_NOTFOUND);
    kve_batch_close(&batch);
    open_batch("", 0);
    cr_expect_eq(kve_batch_next(&batch, why), KVW_E_NOTFOUND);
    kve_batch_close(&batch);
}

Test(batch, a_line_too_long_is_skipped_and_the_next_is_read)
{
    const size_t n = KVE_BATCH_LINE_MAX;
    char why[KVE_WHY_BYTES] = "", *text = malloc(2 * n + 10);

    memset(text, 'x', 2 * n + 10);
    text[n] = '\n'; /* as long as may be */
    text[2 * n + 2] = '\n';
    memcpy(text + 2 * n + 3, "after\n", 6);
    open_batch(text, 2 * n + 9);
    free(text);
    cr_assert_eq(kve_batch_next(&batch, why), KVW_OK);
    cr_expect_eq(batch.bytes, n);
    cr_assert_eq(kve_batch_next(&batch, why), KVW_E_FORMAT);
    cr_expect_eq(batch.number, 2);
    cr_expect(strstr(why, "8388608 bytes") != NULL, "%s", why);
    cr_assert_eq(kve_batch_next(&batch, why), KVW_OK);
    cr_expect_str_eq(batch.line, "after");
    cr_expect_eq(batch.number, 3);
    kve_batch_close(&batch);
}

Test(batch, a_file_that_cant_be_read_is_no_empty_one)
{
    char why[KVE_WHY_BYTES] = "";

    cr_expect_eq(kve_batch_open(&batch, "/nonexistent", why), KVW_E_IO);
    cr_expect(strstr(why, "No such file") != NULL, "%s", why);
    kve_batch_close(&batch);
    cr_assert_eq(kve_batch_open(&batch, "/tmp", why), KVW_OK);
    cr_expect_eq(kve_batch_next(&batch, why), KVW_E_IO);
    cr_expect(strstr(why, "directory") != NULL, "%s", why);
    kve_batch_close(&batch);
}

static const struct {
    const char *line, *why; /* why: NULL: it is taken */
} lines[] = {
    {"{\"prompt\":\"Hi\"}", NULL},
    {"{\"prompt\":\"\"}", NULL},
    {"{\"prompt\":\"Hi\",\"system\":\"Be brief\"}", NULL},
    {"{\"tokens\":[1,2],\"seed\":5}", NULL},
    {"{\"prompt\":\"Hi\",\"max_tokens\":\"3\"}",
     "max_tokens: \"3\" is no whole number from 1 to 16777216"},
    {"{\"prompt\":\"Hi\",\"max_tokens\":0}", "max_tokens: 0 is no whole number from 1 to 16777216"},
    {"{\"prompt\":\"Hi\",\"seed\":-1}", "seed: -1 is no whole number"},
    {"{\"prompt\":\"Hi\",\"temperature\":true}", "temperature: true is no number from 0 to 100"},
    {"{\"prompt\":\"Hi\",\"ignore_end\":1}", "ignore_end: 1 is neither true nor false"},
    {"{\"prompt\":5}", "prompt: it is no string"},
    {"{\"prompt\":null}", "prompt: it is no string"},
    {"{\"prompt\":\"Hi\",\"system\":[]}", "system: it is no string"},
    {"{\"prompt\":\"Hi\",\"prompt\":\"Ho\"}", "prompt: it is there twice"},
    {"{\"prompt\":\"Hi\",\"stop\":\"x\"}", "stop: there is no such field"},
    {"{\"prompt\":\"Hi\",\"id\":3}", "id: "},
    {"{\"prompt\":\"Hi\",\"op\":\"cancel\"}", "op: there is no such field"},
    {"{\"prompt\":\"Hi\",\"tokens\":[1]}", "prompt: \"tokens\" is there, too"},
    {"{\"system\":\"Hi\",\"tokens\":[1]}", "system: "},
    {"{\"tokens\":[100]}", "tokens[0]: 100 is no id of this model's 100 tokens"},
    {"{\"tokens\":\"abc\"}", "tokens: no list"},
    {"{}", "prompt: missing"},
    {"{\"prompt\":\"a\\u0000b\"}", "byte 13: a NUL"},
    {"{\"prompt\":\"a\"", "no JSON"},
    {"{\"prompt\":\"a\"} {}", "byte 16: something behind"},
    {"[1,2]", "no object"},
};

Test(batch, every_field_is_taken_or_refused_by_name)
{
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); ++i) {
        struct kve_request q = {.max_tokens = 9};
        struct kve_batch_item item;
        char why[KVE_WHY_BYTES] = "";
        const kvw_err err =
            kve_batch_parse(&item, &q, lines[i].line, strlen(lines[i].line), VOCAB, why);

        cr_expect_eq(err, lines[i].why == NULL ? KVW_OK : KVW_E_INVALID, "row %zu: %s", i, why);
        if (lines[i].why != NULL)
            cr_expect(strstr(why, lines[i].why) != NULL, "row %zu: %s", i, why);
        else
            cr_expect((item.prompt != NULL) == (q.tokens == NULL), "row %zu", i);
        kve_batch_item_free(&item);
        kve_request_free(&q);
    }
}

Test(batch, what_a_line_says_stands_in_for_the_option)
{
    static const char line[] = "{\"prompt\":\"Hi\",\"system\":\"S\",\"max_tokens\":3,\"seed\":7,"
                               "\"temperature\":0.5,\"top_p\":0.5,\"ignore_end\":true,"
                               "\"timeout_ms\":5}";
    struct kve_request q = {.max_tokens = 256, .exact_first = 4, .sample = {.top_p = 1}};
    struct kve_batch_item item;
    char why[KVE_WHY_BYTES] = "";

    cr_assert_eq(kve_batch_parse(&item, &q, line, strlen(line), VOCAB, why), KVW_OK, "%s", why);
    cr_expect_str_eq(item.prompt, "Hi");
    cr_expect_str_eq(item.system, "S");
    cr_expect_eq(q.max_tokens, 3);
    cr_expect_eq(q.sample.seed, 7);
    cr_expect_eq(q.sample.temperature, 0.5f);
    cr_expect_eq(q.sample.top_p, 0.5f);
    cr_expect(q.ignore_end);
    cr_expect_eq(q.timeout_ns, 5000000);
    cr_expect_eq(q.exact_first, 4, "not said: the option's");
    kve_batch_item_free(&item);
    kve_request_free(&q);
}
