/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - a request's fields, from JSON, checked, and back. */
#include "request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "control.h"
#include "../gguf/gguf.h"

#define ID_MAX         (1ull << 52) /* what a JSON number carries exactly */
#define TIMEOUT_MS_MAX (24ull * 3600 * 1000)

enum kind { WHOLE, REAL, FLAG, TOKENS, BIASES };

enum which {
    ID,
    TOKEN_IDS,
    MAX_TOKENS,
    TEMPERATURE,
    TOP_P,
    SEED,
    TIMEOUT_MS,
    AFTER_PREFILL,
    IGNORE_END,
    BUDGET,
    EXACT_FIRST,
    EXACT_LAST,
    TOP_K,
    MIN_P,
    FREQUENCY,
    PRESENCE,
    REPETITION,
    BIAS,
    LOGPROBS,
    REUSE,
    FIELDS,
};

#define REQUIRED AFTER_PREFILL /* the fields before it must be there */

static const struct field {
    const char *name;
    enum kind kind;
    double min, max;
} fields[FIELDS] = {
    [ID] = {"id", WHOLE, 1, ID_MAX},
    [TOKEN_IDS] = {"tokens", TOKENS, 0, 0},
    [MAX_TOKENS] = {"max_tokens", WHOLE, 1, 1u << 24},
    [TEMPERATURE] = {"temperature", REAL, 0, 100},
    [TOP_P] = {"top_p", REAL, 1e-6, 1},
    [SEED] = {"seed", WHOLE, 0, ID_MAX},
    [TIMEOUT_MS] = {"timeout_ms", WHOLE, 1, TIMEOUT_MS_MAX},
    [AFTER_PREFILL] = {"after_prefill", FLAG, 0, 1},
    [IGNORE_END] = {"ignore_end", FLAG, 0, 1},
    [BUDGET] = {"budget", WHOLE, 0, KVW_BUDGET_E4},
    [EXACT_FIRST] = {"exact_first", WHOLE, 0, UINT8_MAX},
    [EXACT_LAST] = {"exact_last", WHOLE, 0, UINT16_MAX},
    [TOP_K] = {"top_k", WHOLE, 0, UINT32_MAX},
    [MIN_P] = {"min_p", REAL, 0, 1},
    [FREQUENCY] = {"frequency_penalty", REAL, -2, 2},
    [PRESENCE] = {"presence_penalty", REAL, -2, 2},
    [REPETITION] = {"repetition_penalty", REAL, 1e-3, 1e3},
    [BIAS] = {"logit_bias", BIASES, 0, 0},
    [LOGPROBS] = {"logprobs", WHOLE, 0, 1 + KVE_LOGPROBS_MAX},
    [REUSE] = {"reuse", FLAG, 0, 1},
};

/* ASCII of what a user wrote, cut where it gets long: messages go to terminals and into JSON. */
static void quote(char *to, size_t bytes, const char *text)
{
    size_t n = 0;

    for (; text[n] != '\0' && n < bytes - 1; ++n)
        to[n] = (char)(text[n] >= ' ' && text[n] <= '~' ? text[n] : '?');
    to[n] = '\0';
    if (text[n] != '\0')
        memcpy(to + n - 3, "...", 3);
}

static kvw_err wrong(const struct field *f, const cJSON *item, char *why)
{
    char value[48], *text = cJSON_PrintUnformatted(item);

    quote(value, sizeof(value), text != NULL ? text : "?");
    cJSON_free(text);
    if (f->kind == FLAG)
        snprintf(why, KVE_WHY_BYTES, "%s: %s is neither true nor false", f->name, value);
    else if (f->kind == WHOLE)
        snprintf(why, KVE_WHY_BYTES, "%s: %s is no whole number from %.0f to %.0f", f->name, value,
                 f->min, f->max);
    else
        snprintf(why, KVE_WHY_BYTES, "%s: %s is no number from %g to %g", f->name, value, f->min,
                 f->max);
    return KVW_E_INVALID;
}

