/* SPDX-License-Identifier: Apache-2.0 */
/* run_session.c - asks the workers to save and to restore, and waits for what they say. */
#include "run_session.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "../session/kvfile.h"
#include "clock.h"

#define ASK_NS (60 * KVE_S)

static uint32_t number(const cJSON *obj, const char *key)
{
    uint64_t v = 0;

    return kve_json_u64(obj, key, 0, UINT32_MAX, &v) ? (uint32_t)v : 0;
}

/* An event while an answer is waited for. True: it is the answer. */
static bool take(struct kve_spawned *w, const cJSON *obj, const char *answer)
{
    const char *ev = kve_json_str(obj, "ev");

    if (strcmp(ev, "link") == 0)
        w->up = strcmp(kve_json_str(obj, "state"), "up") == 0;
    return strcmp(ev, answer) == 0 || strcmp(ev, "error") == 0 || strcmp(ev, "fatal") == 0;
}

/* The answer to what w was asked, the caller's; NULL: why. */
static cJSON *wait_for(const struct kve_dispatch *d, struct kve_spawned *w, const char *answer,
                       char *why)
{
    const uint64_t until = kve_now_ns() + ASK_NS;

    while (*d->cfg->stop == 0 && kve_now_ns() < until) {
        kvw_err err;
        cJSON *obj = kve_channel_read(&w->channel, &err);

        if (obj != NULL && take(w, obj, answer))
            return obj;
        cJSON_Delete(obj);
        if (obj != NULL)
            continue;
        if (err != KVW_E_AGAIN) {
            snprintf(why, KVE_WHY_BYTES, "%s: the worker hung up", w->name);
            return NULL;
        }
        poll(&(struct pollfd){.fd = w->channel.fd, .events = POLLIN}, 1, 200);
    }
    snprintf(why, KVE_WHY_BYTES, *d->cfg->stop != 0 ? "interrupted" : "%s: no answer in time",
             w->name);
    return NULL;
}

/* obj is deleted. */
static bool ask(struct kve_dispatch *d, struct kve_spawned *w, cJSON *obj, const char *answer,
                struct kve_session_said *said, char *why)
{
    uint64_t bytes[2] = {0, 0};

    if (kve_channel_write(&w->channel, obj) != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "%s: it takes no requests", w->name);
        return false;
    }
    cJSON *got = wait_for(d, w, answer, why);
    if (got == NULL)
        return false;
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(got, "err");
    const bool ok = cJSON_IsNumber(err) && err->valueint == KVW_OK;
    if (!ok)
        snprintf(why, KVE_WHY_BYTES, "%s: %.280s", w->name, kve_json_str(got, "text"));
    kve_json_u64(got, "kv_bytes", 0, 1ull << 53, &bytes[0]);
    kve_json_u64(got, "file_bytes", 0, 1ull << 53, &bytes[1]);
    *said = (struct kve_session_said){.tokens = number(got, "tokens"),
                                      .unit = number(got, "unit"),
                                      .kv_bytes = bytes[0],
                                      .file_bytes = bytes[1]};
    cJSON_Delete(got);
    return ok;
}

bool kve_session_ask_restore(struct kve_dispatch *d, const char *path, kvw_budget budget,
                             struct kve_session_said *said, char why[KVE_WHY_BYTES])
{
    bool ok = true;

    for (uint32_t i = 0; i < d->spawn.count && ok; ++i) {
        cJSON *obj = cJSON_CreateObject();

        cJSON_AddStringToObject(obj, "op", "restore");
        cJSON_AddStringToObject(obj, "path", path);
        cJSON_AddNumberToObject(obj, "budget", budget);
        ok = ask(d, &d->spawn.at[i], obj, "restored", said, why);
    }
    return ok;
}

bool kve_session_ask_save(struct kve_dispatch *d, const char *path, const struct kve_request *q,
                          struct kve_session_said *said, char why[KVE_WHY_BYTES])
{
    cJSON *obj = cJSON_CreateObject();
    cJSON *tokens = cJSON_AddArrayToObject(obj, "tokens");

    cJSON_AddStringToObject(obj, "op", "save");
    cJSON_AddStringToObject(obj, "path", path);
    cJSON_AddNumberToObject(obj, "budget", q->budget);
    cJSON_AddNumberToObject(obj, "exact_first", q->exact_first);
    cJSON_AddNumberToObject(obj, "exact_last", q->exact_last);
    for (uint32_t i = 0; i < q->count; ++i)
        cJSON_AddItemToArray(tokens, cJSON_CreateNumber(q->tokens[i]));
    return ask(d, &d->spawn.at[0], obj, "saved", said, why);
}

bool kve_session_begins(const char *path, const struct kve_request *q, uint32_t unit,
                        char why[KVE_WHY_BYTES])
{
    struct kve_kvfile *f;
    uint32_t least = unit;

    if (kve_kvfile_open(&f, path, why) != KVW_OK)
        return false;
    const uint32_t tokens = kve_kvfile_head(f)->tokens;
    const uint32_t common = kve_kvfile_common(f, q->tokens, q->count);
    kve_kvfile_close(f);
    if (least > tokens)
        least = tokens;
    if (common >= least)
        return true;
    snprintf(why, KVE_WHY_BYTES,
             "%.140s: of its %" PRIu32 " tokens the prompt begins with %" PRIu32
             "; K and V are taken in pieces of %" PRIu32,
             path, tokens, common, unit);
    return false;
}
