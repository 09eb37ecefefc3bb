/* SPDX-License-Identifier: Apache-2.0 */
/* Each field of a request is taken as it is said, or refused by its name; prompt and answer may
 * fill the context exactly. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../engine/serve/control.h"
#include "../../../engine/gguf/gguf.h"
#include "../../../engine/serve/request.h"

enum {
    VOCAB = 100,
    CONTEXT = 16,
};

static const char good[] = "{\"op\":\"generate\",\"id\":7,\"tokens\":[1,2,3],\"max_tokens\":5,"
                           "\"temperature\":0.5,\"top_p\":0.25,\"seed\":9,\"timeout_ms\":1500}";

static cJSON *object(const char *text)
{
    char why[KVE_WHY_BYTES];
    cJSON *obj = kve_json_object(text, strlen(text), why);

    cr_assert_not_null(obj, "%s: %s", text, why);
    return obj;
}

/* The good request with one field in place of, or beside, its own; NULL: without the field. */
static cJSON *with(const char *key, const char *value)
{
    cJSON *obj = object(good);

    cJSON_DeleteItemFromObjectCaseSensitive(obj, key);
    if (value != NULL)
        cJSON_AddItemToObject(obj, key, cJSON_Parse(value));
    return obj;
}

static kvw_err parse(struct kve_request *r, cJSON *obj, char *why)
{
    const kvw_err err = kve_request_parse(r, obj, VOCAB, CONTEXT, why);

    cJSON_Delete(obj);
    return err;
}

Test(request, every_field_arrives)
{
    struct kve_request r, again;
    char why[KVE_WHY_BYTES] = "";
    cJSON *obj = object(good);

    cJSON_AddBoolToObject(obj, "after_prefill", true);
    cJSON_AddBoolToObject(obj, "ignore_end", true);
    cJSON_AddNumberToObject(obj, "budget", 2);
    cJSON_AddNumberToObject(obj, "exact_first", 255);
    cJSON_AddNumberToObject(obj, "exact_last", 65535);
    cJSON_AddNumberToObject(obj, "top_k", 4000000000);
    cJSON_AddNumberToObject(obj, "min_p", 0.125);
    cJSON_AddNumberToObject(obj, "frequency_penalty", -0.5);
    cJSON_AddNumberToObject(obj, "presence_penalty", 1.5);
    cJSON_AddNumberToObject(obj, "repetition_penalty", 1.25);
    cJSON_AddNumberToObject(obj, "logprobs", 21);
    cJSON_AddItemToObject(obj, "logit_bias", cJSON_Parse("[99,-100,0,0.5]"));
    cr_assert_eq(parse(&r, obj, why), KVW_OK, "%s", why);
    cr_assert_eq(parse(&again, kve_request_print(&r), why), KVW_OK, "%s", why);
    for (int i = 0; i < 2; ++i) {
        const struct kve_request *q = i == 0 ? &r : &again;

        cr_expect_eq(q->id, 7);
        cr_assert_eq(q->count, 3);
        cr_expect(q->tokens[0] == 1 && q->tokens[1] == 2 && q->tokens[2] == 3);
        cr_expect_eq(q->max_tokens, 5);
        cr_expect_eq(q->sample.temperature, 0.5f);
        cr_expect_eq(q->sample.top_p, 0.25f);
        cr_expect_eq(q->sample.seed, 9);
        cr_expect_eq(q->timeout_ns, 1500000000);
        cr_expect(q->after_prefill && q->ignore_end);
        cr_expect_eq(q->budget, KVW_BUDGET_E4);
        cr_expect_eq(q->exact_first, 255);
        cr_expect_eq(q->exact_last, 65535);
        cr_expect_eq(q->sample.top_k, 4000000000u);
        cr_expect_eq(q->sample.min_p, 0.125f);
        cr_expect_eq(q->sample.frequency, -0.5f);
        cr_expect_eq(q->sample.presence, 1.5f);
        cr_expect_eq(q->sample.repetition, 1.25f);
        cr_expect_eq(q->logprobs, 21);
        cr_assert_eq(q->sample.bias_count, 2);
        cr_expect(q->sample.bias[0].id == 99 && q->sample.bias[0].add == -100);
        cr_expect(q->sample.bias[1].id == 0 && q->sample.bias[1].add == 0.5f);
    }
    kve_request_free(&r);
    kve_request_free(&again);
}

