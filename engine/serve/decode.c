/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.c - a worker's requests, side by side: blocks are offered, the KV lands in them or is
 * computed here, then the answer is written token by token. All answers get a token each from one
 * pass; between two passes a piece of the prompt at hand is computed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "../text/tok.h"
#include "session.h"
#include "work.h"

#define TAKE_BY_NS (5 * KVE_S) /* as prefill.c waits for the offer */

static bool is_end(const struct kve_worker *w, const struct kve_request *r, uint32_t token)
{
    return !r->ignore_end && kve_tok_is_end(w->tok, token);
}

/* Say the token; true: it was the last one. */
static bool say_token(struct kve_worker *w, const struct kve_request *r, struct kve_answer *a,
                      const struct kve_first *t)
{
    cJSON *obj = kve_worker_event(w, "token");

    a->tokens++;
    cJSON_AddNumberToObject(obj, "token", t->token);
    if (t->count > 0) {
        cJSON *list = cJSON_AddArrayToObject(obj, "logprobs");

        for (uint32_t i = 0; i < t->count; ++i) {
            cJSON_AddItemToArray(list, cJSON_CreateNumber(t->logprobs[i].id));
            cJSON_AddItemToArray(list, cJSON_CreateNumber((double)t->logprobs[i].logprob));
        }
    }
    kve_worker_say(w, obj);
    a->reason = is_end(w, r, t->token) ? "stop" : "length";
    return is_end(w, r, t->token) || a->tokens == r->max_tokens;
}

static void say_finished(struct kve_worker *w, const struct kve_answer *a, const struct kve_xfer *x,
                         kvw_err err, const char *text)
{
    cJSON *obj = kve_worker_event(w, "finished");

    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    cJSON_AddNumberToObject(obj, "kv_free", w->kv.free_count);
    if (err == KVW_OK) {
        cJSON_AddStringToObject(obj, "reason", a->reason);
        cJSON_AddNumberToObject(obj, "tokens", a->tokens);
        cJSON_AddNumberToObject(obj, "first_us", (double)(a->first_ns / 1000));
        cJSON_AddNumberToObject(obj, "end_us", (double)(a->end_ns / 1000));
        if (a->ahead_ns != 0)
            cJSON_AddNumberToObject(obj, "ahead_us", (double)(a->ahead_ns / 1000));
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

/* ---- begin and end ---- */

struct kve_decodes {
    struct kve_worker *w;
    struct kve_work jobs[KVE_SEQUENCES_MAX];
};

_Static_assert(KVE_SEQUENCES_MAX <= KVE_BATCH_MAX, "all answers fit into one pass");

kvw_err kve_decodes_open(struct kve_worker *w)
{
    w->decodes = calloc(1, sizeof(*w->decodes));
    if (w->decodes == NULL)
        return KVW_E_NOMEM;
    w->decodes->w = w;
    return KVW_OK;
}

void kve_decodes_close(struct kve_worker *w)
{
    free(w->decodes);
    w->decodes = NULL;
}

/* Its blocks go back; the last word. No transfer is under way. */
static void end_job(struct kve_worker *w, struct kve_work *j, kvw_err err)
{
    kve_sampler_close(j->sampler);
    if (j->seq.blocks != NULL)
        kve_worker_seq_close(w, &j->seq);
    if (err != KVW_OK && j->why[0] == '\0')
        snprintf(j->why, sizeof(j->why), "%s",
                 j->canceled || w->canceled ? "the request was canceled" : kvw_strerror(err));
    if (j->part == KVE_PART_PREFILL) {
        kve_prompt_say(w, j, err, err == KVW_OK ? "" : j->why);
    } else {
        kve_work_speak(w, j);
        say_finished(w, &j->a, j->part == KVE_PART_BOTH ? NULL : &j->x, err,
                     err == KVW_OK ? "" : j->why);
        kve_work_speak(w, NULL);
    }
    if (err == KVW_OK && j->part != KVE_PART_DECODE)
        kve_session_store(w, &j->r);
    kve_request_free(&j->r);
    j->state = KVE_WORK_FREE;
}

/* Lend blocks for the prompt, and have those of the answer. */
static kvw_err lend(struct kve_worker *w, struct kve_work *j)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens;
    kvw_err err = kve_worker_link_ready(w, j->why);

    if (err == KVW_OK)
        err = kve_worker_seq_open(w, &j->seq, &j->r, j->r.max_tokens, j->why);
    if (err != KVW_OK)
        return err;
    const struct kve_blocks blocks = {
        .ids = j->seq.blocks,
        .count = (j->r.count + block_tokens - 1) / block_tokens,
        .tokens = j->r.count,
        .there = j->seq.tokens,
    };
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms),
        .budget = j->r.budget,
        .exact_first = j->r.exact_first,
        .exact_last = j->r.exact_last,
        .take_by_ns = TAKE_BY_NS,
        .lease_ns = w->cfg->lease_ns,
        .deadline_ns = j->until_ns,
    };
    err = kve_link_offer(w->link, &j->x, &blocks, &terms);
    if (err != KVW_OK)
        snprintf(j->why, sizeof(j->why), "offer: %s", kvw_strerror(err));
    return err;
}

