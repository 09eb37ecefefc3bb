/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch.c - a request's life: handed out to its two workers under one transfer id, what they say
 * gathered in its report, called off in both when one fails, time runs out or the reader leaves.
 */
#include "dispatch.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "../gguf/gguf.h"
#include "clock.h"

#define END_WAIT_NS    (3 * KVE_S)  /* for the other worker after one has failed */
#define READY_EXTRA_NS (30 * KVE_S) /* loading a model, beside waiting for the peer */

static bool stopped(const struct kve_dispatch *d)
{
    return *d->cfg->stop != 0;
}

/* The first reason is the one that explains; what follows from it is dropped. */
static void reason(const struct kve_dispatch *d, bool *failed, char why[KVE_WHY_BYTES],
                   const char *who, const char *text)
{
    if (stopped(d))
        snprintf(why, KVE_WHY_BYTES, "interrupted");
    else if (!*failed)
        snprintf(why, KVE_WHY_BYTES, "%.16s: %.290s", who, text);
    *failed = true;
}

static void fail(struct kve_dispatch *d, struct kve_ticket *t, const char *who, const char *text)
{
    reason(d, &t->failed, t->why, who, text);
}

/* All is to end: no request goes on. */
static void fail_all(struct kve_dispatch *d, const char *who, const char *text)
{
    reason(d, &d->failed, d->why, who, text);
    for (struct kve_ticket *t = d->tickets; t != NULL; t = t->next)
        fail(d, t, who, text);
}

/* A worker is lost: what it has fails, and it says no more of it. */
static void lose(struct kve_dispatch *d, struct kve_spawned *w, const char *text)
{
    bool none = false;

    reason(d, &none, w->why, w->name, text);
    reason(d, &d->failed, d->why, w->name, text);
    for (struct kve_ticket *t = d->tickets; t != NULL; t = t->next) {
        if (t->prefill != w && t->decode != w)
            continue;
        t->lost |= !t->failed;
        t->prefilled |= t->prefill == w;
        t->finished |= t->decode == w;
        fail(d, t, w->name, text);
    }
}

/* n more bytes of the answer; tell_text() says what came since from: a token's at once. */
static void add_text(struct kve_dispatch *d, struct kve_ticket *t, const char *at, size_t n)
{
    const kvw_err err = n > 0 ? kve_report_text(t->report, at, n) : KVW_OK;

    if (err != KVW_OK)
        fail(d, t, "router", kvw_strerror(err));
}

static void tell_text(struct kve_dispatch *d, struct kve_ticket *t, size_t from)
{
    const struct kve_listener *l = t->listener;
    const struct kve_report *rep = t->report;
    kvw_err err = KVW_OK;

    if (rep->text_bytes > from && l->text != NULL)
        err = l->text(l->arg, rep->text + from, rep->text_bytes - from);
    if (err != KVW_OK)
        fail(d, t, "router", kvw_strerror(err));
}

/* Of the last token: id, logprob, id, logprob .. */
static void take_logprobs(struct kve_report *rep, const cJSON *list)
{
    const cJSON *id = list != NULL ? list->child : NULL;
    struct kve_logprob *to;

    if (rep->logprobs_each == 0)
        return; /* and there is no memory for them */
    to = rep->logprobs + (size_t)(rep->id_count - 1) * rep->logprobs_each;
    for (uint32_t i = 0; i < rep->logprobs_each && id != NULL && id->next != NULL; ++i) {
        if (cJSON_IsNumber(id) && cJSON_IsNumber(id->next) && id->valuedouble >= 0 &&
            id->valuedouble <= UINT32_MAX)
            to[i] = (struct kve_logprob){(uint32_t)id->valuedouble, (float)id->next->valuedouble};
        id = id->next->next;
    }
}

static void take_token(struct kve_dispatch *d, struct kve_ticket *t, const cJSON *obj)
{
    const size_t from = t->report->text_bytes;
    char whole[KVE_UTF8_HOLD_BYTES];
    uint64_t token;

    if (!kve_json_u64(obj, "token", 0, UINT32_MAX, &token)) {
        fail(d, t, "decode", "a token event without a token");
        return;
    }
    if (kve_report_id(t->report, (uint32_t)token) != KVW_OK) {
        fail(d, t, "router", kvw_strerror(KVW_E_NOMEM));
        return;
    }
    take_logprobs(t->report, cJSON_GetObjectItemCaseSensitive(obj, "logprobs"));
    if (kve_tok_is_control(d->cfg->tok, (uint32_t)token))
        return;
    const struct kve_str piece = kve_tok_piece(d->cfg->tok, (uint32_t)token);
    for (uint64_t i = 0; i < piece.bytes; ++i)
        add_text(d, t, whole, kve_utf8_push(&t->hold, (unsigned char)piece.at[i], whole));
    tell_text(d, t, from);
}

