/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - what a worker does when it is told to save or to restore. Both go through the cache
 * of prompts' beginnings: what may be shared may be saved, and what was restored is shared.
 */
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"

void kve_session_owner(struct kve_owner *owner, const struct kve_worker *w)
{
    *owner = (struct kve_owner){0};
    kve_model_fingerprint(w->model, owner->fingerprint);
    snprintf(owner->model, sizeof(owner->model), "%s", kve_model_name(w->model));
    for (char *at = owner->model; *at != '\0'; ++at)
        if (*at < ' ' || *at > '~')
            *at = '?';
    snprintf(owner->kernels, sizeof(owner->kernels), "%s", kve_kernels()->name);
    owner->cut = kve_run_cut(w->run);
}

/* What an op has beside the fields of a request. */
static kvw_err take_fields(struct kve_request *r, const struct kve_worker *w, const cJSON *obj,
                           char *why)
{
    static const char *const others[] = {"op", "path", NULL};
    const kvw_err err = kve_request_merge(r, obj, others, w->mc->vocab, why);

    if (err != KVW_OK || kve_json_str(obj, "path")[0] != '\0')
        return err;
    snprintf(why, KVE_WHY_BYTES, "path: missing, or no text");
    return KVW_E_INVALID;
}

static void say(struct kve_worker *w, cJSON *event, kvw_err err, const char *why)
{
    cJSON_AddNumberToObject(event, "err", err);
    cJSON_AddStringToObject(event, "text",
                            err == KVW_OK    ? ""
                            : why[0] != '\0' ? why
                                             : kvw_strerror(err));
    cJSON_AddNumberToObject(event, "unit", kve_worker_unit_blocks(w) * w->kv.pool.block_tokens);
    kve_worker_say(w, event);
}

/* The kept blocks of the prompt to a file; how many tokens that were, to *tokens. */
static kvw_err save(struct kve_worker *w, const struct kve_request *r, const char *path,
                    uint32_t *tokens, struct kve_kvsaved *saved, char *why)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, unit = kve_worker_unit_blocks(w);
    uint32_t *ids = malloc((r->count / block_tokens + 1) * sizeof(*ids));
    struct kve_owner owner;
    kvw_err err = KVW_OK;

    if (ids == NULL)
        return KVW_E_NOMEM;
    const uint32_t found = kve_kvcache_share(&w->kv, r->tokens, r->count / block_tokens, ids);
    const uint32_t whole = found / unit * unit;
    if (whole == 0) {
        snprintf(why, KVE_WHY_BYTES,
                 "nothing of the prompt's %" PRIu32 " tokens can be saved: K and V are kept in "
                 "pieces of %" PRIu32 " tokens",
                 r->count, unit * block_tokens);
        err = KVW_E_NOTFOUND;
    } else {
        const struct kve_kvpart part = {
            .owner = &owner,
            .pool = &w->kv.pool,
            .blocks = ids,
            .tokens = r->tokens,
            .count = whole * block_tokens,
            .budget = r->budget,
            .exact_first = r->exact_first,
            .exact_last = r->exact_last,
            .durable = true,
        };

        kve_session_owner(&owner, w);
        *tokens = part.count;
        err = kve_kvfile_save(path, &part, saved, why);
    }
    kve_kvcache_free(&w->kv, ids, found);
    free(ids);
    return err;
}

void kve_session_save(struct kve_worker *w, const cJSON *obj)
{
    cJSON *event = kve_worker_event(w, "saved");
    char why[KVE_WHY_BYTES] = "";
    struct kve_kvsaved saved = {0};
    struct kve_request r = {0};
    uint32_t tokens = 0;
    kvw_err err = take_fields(&r, w, obj, why);

    if (err == KVW_OK && r.count == 0) {
        snprintf(why, sizeof(why), "tokens: missing");
        err = KVW_E_INVALID;
    }
    if (err == KVW_OK)
        err = save(w, &r, kve_json_str(obj, "path"), &tokens, &saved, why);
    if (err == KVW_OK) {
        cJSON_AddNumberToObject(event, "tokens", tokens);
        cJSON_AddNumberToObject(event, "kv_bytes", (double)saved.raw_bytes);
        cJSON_AddNumberToObject(event, "file_bytes", (double)saved.file_bytes);
    }
    say(w, event, err, why);
    kve_request_free(&r);
}

/* May its values be here? Where it is asked for exact ones, no others must be shared. */
static kvw_err allowed(const struct kve_head *h, const struct kve_worker *w, kvw_budget budget,
                       const char *path, char *why)
{
    static const char *const names[] = {"exact", "e8", "e4"};
    const uint64_t room = (uint64_t)w->kv.pool.blocks * w->kv.pool.block_tokens;

    if (h->first != 0) {
        snprintf(why, KVE_WHY_BYTES,
                 "%.140s: first: K and V begin at token %" PRIu32 "; a session's begin at 0", path,
                 h->first);
        return KVW_E_MISMATCH;
    }
    if (h->budget > (uint32_t)budget) {
        snprintf(why, KVE_WHY_BYTES,
                 "%.140s: budget: the file was saved with %s, the request allows %s", path,
                 names[h->budget], names[budget]);
        return KVW_E_MISMATCH;
    }
    if (h->tokens > room) {
        snprintf(why, KVE_WHY_BYTES, "%.140s: tokens: %" PRIu32 ", the KV pool has %" PRIu64, path,
                 h->tokens, room);
        return KVW_E_NOBLOCKS;
    }
    return KVW_OK;
}

