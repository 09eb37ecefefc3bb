/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - a trace read from a file, and bent. */
#include "trace.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace_add.h"

#define MS         1e6
#define TOKENS_MAX 10000000.0

bool kcl_trace_add(struct kcl_trace *t, const struct kcl_arrival *a, const uint64_t *hashes)
{
    if (t->count == t->room) {
        const uint32_t room = t->room == 0 ? 1024 : t->room * 2;
        struct kcl_arrival *each = realloc(t->each, room * sizeof(*each));

        if (each == NULL)
            return false;
        t->each = each;
        t->room = room;
    }
    while (t->hash_room - t->hash_count < a->hashes) {
        const uint32_t room = t->hash_room == 0 ? 65536 : t->hash_room * 2;
        uint64_t *hash = realloc(t->hash, room * sizeof(*hash));

        if (hash == NULL)
            return false;
        t->hash = hash;
        t->hash_room = room;
    }
    t->each[t->count] = *a;
    t->each[t->count++].hash = t->hash_count;
    if (a->hashes > 0)
        memcpy(t->hash + t->hash_count, hashes, a->hashes * sizeof(*hashes));
    t->hash_count += a->hashes;
    return true;
}

static bool number(const cJSON *o, const char *key, double low, double high, double *v)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);

    if (!cJSON_IsNumber(item) || !(item->valuedouble >= low && item->valuedouble <= high))
        return false;
    *v = item->valuedouble;
    return true;
}

/* NULL: it has no list of hashes. */
static uint64_t *hashes_of(const cJSON *o, uint32_t *n)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "hash_ids"), *item;
    const int count = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    uint64_t *hashes = count >= 0 ? calloc((size_t)count + 1, sizeof(*hashes)) : NULL;

    *n = 0;
    if (hashes != NULL)
        cJSON_ArrayForEach(item, list) hashes[(*n)++] =
            cJSON_IsNumber(item) && item->valuedouble >= 0 ? (uint64_t)item->valuedouble : 0;
    return hashes;
}

static bool take_line(struct kcl_trace *t, const char *text, char why[KCL_WHY])
{
    cJSON *o = cJSON_Parse(text);
    double at, tokens, answer;
    struct kcl_arrival a = {0};
    uint64_t *hashes = hashes_of(o, &a.hashes);
    bool ok = false;

    if (hashes == NULL || !number(o, "timestamp", 0, 1e12, &at) ||
        !number(o, "input_length", 1, TOKENS_MAX, &tokens) ||
        !number(o, "output_length", 0, TOKENS_MAX, &answer)) {
        snprintf(why, KCL_WHY,
                 "no \"timestamp\", \"input_length\", \"output_length\" and \"hash_ids\" in range");
    } else if (t->count > 0 && at * MS < (double)t->each[t->count - 1].at_ns) {
        snprintf(why, KCL_WHY, "timestamp %g is before the one above", at);
    } else {
        a.at_ns = (uint64_t)(at * MS);
        a.tokens = (uint32_t)tokens;
        a.answer = answer >= 1 ? (uint32_t)answer : 1;
        ok = kcl_trace_add(t, &a, hashes);
        if (!ok)
            snprintf(why, KCL_WHY, "no memory");
    }
    free(hashes);
    cJSON_Delete(o);
    return ok;
}

static void spread(struct kcl_trace *t)
{
    for (uint32_t i = 0, end; i < t->count; i = end) {
        const uint64_t from = t->each[i].at_ns;

        for (end = i; end < t->count && t->each[end].at_ns == from; ++end)
            ;
        const uint64_t gap = end < t->count ? t->each[end].at_ns - from : 0;

        for (uint32_t k = i; k < end; ++k)
            t->each[k].at_ns = from + gap * (k - i) / (end - i);
    }
}

bool kcl_trace_load(struct kcl_trace *t, const char *path, char why[KCL_WHY])
{
    FILE *f = fopen(path, "r");
    char *text = NULL, at[KCL_WHY];
    size_t room = 0;
    uint32_t line = 0;
    bool ok = true;

    *t = (struct kcl_trace){0};
    if (f == NULL) {
        snprintf(why, KCL_WHY, "%.150s: %s", path, strerror(errno));
        return false;
    }
    while (ok && getline(&text, &room, f) > 0) {
        ++line;
        if (text[strspn(text, " \t\r\n")] != '\0')
            ok = take_line(t, text, at);
    }
    free(text);
    fclose(f);
    if (ok && t->count == 0)
        snprintf(why, KCL_WHY, "%.150s: no request in it", path);
    else if (!ok)
        snprintf(why, KCL_WHY, "%.100s: line %u: %.120s", path, line, at);
    if (!ok || t->count == 0) {
        kcl_trace_free(t);
        return false;
    }
    spread(t);
    return true;
}

/* A prompt that became longer has blocks that nobody else has. */
static bool add_bent(struct kcl_trace *t, const struct kcl_trace *from, uint32_t i,
                     const struct kcl_bend *b, uint32_t copy)
{
    const struct kcl_arrival *was = &from->each[i];
    const uint64_t next = i + 1 < from->count ? from->each[i + 1].at_ns : was->at_ns;
    struct kcl_arrival a = *was;
    uint64_t *hashes;
    bool ok;

    a.at_ns = (uint64_t)(((double)was->at_ns + (double)(next - was->at_ns) * copy / b->copies) /
                         b->speed);
    a.tokens = (uint32_t)fmin(fmax(1, round(was->tokens * b->input)), TOKENS_MAX);
    a.answer = (uint32_t)fmin(fmax(1, round(was->answer * b->answer)), TOKENS_MAX);
    a.hashes = (a.tokens + KCL_BLOCK_TOKENS - 1) / KCL_BLOCK_TOKENS;
    hashes = calloc((size_t)a.hashes + 1, sizeof(*hashes));
    if (hashes == NULL)
        return false;
    for (uint32_t k = 0; k < a.hashes; ++k)
        hashes[k] = (k < was->hashes ? from->hash[was->hash + k]
                                     : 1ull << 62 | (uint64_t)i << 20 | (k & 0xfffff)) +
                    ((uint64_t)copy << 48);
    ok = kcl_trace_add(t, &a, hashes);
    free(hashes);
    return ok;
}

/* Times and lengths of all are their means, and no prompt shares a block. */
static void make_even(struct kcl_trace *t)
{
    const uint64_t span = t->count > 1 ? t->each[t->count - 1].at_ns : 0;
    double tokens = 0, answers = 0;

    for (uint32_t i = 0; i < t->count; ++i) {
        tokens += t->each[i].tokens;
        answers += t->each[i].answer;
    }
    for (uint32_t i = 0; i < t->count; ++i) {
        t->each[i].at_ns = span / t->count * i;
        t->each[i].tokens = (uint32_t)(tokens / t->count + 1);
        t->each[i].answer = (uint32_t)(answers / t->count + 1);
        t->each[i].hashes = 0;
    }
}

struct kcl_trace kcl_trace_bend(const struct kcl_trace *from, const struct kcl_bend *b)
{
    struct kcl_trace t = {0};

    for (uint32_t i = 0; i < from->count; ++i)
        for (uint32_t copy = 0; copy < b->copies; ++copy)
            if (!add_bent(&t, from, i, b, copy)) {
                kcl_trace_free(&t);
                return t;
            }
    if (b->even)
        make_even(&t);
    return t;
}

void kcl_trace_free(struct kcl_trace *t)
{
    free(t->each);
    free(t->hash);
    *t = (struct kcl_trace){0};
}
