/* SPDX-License-Identifier: Apache-2.0 */
/* Each field of a request is honoured, or refused by its name; what is no request at all is refused
 * with the byte. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/serve/api.h"
#include "../../../engine/serve/api_say.h"

static const struct kve_api_terms terms = {
    .model = "tiny", .vocab = 100, .chat_tokens = 77, .seed = 9, .base = {.timeout_ns = 5}};
static struct kve_api_request r;
static struct kve_api_error e;

static kvw_err parse(enum kve_api_kind kind, const char *text)
{
    return kve_api_parse(&r, kind, text, strlen(text), &terms, &e);
}

static void tear_down(void)
{
    kve_api_free(&r);
}

TestSuite(api, .fini = tear_down);

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

Test(api, what_is_not_said_has_its_default)
{
    cr_assert_eq(parse(KVE_API_COMPLETIONS, "{\"prompt\":\"x\"}"), KVW_OK, "%s", e.message);
    cr_expect_eq(r.q.max_tokens, 16);
    cr_expect_not(r.max_said);
    cr_expect_eq(r.q.sample.temperature, 1);
    cr_expect_eq(r.q.sample.top_p, 1);
    cr_expect_eq(r.q.sample.seed, 9);
    cr_expect_eq(r.q.timeout_ns, 5);
    cr_expect_eq(r.n, 1);
    cr_expect_not(r.stream);
    kve_api_free(&r);
    cr_assert_eq(parse(KVE_API_CHAT, "{" M "}"), KVW_OK, "%s", e.message);
    cr_expect_eq(r.q.max_tokens, 77);
}

Test(api, what_is_said_arrives)
{
    cr_assert_eq(parse(KVE_API_CHAT, "{" M ",\"model\":\"tiny\",\"max_completion_tokens\":5,"
                                     "\"temperature\":0.5,\"top_p\":0.25,\"seed\":3,\"n\":2,"
                                     "\"stop\":[\"a\",\"bc\"],\"stream\":true,\"ignore_eos\":true,"
                                     "\"stream_options\":{\"include_usage\":true},\"user\":\"u\"}"),
                 KVW_OK, "%s", e.message);
    cr_expect_eq(r.q.max_tokens, 5);
    cr_expect(r.max_said);
    cr_expect_eq(r.q.sample.temperature, 0.5f);
    cr_expect_eq(r.q.sample.top_p, 0.25f);
    cr_expect_eq(r.q.sample.seed, 3);
    cr_expect_eq(r.n, 2);
    cr_assert_eq(r.stop_count, 2);
    cr_expect_str_eq(r.stops[1], "bc");
    cr_expect(r.stream && r.usage && r.q.ignore_end);
}

Test(api, what_is_said_of_sampling_arrives)
{
    cr_assert_eq(parse(KVE_API_CHAT,
                       "{" M ",\"top_k\":40,\"min_p\":0.25,\"frequency_penalty\":-1.5,"
                       "\"presence_penalty\":2,\"repetition_penalty\":1.5,\"logprobs\":true,"
                       "\"top_logprobs\":20,\"logit_bias\":{\"99\":-100,\"0\":0.5}}"),
                 KVW_OK, "%s", e.message);
    cr_expect_eq(r.q.sample.top_k, 40);
    cr_expect_eq(r.q.sample.min_p, 0.25f);
    cr_expect_eq(r.q.sample.frequency, -1.5f);
    cr_expect_eq(r.q.sample.presence, 2);
    cr_expect_eq(r.q.sample.repetition, 1.5f);
    cr_expect(r.logprobs && r.q.logprobs == 21, "%u", r.q.logprobs);
    cr_assert_eq(r.q.sample.bias_count, 2);
    cr_expect(r.q.sample.bias[0].id == 99 && r.q.sample.bias[0].add == -100);
    cr_expect(r.q.sample.bias[1].id == 0 && r.q.sample.bias[1].add == 0.5f);
}

/* A chat says whether and how many others; a completion says how many. */
Test(api, logprobs_have_two_forms)
{
    static const struct {
        enum kve_api_kind kind;
        const char *fields;
        bool wanted;
        uint32_t each;
    } rows[] = {
        {KVE_API_CHAT, M, false, 0},
        {KVE_API_CHAT, M ",\"logprobs\":true", true, 1},
        {KVE_API_CHAT, M ",\"top_logprobs\":2,\"logprobs\":true", true, 3},
        {KVE_API_COMPLETIONS, "\"prompt\":\"x\",\"logprobs\":0", true, 1},
        {KVE_API_COMPLETIONS, "\"prompt\":\"x\",\"logprobs\":5", true, 6},
        {KVE_API_COMPLETIONS, "\"prompt\":\"x\",\"logprobs\":false", false, 0},
        {KVE_API_COMPLETIONS, "\"prompt\":\"x\",\"logprobs\":null", false, 0},
    };
    char text[160];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        snprintf(text, sizeof(text), "{%s}", rows[i].fields);
        cr_expect_eq(parse(rows[i].kind, text), KVW_OK, "%s: %s", text, e.message);
        cr_expect(r.logprobs == rows[i].wanted && r.q.logprobs == rows[i].each, "%s", text);
        kve_api_free(&r);
    }
}

