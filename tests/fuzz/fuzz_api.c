/* SPDX-License-Identifier: Apache-2.0 */
/* Any body: it is a request within the limits, or a sentence with a status; and the sentence can be
 * said in JSON. The first byte says which kind. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/serve/api.h"
#include "../../engine/serve/api_say.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void within_limits(const struct kve_api_request *r, const struct kve_api_terms *terms)
{
    const uint32_t prompts = r->kind == KVE_API_CHAT ? 1 : r->prompt_count;

    if (r->q.max_tokens < 1 || r->n < 1 || prompts * r->n > KVE_API_CHOICES_MAX ||
        !(r->q.sample.temperature >= 0) || !(r->q.sample.top_p > 0 && r->q.sample.top_p <= 1) ||
        r->stop_count > KVE_API_STOPS_MAX || r->q.tokens != NULL)
        abort();
    if (r->q.logprobs > 1 + KVE_LOGPROBS_MAX || r->logprobs != (r->q.logprobs > 0) ||
        r->q.sample.bias_count > KVE_BIASES_MAX || !(r->q.sample.min_p >= 0) ||
        !(r->q.sample.repetition >= 0) || !(r->q.sample.frequency >= -2) ||
        !(r->q.sample.presence <= 2))
        abort();
    for (uint32_t i = 0; i < r->q.sample.bias_count; ++i)
        if (r->q.sample.bias[i].id >= terms->vocab || !(r->q.sample.bias[i].add <= 100))
            abort();
    for (uint32_t i = 0; i < r->stop_count; ++i)
        if (r->stops[i][0] == '\0')
            abort();
    for (uint32_t i = 0; i < r->message_count; ++i)
        if (r->messages[i].role == NULL || r->messages[i].content == NULL)
            abort();
    for (uint32_t i = 0; i < r->prompt_count; ++i) {
        const cJSON *item, *ids = cJSON_IsArray(r->prompts[i]) ? r->prompts[i] : NULL;

        if (ids == NULL && !cJSON_IsString(r->prompts[i]))
            abort();
        cJSON_ArrayForEach(item, ids)
        {
            if (!(item->valuedouble >= 0 && item->valuedouble < terms->vocab))
                abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const struct kve_api_terms terms = {.model = "m", .vocab = 100, .chat_tokens = 7};
    struct kve_api_request r;
    struct kve_api_error e;

    if (n == 0)
        return 0;
    const enum kve_api_kind kind = (enum kve_api_kind)(bytes[0] % 3);
    if (kve_api_parse(&r, kind, (const char *)bytes + 1, n - 1, &terms, &e) == KVW_OK) {
        within_limits(&r, &terms);
    } else {
        char *text = kve_api_say_error(&e);

        if (e.status < 400 || e.message[0] == '\0' || text == NULL ||
            kve_api_utf8_end(text, strlen(text)) != strlen(text))
            abort();
        cJSON_free(text);
    }
    kve_api_free(&r);
    return 0;
}
