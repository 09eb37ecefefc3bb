/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c - what work asks of its worker: events to the router, the state of the link, its part of a
 * request, blocks of the pool.
 */
#include "job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *kve_worker_name(const struct kve_worker *w)
{
    static const char *const names[] = {"?", "prefill", "decode", "local"};

    return names[w->cfg->role];
}

cJSON *kve_worker_event(const struct kve_worker *w, const char *name)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "ev", name);
    if (w->request_id != 0)
        cJSON_AddNumberToObject(obj, "id", (double)w->request_id);
    return obj;
}

void kve_worker_say(struct kve_worker *w, cJSON *obj)
{
    if (kve_channel_write(&w->channel, obj) != KVW_OK)
        w->canceled = true; /* nobody is there to hear the answer */
}

void kve_worker_say_error(struct kve_worker *w, const cJSON *about, kvw_err err, const char *text)
{
    cJSON *obj = cJSON_CreateObject();
    uint64_t id;

    cJSON_AddStringToObject(obj, "ev", "error");
    if (kve_json_u64(about, "id", 1, 1ull << 52, &id))
        cJSON_AddNumberToObject(obj, "id", (double)id);
    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
}

void kve_worker_channel_ends(struct kve_worker *w, kvw_err err)
{
    if (err == KVW_E_PROTOCOL)
        kve_worker_say_error(w, NULL, err, "a line that is no JSON object: this channel is closed");
    kve_channel_close(&w->channel);
}

void kve_worker_tell_link(struct kve_worker *w)
{
    static const char *const names[] = {"?", "starting", "waiting", "up", "failed"};
    char text[KVW_TEXT_BYTES_MAX + 1];

    if (w->link == NULL)
        return;
    const kve_link_state state = kve_link_state_now(w->link, text);
    const uint32_t peers = kve_link_peers(w->link);
    const kvw_err err = kve_link_error(w->link);
    const uint32_t turns = kve_link_turns(w->link);
    if (state == w->seen_state && peers == w->seen_peers && err == w->seen_err &&
        turns == w->seen_turns && strcmp(text, w->seen_text) == 0)
        return;
    w->seen_turns = turns;
    w->seen_state = state;
    w->seen_peers = peers;
    w->seen_err = err;
    snprintf(w->seen_text, sizeof(w->seen_text), "%s", text);
    if (!w->cfg->quiet)
        fprintf(stderr, "kvserve %s: link %s%s%s\n", kve_worker_name(w), names[state],
                text[0] != '\0' && state != KVE_LINK_UP ? ": " : "",
                state != KVE_LINK_UP ? text : "");
    if (w->channel.fd < 0)
        return;
    cJSON *obj = kve_worker_event(w, "link");
    cJSON_AddStringToObject(obj, "state", names[state]);
    cJSON_AddNumberToObject(obj, "peers", peers);
    cJSON *with = cJSON_AddArrayToObject(obj, "with");
    const char *name;
    for (uint32_t i = 0; (name = kve_link_peer(w->link, i)) != NULL; ++i)
        cJSON_AddItemToArray(with, cJSON_CreateString(name));
    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
}

void kve_worker_busy(struct kve_worker *w, const cJSON *obj, bool decline)
{
    static const char text[] = "busy with another request";
    uint64_t id = 0;

    kve_worker_say_error(w, obj, KVW_E_AGAIN, text);
    if (decline && w->link != NULL && kve_json_u64(obj, "id", 1, 1ull << 52, &id))
        kve_link_decline(w->link, kve_json_str(obj, "with"), id, KVW_E_AGAIN, text);
}

enum kve_request_part kve_worker_part(const struct kve_worker *w, enum kve_request_part said)
{
    static const enum kve_request_part by_role[] = {
        [KVE_WORKER_PREFILL] = KVE_PART_PREFILL,
        [KVE_WORKER_DECODE] = KVE_PART_DECODE,
        [KVE_WORKER_LOCAL] = KVE_PART_BOTH,
    };

    return said != KVE_PART_ROLE ? said : by_role[w->cfg->role];
}

void kve_worker_decline(struct kve_worker *w, kvw_err err, const char *text)
{
    if (w->link != NULL)
        kve_link_decline(w->link, w->with, w->request_id, err, text);
}

/* Prompts share K and V in blocks that end where a prompt may be cut without a bit of it changing:
 * so many at a time. */
