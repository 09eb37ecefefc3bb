/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.c - a body of OpenAI's interface, field by field, through one table: who takes a field, and
 * what it does with it.
 */
#include "api.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../text/utf8.h"
#include "control.h"

#define MAX_TOKENS_DEFAULT 16u /* of completions: OpenAI's */
#define SEED_MAX           ((double)(1ull << 52))

#define COMPLETIONS (1u << KVE_API_COMPLETIONS)
#define CHAT        (1u << KVE_API_CHAT)
#define TOKENIZE    (1u << KVE_API_TOKENIZE)
#define ANSWERS     (COMPLETIONS | CHAT)

struct parse {
    struct kve_api_request *r;
    const struct kve_api_terms *terms;
    struct kve_api_error *e;
    const char *name; /* of the field at hand */
};

kvw_err kve_api_refuse(struct kve_api_error *e, int status, const char *param, const char *format,
                       ...)
{
    va_list args;

    *e = (struct kve_api_error){.status = status, .code = NULL};
    e->type = status == 401   ? "authentication_error"
              : status == 404 ? "not_found_error"
              : status == 429 ? "rate_limit_error"
              : status == 503 ? "unavailable_error"
              : status >= 500 ? "server_error"
                              : "invalid_request_error";
    snprintf(e->param, sizeof(e->param), "%s", param);
    va_start(args, format);
    vsnprintf(e->message, sizeof(e->message), format, args);
    va_end(args);
    /* what was too long is cut between two characters */
    e->message[kve_api_utf8_end(e->message, strlen(e->message))] = '\0';
    e->param[kve_api_utf8_end(e->param, strlen(e->param))] = '\0';
    return KVW_E_INVALID;
}

size_t kve_api_utf8_end(const char *text, size_t n)
{
    struct kve_utf8_hold h = {0};
    size_t begin = 0;

    for (size_t i = 0; i < n; ++i) {
        const unsigned char b = (unsigned char)text[i];

        if (h.have == 0) {
            begin = i;
            if (!kve_utf8_begin(&h, b))
                return i;
        } else if (b < h.least || b > h.most) {
            return begin;
        } else {
            h.least = 0x80;
            h.most = 0xbf;
        }
        if (++h.have == h.want)
            h.have = 0;
    }
    return h.have > 0 ? begin : n;
}

static kvw_err wrong(const struct parse *p, const char *what)
{
    return kve_api_refuse(p->e, 400, p->name, "%s: it is no %s", p->name, what);
}

static kvw_err unsupported(const struct parse *p)
{
    return kve_api_refuse(p->e, 400, p->name, "%s: this server doesn't have it; leave it out",
                          p->name);
}

/* ---- what fields do ---- */

static kvw_err number(const struct parse *p, const cJSON *v, double min, double max, double *to)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max))
        return kve_api_refuse(p->e, 400, p->name, "%s: it is no number from %.14g to %.14g",
                              p->name, min, max);
    *to = v->valuedouble;
    return KVW_OK;
}

static kvw_err real(const struct parse *p, const cJSON *v, double min, double max, float *to)
{
    double d = 0;
    const kvw_err err = number(p, v, min, max, &d);

    if (err == KVW_OK)
        *to = (float)d;
    return err;
}

static kvw_err whole(const struct parse *p, const cJSON *v, double min, double max, double *to)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= min && v->valuedouble <= max) ||
        v->valuedouble != (double)(int64_t)v->valuedouble)
        return kve_api_refuse(p->e, 400, p->name, "%s: it is no whole number from %.0f to %.0f",
                              p->name, min, max);
    *to = v->valuedouble;
    return KVW_OK;
}

static kvw_err flag(const struct parse *p, const cJSON *v, bool *to)
{
    if (!cJSON_IsBool(v))
        return wrong(p, "true or false");
    *to = cJSON_IsTrue(v) != 0;
    return KVW_OK;
}

