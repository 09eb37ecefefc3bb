/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefill.c - run a prompt, piece by piece. Where another worker writes the answer each layer is
 * handed to the link the moment it is written, while the next one is computed.
 */
#include <stdio.h>
#include <string.h>

#include "../../compress/compress.h"
#include "clock.h"
#include "work.h"

#define PIECE_ALONE 512u /* tokens, where nobody waits for the end of a piece */
#define OFFER_WAIT_NS                                                                              \
    (5 * KVE_S) /* both sides get the request at once: an offer is milliseconds away */

struct hook {
    struct kve_worker *w;
    struct kve_work *j;
};

static bool sends(const struct kve_work *j)
{
    return j->part == KVE_PART_PREFILL;
}

kvw_err kve_prompt_begin(struct kve_worker *w, struct kve_work *j)
{
    kvw_err err = sends(j) ? kve_worker_link_ready(w, j->why) : KVW_OK;

    if (err == KVW_OK)
        err = kve_worker_seq_open(w, &j->seq, &j->r, sends(j) ? 0 : j->r.max_tokens, j->why);
    if (err != KVW_OK)
        return err;
    kve_sampler_prompt(j->sampler, j->r.tokens, j->r.count);
    j->p.cached = j->seq.tokens;
    if (!sends(j))
        return KVW_OK;
    const struct kve_blocks blocks = {
        .ids = j->seq.blocks, .count = j->seq.block_count, .tokens = j->r.count};
    err = kve_link_stream(w->link, &j->x, &blocks, j->start_ns + OFFER_WAIT_NS, j->until_ns);
    if (err != KVW_OK)
        snprintf(j->why, sizeof(j->why), "stream: %s", kvw_strerror(err));
    return err;
}

static void on_layer(void *arg, uint32_t layer, uint32_t tokens)
{
    const struct hook *h = arg;
    struct kve_work *j = h->j;

    if (tokens == j->r.count)
        j->p.computed_ns[layer] = kve_now_ns();
    if (sends(j) && !j->r.after_prefill)
        kve_link_push(h->w->link, &j->x, layer, tokens);
}

/* Between two layers: what the router says, also to others, is heard at once. A transfer that is
 * over before its commit has failed: computing on would serve nobody. */
static bool on_cancel(void *arg)
{
    const struct hook *h = arg;
    struct kve_worker *w = h->w;

    w->listen(w);
    return h->j->canceled || w->canceled || *w->channel.stop != 0 ||
           (sends(h->j) && kve_link_done(w->link, &h->j->x));
}

/* Cut where not a bit of the whole prompt's changes: see kve_run_cut(). */
static uint32_t piece_of(const struct kve_worker *w, uint32_t left, bool beside)
{
    const uint32_t cut = kve_run_cut(w->run), given = w->cfg->prefill_tokens;
    const uint32_t most = beside ? KVE_PIECE_TOKENS : given > PIECE_ALONE ? given : PIECE_ALONE;
    const uint32_t n = most > cut ? most / cut * cut : cut;

    if (left <= n)
        return left;
    if (left - n < KVE_REST_MIN)
        return n > cut ? n - cut : left;
    return n;
}

/* All of it is there. */
static void end_prompt(struct kve_worker *w, struct kve_work *j)
{
    kve_worker_seq_keep(w, &j->seq, &j->r);
    kve_work_draw(w, j, w->logits, j->r.count, &j->first);
    j->p.end_ns = kve_now_ns();
    if (!sends(j))
        return;
    uint8_t note[KVE_FIRST_BYTES_MAX];
    for (uint32_t l = 0; j->r.after_prefill && l < w->mc->layers; ++l)
        kve_link_push(w->link, &j->x, l, j->r.count);
    kve_link_commit(w->link, &j->x, note, (uint32_t)kve_first_put(note, &j->first));
}