/* No more tokens come: a character that was cut off is shown as such. */
static void end_text(struct kve_dispatch *d, struct kve_ticket *t)
{
    const size_t from = t->report->text_bytes;
    char whole[KVE_UTF8_HOLD_BYTES];

    add_text(d, t, whole, kve_utf8_flush(&t->hold, whole));
    tell_text(d, t, from);
}

static uint64_t get_number(const cJSON *obj, const char *key)
{
    uint64_t v = 0;

    return kve_json_u64(obj, key, 0, 1ull << 53, &v) ? v : 0;
}

static void get_layers(const cJSON *obj, const char *key, uint64_t *at, uint32_t *layers)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, key);
    const cJSON *item;
    uint32_t n = 0;

    cJSON_ArrayForEach(item, list)
    {
        if (n == KVW_LAYERS_MAX)
            break;
        at[n++] = cJSON_IsNumber(item) && item->valuedouble > 0 ? (uint64_t)item->valuedouble : 0;
    }
    if (n > *layers)
        *layers = n;
}

/* "l0 54, raw 6"; cut where it doesn't fit. */
static void get_codecs(const cJSON *obj, char *text, size_t bytes)
{
    const cJSON *item;
    size_t at = 0;

    text[0] = '\0';
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(obj, "codecs"))
    {
        const int n = snprintf(text + at, bytes - at, "%s%s %.0f", at > 0 ? ", " : "", item->string,
                               item->valuedouble);

        if (n < 0 || (size_t)n >= bytes - at)
            return;
        at += (size_t)n;
    }
}

static void take_prefilled(struct kve_ticket *t, const cJSON *obj)
{
    struct kve_report *rep = t->report;

    rep->start_us = get_number(obj, "start_us");
    rep->prefill_end_us = get_number(obj, "end_us");
    rep->cached_tokens = (uint32_t)get_number(obj, "cached");
    get_layers(obj, "computed_us", rep->computed_us, &rep->layers);
    rep->transferred = cJSON_HasObjectItem(obj, "sent_us");
    get_layers(obj, "sent_us", rep->sent_us, &rep->layers);
    rep->wire_bytes = get_number(obj, "wire_bytes");
    rep->chunks = (uint32_t)get_number(obj, "chunks");
    rep->link_mbps = (uint32_t)get_number(obj, "mbps");
    get_codecs(obj, rep->codecs, sizeof(rep->codecs));
    t->prefilled = true;
}

static void take_finished(struct kve_ticket *t, const cJSON *obj)
{
    struct kve_report *rep = t->report;

    rep->first_us = get_number(obj, "first_us");
    rep->end_us = get_number(obj, "end_us");
    rep->kv_bytes = get_number(obj, "kv_bytes");
    get_layers(obj, "landed_us", rep->landed_us, &rep->layers);
    snprintf(rep->finish_reason, sizeof(rep->finish_reason), "%s", kve_json_str(obj, "reason"));
    t->finished = true;
}

/* With whom it is linked: all, or those that it names. */
static uint64_t linked_with(const struct kve_dispatch *d, const cJSON *with)
{
    uint64_t mask = with == NULL ? UINT64_MAX : 0;
    const cJSON *item;

    cJSON_ArrayForEach(item, with)
    {
        const char *name = cJSON_GetStringValue(item);

        for (uint32_t i = 0; i < d->spawn.count; ++i)
            if (d->spawn.count <= 2 || (name != NULL && strcmp(d->spawn.at[i].name, name) == 0))
                mask |= 1ull << i;
    }
    return mask;
}

static void take_link(struct kve_dispatch *d, struct kve_spawned *w, const cJSON *obj)
{
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(obj, "err");

    w->up = strcmp(kve_json_str(obj, "state"), "up") == 0;
    w->linked = linked_with(d, cJSON_GetObjectItemCaseSensitive(obj, "with"));
    if (!w->up && cJSON_IsNumber(err) &&
        (err->valueint == KVW_E_VERSION || err->valueint == KVW_E_MISMATCH)) {
        w->stuck = d->spawn.count > 2;
        lose(d, w, kve_json_str(obj, "text")); /* waiting would not mend it */
    }
}