static kvw_err take_model(struct parse *p, const cJSON *v)
{
    const char *name = cJSON_GetStringValue(v);

    if (name == NULL)
        return wrong(p, "string");
    if (strcmp(name, p->terms->model) == 0)
        return KVW_OK;
    kve_api_refuse(p->e, 404, p->name, "model: there is no such model here; this one is %.200s",
                   p->terms->model);
    p->e->code = "model_not_found";
    return KVW_E_INVALID;
}

static kvw_err take_max_tokens(struct parse *p, const cJSON *v)
{
    double d = 0;
    const kvw_err err = whole(p, v, 1, 1 << 24, &d);

    if (err != KVW_OK)
        return err;
    if (p->r->max_said)
        return kve_api_refuse(p->e, 400, p->name,
                              "%s: the length is given twice, by two names of it", p->name);
    p->r->q.max_tokens = (uint32_t)d;
    p->r->max_said = true;
    return KVW_OK;
}

static kvw_err take_temperature(struct parse *p, const cJSON *v)
{
    return real(p, v, 0, 100, &p->r->q.sample.temperature);
}

static kvw_err take_top_p(struct parse *p, const cJSON *v)
{
    return real(p, v, 1e-6, 1, &p->r->q.sample.top_p);
}

/* vLLM's ways to say "all of them": 0 and -1. */
static kvw_err take_top_k(struct parse *p, const cJSON *v)
{
    double d = 0;
    const kvw_err err = whole(p, v, -1, UINT32_MAX, &d);

    if (err == KVW_OK)
        p->r->q.sample.top_k = d > 0 ? (uint32_t)d : 0;
    return err;
}

static kvw_err take_min_p(struct parse *p, const cJSON *v)
{
    return real(p, v, 0, 1, &p->r->q.sample.min_p);
}

static kvw_err take_frequency(struct parse *p, const cJSON *v)
{
    return real(p, v, -2, 2, &p->r->q.sample.frequency);
}

static kvw_err take_presence(struct parse *p, const cJSON *v)
{
    return real(p, v, -2, 2, &p->r->q.sample.presence);
}

static kvw_err take_repetition(struct parse *p, const cJSON *v)
{
    return real(p, v, 1e-3, 1e3, &p->r->q.sample.repetition);
}

/* {"ID": number, ..} */
static kvw_err take_logit_bias(struct parse *p, const cJSON *v)
{
    struct kve_sample_config *s = &p->r->q.sample;
    const uint32_t count = (uint32_t)cJSON_GetArraySize(v);
    const cJSON *item;

    if (!cJSON_IsObject(v) || count > KVE_BIASES_MAX)
        return kve_api_refuse(p->e, 400, p->name,
                              "logit_bias: it is no object, or one of more than %u tokens",
                              KVE_BIASES_MAX);
    struct kve_bias *to = malloc((count + 1) * sizeof(*to));
    s->bias = to;
    if (to == NULL) {
        kve_api_refuse(p->e, 500, "", "out of memory");
        return KVW_E_NOMEM;
    }
    cJSON_ArrayForEach(item, v)
    {
        char *end;
        const unsigned long id = strtoul(item->string, &end, 10);

        if (item->string[0] < '0' || item->string[0] > '9' || *end != '\0' || id >= p->terms->vocab)
            return kve_api_refuse(p->e, 400, p->name,
                                  "logit_bias: \"%.20s\" is no id of this model's %u tokens",
                                  item->string, p->terms->vocab);
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= -100 && item->valuedouble <= 100))
            return kve_api_refuse(p->e, 400, p->name,
                                  "logit_bias: of %lu it is no number from -100 to 100", id);
        to[s->bias_count++] = (struct kve_bias){(uint32_t)id, (float)item->valuedouble};
    }
    return KVW_OK;
}