static kvw_err take_tokens(struct kve_request *r, const cJSON *list, uint32_t vocab, char *why)
{
    const uint32_t count = (uint32_t)cJSON_GetArraySize(list);
    const cJSON *item;
    uint32_t n = 0;

    if (!cJSON_IsArray(list) || count == 0) {
        snprintf(why, KVE_WHY_BYTES, "tokens: no list of token ids, or an empty one");
        return KVW_E_INVALID;
    }
    uint32_t *tokens = malloc(count * sizeof(*tokens));
    if (tokens == NULL)
        return KVW_E_NOMEM;
    free(r->tokens);
    r->tokens = tokens;
    r->count = count;
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

static bool is_id(const cJSON *item, uint32_t vocab)
{
    const double v = cJSON_IsNumber(item) ? item->valuedouble : -1;

    return v >= 0 && v < vocab && v == (double)(uint32_t)v;
}

/* [id, bias, id, bias ..] */
static kvw_err take_biases(struct kve_request *r, const cJSON *list, uint32_t vocab, char *why)
{
    const uint32_t count = (uint32_t)cJSON_GetArraySize(list) / 2;
    struct kve_bias *biases = malloc((count + 1) * sizeof(*biases));
    uint32_t n = 0;

    if (biases == NULL)
        return KVW_E_NOMEM;
    free((void *)r->sample.bias);
    r->sample.bias = biases;
    r->sample.bias_count = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) % 2 != 0 || count > KVE_BIASES_MAX) {
        snprintf(why, KVE_WHY_BYTES, "logit_bias: no list of at most %u ids, a number behind each",
                 KVE_BIASES_MAX);
        return KVW_E_INVALID;
    }
    for (const cJSON *item = list->child; item != NULL; item = item->next->next) {
        const cJSON *add = item->next;

        if (!is_id(item, vocab) || !cJSON_IsNumber(add) ||
            !(add->valuedouble >= -100 && add->valuedouble <= 100)) {
            snprintf(why, KVE_WHY_BYTES,
                     "logit_bias: pair %u is no id of this model's %u tokens and a number from "
                     "-100 to 100",
                     n, vocab);
            return KVW_E_INVALID;
        }
        biases[n++] = (struct kve_bias){(uint32_t)item->valuedouble, (float)add->valuedouble};
    }
    r->sample.bias_count = n;
    return KVW_OK;
}

/* The numbers that change a distribution beside temperature and top_p. */
static void store_sampling(struct kve_request *r, enum which which, double v)
{
    if (which == TOP_K)
        r->sample.top_k = (uint32_t)v;
    else if (which == MIN_P)
        r->sample.min_p = (float)v;
    else if (which == FREQUENCY)
        r->sample.frequency = (float)v;
    else if (which == PRESENCE)
        r->sample.presence = (float)v;
    else if (which == REPETITION)
        r->sample.repetition = (float)v;
    else if (which == LOGPROBS)
        r->logprobs = (uint32_t)v;
}

static void store(struct kve_request *r, enum which which, double v)
{
    switch (which) {
    case ID:
        r->id = (uint64_t)v;
        break;
    case MAX_TOKENS:
        r->max_tokens = (uint32_t)v;
        break;
    case TEMPERATURE:
        r->sample.temperature = (float)v;
        break;
    case TOP_P:
        r->sample.top_p = (float)v;
        break;
    case SEED:
        r->sample.seed = (uint64_t)v;
        break;
    case TIMEOUT_MS:
        r->timeout_ns = (uint64_t)v * KVE_MS;
        break;
    case AFTER_PREFILL:
        r->after_prefill = v != 0;
        break;
    case IGNORE_END:
        r->ignore_end = v != 0;
        break;
    case REUSE:
        r->reuse = v != 0;
        break;
    case BUDGET:
        r->budget = (kvw_budget)v;
        break;
    case EXACT_FIRST:
        r->exact_first = (uint32_t)v;
        break;
    case EXACT_LAST:
        r->exact_last = (uint32_t)v;
        break;
    default:
        store_sampling(r, which, v);
        break;
    }
}

static kvw_err take(struct kve_request *r, enum which which, const cJSON *item, uint32_t vocab,
                    char *why)
{
    const struct field *f = &fields[which];
    double v = cJSON_IsTrue(item) ? 1 : 0;

    if (f->kind == TOKENS)
        return take_tokens(r, item, vocab, why);
    if (f->kind == BIASES)
        return take_biases(r, item, vocab, why);
    if (f->kind == FLAG ? !cJSON_IsBool(item) : !cJSON_IsNumber(item))
        return wrong(f, item, why);
    if (f->kind != FLAG) {
        v = item->valuedouble;
        if (!(v >= f->min && v <= f->max) || (f->kind == WHOLE && v != (double)(uint64_t)v))
            return wrong(f, item, why);
    }
    store(r, which, v);
    return KVW_OK;
}

/* Which of the keys item has: a field's number, FIELDS + the number among others, or -1. */
static int which_key(const cJSON *item, const char *const *others)
{
    for (int i = 0; i < FIELDS; ++i)
        if (strcmp(item->string, fields[i].name) == 0)
            return i;
    for (int i = 0; others[i] != NULL; ++i)
        if (strcmp(item->string, others[i]) == 0)
            return FIELDS + i;
    return -1;
}

/* As kve_request_merge; *seen: a bit per which_key(). */
static kvw_err merge(struct kve_request *r, const cJSON *obj, const char *const *others,
                     uint32_t vocab, uint64_t *seen, char *why)
{
    const cJSON *item;

    *seen = 0;
    cJSON_ArrayForEach(item, obj)
    {
        const int which = which_key(item, others);
        kvw_err err = KVW_OK;
        char name[48];

        quote(name, sizeof(name), item->string);
        if (which < 0 || (*seen & 1ull << which) != 0) {
            snprintf(why, KVE_WHY_BYTES, "%s: %s", name,
                     which < 0 ? "there is no such field" : "it is there twice");
            return KVW_E_INVALID;
        }
        *seen |= 1ull << which;
        if (which < FIELDS)
            err = take(r, (enum which)which, item, vocab, why);
        if (err != KVW_OK)
            return err;
    }
    return KVW_OK;
}