uint32_t kve_worker_unit_blocks(const struct kve_worker *w)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, cut = kve_run_cut(w->run);
    uint32_t blocks = 1;

    while (blocks * block_tokens % cut != 0)
        ++blocks;
    return blocks;
}

/* Behind its first `kept` blocks what of the prompt is on the disk, of `most` blocks; returns how
 * many there are then. A piece that is damaged costs a sentence, and is computed. */
static uint32_t from_disk(struct kve_worker *w, const struct kve_request *r, uint32_t kept,
                          uint32_t most, uint32_t *ids)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, unit = kve_worker_unit_blocks(w);
    kvw_err err = KVW_OK;

    while (kept + unit <= most && err == KVW_OK) {
        char why[KVE_WHY_BYTES] = "";

        if (kve_kvcache_alloc(&w->kv, unit, ids + kept) != KVW_OK)
            break;
        err = kve_store_get(w->store, r->tokens, kept * block_tokens, ids, why);
        if (err == KVW_OK) {
            kept += unit;
            kve_kvcache_keep(&w->kv, r->tokens, kept, ids);
            continue;
        }
        kve_kvcache_free(&w->kv, ids + kept, unit);
        if (err != KVW_E_NOTFOUND)
            fprintf(stderr, "kvserve %s: prefix cache: %s; it is computed\n", kve_worker_name(w),
                    why);
    }
    return kept;
}

/* The prompt's blocks that another has computed, to ids; returns how many. Where the rest is to be
 * computed, something must be left of it. */
static uint32_t share(struct kve_worker *w, const struct kve_request *r, uint32_t *ids)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, unit = kve_worker_unit_blocks(w);
    const uint32_t least = kve_worker_part(w, r->part) != KVE_PART_DECODE ? KVE_REST_MIN : 0;

    if (!r->reuse || r->count < least)
        return 0;
    const uint32_t found =
        kve_kvcache_share(&w->kv, r->tokens, (r->count - least) / block_tokens / unit * unit, ids);
    const uint32_t kept = found / unit * unit;
    kve_kvcache_free(&w->kv, ids + kept, found - kept);
    return w->store != NULL ? from_disk(w, r, kept, (r->count - least) / block_tokens, ids) : kept;
}

kvw_err kve_worker_seq_open(struct kve_worker *w, struct kve_seq *seq, const struct kve_request *r,
                            uint32_t more, char *why)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens, tokens = r->count + more;
    const uint32_t count = (tokens + block_tokens - 1) / block_tokens;
    uint32_t *blocks = malloc(count * sizeof(*blocks));

    if (blocks == NULL)
        return KVW_E_NOMEM;
    const uint32_t shared = share(w, r, blocks);
    const kvw_err err = kve_kvcache_alloc(&w->kv, count - shared, blocks + shared);
    if (err != KVW_OK) {
        kve_kvcache_free(&w->kv, blocks, shared);
        snprintf(why, KVE_WHY_BYTES, "no free KV blocks: %u tokens need %u, %u of %u are free",
                 tokens, count, w->kv.free_count, w->kv.pool.blocks);
        free(blocks);
        return err;
    }
    *seq =
        (struct kve_seq){.blocks = blocks, .block_count = count, .tokens = shared * block_tokens};
    return KVW_OK;
}

void kve_worker_seq_keep(struct kve_worker *w, const struct kve_seq *seq,
                         const struct kve_request *r)
{
    const uint32_t unit = kve_worker_unit_blocks(w);

    if (r->reuse)
        kve_kvcache_keep(&w->kv, r->tokens, r->count / w->kv.pool.block_tokens / unit * unit,
                         seq->blocks);
}

void kve_worker_seq_close(struct kve_worker *w, struct kve_seq *seq)
{
    kve_kvcache_free(&w->kv, seq->blocks, seq->block_count);
    free(seq->blocks);
    *seq = (struct kve_seq){0};
}

kvw_err kve_worker_link_ready(struct kve_worker *w, char *why)
{
    char text[KVW_TEXT_BYTES_MAX + 1];

    if (w->link == NULL) {
        snprintf(why, KVE_WHY_BYTES, "this worker has no link: it does both parts of a request");
        return KVW_E_PEER_LOST;
    }
    const kve_link_state state = kve_link_state_now(w->link, text);
    if (state == KVE_LINK_UP)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "no peer on the %s link%s%s", w->cfg->net,
             text[0] != '\0' ? ": " : "", text);
    return KVW_E_PEER_LOST;
}