Test(api, prompts_are_texts_or_ids_one_or_many)
{
    static const struct {
        const char *prompt;
        uint32_t count;
    } rows[] = {{"\"x\"", 1},
                {"[\"x\",\"y\"]", 2},
                {"[1,2,99]", 1},
                {"[[1,2],[3]]", 2},
                {"[[1],\"y\"]", 2}};
    char text[64];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        snprintf(text, sizeof(text), "{\"prompt\":%s}", rows[i].prompt);
        cr_expect_eq(parse(KVE_API_COMPLETIONS, text), KVW_OK, "%s: %s", text, e.message);
        cr_expect_eq(r.prompt_count, rows[i].count, "%s", text);
        kve_api_free(&r);
    }
}

Test(api, messages_are_put_together_from_their_parts)
{
    cr_assert_eq(parse(KVE_API_CHAT,
                       "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},"
                       "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"ab\"},"
                       "{\"type\":\"text\",\"text\":\"cd\"}]}]}"),
                 KVW_OK, "%s", e.message);
    cr_assert_eq(r.message_count, 2);
    cr_expect_str_eq(r.messages[0].role, "system");
    cr_expect_str_eq(r.messages[1].content, "abcd");
}

/* The body, and what the sentence must have. */
static const struct {
    enum kve_api_kind kind;
    const char *body, *why, *param;
} wrong[] = {
    {KVE_API_COMPLETIONS, "", "byte 1: no JSON", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\"", "no JSON", ""},
    {KVE_API_COMPLETIONS, "[]", "no object", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\"} y", "something behind", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"a\\u0000b\"}", "a NUL", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"a\xff\"}", "byte 13: this is no UTF-8", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"a\xe2\x82\"}", "byte 13: this is no UTF-8", ""},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"a\xed\xa0\x80\"}", "byte 13: this is no UTF-8", ""},
    {KVE_API_COMPLETIONS, "{}", "prompt: missing", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"\"}", "prompt: it is empty", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":[]}", "prompt: it is empty", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":[1,100]}", "item 1 is no id", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":[1.5]}", "item 0 is no id", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":{\"a\":1}}", "prompt: it is empty, or no text", "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"prompt\":\"y\"}", "prompt: it is there twice",
     "prompt"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"tempe\":1}", "tempe: there is no such", "tempe"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\"," M "}", "messages: there is no such", "messages"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"max_tokens\":0}", "from 1 to", "max_tokens"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"max_tokens\":1.5}", "no whole number", "max_tokens"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"temperature\":-1}", "no number from 0",
     "temperature"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"temperature\":\"1\"}", "no number", "temperature"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"top_p\":0}", "no number", "top_p"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"seed\":-1}", "no whole number", "seed"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"n\":17}", "from 1 to 16", "n"},
    {KVE_API_COMPLETIONS, "{\"prompt\":[\"x\",\"y\"],\"n\":9}", "more than 16 answers", "n"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"stop\":\"\"}", "stop: it is a text", "stop"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"stop\":[1]}", "stop: it is a text", "stop"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"stream\":1}", "stream: it is no true", "stream"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"logprobs\":21}", "from 0 to 20", "logprobs"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"logprobs\":true}", "from 0 to 20", "logprobs"},
    {KVE_API_CHAT, "{" M ",\"logprobs\":1}", "no true or false", "logprobs"},
    {KVE_API_CHAT, "{" M ",\"top_logprobs\":1}", "only with \"logprobs\"", "top_logprobs"},
    {KVE_API_CHAT, "{" M ",\"logprobs\":true,\"top_logprobs\":21}", "from 0 to 20", "top_logprobs"},
    {KVE_API_CHAT, "{" M ",\"top_k\":-2}", "from -1 to", "top_k"},
    {KVE_API_CHAT, "{" M ",\"min_p\":1.5}", "from 0 to 1", "min_p"},
    {KVE_API_CHAT, "{" M ",\"frequency_penalty\":2.5}", "from -2 to 2", "frequency_penalty"},
    {KVE_API_CHAT, "{" M ",\"repetition_penalty\":0}", "from 0.001", "repetition_penalty"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":[1]}", "it is no object", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"100\":1}}", "\"100\" is no id", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"1x\":1}}", "\"1x\" is no id", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"-1\":1}}", "\"-1\" is no id", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"\":1}}", "\"\" is no id", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"1\":101}}", "from -100 to 100", "logit_bias"},
    {KVE_API_CHAT, "{" M ",\"logit_bias\":{\"1\":\"2\"}}", "from -100 to 100", "logit_bias"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"echo\":true}", "echo: this server", "echo"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"presence_penalty\":\"1\"}", "no number",
     "presence_penalty"},
    {KVE_API_COMPLETIONS, "{\"prompt\":\"x\",\"stream_options\":{\"include_usage\":true}}",
     "only with \"stream\"", "stream_options"},
    {KVE_API_CHAT, "{}", "messages: missing", "messages"},
    {KVE_API_CHAT, "{\"messages\":[]}", "empty", "messages"},
    {KVE_API_CHAT, "{\"messages\":[1]}", "messages[0]: it is no object", "messages"},
    {KVE_API_CHAT, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0].role",
     "messages"},
    {KVE_API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "messages"},
    {KVE_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"n\"}]}",
     "messages[0].name", "messages"},
    {KVE_API_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":1}]}]}",
     "messages[0].content: a part", "messages"},
    {KVE_API_CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"x\":1}]}]"
     "}",
     "messages[0].content: a part", "messages"},
    {KVE_API_CHAT, "{" M ",\"tools\":[{}]}", "tools: this server", "tools"},
    {KVE_API_CHAT, "{" M ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
     "response_format"},
    {KVE_API_CHAT, "{" M ",\"max_tokens\":5,\"max_completion_tokens\":6}", "given twice",
     "max_completion_tokens"},
    {KVE_API_TOKENIZE, "{}", "exactly one of", "prompt"},
    {KVE_API_TOKENIZE, "{\"prompt\":\"x\",\"max_tokens\":1}", "no such field", "max_tokens"},
};

