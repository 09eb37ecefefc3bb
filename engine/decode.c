/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.c - offer blocks, let the KV land in them, then write the answer token by token.
 */
#include <stdio.h>

#include "../kvwire/le.h"
#include "clock.h"
#include "tok.h"
#include "worker.h"

struct answer {
    uint32_t tokens; /* said so far, the first included */
    uint64_t first_ns, end_ns;
    const char *reason; /* "stop" or "length" */
};

static bool on_cancel(void *arg)
{
    return kve_worker_canceled(arg);
}

static bool is_end(const struct kve_worker *w, const struct kve_request *r, uint32_t token)
{
    return !r->ignore_end && kve_tok_is_end(w->tok, token);
}

/* token is the first of the answer; seq holds the prompt's KV. */
static kvw_err generate(struct kve_worker *w, const struct kve_request *r, struct kve_seq *seq,
                        uint32_t token, struct answer *a)
{
    const struct kve_hooks hooks = {.arg = w, .cancel = on_cancel};
    struct kve_sampler *sampler;
    kvw_err err = kve_sampler_open(&sampler, &r->sample, w->mc->vocab);

    if (err != KVW_OK)
        return err;
    a->first_ns = kve_now_ns();
    for (;;) {
        cJSON *obj = kve_worker_event(w, "token");

        a->tokens++;
        cJSON_AddNumberToObject(obj, "token", token);
        kve_worker_say(w, obj);
        a->reason = is_end(w, r, token) ? "stop" : "length";
        if (is_end(w, r, token) || a->tokens == r->max_tokens)
            break;
        if ((err = kve_decode(w->run, &w->kv, seq, token, &hooks, w->logits)) != KVW_OK)
            break;
        token = kve_sample(sampler, w->logits, seq->tokens);
    }
    a->end_ns = kve_now_ns();
    kve_sampler_close(sampler);
    return err;
}

static void say_finished(struct kve_worker *w, const struct answer *a, const struct kve_xfer *x,
                         kvw_err err, const char *text)
{
    cJSON *obj = kve_worker_event(w, "finished");

    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    if (err == KVW_OK) {
        cJSON_AddStringToObject(obj, "reason", a->reason);
        cJSON_AddNumberToObject(obj, "tokens", a->tokens);
        cJSON_AddNumberToObject(obj, "first_us", (double)(a->first_ns / 1000));
        cJSON_AddNumberToObject(obj, "end_us", (double)(a->end_ns / 1000));
        if (x != NULL) {
            cJSON *landed = cJSON_AddArrayToObject(obj, "landed_us");

            for (uint32_t l = 0; l < w->mc->layers; ++l)
                cJSON_AddItemToArray(landed, cJSON_CreateNumber((double)(x->layer_ns[l] / 1000)));
            cJSON_AddNumberToObject(obj, "kv_bytes", (double)x->raw_bytes);
            cJSON_AddNumberToObject(obj, "transfer_us", (double)(x->done_ns / 1000));
        }
    }
    kve_worker_say(w, obj);
}

/* Lend blocks, wait for the KV. On KVW_OK *token is the first of the answer. */
static kvw_err receive(struct kve_worker *w, const struct kve_request *r, struct kve_seq *seq,
                       struct kve_xfer *x, uint32_t *token, char *why)
{
    const uint64_t until_ns = kve_now_ns() + r->timeout_ns;
    const uint32_t block_tokens = w->kv.pool.block_tokens;
    const struct kvw_blocks blocks = {
        .ids = seq->blocks,
        .count = (r->count + block_tokens - 1) / block_tokens,
        .tokens = r->count,
    };
    const struct kvw_terms terms = {.lease_ns = w->cfg->lease_ns,
                                    .deadline_ns = until_ns,
                                    .budget = r->budget,
                                    .exact_first = (uint8_t)r->exact_first,
                                    .exact_last = (uint16_t)r->exact_last};
    kvw_err err = kve_link_offer(w->link, x, &blocks, &terms);

    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "offer: %s", kvw_strerror(err));
        return err;
    }
    kve_worker_wait_xfer(w, x, until_ns);
    if (x->err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "%s", x->text);
        return x->err;
    }
    *token = x->note_bytes == 4 ? kvw_load_le32(x->note) : UINT32_MAX;
    if (*token >= w->mc->vocab) {
        snprintf(why, KVE_WHY_BYTES, "the prefill's first token %u (%u bytes of note) is none",
                 *token, x->note_bytes);
        return KVW_E_PROTOCOL;
    }
    seq->tokens = r->count;
    return KVW_OK;
}

void kve_serve_decode(struct kve_worker *w, const struct kve_request *r)
{
    struct kve_seq seq = {0};
    struct kve_xfer x = {.id = r->id};
    struct answer a = {0};
    char why[KVE_WHY_BYTES] = "";
    uint32_t token = 0;
    kvw_err err = kve_worker_link_ready(w, why);

    if (err == KVW_OK)
        err = kve_worker_seq_open(w, &seq, r->count + r->max_tokens, why);
    if (err == KVW_OK) {
        err = receive(w, r, &seq, &x, &token, why);
        if (err == KVW_OK)
            err = generate(w, r, &seq, token, &a);
        kve_worker_seq_close(w, &seq); /* receive() returns after the transfer's end only */
    }
    if (err != KVW_OK && why[0] == '\0')
        snprintf(why, sizeof(why), "%s",
                 w->canceled ? "the request was canceled" : kvw_strerror(err));
    say_finished(w, &a, &x, err, err == KVW_OK ? "" : why);
}

void kve_serve_local(struct kve_worker *w, const struct kve_request *r)
{
    struct kve_prefilled p = {0};
    struct kve_seq seq = {0};
    struct answer a = {0};
    char why[KVE_WHY_BYTES] = "";
    kvw_err err = kve_worker_seq_open(w, &seq, r->count + r->max_tokens, why);

    if (err == KVW_OK) {
        err = kve_prefill_run(w, r, &seq, NULL, &p);
        if (err == KVW_OK) {
            kve_prefill_say(w, r, &p, NULL, KVW_OK, "");
            err = generate(w, r, &seq, p.first_token, &a);
        }
        kve_worker_seq_close(w, &seq);
    }
    if (err != KVW_OK && why[0] == '\0')
        snprintf(why, sizeof(why), "%s",
                 w->canceled ? "the request was canceled" : kvw_strerror(err));
    say_finished(w, &a, NULL, err, err == KVW_OK ? "" : why);
}
