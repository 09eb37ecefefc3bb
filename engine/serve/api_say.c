/* SPDX-License-Identifier: Apache-2.0 */
/* api_say.c - answers of OpenAI's interface as JSON. */
#include "api_say.h"

#include <stdlib.h>
#include <string.h>

/* obj as text, and delete it; NULL if one of the steps had no memory. */
static char *print(cJSON *obj, bool whole)
{
    char *text = whole && obj != NULL ? cJSON_PrintUnformatted(obj) : NULL;

    cJSON_Delete(obj);
    return text;
}

static bool add_string(cJSON *obj, const char *key, const char *text)
{
    return text != NULL ? cJSON_AddStringToObject(obj, key, text) != NULL
                        : cJSON_AddNullToObject(obj, key) != NULL;
}

static bool add_number(cJSON *obj, const char *key, double v)
{
    return cJSON_AddNumberToObject(obj, key, v) != NULL;
}

/*
 * n bytes as a JSON string. cJSON's strings end at the first NUL, which an answer may contain: it
 * is written by hand here, everything else by cJSON.
 */
static bool add_text(cJSON *obj, const char *key, const char *at, size_t n)
{
    size_t nuls = 0, used = 0;

    for (size_t i = 0; i < n; ++i)
        nuls += at[i] == '\0';
    char *copy = malloc(n + 1);
    if (copy == NULL)
        return false;
    memcpy(copy, at, n);
    copy[n] = '\0';
    if (nuls == 0) {
        const bool ok = cJSON_AddStringToObject(obj, key, copy) != NULL;

        free(copy);
        return ok;
    }
    /* each stretch between NULs printed alone, its quotes cut off */
    char *raw = malloc(6 * n + 3);
    bool ok = raw != NULL;
    if (ok)
        raw[used++] = '"';
    for (size_t from = 0; ok && from <= n;) {
        cJSON *item = cJSON_CreateString(copy + from);
        char *part = item != NULL ? cJSON_PrintUnformatted(item) : NULL;

        cJSON_Delete(item);
        ok = part != NULL;
        if (ok) {
            memcpy(raw + used, part + 1, strlen(part) - 2);
            used += strlen(part) - 2;
        }
        cJSON_free(part);
        from += strlen(copy + from) + 1;
        if (ok && from <= n) {
            memcpy(raw + used, "\\u0000", 6);
            used += 6;
        }
    }
    if (ok) {
        memcpy(raw + used, "\"", 2);
        ok = cJSON_AddRawToObject(obj, key, raw) != NULL;
    }
    free(raw);
    free(copy);
    return ok;
}

static cJSON *begin(const struct kve_api_head *h, const char *object)
{
    cJSON *obj = cJSON_CreateObject();

    if (add_string(obj, "id", h->id) && add_string(obj, "object", object) &&
        add_number(obj, "created", (double)h->created) && add_string(obj, "model", h->model))
        return obj;
    cJSON_Delete(obj);
    return NULL;
}

static bool add_usage(cJSON *obj, const struct kve_api_usage *u)
{
    cJSON *usage = cJSON_AddObjectToObject(obj, "usage");

    return add_number(usage, "prompt_tokens", u->prompt) &&
           add_number(usage, "completion_tokens", u->completion) &&
           add_number(usage, "total_tokens", (double)u->prompt + u->completion) &&
           add_number(cJSON_AddObjectToObject(usage, "prompt_tokens_details"), "cached_tokens",
                      u->cached);
}

/* An object that is the next item of list. */
static cJSON *add_item(cJSON *list)
{
    cJSON *item = cJSON_CreateObject();

    if (item != NULL && cJSON_AddItemToArray(list, item))
        return item;
    cJSON_Delete(item);
    return NULL;
}

char *kve_api_say(const struct kve_api_head *h, const struct kve_api_choice *choices,
                  uint32_t count, const struct kve_api_usage *usage)
{
    cJSON *obj = begin(h, h->chat ? "chat.completion" : "text_completion");
    cJSON *list = cJSON_AddArrayToObject(obj, "choices");
    bool ok = list != NULL;

    for (uint32_t i = 0; ok && i < count; ++i) {
        cJSON *c = add_item(list);
        cJSON *to = h->chat ? cJSON_AddObjectToObject(c, "message") : c;

        ok = add_number(c, "index", i) && (!h->chat || add_string(to, "role", "assistant")) &&
             add_text(to, h->chat ? "content" : "text", choices[i].text, choices[i].bytes) &&
             add_string(c, "finish_reason", choices[i].finish) &&
             kve_api_add_logprobs(c, h->chat, choices[i].logprobs);
    }
    ok = ok && add_usage(obj, usage);
    return print(obj, ok);
}

char *kve_api_say_piece(const struct kve_api_head *h, uint32_t index,
                        const struct kve_api_choice *c, bool first, bool null_usage)
{
    cJSON *obj = begin(h, h->chat ? "chat.completion.chunk" : "text_completion");
    cJSON *one = add_item(cJSON_AddArrayToObject(obj, "choices"));
    cJSON *to = h->chat ? cJSON_AddObjectToObject(one, "delta") : one;
    bool ok = add_number(one, "index", index) &&
              (!h->chat || !first || add_string(to, "role", "assistant"));

    if (ok && (!h->chat || first || c->bytes > 0))
        ok = add_text(to, h->chat ? "content" : "text", c->text, c->bytes);
    ok = ok && add_string(one, "finish_reason", c->finish) &&
         kve_api_add_logprobs(one, h->chat, c->logprobs) &&
         (!null_usage || add_string(obj, "usage", NULL));
    return print(obj, ok);
}

char *kve_api_say_usage(const struct kve_api_head *h, const struct kve_api_usage *usage)
{
    cJSON *obj = begin(h, h->chat ? "chat.completion.chunk" : "text_completion");
    const bool ok = cJSON_AddArrayToObject(obj, "choices") != NULL && add_usage(obj, usage);

    return print(obj, ok);
}

char *kve_api_say_error(const struct kve_api_error *e)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(obj, "error");
    const bool ok = add_string(error, "message", e->message) &&
                    add_string(error, "type", e->type) &&
                    add_string(error, "param", e->param[0] != '\0' ? e->param : NULL) &&
                    add_string(error, "code", e->code);

    return print(obj, ok);
}

char *kve_api_say_models(const char *model, uint64_t created, uint32_t context)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *m =
        add_string(obj, "object", "list") ? add_item(cJSON_AddArrayToObject(obj, "data")) : NULL;
    const bool ok = add_string(m, "id", model) && add_string(m, "object", "model") &&
                    add_number(m, "created", (double)created) &&
                    add_string(m, "owned_by", "kvserve") && add_number(m, "max_model_len", context);

    return print(obj, ok);
}

char *kve_api_say_tokens(const uint32_t *tokens, size_t count, uint32_t context)
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(obj, "tokens");
    bool ok = list != NULL;

    for (size_t i = 0; ok && i < count; ++i) {
        cJSON *item = cJSON_CreateNumber(tokens[i]);

        ok = item != NULL && cJSON_AddItemToArray(list, item);
    }
    ok = ok && add_number(obj, "count", (double)count) && add_number(obj, "max_model_len", context);
    return print(obj, ok);
}