Test(api, what_cannot_be_honoured_is_refused_by_its_name)
{
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); ++i) {
        cr_expect_eq(parse(wrong[i].kind, wrong[i].body), KVW_E_INVALID, "%s", wrong[i].body);
        cr_expect(strstr(e.message, wrong[i].why) != NULL, "%s: %s", wrong[i].body, e.message);
        cr_expect_str_eq(e.param, wrong[i].param, "%s", wrong[i].body);
        cr_expect_eq(e.status, 400, "%s", wrong[i].body);
        kve_api_free(&r);
    }
}

/* The last value of each range is taken and arrives, the first one behind it is refused. */
Test(api, ranges_end_where_they_are_said_to)
{
    static const struct {
        const char *name, *last, *behind;
    } rows[] = {
        {"max_tokens", "16777216", "16777217"},
        {"temperature", "100", "100.5"},
        {"top_p", "1", "1.0000001"},
        {"seed", "4503599627370496", "4503599627370497"},
        {"n", "16", "17"},
    };
    char text[96];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        snprintf(text, sizeof(text), "{\"prompt\":\"x\",\"%s\":%s}", rows[i].name, rows[i].last);
        cr_expect_eq(parse(KVE_API_COMPLETIONS, text), KVW_OK, "%s: %s", text, e.message);
        const double got[] = {r.q.max_tokens, r.q.sample.temperature, r.q.sample.top_p,
                              (double)r.q.sample.seed, r.n};
        cr_expect_eq(got[i], strtod(rows[i].last, NULL), "%s: %.17g", text, got[i]);
        kve_api_free(&r);
        snprintf(text, sizeof(text), "{\"prompt\":\"x\",\"%s\":%s}", rows[i].name, rows[i].behind);
        cr_expect_eq(parse(KVE_API_COMPLETIONS, text), KVW_E_INVALID, "%s", text);
        cr_expect_str_eq(e.param, rows[i].name, "%s", text);
        kve_api_free(&r);
    }
}