/* All of the file to new blocks; those of whole pieces are kept. Whatever fails, the cache shares
 * nothing new. */
static kvw_err load(struct kve_worker *w, struct kve_kvfile *f, uint32_t *kept, char *why)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, unit = kve_worker_unit_blocks(w);
    const uint32_t tokens = kve_kvfile_head(f)->tokens;
    const uint32_t blocks = (tokens + block_tokens - 1) / block_tokens;
    const uint32_t whole = tokens / block_tokens / unit * unit;
    uint32_t *ids = malloc(blocks * sizeof(*ids)), *text = malloc(tokens * sizeof(*text));
    kvw_err err = ids != NULL && text != NULL ? KVW_OK : KVW_E_NOMEM;

    if (err == KVW_OK && (err = kve_kvcache_alloc(&w->kv, blocks, ids)) != KVW_OK)
        snprintf(why, KVE_WHY_BYTES, "no free KV blocks: %" PRIu32 " tokens need %" PRIu32, tokens,
                 blocks);
    if (err == KVW_OK) {
        struct kve_owner owner;

        kve_session_owner(&owner, w);
        err = kve_kvfile_read(f, &owner, &w->kv.pool, ids, why);
        if (err == KVW_OK) {
            kve_kvfile_tokens(f, text);
            kve_kvcache_keep(&w->kv, text, whole, ids);
            *kept = whole * block_tokens;
        }
        kve_kvcache_free(&w->kv, ids, blocks);
    }
    free(ids);
    free(text);
    return err;
}

void kve_session_restore(struct kve_worker *w, const cJSON *obj)
{
    cJSON *event = kve_worker_event(w, "restored");
    const char *path = kve_json_str(obj, "path");
    char why[KVE_WHY_BYTES] = "";
    struct kve_kvfile *f = NULL;
    struct kve_request r = {0};
    struct kve_owner owner;
    uint32_t tokens = 0;
    kvw_err err = take_fields(&r, w, obj, why);

    if (err == KVW_OK)
        err = kve_kvfile_open(&f, path, why);
    if (err == KVW_OK) {
        char text[KVE_WHY_BYTES];

        kve_session_owner(&owner, w);
        err = kve_head_fits(kve_kvfile_head(f), &owner, &w->kv.pool, text);
        if (err != KVW_OK)
            snprintf(why, sizeof(why), "%.140s: %.160s", path, text);
    }
    if (err == KVW_OK)
        err = allowed(kve_kvfile_head(f), w, r.budget, path, why);
    if (err == KVW_OK)
        err = load(w, f, &tokens, why);
    cJSON_AddNumberToObject(event, "tokens", tokens);
    say(w, event, err, why);
    kve_kvfile_close(f);
    kve_request_free(&r);
}

void kve_session_open_store(struct kve_worker *w)
{
    struct kve_store_config cfg = {.folder = w->cfg->cache_dir,
                                   .bytes_max = w->cfg->cache_bytes,
                                   .pool = &w->kv.pool,
                                   .piece_tokens =
                                       kve_worker_unit_blocks(w) * w->kv.pool.block_tokens};
    char why[KVE_WHY_BYTES] = "";

    if (cfg.folder == NULL)
        return;
    kve_session_owner(&cfg.owner, w);
    const kvw_err err = kve_store_open(&w->store, &cfg, why);
    if (err != KVW_OK)
        fprintf(stderr, "kvserve %s: --prefix-cache-dir: %s; served without\n", kve_worker_name(w),
                why[0] != '\0' ? why : kvw_strerror(err));
}

void kve_session_store(struct kve_worker *w, const struct kve_request *r)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, unit = kve_worker_unit_blocks(w);
    uint32_t *ids;
    kvw_err err = KVW_OK;

    if (w->store == NULL || !r->reuse ||
        (ids = malloc((r->count / block_tokens + 1) * sizeof(*ids))) == NULL)
        return;
    const uint32_t found = kve_kvcache_share(&w->kv, r->tokens, r->count / block_tokens, ids);
    for (uint32_t b = 0; b + unit <= found && err == KVW_OK; b += unit) {
        char why[KVE_WHY_BYTES] = "";

        err = kve_store_put(w->store, r->tokens, b * block_tokens, ids, why);
        if (err != KVW_OK)
            fprintf(stderr, "kvserve %s: prefix cache: %s; nothing more is written\n",
                    kve_worker_name(w), why[0] != '\0' ? why : kvw_strerror(err));
    }
    kve_kvcache_free(&w->kv, ids, found);
    free(ids);
}