Test(request, what_is_optional_is_off)
{
    struct kve_request r;
    char why[KVE_WHY_BYTES] = "";

    cr_assert_eq(parse(&r, object(good), why), KVW_OK, "%s", why);
    cr_expect(!r.after_prefill && !r.ignore_end);
    cr_expect(r.budget == KVW_BUDGET_EXACT && r.exact_first == 0 && r.exact_last == 0);
    cr_expect(r.sample.top_k == 0 && r.sample.min_p == 0 && r.sample.frequency == 0);
    cr_expect(r.sample.presence == 0 && r.sample.repetition == 0 && r.sample.bias_count == 0);
    cr_expect_eq(r.logprobs, 0);
    kve_request_free(&r);
}

/* The last value inside of each range and the first one outside. */
static const struct {
    const char *key, *inside, *outside;
} ranges[] = {
    {"id", "1", "0"},
    {"id", "4503599627370496", "4503599627370498"},
    {"max_tokens", "1", "0"},
    {"max_tokens", "13", "14"}, /* with 3 tokens of prompt: the context */
    {"max_tokens", "13", "16777217"},
    {"temperature", "0", "-0.001"},
    {"temperature", "100", "100.001"},
    {"top_p", "0.000001", "0"},
    {"top_p", "1", "1.0001"},
    {"seed", "0", "-1"},
    {"seed", "4503599627370496", "4503599627370498"},
    {"timeout_ms", "1", "0"},
    {"timeout_ms", "86400000", "86400001"},
    {"budget", "0", "-1"},
    {"budget", "2", "3"},
    {"exact_first", "255", "256"},
    {"exact_last", "65535", "65536"},
    {"tokens", "[0]", "[-1]"},
    {"tokens", "[99]", "[100]"},
    {"tokens", "[1]", "[]"},
    {"top_k", "4294967295", "4294967296"},
    {"top_k", "0", "-1"},
    {"min_p", "0", "-0.1"},
    {"min_p", "1", "1.1"},
    {"frequency_penalty", "-2", "-2.1"},
    {"presence_penalty", "2", "2.1"},
    {"repetition_penalty", "0.001", "0"},
    {"repetition_penalty", "1000", "1001"},
    {"logprobs", "21", "22"},
    {"logit_bias", "[]", "{}"},
    {"logit_bias", "[1,2]", "[1]"},
    {"logit_bias", "[99,2]", "[100,2]"},
    {"logit_bias", "[99,100]", "[99,100.5]"},
    {"logit_bias", "[9,-100]", "[9.5,-100]"},
    {"logit_bias", "[9,1]", "[9,\"1\"]"},
    /* kinds */
    {"max_tokens", "3", "\"3\""},
    {"max_tokens", "3", "3.5"},
    {"max_tokens", "3", "null"},
    {"max_tokens", "3", "true"},
    {"temperature", "1", "\"1\""},
    {"seed", "1", "1.5"},
    {"seed", "1", "1e999"},
    {"ignore_end", "false", "\"yes\""},
    {"ignore_end", "true", "1"},
    {"after_prefill", "true", "null"},
    {"tokens", "[5]", "5"},
    {"tokens", "[5]", "[\"5\"]"},
    {"tokens", "[5]", "[5.5]"},
    {"tokens", "[5]", "{\"a\":5}"},
};

Test(request, ranges_end_where_they_are_said_to)
{
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); ++i) {
        const char *key = ranges[i].key;
        struct kve_request r = {.count = 77};
        char why[KVE_WHY_BYTES] = "";

        cr_expect_eq(parse(&r, with(key, ranges[i].inside), why), KVW_OK, "row %zu: %s", i, why);
        kve_request_free(&r);
        r = (struct kve_request){.count = 77};
        cr_expect_eq(parse(&r, with(key, ranges[i].outside), why), KVW_E_INVALID, "row %zu", i);
        cr_expect(strstr(why, key) != NULL, "row %zu: %s", i, why);
        cr_expect(r.count == 77 && r.tokens == NULL, "row %zu: touched", i);
    }
}