/* An event of a request under way. */
static void take_progress(struct kve_dispatch *d, struct kve_ticket *t, const struct kve_spawned *w,
                          const cJSON *obj)
{
    const struct kve_listener *l = t->listener;
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(obj, "err");
    const char *ev = kve_json_str(obj, "ev");

    if (strcmp(ev, "progress") == 0 && l->progress != NULL)
        l->progress(l->arg, (uint32_t)get_number(obj, "tokens"), t->report->prompt_tokens);
    else if (strcmp(ev, "token") == 0 && !t->failed)
        take_token(d, t, obj);
    else if (strcmp(ev, "prefilled") == 0)
        take_prefilled(t, obj);
    else if (strcmp(ev, "finished") == 0)
        take_finished(t, obj);
    if (strcmp(ev, "error") == 0 || (cJSON_IsNumber(err) && err->valueint != KVW_OK))
        fail(d, t, w->name, kve_json_str(obj, "text"));
}

static struct kve_ticket *ticket_of(const struct kve_dispatch *d, uint64_t id)
{
    struct kve_ticket *t = d->tickets;

    while (t != NULL && t->id != id)
        t = t->next;
    return t;
}

static void take(struct kve_dispatch *d, struct kve_spawned *w, const cJSON *obj)
{
    const char *ev = kve_json_str(obj, "ev");
    const uint64_t id = get_number(obj, "id");
    struct kve_ticket *t = id != 0 ? ticket_of(d, id) : NULL;

    kve_json_u64(obj, "kv_free", 0, UINT32_MAX, &w->kv_free);
    if (strcmp(ev, "loaded") == 0) {
        w->loaded = true;
        w->kv_blocks = w->kv_free = get_number(obj, "kv_blocks");
        w->block_tokens = get_number(obj, "block_tokens");
        w->layers = get_number(obj, "layers");
        w->token_bytes = get_number(obj, "token_bytes");
        w->pair_flops = get_number(obj, "pair_flops");
        w->weight_bytes = get_number(obj, "weight_bytes");
    } else if (strcmp(ev, "link") == 0) {
        take_link(d, w, obj);
    } else if (strcmp(ev, "fatal") == 0) {
        w->stuck = true; /* its end follows */
        lose(d, w, kve_json_str(obj, "text"));
    } else if (t != NULL) {
        take_progress(d, t, w, obj);
    }
}

static void read_worker(struct kve_dispatch *d, struct kve_spawned *w)
{
    char why[KVE_WHY_BYTES];
    kvw_err err;
    cJSON *obj;

    if (w->channel.fd < 0)
        return;
    while ((obj = kve_channel_read(&w->channel, &err)) != NULL) {
        take(d, w, obj);
        cJSON_Delete(obj);
    }
    if (err == KVW_E_AGAIN)
        return;
    if (!kve_spawn_ended(w, why))
        snprintf(why, sizeof(why), "the worker hung up");
    lose(d, w, why);
    ++w->lost;
    kve_channel_close(&w->channel);
}

static void read_workers(struct kve_dispatch *d)
{
    for (uint32_t i = 0; i < d->spawn.count; ++i)
        read_worker(d, &d->spawn.at[i]);
}

static void cancel(struct kve_spawned *w, uint64_t id)
{
    cJSON *obj;

    if (w == NULL || w->channel.fd < 0)
        return;
    obj = cJSON_CreateObject();
    cJSON_AddStringToObject(obj, "op", "cancel");
    cJSON_AddNumberToObject(obj, "id", (double)id);
    if (kve_channel_write(&w->channel, obj) != KVW_OK)
        kve_channel_close(&w->channel);
}

/* A request that has failed is taken back from both workers, once, and they may say their last. */
static bool called_off(struct kve_dispatch *d, struct kve_ticket *t, uint64_t now)
{
    const bool open[2] = {
        t->prefill != NULL && t->prefill->channel.fd >= 0 && !t->prefilled,
        t->decode->channel.fd >= 0 && !t->finished,
    };

    if (t->end_by_ns == 0) {
        t->end_by_ns = now + END_WAIT_NS;
        cancel(t->prefill, t->id);
        cancel(t->decode, t->id);
    }
    if ((open[0] || open[1]) && now < t->end_by_ns && !stopped(d))
        return false;
    if (t->prefill != NULL)
        t->prefill->stuck |= !t->prefilled;
    t->decode->stuck |= !t->finished;
    return true;
}