/* A chat's says whether, top_logprobs how many others; a completion's says how many. */
static kvw_err take_logprobs(struct parse *p, const cJSON *v)
{
    double d = 0;
    kvw_err err = KVW_OK;

    if (p->r->kind == KVE_API_CHAT && !cJSON_IsBool(v))
        return wrong(p, "true or false");
    if (p->r->kind != KVE_API_CHAT && !cJSON_IsFalse(v))
        err = whole(p, v, 0, KVE_LOGPROBS_MAX, &d);
    p->r->logprobs = !cJSON_IsFalse(v);
    if (p->r->kind != KVE_API_CHAT)
        p->r->q.logprobs = (uint32_t)d;
    return err;
}

static kvw_err take_top_logprobs(struct parse *p, const cJSON *v)
{
    double d = 0;
    const kvw_err err = whole(p, v, 0, KVE_LOGPROBS_MAX, &d);

    p->r->q.logprobs = (uint32_t)d;
    return err;
}

static kvw_err take_seed(struct parse *p, const cJSON *v)
{
    double d = 0;
    const kvw_err err = whole(p, v, 0, SEED_MAX, &d);

    if (err == KVW_OK)
        p->r->q.sample.seed = (uint64_t)d;
    return err;
}

static kvw_err take_n(struct parse *p, const cJSON *v)
{
    double d = 0;
    const kvw_err err = whole(p, v, 1, KVE_API_CHOICES_MAX, &d);

    if (err == KVW_OK)
        p->r->n = (uint32_t)d;
    return err;
}

static kvw_err take_stream(struct parse *p, const cJSON *v)
{
    return flag(p, v, &p->r->stream);
}

static kvw_err take_ignore_eos(struct parse *p, const cJSON *v)
{
    return flag(p, v, &p->r->q.ignore_end);
}

static kvw_err take_stream_options(struct parse *p, const cJSON *v)
{
    const cJSON *item;

    if (!cJSON_IsObject(v))
        return wrong(p, "object");
    cJSON_ArrayForEach(item, v)
    {
        if (strcmp(item->string, "include_usage") != 0)
            return kve_api_refuse(p->e, 400, p->name,
                                  "stream_options: the one field of it is include_usage");
        if (!cJSON_IsBool(item))
            return kve_api_refuse(p->e, 400, p->name,
                                  "stream_options.include_usage: it is no true or false");
        p->r->usage = cJSON_IsTrue(item) != 0;
    }
    return KVW_OK;
}

static kvw_err take_stop(struct parse *p, const cJSON *v)
{
    const bool list = cJSON_IsArray(v) != 0;
    const cJSON *item = list ? v->child : v;

    for (; item != NULL; item = list ? item->next : NULL) {
        const char *text = cJSON_GetStringValue(item);

        if (text == NULL || text[0] == '\0')
            return kve_api_refuse(p->e, 400, p->name,
                                  "stop: it is a text that isn't empty, or a list of those");
        if (p->r->stop_count == KVE_API_STOPS_MAX)
            return kve_api_refuse(p->e, 400, p->name, "stop: more than %u texts",
                                  KVE_API_STOPS_MAX);
        p->r->stops[p->r->stop_count++] = text;
    }
    return KVW_OK;
}

static bool is_id(const struct parse *p, const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < p->terms->vocab &&
           v->valuedouble == (double)(uint32_t)v->valuedouble;
}

static kvw_err add_prompt(struct parse *p, const cJSON *v)
{
    struct kve_api_request *r = p->r;
    const cJSON *item, *ids = cJSON_IsArray(v) ? v : NULL;
    uint32_t at = 0;

    if (r->prompt_count == KVE_API_CHOICES_MAX)
        return kve_api_refuse(p->e, 400, "prompt", "prompt: more than %u prompts",
                              KVE_API_CHOICES_MAX);
    if (cJSON_IsString(v) ? v->valuestring[0] == '\0' : !cJSON_IsArray(v) || v->child == NULL)
        return kve_api_refuse(p->e, 400, "prompt", "prompt: it is empty, or no text or token ids");
    cJSON_ArrayForEach(item, ids)
    {
        if (!is_id(p, item))
            return kve_api_refuse(p->e, 400, "prompt",
                                  "prompt: item %u is no id of this model's %u tokens", at,
                                  p->terms->vocab);
        ++at;
    }
    r->prompts[r->prompt_count++] = v;
    return KVW_OK;
}