kvw_err kve_request_merge(struct kve_request *r, const cJSON *obj, const char *const *others,
                          uint32_t vocab, char *why)
{
    uint64_t seen;

    return merge(r, obj, others, vocab, &seen, why);
}

static const char *const parts[] = {"", "prefill", "decode", "both"}; /* by enum kve_request_part */

enum kve_request_part kve_request_part_of(const cJSON *obj)
{
    const char *text = kve_json_str(obj, "part");

    for (uint32_t i = KVE_PART_PREFILL; i <= KVE_PART_BOTH; ++i)
        if (strcmp(text, parts[i]) == 0)
            return (enum kve_request_part)i;
    return KVE_PART_ROLE;
}

kvw_err kve_request_parse(struct kve_request *r, const cJSON *obj, uint32_t vocab, uint32_t context,
                          char *why)
{
    static const char *const others[] = {"op", "with", "part", NULL};
    struct kve_request q = {0};
    uint64_t seen;
    kvw_err err = merge(&q, obj, others, vocab, &seen, why);

    for (int i = 0; err == KVW_OK && i < REQUIRED; ++i)
        if ((seen & 1ull << i) == 0) {
            snprintf(why, KVE_WHY_BYTES, "%s: missing", fields[i].name);
            err = KVW_E_INVALID;
        }
    snprintf(q.with, sizeof(q.with), "%.31s", kve_json_str(obj, "with"));
    q.part = kve_request_part_of(obj);
    if (err == KVW_OK && q.part == KVE_PART_ROLE && cJSON_HasObjectItem(obj, "part")) {
        snprintf(why, KVE_WHY_BYTES, "part: it is prefill, decode or both");
        err = KVW_E_INVALID;
    }
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

/* What is off is left out. */
static bool print_sampling(cJSON *obj, const struct kve_request *r)
{
    const struct kve_sample_config *s = &r->sample;
    const struct {
        enum which which;
        double v;
    } rows[] = {{TOP_K, s->top_k},
                {MIN_P, (double)s->min_p},
                {FREQUENCY, (double)s->frequency},
                {PRESENCE, (double)s->presence},
                {REPETITION, (double)s->repetition},
                {LOGPROBS, r->logprobs}};
    bool ok = true;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        if (rows[i].v != 0)
            ok &= cJSON_AddNumberToObject(obj, fields[rows[i].which].name, rows[i].v) != NULL;
    }
    if (s->bias_count == 0)
        return ok;
    cJSON *list = cJSON_AddArrayToObject(obj, fields[BIAS].name);
    for (uint32_t i = 0; list != NULL && i < s->bias_count; ++i) {
        cJSON_AddItemToArray(list, cJSON_CreateNumber(s->bias[i].id));
        cJSON_AddItemToArray(list, cJSON_CreateNumber((double)s->bias[i].add));
    }
    return ok && cJSON_GetArraySize(list) == 2 * (int)s->bias_count;
}

cJSON *kve_request_print(const struct kve_request *r)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *tokens = cJSON_AddArrayToObject(obj, "tokens");

    for (uint32_t i = 0; i < r->count; ++i)
        cJSON_AddItemToArray(tokens, cJSON_CreateNumber(r->tokens[i]));
    if (tokens == NULL || cJSON_AddStringToObject(obj, "op", "generate") == NULL ||
        cJSON_AddNumberToObject(obj, "id", (double)r->id) == NULL ||
        cJSON_AddNumberToObject(obj, "max_tokens", r->max_tokens) == NULL ||
        cJSON_AddNumberToObject(obj, "temperature", (double)r->sample.temperature) == NULL ||
        cJSON_AddNumberToObject(obj, "top_p", (double)r->sample.top_p) == NULL ||
        cJSON_AddNumberToObject(obj, "seed", (double)r->sample.seed) == NULL ||
        cJSON_AddNumberToObject(obj, "timeout_ms", (double)(r->timeout_ns / KVE_MS)) == NULL ||
        cJSON_AddNumberToObject(obj, "budget", r->budget) == NULL ||
        cJSON_AddNumberToObject(obj, "exact_first", r->exact_first) == NULL ||
        cJSON_AddNumberToObject(obj, "exact_last", r->exact_last) == NULL ||
        cJSON_AddBoolToObject(obj, "after_prefill", r->after_prefill) == NULL ||
        cJSON_AddBoolToObject(obj, "ignore_end", r->ignore_end) == NULL ||
        cJSON_AddBoolToObject(obj, "reuse", r->reuse) == NULL || !print_sampling(obj, r) ||
        (r->with[0] != '\0' && cJSON_AddStringToObject(obj, "with", r->with) == NULL) ||
        (r->part != KVE_PART_ROLE &&
         cJSON_AddStringToObject(obj, "part", parts[r->part]) == NULL)) {
        cJSON_Delete(obj);
        return NULL;
    }
    return obj;
}

void kve_request_free(struct kve_request *r)
{
    free(r->tokens);
    free((void *)r->sample.bias);
    r->tokens = NULL;
    r->count = 0;
    r->sample.bias = NULL;
    r->sample.bias_count = 0;
}
