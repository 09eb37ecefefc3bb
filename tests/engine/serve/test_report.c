/* SPDX-License-Identifier: Apache-2.0 */
/* A report tells what the request did: times from the definitions in report.h, and the answer's
 * text byte for byte, NULs too. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/serve/control.h"
#include "../../../engine/serve/report.h"

static struct kve_report report(void)
{
    struct kve_report r = {.net = "udp", .prompt_tokens = 100, .transferred = true, .layers = 3};

    r.start_us = 1000;
    r.prefill_end_us = 51000;
    r.first_us = 52000;
    r.end_us = 152000;
    r.exposed_after_ms = -1;
    for (uint32_t l = 0; l < 3; ++l) {
        r.computed_us[l] = 10000 * (l + 1);
        r.landed_us[l] = 10000 * (l + 1) + 500 * (3 - l);
    }
    return r;
}

static char *json_text(const struct kve_report *r)
{
    cJSON *obj = kve_report_json(r);
    char *text = cJSON_PrintUnformatted(obj);

    cJSON_Delete(obj);
    return text;
}

Test(report, exposed_is_what_the_prefill_did_not_hide)
{
    struct kve_report r = report();

    cr_expect_eq(kve_report_exposed_ms(&r), 0.5);
    r.landed_us[0] = 45000; /* an early layer that lands last */
    cr_expect_eq(kve_report_exposed_ms(&r), 15.0);
    memset(r.landed_us, 0, sizeof(r.landed_us));
    cr_expect_eq(kve_report_exposed_ms(&r), 0.0, "never below 0");
    r = report();
    r.transferred = false;
    cr_expect_eq(kve_report_exposed_ms(&r), 0.0);
}

Test(report, rates_count_what_took_the_time)
{
    struct kve_report r = report();

    cr_expect_eq(kve_report_prefill_tok_s(&r), 2000.0);
    r.id_count = 1;
    cr_expect_eq(kve_report_decode_tok_s(&r), 0.0);
    r.id_count = 11; /* ten after the first, in 100 ms */
    cr_expect_eq(kve_report_decode_tok_s(&r), 100.0);
}

Test(report, text_keeps_every_byte)
{
    struct kve_report r = report();
    char want[3000];

    for (size_t i = 0; i < sizeof(want); ++i)
        want[i] = (char)('a' + i % 26);
    for (size_t at = 0, n = 1; at < sizeof(want); at += n, n = n % 7 + 1) {
        if (n > sizeof(want) - at)
            n = sizeof(want) - at;
        cr_assert_eq(kve_report_text(&r, want + at, n), KVW_OK);
    }
    cr_expect_eq(r.text_bytes, sizeof(want));
    cr_expect(memcmp(r.text, want, sizeof(want)) == 0 && r.text[sizeof(want)] == '\0');
    kve_report_free(&r);
    cr_expect(r.text == NULL && r.text_bytes == 0);
}

static const struct {
    const char *text;
    size_t bytes;
    const char *json;
} texts[] = {
    {"", 0, "\"text\":\"\""},
    {"a \"b\"\n\xc3\xa9", 8, "\"text\":\"a \\\"b\\\"\\n\xc3\xa9\""},
    {"a\0b", 3, "\"text\":\"a\\u0000b\""},
    {"\0", 1, "\"text\":\"\\u0000\""},
    {"\0\0x\0", 4, "\"text\":\"\\u0000\\u0000x\\u0000\""},
};

Test(report, a_nul_in_the_answer_is_an_escape_in_json)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i) {
        struct kve_report r = report();

        cr_assert_eq(kve_report_text(&r, texts[i].text, texts[i].bytes), KVW_OK);
        char *json = json_text(&r);
        cr_expect(strstr(json, texts[i].json) != NULL, "row %zu: %s", i, json);
        free(json);
        kve_report_free(&r);
    }
}

Test(report, a_line_of_a_batch_is_numbered)
{
    struct kve_report r = report();
    char *json = json_text(&r);

    cr_expect_null(strstr(json, "\"line\""));
    free(json);
    r.line = 7;
    json = json_text(&r);
    cr_expect(strstr(json, "\"line\":7") != NULL, "%s", json);
    free(json);
}
