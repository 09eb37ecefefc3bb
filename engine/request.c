/* SPDX-License-Identifier: Apache-2.0 */
#include "request.h"

#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "control.h"
#include "gguf.h"

#define ID_MAX         (1ull << 52) /* what a JSON number carries exactly */
#define TIMEOUT_MS_MAX (24ull * 3600 * 1000)

static kvw_err parse_tokens(struct kve_request *r, const cJSON *obj, uint32_t vocab, char *why)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, "tokens");
    const cJSON *item;
    uint32_t n = 0;

    r->count = (uint32_t)cJSON_GetArraySize(list);
    if (!cJSON_IsArray(list) || r->count == 0) {
        snprintf(why, KVE_WHY_BYTES, "tokens: no list of token ids, or an empty one");
        return KVW_E_INVALID;
    }
    if ((r->tokens = malloc(r->count * sizeof(*r->tokens))) == NULL)
        return KVW_E_NOMEM;
    cJSON_ArrayForEach(item, list)
    {
        const double v = cJSON_IsNumber(item) ? item->valuedouble : -1;

        if (!(v >= 0 && v < vocab) || v != (double)(uint32_t)v) {
            snprintf(why, KVE_WHY_BYTES, "tokens[%u]: %g is no id of this model's %u tokens", n, v,
                     vocab);
            return KVW_E_INVALID;
        }
        r->tokens[n++] = (uint32_t)v;
    }
    return KVW_OK;
}

/* 0 where it isn't said. */
static bool optional(const cJSON *obj, const char *key, uint64_t max, uint64_t *v)
{
    *v = 0;
    return !cJSON_HasObjectItem(obj, key) || kve_json_u64(obj, key, 0, max, v);
}

static kvw_err parse_numbers(struct kve_request *r, const cJSON *obj, char *why)
{
    uint64_t id, max_tokens, seed, timeout_ms;
    uint64_t budget, exact_first, exact_last;
    double temperature, top_p;
    const char *bad = NULL;

    if (!kve_json_u64(obj, "id", 1, ID_MAX, &id))
        bad = "id";
    else if (!kve_json_u64(obj, "max_tokens", 1, 1u << 24, &max_tokens))
        bad = "max_tokens";
    else if (!kve_json_f64(obj, "temperature", 0, 100, &temperature))
        bad = "temperature";
    else if (!kve_json_f64(obj, "top_p", 1e-6, 1, &top_p))
        bad = "top_p";
    else if (!kve_json_u64(obj, "seed", 0, ID_MAX, &seed))
        bad = "seed";
    else if (!kve_json_u64(obj, "timeout_ms", 1, TIMEOUT_MS_MAX, &timeout_ms))
        bad = "timeout_ms";
    else if (!optional(obj, "budget", KVW_BUDGET_E4, &budget))
        bad = "budget";
    else if (!optional(obj, "exact_first", UINT8_MAX, &exact_first))
        bad = "exact_first";
    else if (!optional(obj, "exact_last", UINT16_MAX, &exact_last))
        bad = "exact_last";
    if (bad != NULL) {
        snprintf(why, KVE_WHY_BYTES, "%s: missing, or out of its range", bad);
        return KVW_E_INVALID;
    }
    r->id.value = id;
    r->max_tokens = (uint32_t)max_tokens;
    r->timeout_ns = timeout_ms * KVE_MS;
    r->budget = (kvw_budget)budget;
    r->exact_first = (uint32_t)exact_first;
    r->exact_last = (uint32_t)exact_last;
    r->sample = (struct kve_sample_config){
        .temperature = (float)temperature, .top_p = (float)top_p, .seed = seed};
    r->after_prefill = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(obj, "after_prefill"));
    r->ignore_end = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(obj, "ignore_end"));
    return KVW_OK;
}

kvw_err kve_request_parse(struct kve_request *r, const cJSON *obj, uint32_t vocab, uint32_t context,
                          char *why)
{
    struct kve_request q = {0};
    kvw_err err = parse_numbers(&q, obj, why);

    if (err == KVW_OK)
        err = parse_tokens(&q, obj, vocab, why);
    if (err == KVW_OK && (q.count >= context || q.max_tokens > context - q.count)) {
        snprintf(
            why, KVE_WHY_BYTES,
            "the prompt's %u tokens and max_tokens %u together exceed the context of %u tokens",
            q.count, q.max_tokens, context);
        err = KVW_E_INVALID;
    }
    if (err != KVW_OK) {
        kve_request_free(&q);
        return err;
    }
    *r = q;
    return KVW_OK;
}

cJSON *kve_request_print(const struct kve_request *r)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *tokens = cJSON_AddArrayToObject(obj, "tokens");

    for (uint32_t i = 0; i < r->count; ++i)
        cJSON_AddItemToArray(tokens, cJSON_CreateNumber(r->tokens[i]));
    if (tokens == NULL || cJSON_AddStringToObject(obj, "op", "generate") == NULL ||
        cJSON_AddNumberToObject(obj, "id", (double)r->id.value) == NULL ||
        cJSON_AddNumberToObject(obj, "max_tokens", r->max_tokens) == NULL ||
        cJSON_AddNumberToObject(obj, "temperature", (double)r->sample.temperature) == NULL ||
        cJSON_AddNumberToObject(obj, "top_p", (double)r->sample.top_p) == NULL ||
        cJSON_AddNumberToObject(obj, "seed", (double)r->sample.seed) == NULL ||
        cJSON_AddNumberToObject(obj, "timeout_ms", (double)(r->timeout_ns / KVE_MS)) == NULL ||
        cJSON_AddNumberToObject(obj, "budget", r->budget) == NULL ||
        cJSON_AddNumberToObject(obj, "exact_first", r->exact_first) == NULL ||
        cJSON_AddNumberToObject(obj, "exact_last", r->exact_last) == NULL ||
        cJSON_AddBoolToObject(obj, "after_prefill", r->after_prefill) == NULL ||
        cJSON_AddBoolToObject(obj, "ignore_end", r->ignore_end) == NULL) {
        cJSON_Delete(obj);
        return NULL;
    }
    return obj;
}

void kve_request_free(struct kve_request *r)
{
    free(r->tokens);
    r->tokens = NULL;
    r->count = 0;
}