static struct kve_work *find_job(struct kve_decodes *d, uint64_t id)
{
    for (uint32_t i = 0; i < KVE_SEQUENCES_MAX; ++i)
        if (d->jobs[i].state != KVE_WORK_FREE && d->jobs[i].r.id == id)
            return &d->jobs[i];
    return NULL;
}

bool kve_decodes_has(const struct kve_worker *w, uint64_t id)
{
    return find_job(w->decodes, id) != NULL;
}

/* One prompt at a time, many answers; where there is no link, one request. */
static struct kve_work *place_for(struct kve_worker *w, enum kve_request_part part)
{
    struct kve_work *at = NULL;

    for (uint32_t i = KVE_SEQUENCES_MAX; i-- > 0;) {
        struct kve_work *j = &w->decodes->jobs[i];

        if (j->state == KVE_WORK_FREE)
            at = j;
        else if (w->link == NULL || (part != KVE_PART_DECODE && (j->state == KVE_WORK_COMPUTING ||
                                                                 j->state == KVE_WORK_SENDING)))
            return NULL;
    }
    return at;
}

bool kve_decodes_begin(struct kve_worker *w, struct kve_request *r)
{
    const enum kve_request_part part = kve_worker_part(w, r->part);
    struct kve_work *j = place_for(w, part);

    if (j == NULL || kve_decodes_has(w, r->id))
        return false;
    *j = (struct kve_work){.state =
                               part == KVE_PART_DECODE ? KVE_WORK_RECEIVING : KVE_WORK_COMPUTING,
                           .part = part,
                           .r = *r,
                           .x = {.id = r->id},
                           .start_ns = kve_now_ns()};
    *r = (struct kve_request){0};
    memcpy(j->x.with, j->r.with, sizeof(j->x.with));
    j->until_ns = j->start_ns + j->r.timeout_ns;
    kvw_err err = kve_sampler_open(&j->sampler, &j->r.sample, w->mc->vocab);
    if (err == KVW_OK)
        err = part == KVE_PART_DECODE ? lend(w, j) : kve_prompt_begin(w, j);
    if (err == KVW_OK)
        return true;
    kve_work_speak(w, j);
    kve_worker_decline(w, err, j->why[0] != '\0' ? j->why : kvw_strerror(err));
    end_job(w, j, err);
    return true;
}

void kve_decodes_cancel(struct kve_worker *w, uint64_t id)
{
    struct kve_work *j = find_job(w->decodes, id);

    if (j != NULL)
        j->canceled = true;
}

/* The first token out of the note; what follows it may be computed. False: there is none. */
static bool take_first(struct kve_worker *w, struct kve_work *j)
{
    const struct kve_xfer *x = &j->x;

    if (kve_first_get(&j->first, x->note, x->note_bytes, j->r.logprobs, w->mc->vocab) != KVW_OK)
        return false;
    j->last = j->first;
    j->seq.tokens = j->r.count;
    kve_sampler_prompt(j->sampler, j->r.tokens, j->r.count);
    kve_sampler_took(j->sampler, j->last.token);
    return true;
}

/* Say a token of the answer; the last one is its end. */
static void say_of(struct kve_worker *w, struct kve_work *j, const struct kve_first *t)
{
    kve_work_speak(w, j);
    const bool last = say_token(w, &j->r, &j->a, t);
    kve_work_speak(w, NULL);
    j->a.end_ns = kve_now_ns();
    if (last)
        end_job(w, j, KVW_OK);
}