/* Lists of 16 are taken, and of 17 refused: there is no place for one more. */
Test(api, lists_end_where_they_are_said_to)
{
    static const char *const names[] = {"stop", "prompt"};
    char text[256];

    for (int i = 0; i < 2; ++i)
        for (uint32_t n = 16; n <= 17; ++n) {
            size_t at = (size_t)snprintf(text, sizeof(text), "{%s\"%s\":[",
                                         i == 0 ? "\"prompt\":\"x\"," : "", names[i]);

            for (uint32_t k = 0; k < n; ++k)
                at += (size_t)snprintf(text + at, sizeof(text) - at, "%s\"s%u\"", k > 0 ? "," : "",
                                       k);
            snprintf(text + at, sizeof(text) - at, "]}");
            cr_expect_eq(parse(KVE_API_COMPLETIONS, text), n == 16 ? KVW_OK : KVW_E_INVALID, "%s",
                         text);
            if (n == 16)
                cr_expect_eq(i == 0 ? r.stop_count : r.prompt_count, 16, "%s", text);
            else
                cr_expect(strstr(e.message, "more than 16") != NULL, "%s", e.message);
            kve_api_free(&r);
        }
}

Test(api, what_changes_nothing_is_taken)
{
    cr_expect_eq(
        parse(KVE_API_CHAT,
              "{" M ",\"frequency_penalty\":0,\"presence_penalty\":0.0,\"top_k\":-1,\"min_p\":0,"
              "\"logit_bias\":{},\"logprobs\":false,\"tools\":[],\"tool_choice\":\"none\","
              "\"response_format\":{\"type\":\"text\"},\"n\":null,\"stop\":null,\"seed\":null}"),
        KVW_OK, "%s", e.message);
}

Test(api, another_model_is_404)
{
    cr_expect_eq(parse(KVE_API_CHAT, "{" M ",\"model\":\"huge\"}"), KVW_E_INVALID);
    cr_expect_eq(e.status, 404);
    cr_expect_str_eq(e.code, "model_not_found");
}

/* 1,000 is cJSON's own limit; the text is refused, and nothing recurses that deep. */
Test(api, deep_nesting_is_refused)
{
    static char text[200000];

    memset(text, '[', sizeof(text) - 1);
    memcpy(text, "{\"prompt\":", 10);
    cr_expect_eq(parse(KVE_API_COMPLETIONS, text), KVW_E_INVALID);
    cr_expect(strstr(e.message, "no JSON") != NULL, "%s", e.message);
}

Test(api, utf8_ends_where_it_is_none)
{
    cr_expect_eq(kve_api_utf8_end("a\xc3\xa9z", 4), 4);
    cr_expect_eq(kve_api_utf8_end("a\xc3", 2), 1);
    cr_expect_eq(kve_api_utf8_end("\xf4\x90\x80\x80", 4), 0);
    cr_expect_eq(kve_api_utf8_end("", 0), 0);
}

/* ---- what is said ---- */

static const struct kve_api_head head = {.chat = true, .id = "i", .model = "m", .created = 1};

Test(api, a_nul_in_an_answer_survives_as_an_escape)
{
    const struct kve_api_choice c = {"a\0\"b\n\0", 6, "stop", NULL};
    const struct kve_api_usage u = {3, 4, 2};
    char *text = kve_api_say(&head, &c, 1, &u);

    cr_assert_not_null(text);
    cr_expect(strstr(text, "\"content\":\"a\\u0000\\\"b\\n\\u0000\"") != NULL, "%s", text);
    cr_expect(strstr(text, "\"total_tokens\":7") != NULL, "%s", text);
    cr_expect(strstr(text, "\"prompt_tokens_details\":{\"cached_tokens\":2}") != NULL, "%s", text);
    cJSON *obj = cJSON_Parse(text);
    cr_expect_not_null(obj);
    cJSON_Delete(obj);
    cJSON_free(text);
}

Test(api, the_first_piece_has_the_role_and_the_last_has_an_empty_delta)
{
    const struct kve_api_choice some = {"hi", 2, NULL, NULL}, end = {"", 0, "length", NULL};
    char *first = kve_api_say_piece(&head, 0, &some, true, false);
    char *last = kve_api_say_piece(&head, 1, &end, false, true);

    cr_expect(strstr(first, "\"delta\":{\"role\":\"assistant\",\"content\":\"hi\"}") != NULL, "%s",
              first);
    cr_expect(strstr(first, "\"finish_reason\":null") != NULL, "%s", first);
    cr_expect(strstr(last, "\"delta\":{}") != NULL, "%s", last);
    cr_expect(strstr(last, "\"index\":1") != NULL, "%s", last);
    cr_expect(strstr(last, "\"usage\":null") != NULL, "%s", last);
    cJSON_free(first);
    cJSON_free(last);
}