kvw_err kve_prompt_piece(struct kve_worker *w, struct kve_work *j, bool beside)
{
    struct hook h = {.w = w, .j = j};
    const struct kve_hooks hooks = {.arg = &h, .layer_written = on_layer, .cancel = on_cancel};
    const uint32_t n = piece_of(w, j->r.count - j->seq.tokens, beside);
    const bool last = j->seq.tokens + n == j->r.count;

    if (j->p.start_ns == 0)
        j->p.start_ns = kve_now_ns();
    const kvw_err err = kve_prefill(w->run, &w->kv, &j->seq, j->r.tokens + j->seq.tokens, n, &hooks,
                                    last ? w->logits : NULL);
    if (err != KVW_OK)
        return err;
    kve_work_speak(w, j);
    cJSON *obj = kve_worker_event(w, "progress");
    cJSON_AddNumberToObject(obj, "tokens", j->seq.tokens);
    kve_worker_say(w, obj);
    kve_work_speak(w, NULL);
    if (!last)
        return KVW_E_AGAIN;
    end_prompt(w, j);
    return KVW_OK;
}

/* Layer times in microseconds after start; -1 where it never came to that. */
static void add_times(cJSON *obj, const char *key, const uint64_t *at_ns, uint32_t layers)
{
    cJSON *list = cJSON_AddArrayToObject(obj, key);

    for (uint32_t l = 0; l < layers; ++l)
        cJSON_AddItemToArray(list,
                             cJSON_CreateNumber(at_ns[l] != 0 ? (double)(at_ns[l] / 1000) : -1));
}

/* Chunks by codec name. */
static void add_codecs(cJSON *obj, const struct kve_xfer *x)
{
    cJSON *codecs = cJSON_AddObjectToObject(obj, "codecs");

    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
        if (x->codec_chunks[kvc_codecs[i]->id] > 0)
            cJSON_AddNumberToObject(codecs, kvc_codecs[i]->name,
                                    x->codec_chunks[kvc_codecs[i]->id]);
}

static void add_transfer(const struct kve_worker *w, cJSON *obj, const struct kve_xfer *x)
{
    add_times(obj, "sent_us", x->layer_ns, w->mc->layers);
    cJSON_AddNumberToObject(obj, "kv_bytes", (double)x->raw_bytes);
    cJSON_AddNumberToObject(obj, "wire_bytes", (double)x->wire_bytes);
    cJSON_AddNumberToObject(obj, "chunks", x->chunks);
    cJSON_AddNumberToObject(obj, "mbps", kve_link_mbps(w->link, x));
    add_codecs(obj, x);
}

void kve_prompt_say(struct kve_worker *w, const struct kve_work *j, kvw_err err, const char *text)
{
    kve_work_speak(w, j);
    cJSON *obj = kve_worker_event(w, "prefilled");
    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    cJSON_AddNumberToObject(obj, "kv_free", w->kv.free_count);
    if (err == KVW_OK) {
        cJSON_AddNumberToObject(obj, "tokens", j->r.count);
        cJSON_AddNumberToObject(obj, "cached", j->p.cached);
        cJSON_AddNumberToObject(obj, "start_us", (double)(j->p.start_ns / 1000));
        cJSON_AddNumberToObject(obj, "end_us", (double)(j->p.end_ns / 1000));
        add_times(obj, "computed_us", j->p.computed_ns, w->mc->layers);
        if (sends(j))
            add_transfer(w, obj, &j->x);
    }
    kve_worker_say(w, obj);
    kve_work_speak(w, NULL);
}

/* The transfer's own end explains more than the forward pass that it stopped. */
kvw_err kve_prompt_outcome(const struct kve_worker *w, const struct kve_work *j, const char **text)
{
    if (j->failed == KVW_E_CANCELED && (j->canceled || w->canceled)) {
        *text = "the request was canceled";
        return j->failed;
    }
    if (j->x.err != KVW_OK && (j->failed == KVW_OK || j->failed == KVW_E_CANCELED)) {
        *text = j->x.text;
        return j->x.err;
    }
    *text = j->failed == KVW_OK ? "" : kvw_strerror(j->failed);
    return j->failed;
}