/* The KV has landed, or never will. */
static void received(struct kve_worker *w, struct kve_work *j)
{
    const struct kve_xfer *x = &j->x;
    const bool ahead = j->state == KVE_WORK_AHEAD;

    if (x->err != KVW_OK) {
        snprintf(j->why, sizeof(j->why), "%s", x->text);
        end_job(w, j, x->err);
    } else if (!ahead && !take_first(w, j)) {
        snprintf(j->why, sizeof(j->why), "the prefill's note of %u bytes has no first token",
                 x->note_bytes);
        end_job(w, j, KVW_E_PROTOCOL);
    } else if (j->failed != KVW_OK) {
        end_job(w, j, j->failed);
    } else {
        if (j->r.budget == KVW_BUDGET_EXACT) /* what a lossy codec left isn't what others expect */
            kve_worker_seq_keep(w, &j->seq, &j->r);
        j->state = KVE_WORK_WRITING;
        j->a.first_ns = kve_now_ns();
        say_of(w, j, &j->first);
        if (ahead && j->state == KVE_WORK_WRITING)
            say_of(w, j, &j->last);
    }
}

/*
 * Whether its first step may begin although its transfer goes on: all layers have come and are
 * being decoded on the GPU, the first token is known and isn't the last. The step waits on the
 * stream for each layer; what comes out is said when the transfer has ended well.
 */
static bool can_go_ahead(struct kve_worker *w, struct kve_work *j)
{
    const struct kve_xfer *x = &j->x;

    if (kve_run_stream(w->run) == NULL || x->done || j->aborted || !x->committed ||
        x->layers_came < w->mc->layers || j->r.max_tokens < 2 ||
        kve_first_get(&j->first, x->note, x->note_bytes, j->r.logprobs, w->mc->vocab) != KVW_OK ||
        is_end(w, &j->r, j->first.token) || !take_first(w, j))
        return false;
    j->state = KVE_WORK_AHEAD;
    j->a.ahead_ns = kve_now_ns();
    return true;
}

/* The prompt's K and V are over there, or nobody wants them. */
static void sent(struct kve_worker *w, struct kve_work *j)
{
    const char *text;
    const kvw_err err = kve_prompt_outcome(w, j, &text);

    snprintf(j->why, sizeof(j->why), "%s", text);
    end_job(w, j, err);
}

static void look_at_transfer(struct kve_worker *w, struct kve_work *j)
{
    const uint64_t now = kve_now_ns();

    if (kve_link_done(w->link, &j->x)) {
        if (j->state == KVE_WORK_SENDING)
            sent(w, j);
        else
            received(w, j);
    } else if (!j->aborted && (j->canceled || w->canceled || now >= j->until_ns)) {
        kve_link_abort(w->link, &j->x,
                       now >= j->until_ns ? "the request's time ran out"
                                          : "the request was canceled");
        j->aborted = true;
    }
}

/* The answers of one pass. */
struct turn {
    struct kve_worker *w;
    struct kve_work *jobs[KVE_SEQUENCES_MAX];
    struct kve_seq *seqs[KVE_SEQUENCES_MAX];
    uint32_t tokens[KVE_SEQUENCES_MAX];
    uint32_t count;
};

/* On a GPU, before a layer reads K and V: behind what is still being decoded of those that are
 * ahead. Of one whose transfer has just failed anything may be read: its token is never said. */
static kvw_err on_wait(void *arg, uint32_t layer)
{
    const struct turn *t = arg;

    for (uint32_t i = 0; i < t->count; ++i) {
        struct kve_work *j = t->jobs[i];
        const kvw_err err =
            j->state == KVE_WORK_AHEAD ? kve_link_layer_wait(t->w->link, &j->x, layer) : KVW_OK;

        if (err == KVW_E_DEVICE || err == KVW_E_AGAIN)
            return err;
    }
    return KVW_OK;
}

/* Between two layers: a new request's blocks are lent at once, and a cancel is heard. */
static bool on_layer(void *arg)
{
    const struct turn *t = arg;
    bool wanted = false;

    t->w->listen(t->w);
    for (uint32_t i = 0; i < t->count; ++i)
        wanted |= !t->jobs[i]->canceled;
    return !wanted || t->w->canceled || *t->w->channel.stop != 0;
}

/* Those whose next token is wanted; those that have no time or no reader any more end. */
static void gather(struct turn *t)
{
    struct kve_decodes *d = t->w->decodes;
    const uint64_t now = kve_now_ns();

    for (uint32_t i = 0; i < KVE_SEQUENCES_MAX; ++i) {
        struct kve_work *j = &d->jobs[i];

        if (j->state != KVE_WORK_WRITING &&
            (j->state != KVE_WORK_RECEIVING || !can_go_ahead(t->w, j)))
            continue;
        if (j->state == KVE_WORK_WRITING && (j->canceled || now >= j->until_ns)) {
            if (!j->canceled)
                snprintf(j->why, sizeof(j->why), "the request's time ran out");
            end_job(t->w, j, KVW_E_CANCELED);
            continue;
        }
        t->jobs[t->count] = j;
        t->seqs[t->count] = &j->seq;
        t->tokens[t->count++] = j->last.token;
    }
}