/* A text, a list of ids, or a list of either. */
static kvw_err take_prompt(struct parse *p, const cJSON *v)
{
    const cJSON *item;
    kvw_err err = KVW_OK;

    if (!cJSON_IsArray(v) || v->child == NULL || cJSON_IsNumber(v->child))
        return add_prompt(p, v);
    cJSON_ArrayForEach(item, v)
    {
        if (err == KVW_OK)
            err = add_prompt(p, item);
    }
    return err;
}

/* ---- messages ---- */

/* The texts of a list of parts, put together; NULL with *e: another kind of part. */
static char *join_parts(struct parse *p, const cJSON *parts, uint32_t number)
{
    size_t bytes = 0, at = 0;
    const cJSON *part;

    cJSON_ArrayForEach(part, parts)
    {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

        if (strcmp(kve_json_str(part, "type"), "text") != 0 || !cJSON_IsString(text) ||
            cJSON_GetArraySize(part) != 2) {
            kve_api_refuse(p->e, 400, "messages",
                           "messages[%u].content: a part that isn't {\"type\": \"text\", "
                           "\"text\": ..}",
                           number);
            return NULL;
        }
        bytes += strlen(text->valuestring);
    }
    char *joined = malloc(bytes + 1);
    if (joined == NULL) {
        kve_api_refuse(p->e, 500, "", "out of memory");
        return NULL;
    }
    cJSON_ArrayForEach(part, parts)
    {
        const char *text = kve_json_str(part, "text");
        const size_t n = strlen(text);

        memcpy(joined + at, text, n);
        at += n;
    }
    joined[at] = '\0';
    return joined;
}

static const char *role_of(const char *name)
{
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"}};

    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); ++i)
        if (strcmp(name, roles[i][0]) == 0)
            return roles[i][1];
    return NULL;
}

static kvw_err take_message(struct parse *p, const cJSON *m, uint32_t number)
{
    struct kve_chat_message *to = &p->r->messages[number];
    const cJSON *item, *content = cJSON_GetObjectItemCaseSensitive(m, "content");

    if (!cJSON_IsObject(m))
        return kve_api_refuse(p->e, 400, "messages", "messages[%u]: it is no object", number);
    cJSON_ArrayForEach(item, m)
    {
        if (strcmp(item->string, "role") != 0 && strcmp(item->string, "content") != 0 &&
            !cJSON_IsNull(item))
            return kve_api_refuse(p->e, 400, "messages",
                                  "messages[%u].%.40s: this server doesn't have it; leave it out",
                                  number, item->string);
    }
    to->role = role_of(kve_json_str(m, "role"));
    if (to->role == NULL)
        return kve_api_refuse(p->e, 400, "messages",
                              "messages[%u].role: it is none of system, developer, user and "
                              "assistant",
                              number);
    to->content = cJSON_GetStringValue(content);
    if (to->content == NULL && cJSON_IsArray(content)) {
        to->content = p->r->contents[number] = join_parts(p, content, number);
        if (to->content == NULL)
            return p->e->status == 500 ? KVW_E_NOMEM : KVW_E_INVALID;
    }
    if (to->content == NULL)
        return kve_api_refuse(p->e, 400, "messages",
                              "messages[%u].content: it is no text and no list of texts", number);
    return KVW_OK;
}

static kvw_err take_messages(struct parse *p, const cJSON *v)
{
    struct kve_api_request *r = p->r;
    const int count = cJSON_GetArraySize(v);
    const cJSON *item;
    uint32_t at = 0;
    kvw_err err = KVW_OK;

    if (!cJSON_IsArray(v) || count == 0)
        return kve_api_refuse(p->e, 400, p->name, "messages: no list, or an empty one");
    r->messages = calloc((size_t)count, sizeof(*r->messages));
    r->contents = calloc((size_t)count, sizeof(*r->contents));
    if (r->messages == NULL || r->contents == NULL) {
        kve_api_refuse(p->e, 500, "", "out of memory");
        return KVW_E_NOMEM;
    }
    r->message_count = (uint32_t)count;
    cJSON_ArrayForEach(item, v)
    {
        if (err == KVW_OK)
            err = take_message(p, item, at++);
    }
    return err;
}