Test(request, a_field_that_is_missing_unknown_or_double_is_named)
{
    static const char *const needed[] = {"id",    "tokens", "max_tokens", "temperature",
                                         "top_p", "seed",   "timeout_ms"};
    struct kve_request r;
    char why[KVE_WHY_BYTES];

    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); ++i) {
        why[0] = '\0';
        cr_expect_eq(parse(&r, with(needed[i], NULL), why), KVW_E_INVALID, "%s", needed[i]);
        cr_expect(strstr(why, needed[i]) == why, "%s: %s", needed[i], why);
    }
    cr_expect_eq(parse(&r, with("stop", "1"), why), KVW_E_INVALID);
    cr_expect_str_eq(why, "stop: there is no such field");
    cr_expect_eq(parse(&r, with("Seed", "1"), why), KVW_E_INVALID);
    cr_expect_str_eq(why, "Seed: there is no such field");
    cJSON *obj = object(good);
    cJSON_AddNumberToObject(obj, "seed", 9);
    cr_expect_eq(parse(&r, obj, why), KVW_E_INVALID);
    cr_expect_str_eq(why, "seed: it is there twice");
}

/* tokens and max_tokens; the context is 16. */
static const struct {
    uint32_t count, max_tokens;
    kvw_err err;
} fills[] = {
    {15, 1, KVW_OK},        {1, 15, KVW_OK},        {8, 8, KVW_OK},         {15, 2, KVW_E_INVALID},
    {1, 16, KVW_E_INVALID}, {16, 1, KVW_E_INVALID}, {17, 1, KVW_E_INVALID}, {8, 9, KVW_E_INVALID},
};

Test(request, prompt_and_answer_may_fill_the_context_exactly)
{
    for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); ++i) {
        cJSON *obj = with("tokens", "[]");
        cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, "tokens");
        struct kve_request r;
        char why[KVE_WHY_BYTES] = "";

        for (uint32_t n = 0; n < fills[i].count; ++n)
            cJSON_AddItemToArray(list, cJSON_CreateNumber(n));
        cJSON_SetNumberValue(cJSON_GetObjectItemCaseSensitive(obj, "max_tokens"),
                             fills[i].max_tokens);
        const kvw_err err = parse(&r, obj, why);
        cr_expect_eq(err, fills[i].err, "row %zu: %d, %s", i, err, why);
        if (err == KVW_OK)
            kve_request_free(&r);
        else
            cr_expect(strstr(why, "context of 16") != NULL, "row %zu: %s", i, why);
    }
}

Test(request, merging_leaves_alone_what_is_not_said)
{
    static const char *const others[] = {"prompt", NULL};
    struct kve_request r = {.max_tokens = 256, .sample = {.temperature = 2, .top_p = 1}};
    char why[KVE_WHY_BYTES] = "";
    cJSON *obj = object("{\"prompt\":5,\"seed\":3}");

    cr_expect_eq(kve_request_merge(&r, obj, others, VOCAB, why), KVW_OK, "%s", why);
    cr_expect_eq(r.sample.seed, 3);
    cr_expect(r.max_tokens == 256 && r.sample.temperature == 2 && r.sample.top_p == 1);
    cr_expect_null(r.tokens);
    cJSON_AddNumberToObject(obj, "prompt", 6);
    cr_expect_eq(kve_request_merge(&r, obj, others, VOCAB, why), KVW_E_INVALID);
    cr_expect_str_eq(why, "prompt: it is there twice");
    cJSON_Delete(obj);
}

Test(request, a_message_is_ascii_whatever_was_written)
{
    struct kve_request r;
    char why[KVE_WHY_BYTES] = "";

    cr_expect_eq(parse(&r,
                       with("seed", "\"\xff\x1b[31m" /* cut to 47 bytes */
                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""),
                       why),
                 KVW_E_INVALID);
    for (const char *c = why; *c != '\0'; ++c)
        cr_expect(*c >= ' ' && *c <= '~', "byte %d", *c);
    cr_expect(strstr(why, "seed") == why && strstr(why, "...") != NULL, "%s", why);
    cr_expect_lt(strlen(why), 120);
}
