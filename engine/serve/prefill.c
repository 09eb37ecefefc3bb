/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefill.c - run a prompt and hand each layer to the link the moment it is written, while the next
 * one is computed.
 */
#include <stdio.h>
#include <string.h>

#include "../../compress/compress.h"
#include "clock.h"
#include "job.h"

#define OFFER_WAIT_NS                                                                              \
    (5 * KVE_S) /* both sides get the request at once: an offer is milliseconds away */

struct hook {
    struct kve_worker *w;
    const struct kve_request *r;
    struct kve_xfer *x;
    struct kve_prefilled *p;
};

static void on_layer(void *arg, uint32_t layer, uint32_t tokens)
{
    struct hook *h = arg;

    if (tokens == h->r->count)
        h->p->computed_ns[layer] = kve_now_ns();
    if (h->x != NULL && !h->r->after_prefill)
        kve_link_push(h->w->link, h->x, layer, tokens);
    if (layer == h->w->mc->layers - 1) {
        cJSON *obj = kve_worker_event(h->w, "progress");

        cJSON_AddNumberToObject(obj, "tokens", tokens);
        kve_worker_say(h->w, obj);
    }
}

static bool on_cancel(void *arg)
{
    struct hook *h = arg;

    /* A transfer that is over before its commit has failed: computing on would serve nobody. */
    return kve_worker_canceled(h->w) || (h->x != NULL && kve_link_done(h->w->link, h->x));
}

kvw_err kve_prefill_run(struct kve_worker *w, const struct kve_request *r, struct kve_seq *seq,
                        struct kve_xfer *x, struct kve_prefilled *p)
{
    struct hook h = {.w = w, .r = r, .x = x, .p = p};
    const struct kve_hooks hooks = {.arg = &h, .layer_written = on_layer, .cancel = on_cancel};
    struct kve_sampler *sampler;
    kvw_err err = kve_sampler_open(&sampler, &r->sample, w->mc->vocab);

    if (err != KVW_OK)
        return err;
    kve_sampler_prompt(sampler, r->tokens, r->count);
    p->start_ns = kve_now_ns();
    p->cached = seq->tokens;
    err = kve_prefill(w->run, &w->kv, seq, r->tokens + p->cached, r->count - p->cached, &hooks,
                      w->logits);
    if (err == KVW_OK) {
        kve_worker_seq_keep(w, seq, r);
        p->first.token = kve_sample(sampler, w->logits, r->count);
        p->first.count = r->logprobs;
        if (r->logprobs > 0)
            kve_logprobs(w->logits, w->mc->vocab, p->first.token, r->logprobs - 1,
                         p->first.logprobs);
        p->end_ns = kve_now_ns();
    }
    kve_sampler_close(sampler);
    return err;
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

void kve_prefill_say(struct kve_worker *w, const struct kve_request *r,
                     const struct kve_prefilled *p, const struct kve_xfer *x, kvw_err err,
                     const char *text)
{
    cJSON *obj = kve_worker_event(w, "prefilled");

    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    cJSON_AddNumberToObject(obj, "kv_free", w->kv.free_count);
    if (err == KVW_OK) {
        cJSON_AddNumberToObject(obj, "tokens", r->count);
        cJSON_AddNumberToObject(obj, "cached", p->cached);
        cJSON_AddNumberToObject(obj, "start_us", (double)(p->start_ns / 1000));
        cJSON_AddNumberToObject(obj, "end_us", (double)(p->end_ns / 1000));
        add_times(obj, "computed_us", p->computed_ns, w->mc->layers);
        if (x != NULL) {
            add_times(obj, "sent_us", x->layer_ns, w->mc->layers);
            cJSON_AddNumberToObject(obj, "kv_bytes", (double)x->raw_bytes);
            cJSON_AddNumberToObject(obj, "wire_bytes", (double)x->wire_bytes);
            cJSON_AddNumberToObject(obj, "chunks", x->chunks);
            cJSON_AddNumberToObject(obj, "mbps", kve_link_mbps(w->link, x));
            add_codecs(obj, x);
        }
    }
    kve_worker_say(w, obj);
}

/* The transfer's own end explains more than the forward pass that it stopped. */
static kvw_err outcome(struct kve_worker *w, struct kve_xfer *x, kvw_err err, const char **text)
{
    if (err == KVW_E_CANCELED && w->canceled) {
        *text = "the request was canceled";
        return err;
    }
    if (x->err != KVW_OK && (err == KVW_OK || err == KVW_E_CANCELED)) {
        *text = x->text;
        return x->err;
    }
    *text = kvw_strerror(err);
    return err;
}

void kve_serve_prefill(struct kve_worker *w, const struct kve_request *r)
{
    const uint64_t start_ns = kve_now_ns();
    struct kve_prefilled p = {0};
    struct kve_seq seq = {0};
    struct kve_xfer x = {.id = r->id};
    memcpy(x.with, r->with, sizeof(x.with));
    char why[KVE_WHY_BYTES] = "";
    const char *text = why;
    kvw_err err = kve_worker_link_ready(w, why);

    if (err == KVW_OK)
        err = kve_worker_seq_open(w, &seq, r, 0, why);
    if (err == KVW_OK) {
        const struct kve_blocks blocks = {
            .ids = seq.blocks, .count = seq.block_count, .tokens = r->count};

        err = kve_link_stream(w->link, &x, &blocks, start_ns + OFFER_WAIT_NS,
                              start_ns + r->timeout_ns);
        if (err != KVW_OK)
            snprintf(why, sizeof(why), "stream: %s", kvw_strerror(err));
    }
    if (err != KVW_OK) {
        if (seq.blocks != NULL)
            kve_worker_seq_close(w, &seq);
        kve_worker_decline(w, err, why);
        kve_prefill_say(w, r, &p, NULL, err, why[0] != '\0' ? why : kvw_strerror(err));
        return;
    }

    err = kve_prefill_run(w, r, &seq, &x, &p);
    if (err == KVW_OK) {
        uint8_t note[KVE_FIRST_BYTES_MAX];

        for (uint32_t l = 0; r->after_prefill && l < w->mc->layers; ++l)
            kve_link_push(w->link, &x, l, r->count);
        kve_link_commit(w->link, &x, note, (uint32_t)kve_first_put(note, &p.first));
    } else {
        kve_link_abort(w->link, &x, "the prefill did not finish");
    }
    kve_worker_wait_xfer(w, &x, start_ns + r->timeout_ns);
    kve_worker_seq_close(w, &seq); /* the stream is over: nobody reads the blocks any more */
    err = outcome(w, &x, err, &text);
    kve_prefill_say(w, r, &p, &x, err, err == KVW_OK ? "" : text);
}