/* The tickets whose requests have ended, and those whose time is over. */
static void advance(struct kve_dispatch *d)
{
    struct kve_ticket **at = &d->tickets, *t;

    while ((t = *at) != NULL) {
        const uint64_t now = kve_now_ns();

        if (!t->failed && now > t->until_ns && !(t->prefilled && t->finished))
            fail(d, t, "router", "the request's time ran out");
        if (t->failed ? !called_off(d, t, now) : !(t->prefilled && t->finished)) {
            at = &t->next;
            continue;
        }
        end_text(d, t);
        *at = t->next;
        t->ended = true;
        if (t->listener->ended != NULL)
            t->listener->ended(t->listener->arg);
        at = &d->tickets; /* the listener may have begun another */
    }
}

void kve_dispatch_step(struct kve_dispatch *d)
{
    read_workers(d);
    advance(d);
}

uint64_t kve_dispatch_due_ns(const struct kve_dispatch *d)
{
    uint64_t due = UINT64_MAX;

    for (const struct kve_ticket *t = d->tickets; t != NULL; t = t->next) {
        const uint64_t at = t->end_by_ns != 0 ? t->end_by_ns : t->failed ? 0 : t->until_ns;

        due = at < due ? at : due;
    }
    return due;
}

/* Wait for input from a worker or for the listener's descriptor, at most until until_ns. */
static void pump(struct kve_dispatch *d, uint64_t until_ns)
{
    const struct kve_listener *l = &d->cfg->listener;
    struct pollfd p[KVE_WORKERS_MAX + 1];
    const uint32_t n = d->spawn.count;
    const uint64_t now = kve_now_ns();
    const uint64_t left_ms = until_ns > now ? (until_ns - now) / KVE_MS + 1 : 0;
    char why[KVE_WHY_BYTES] = "";

    for (uint32_t i = 0; i < n; ++i)
        p[i] = (struct pollfd){.fd = d->spawn.at[i].channel.fd, .events = POLLIN};
    p[n] = (struct pollfd){.fd = -1};
    if (l->wait_for != NULL)
        l->wait_for(l->arg, &p[n]);
    poll(p, n + 1, left_ms < 200 ? (int)left_ms : 200); /* a signal must not wait long */
    read_workers(d);
    if (l->step != NULL && !l->step(l->arg, why))
        fail_all(d, "router", why);
    if (stopped(d))
        fail_all(d, "router", "interrupted");
}

kvw_err kve_dispatch_start(struct kve_dispatch *d, const struct kve_dispatch_config *cfg)
{
    *d = (struct kve_dispatch){.cfg = cfg};
    return kve_spawn_start(&d->spawn, &cfg->spawn, d->why);
}

void kve_dispatch_stop(struct kve_dispatch *d)
{
    kve_spawn_stop(&d->spawn);
}

bool kve_dispatch_alive(const struct kve_spawned *w)
{
    return w->channel.fd >= 0 && !w->stuck;
}

bool kve_dispatch_linked(const struct kve_dispatch *d, uint32_t prefill, uint32_t decode)
{
    const struct kve_spawned *p = &d->spawn.at[prefill], *to = &d->spawn.at[decode];

    return p->loaded && to->loaded &&
           (p == to || (p->up && to->up && (p->linked & 1ull << decode) != 0 &&
                        (to->linked & 1ull << prefill) != 0));
}

/* How many of the pairs have found each other. */
static uint32_t pairs(const struct kve_dispatch *d)
{
    const struct kve_spawn *s = &d->spawn;
    uint32_t n = 0;

    if (s->prefills == 0)
        return s->count > 0 && kve_dispatch_linked(d, 0, 0);
    for (uint32_t p = 0; p < s->prefills; ++p)
        for (uint32_t to = s->prefills; to < s->count; ++to)
            n += kve_dispatch_linked(d, p, to);
    return n;
}

bool kve_dispatch_all_ready(const struct kve_dispatch *d)
{
    const struct kve_spawn *s = &d->spawn;

    return pairs(d) == (s->prefills > 0 ? s->prefills * (s->count - s->prefills) : 1);
}

bool kve_dispatch_ready(const struct kve_dispatch *d)
{
    return pairs(d) > 0;
}

void kve_dispatch_end_worker(struct kve_dispatch *d, struct kve_spawned *w, const char *why)
{
    w->lost += w->channel.fd >= 0; /* else that has been counted */
    lose(d, w, why);
    kve_spawn_end(w);
}

bool kve_dispatch_wait_ready(struct kve_dispatch *d)
{
    const uint64_t until = kve_now_ns() + d->cfg->spawn.worker.open_timeout_ns + READY_EXTRA_NS;

    d->failed = false;
    while (!d->failed && kve_now_ns() < until) {
        if (kve_dispatch_all_ready(d))
            return true;
        pump(d, until);
    }
    d->stuck = true;
    if (!d->failed)
        fail_all(d, "router", "the workers did not find each other in time");
    return false;
}