static void say_next(struct kve_worker *w, struct kve_work *j, const float *logits)
{
    kve_work_draw(w, j, logits, j->seq.tokens, &j->last);
    if (j->state == KVE_WORK_WRITING)
        say_of(w, j, &j->last);
}

/* No token came of the pass. An answer that was ahead ends by its transfer, which is still open. */
static void fail(struct kve_worker *w, struct kve_work *j, kvw_err err)
{
    if (j->state == KVE_WORK_WRITING) {
        end_job(w, j, err);
        return;
    }
    j->failed = err;
    if (!j->aborted)
        kve_link_abort(w->link, &j->x, "the step after the first token failed");
    j->aborted = true;
}

static void write_tokens(struct turn *t)
{
    struct kve_worker *w = t->w;
    const struct kve_hooks hooks = {.arg = t, .cancel = on_layer, .layer_wait = on_wait};
    const struct kve_batch batch = {
        .seqs = t->seqs, .tokens = t->tokens, .count = t->count, .logits = w->logits};
    const kvw_err err = kve_decode_batch(w->run, &w->kv, &batch, &hooks);

    for (uint32_t i = 0; i < t->count; ++i) {
        if (err != KVW_OK)
            fail(w, t->jobs[i], err);
        else
            say_next(w, t->jobs[i], w->logits + (size_t)i * w->mc->vocab);
    }
}

/* ---- a prompt ---- */

/* It is computed, all of it or as far as it goes. */
static void end_compute(struct kve_worker *w, struct kve_work *j, kvw_err err)
{
    if (j->part == KVE_PART_PREFILL) {
        if (err != KVW_OK)
            kve_link_abort(w->link, &j->x, "the prefill did not finish");
        j->aborted = err != KVW_OK;
        j->failed = err;
        j->state = KVE_WORK_SENDING; /* its blocks are read until the transfer ends */
    } else if (err != KVW_OK) {
        end_job(w, j, err);
    } else {
        kve_prompt_say(w, j, KVW_OK, "");
        j->last = j->first;
        j->state = KVE_WORK_WRITING;
        j->a.first_ns = kve_now_ns();
        say_of(w, j, &j->first);
    }
}

/* A piece of the prompt at hand. beside: of answers that wait for its end. */
static bool compute(struct kve_worker *w)
{
    struct kve_work *j = NULL;
    bool beside = false;

    for (uint32_t i = 0; i < KVE_SEQUENCES_MAX; ++i) {
        struct kve_work *at = &w->decodes->jobs[i];

        if (at->state == KVE_WORK_COMPUTING)
            j = at;
        beside |= at->state >= KVE_WORK_RECEIVING;
    }
    if (j == NULL)
        return false;
    kvw_err err = KVW_E_CANCELED;
    if (kve_now_ns() >= j->until_ns)
        snprintf(j->why, sizeof(j->why), "the request's time ran out");
    else if (!j->canceled)
        err = kve_prompt_piece(w, j, beside);
    if (err != KVW_E_AGAIN)
        end_compute(w, j, err);
    return true;
}

bool kve_decodes_turn(struct kve_worker *w)
{
    struct kve_decodes *d = w->decodes;
    struct turn t = {.w = w};

    for (uint32_t i = 0; i < KVE_SEQUENCES_MAX; ++i)
        if (d->jobs[i].state == KVE_WORK_RECEIVING || d->jobs[i].state == KVE_WORK_AHEAD ||
            d->jobs[i].state == KVE_WORK_SENDING)
            look_at_transfer(w, &d->jobs[i]);
    gather(&t);
    if (t.count > 0)
        write_tokens(&t);
    return compute(w) || t.count > 0;
}

static bool has_transfer(const struct kve_work *j)
{
    return j->state != KVE_WORK_WRITING && j->part != KVE_PART_BOTH;
}

void kve_decodes_end(struct kve_worker *w)
{
    struct kve_decodes *d = w->decodes;

    for (uint32_t i = 0; i < KVE_SEQUENCES_MAX; ++i) {
        struct kve_work *j = &d->jobs[i];

        if (j->state == KVE_WORK_FREE)
            continue;
        j->canceled = true;
        if (has_transfer(j) && !j->aborted)
            kve_link_abort(w->link, &j->x, "the router is gone");
        while (has_transfer(j) && !kve_link_done(w->link, &j->x))
            kve_link_wait(w->link, &j->x, kve_now_ns() + 100 * KVE_MS);
        end_job(w, j, KVW_E_CANCELED);
    }
}