/* ---- fields that may only say what is so anyway ---- */

static kvw_err only_one(struct parse *p, const cJSON *v)
{
    return cJSON_IsNumber(v) && v->valuedouble == 1 ? KVW_OK : unsupported(p);
}

static kvw_err only_false(struct parse *p, const cJSON *v)
{
    return cJSON_IsFalse(v) ? KVW_OK : unsupported(p);
}

static kvw_err only_empty(struct parse *p, const cJSON *v)
{
    const bool empty = cJSON_IsString(v) ? v->valuestring[0] == '\0'
                                         : (cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child;

    return empty ? KVW_OK : unsupported(p);
}

static kvw_err only_text_format(struct parse *p, const cJSON *v)
{
    return strcmp(kve_json_str(v, "type"), "text") == 0 && cJSON_GetArraySize(v) == 1
               ? KVW_OK
               : unsupported(p);
}

static kvw_err only_none(struct parse *p, const cJSON *v)
{
    return cJSON_IsString(v) && strcmp(v->valuestring, "none") == 0 ? KVW_OK : unsupported(p);
}

/* A note of the client's own: nothing is done with it, as OpenAI's answers show nothing of it. */
static kvw_err any_string(struct parse *p, const cJSON *v)
{
    return cJSON_IsString(v) ? KVW_OK : wrong(p, "string");
}

static const struct field {
    const char *name;
    unsigned kinds;
    kvw_err (*take)(struct parse *p, const cJSON *v);
} fields[] = {
    {"model", ANSWERS | TOKENIZE, take_model},
    {"prompt", COMPLETIONS | TOKENIZE, take_prompt},
    {"messages", CHAT | TOKENIZE, take_messages},
    {"max_tokens", ANSWERS, take_max_tokens},
    {"max_completion_tokens", CHAT, take_max_tokens},
    {"temperature", ANSWERS, take_temperature},
    {"top_p", ANSWERS, take_top_p},
    {"seed", ANSWERS, take_seed},
    {"n", ANSWERS, take_n},
    {"stop", ANSWERS, take_stop},
    {"stream", ANSWERS, take_stream},
    {"stream_options", ANSWERS, take_stream_options},
    {"ignore_eos", ANSWERS, take_ignore_eos},
    {"user", ANSWERS, any_string},
    {"safety_identifier", ANSWERS, any_string},
    {"prompt_cache_key", ANSWERS, any_string},
    {"frequency_penalty", ANSWERS, take_frequency},
    {"presence_penalty", ANSWERS, take_presence},
    {"repetition_penalty", ANSWERS, take_repetition},
    {"top_k", ANSWERS, take_top_k},
    {"min_p", ANSWERS, take_min_p},
    {"logit_bias", ANSWERS, take_logit_bias},
    {"logprobs", ANSWERS, take_logprobs},
    {"top_logprobs", CHAT, take_top_logprobs},
    {"best_of", COMPLETIONS, only_one},
    {"echo", COMPLETIONS, only_false},
    {"suffix", COMPLETIONS, only_empty},
    {"tools", CHAT, only_empty},
    {"functions", CHAT, only_empty},
    {"tool_choice", CHAT, only_none},
    {"function_call", CHAT, only_none},
    {"response_format", ANSWERS, only_text_format},
    {"store", CHAT, only_false},
    {"metadata", CHAT, only_empty},
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

/* ---- the whole of it ---- */

static const struct field *find(const char *name, enum kve_api_kind kind)
{
    for (size_t i = 0; i < FIELDS; ++i)
        if (strcmp(fields[i].name, name) == 0 && (fields[i].kinds & 1u << kind) != 0)
            return &fields[i];
    return NULL;
}

static kvw_err take_fields(struct parse *p)
{
    bool seen[FIELDS] = {false};
    const cJSON *item;
    kvw_err err = KVW_OK;

    cJSON_ArrayForEach(item, p->r->body)
    {
        const struct field *f = find(item->string, p->r->kind);
        char name[40];

        snprintf(name, sizeof(name), "%.39s", item->string);
        if (f == NULL)
            return kve_api_refuse(p->e, 400, name, "%s: there is no such field", name);
        if (seen[f - fields])
            return kve_api_refuse(p->e, 400, name, "%s: it is there twice", name);
        seen[f - fields] = true;
        p->name = f->name;
        if (!cJSON_IsNull(item))
            err = f->take(p, item);
        if (err != KVW_OK)
            return err;
    }
    return KVW_OK;
}

/* What fields mean together. */
static kvw_err agree(const struct parse *p)
{
    const struct kve_api_request *r = p->r;
    const bool chat = r->message_count > 0;

    if (r->kind == KVE_API_TOKENIZE && chat == (r->prompt_count > 0))
        return kve_api_refuse(p->e, 400, "prompt", "exactly one of prompt and messages is needed");
    if (r->kind == KVE_API_CHAT && !chat)
        return kve_api_refuse(p->e, 400, "messages", "messages: missing");
    if (r->kind == KVE_API_COMPLETIONS && r->prompt_count == 0)
        return kve_api_refuse(p->e, 400, "prompt", "prompt: missing");
    if (r->kind == KVE_API_TOKENIZE && r->prompt_count > 1)
        return kve_api_refuse(p->e, 400, "prompt", "prompt: one text at a time");
    if (r->prompt_count * r->n > KVE_API_CHOICES_MAX)
        return kve_api_refuse(p->e, 400, "n", "n: more than %u answers at once",
                              KVE_API_CHOICES_MAX);
    if (r->q.logprobs > 0 && !r->logprobs)
        return kve_api_refuse(p->e, 400, "top_logprobs",
                              "top_logprobs: only with \"logprobs\": true");
    if (r->usage && !r->stream)
        return kve_api_refuse(p->e, 400, "stream_options",
                              "stream_options: only with \"stream\": true");
    return KVW_OK;
}

kvw_err kve_api_parse(struct kve_api_request *r, enum kve_api_kind kind, const char *text, size_t n,
                      const struct kve_api_terms *terms, struct kve_api_error *e)
{
    struct parse p = {.r = r, .terms = terms, .e = e, .name = ""};
    const size_t sound = kve_api_utf8_end(text, n);
    char why[KVE_WHY_BYTES];

    *r = (struct kve_api_request){.kind = kind, .n = 1, .q = terms->base};
    *e = (struct kve_api_error){0};
    r->q.sample = (struct kve_sample_config){.temperature = 1, .top_p = 1, .seed = terms->seed};
    r->q.max_tokens = kind == KVE_API_CHAT ? terms->chat_tokens : MAX_TOKENS_DEFAULT;
    if (sound < n)
        return kve_api_refuse(e, 400, "", "the body: byte %zu: this is no UTF-8", sound + 1);
    r->body = kve_json_object(text, n, why);
    if (r->body == NULL)
        return kve_api_refuse(e, 400, "", "the body: %.280s", why);
    kvw_err err = take_fields(&p);
    if (err == KVW_OK)
        err = agree(&p);
    r->q.logprobs += r->logprobs; /* the token's own beside the others */
    return err;
}

void kve_api_free(struct kve_api_request *r)
{
    for (uint32_t i = 0; i < r->message_count; ++i)
        free(r->contents[i]);
    free(r->contents);
    free(r->messages);
    free((void *)r->q.sample.bias);
    cJSON_Delete(r->body);
    *r = (struct kve_api_request){0};
}