static bool hand_out(struct kve_dispatch *d, struct kve_ticket *t, struct kve_spawned *w,
                     const struct kve_request *q)
{
    if (w == NULL)
        return true;
    const kvw_err err = kve_channel_write(&w->channel, kve_request_print(q));
    if (err == KVW_OK)
        return true;
    if (err == KVW_E_PEER_LOST)
        read_worker(d, w); /* its own last words explain more */
    fail(d, t, w->name,
         err == KVW_E_INVALID ? "the prompt is too long for the control channel"
                              : "it took no request");
    return false;
}

/* What it does of the request, where that isn't what it was started for. */
static enum kve_request_part part_of(const struct kve_spawned *w, enum kve_request_part part)
{
    const bool own = w->role == KVE_WORKER_LOCAL ||
                     (w->role == KVE_WORKER_PREFILL && part == KVE_PART_PREFILL) ||
                     (w->role == KVE_WORKER_DECODE && part == KVE_PART_DECODE);

    return own ? KVE_PART_ROLE : part;
}

/* Of several each hears the other's name. */
static void name_peer(const struct kve_dispatch *d, struct kve_request *q,
                      const struct kve_spawned *peer)
{
    snprintf(q->with, sizeof(q->with), "%s", d->spawn.count > 2 && peer != NULL ? peer->name : "");
}

void kve_dispatch_begin_on(struct kve_dispatch *d, struct kve_ticket *t, struct kve_request *q,
                           struct kve_report *rep, const struct kve_listener *l)
{
    const struct kve_spawn_config *spawn = &d->cfg->spawn;
    uint64_t id = 0;

    if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
        id = kve_now_ns();
    q->id = (id & ((1ull << 52) - 1)) | 1;
    *t = (struct kve_ticket){.listener = l,
                             .report = rep,
                             .prefill = t->prefill,
                             .decode = t->decode,
                             .id = q->id,
                             .next = d->tickets};
    t->until_ns = kve_now_ns() + q->timeout_ns;
    d->tickets = t;
    rep->net = spawn->prefill_at != NULL ? "the workers' link" : spawn->worker.net;
    rep->prompt_tokens = q->count;
    rep->logprobs_each = q->logprobs;
    rep->exposed_after_ms = -1;
    rep->sent_at_us = kve_now_ns() / 1000;
    /* Decode first: its offer is then there when the first layer is. */
    name_peer(d, q, t->prefill);
    q->part = part_of(t->decode, t->prefill != NULL ? KVE_PART_DECODE : KVE_PART_BOTH);
    if (!hand_out(d, t, t->decode, q))
        return;
    name_peer(d, q, t->decode);
    if (t->prefill != NULL)
        q->part = part_of(t->prefill, KVE_PART_PREFILL);
    hand_out(d, t, t->prefill, q);
}

void kve_dispatch_begin(struct kve_dispatch *d, struct kve_ticket *t, struct kve_request *q,
                        struct kve_report *rep, const struct kve_listener *l)
{
    struct kve_spawn *s = &d->spawn;

    t->prefill = s->prefills > 0 ? &s->at[0] : NULL;
    t->decode = &s->at[s->prefills];
    kve_dispatch_begin_on(d, t, q, rep, l);
}

void kve_dispatch_cancel(struct kve_dispatch *d, struct kve_ticket *t)
{
    fail(d, t, "router", "canceled");
}

void kve_dispatch_fail_all(struct kve_dispatch *d, const char *why)
{
    fail_all(d, "router", why);
}

bool kve_dispatch_serve(struct kve_dispatch *d, struct kve_request *q, struct kve_report *rep)
{
    struct kve_ticket t;

    d->failed = false;
    kve_dispatch_begin(d, &t, q, rep, &d->cfg->listener);
    for (advance(d); !t.ended; advance(d))
        pump(d, kve_dispatch_due_ns(d));
    if (t.failed)
        memcpy(d->why, t.why, sizeof(d->why));
    d->failed = t.failed;
    return !t.failed;
}

bool kve_dispatch_goes_on(const struct kve_dispatch *d)
{
    const struct kve_spawn *s = &d->spawn;
    bool prefill = s->prefills == 0, decode = false;

    for (uint32_t i = 0; i < s->count; ++i) {
        prefill |= i < s->prefills && kve_dispatch_alive(&s->at[i]);
        decode |= i >= s->prefills && kve_dispatch_alive(&s->at[i]);
    }
    return !stopped(d) && !d->stuck && prefill && decode;
}
