/* SPDX-License-Identifier: Apache-2.0 */
/*
 * answer.c - one HTTP request for answers, from its body to its last byte: prompts into jobs, text
 * past the stop strings into a reply or a stream of events, and the end of it all when the client
 * leaves.
 */
#include "http_impl.h"

#include <event2/bufferevent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "api_say.h"
#include "clock.h"
#include "stop.h"

#define RETRY_S_MAX 60

struct choice {
    struct kve_job job;
    struct kve_call *call;
    uint32_t index;
    struct kve_stop stop;
    char *text; /* of an answer that isn't streamed */
    size_t used, room;
    uint32_t told, offset; /* tokens whose logprobs were sent; their characters */
    bool begun;            /* its first piece was sent */
    bool done;
};

struct kve_call {
    struct kve_http *http;
    struct evhttp_request *req; /* NULL: the client has left */
    struct event *leaves;       /* the client closes its end */
    struct kve_api_request api;
    struct kve_api_error error;
    struct kve_api_head head;
    char id[40];
    uint32_t *tokens[KVE_API_CHOICES_MAX]; /* of each prompt */
    struct choice *choices;
    uint32_t count, left; /* left: choices that haven't ended, and those who hold the call */
    bool streaming;       /* the headers are out */
    bool failed;          /* error has the first reason */
    struct kve_call *next;
};

/* ---- the end ---- */

static void free_call(struct kve_call *c)
{
    struct kve_call **at = &c->http->calls;

    while (*at != NULL && *at != c)
        at = &(*at)->next;
    if (*at == c)
        *at = c->next;
    if (c->leaves != NULL)
        event_free(c->leaves);
    for (uint32_t i = 0; c->choices != NULL && i < c->count; ++i) {
        kve_stop_close(&c->choices[i].stop);
        kve_report_free(&c->choices[i].job.rep);
        free(c->choices[i].text);
    }
    for (uint32_t i = 0; i < KVE_API_CHOICES_MAX; ++i)
        free(c->tokens[i]);
    free(c->choices);
    kve_api_free(&c->api);
    free(c);
}

/* The connection is the server's again. */
static struct evhttp_request *give_back(struct kve_call *c)
{
    struct evhttp_request *req = c->req;
    struct evhttp_connection *conn = req != NULL ? evhttp_request_get_connection(req) : NULL;

    if (c->leaves != NULL)
        event_free(c->leaves);
    c->leaves = NULL;
    c->req = NULL;
    if (conn != NULL)
        evhttp_connection_set_closecb(conn, NULL, NULL);
    return req;
}

static void send_event(struct kve_call *c, char *json)
{
    struct evbuffer *out = json != NULL ? evbuffer_new() : NULL;

    if (out != NULL && c->req != NULL) {
        evbuffer_add_printf(out, "data: %s\n\n", json);
        evhttp_send_reply_chunk(c->req, out);
    }
    if (out != NULL)
        evbuffer_free(out);
    cJSON_free(json);
}

static void begin_stream(struct kve_call *c)
{
    struct evkeyvalq *headers;

    if (c->streaming || c->req == NULL)
        return;
    headers = evhttp_request_get_output_headers(c->req);
    evhttp_add_header(headers, "Content-Type", "text/event-stream");
    evhttp_add_header(headers, "Cache-Control", "no-cache");
    evhttp_add_header(headers, "X-Accel-Buffering", "no"); /* a proxy shall pass it on at once */
    if (c->http->draining)
        evhttp_add_header(headers, "Connection", "close");
    c->http->cfg->metrics->replies[2]++;
    evhttp_send_reply_start(c->req, 200, "OK");
    c->streaming = true;
}

static const char *finish_of(const struct choice *ch)
{
    return ch->stop.hit || strcmp(ch->job.rep.finish_reason, "stop") == 0 ? "stop" : "length";
}

/* Those of the tokens that weren't told yet, in *l; NULL: none are wanted. */
static const struct kve_api_logprobs *logprobs_of(struct choice *ch, struct kve_api_logprobs *l)
{
    const struct kve_report *rep = &ch->job.rep;

    *l = (struct kve_api_logprobs){.tok = ch->call->http->cfg->prompts->tok,
                                   .ids = rep->ids,
                                   .logprobs = rep->logprobs,
                                   .each = rep->logprobs_each,
                                   .first = ch->told,
                                   .count = rep->id_count - ch->told,
                                   .offset = &ch->offset};
    return ch->call->api.logprobs ? l : NULL;
}

static struct kve_api_usage usage_of(const struct kve_call *c)
{
    struct kve_api_usage u = {0};

    for (uint32_t i = 0; i < c->count; ++i) {
        u.completion += c->choices[i].job.rep.id_count;
        if (i % c->api.n != 0)
            continue;
        u.prompt += c->choices[i].job.q.count;
        u.cached += c->choices[i].job.rep.cached_tokens;
    }
    return u;
}

static void end_stream(struct kve_call *c)
{
    const struct kve_api_usage usage = usage_of(c);
    struct evbuffer *out = evbuffer_new();

    begin_stream(c);
    if (c->failed)
        send_event(c, kve_api_say_error(&c->error));
    else if (c->api.usage)
        send_event(c, kve_api_say_usage(&c->head, &usage));
    if (!c->failed && out != NULL && evbuffer_add_printf(out, "data: [DONE]\n\n") > 0)
        evhttp_send_reply_chunk(c->req, out);
    if (out != NULL)
        evbuffer_free(out);
    struct evhttp_request *req = give_back(c);
    kve_http_last_piece(c->http, req);
    evhttp_send_reply_end(req);
}

static void end_whole(struct kve_call *c)
{
    struct kve_api_choice said[KVE_API_CHOICES_MAX];
    struct kve_api_logprobs logprobs[KVE_API_CHOICES_MAX];
    const struct kve_api_usage usage = usage_of(c);

    for (uint32_t i = 0; i < c->count; ++i)
        said[i] =
            (struct kve_api_choice){.text = c->choices[i].text != NULL ? c->choices[i].text : "",
                                    .bytes = c->choices[i].used,
                                    .finish = finish_of(&c->choices[i]),
                                    .logprobs = logprobs_of(&c->choices[i], &logprobs[i])};
    char *json = kve_api_say(&c->head, said, c->count, &usage);
    kve_http_reply_json(c->http, give_back(c), 200, json);
}

/* One who held the call lets go; the last one ends it. */
static void let_go(struct kve_call *c)
{
    if (--c->left > 0)
        return;
    if (c->req != NULL) {
        if (c->streaming || (c->api.stream && !c->failed))
            end_stream(c);
        else if (c->failed)
            kve_http_reply_error(c->http, give_back(c), &c->error);
        else
            end_whole(c);
    }
    free_call(c);
}

static void cancel_all(struct kve_call *c)
{
    for (uint32_t i = 0; i < c->count; ++i)
        if (!c->choices[i].done)
            kve_front_cancel(c->http->cfg->front, &c->choices[i].job);
    c->http->cfg->wake(c->http->cfg->arg);
}

/* The first reason counts; the other choices have no use any more. */
static void fail(struct kve_call *c, int status, const char *why)
{
    if (c->failed)
        return;
    kve_api_refuse(&c->error, status, "", "%s", why);
    c->failed = true;
    ++c->left; /* their ends must not be the call's */
    cancel_all(c);
    let_go(c);
}

/* ---- the client leaves ---- */

static void left(struct kve_call *c)
{
    ++c->left;
    if (!c->failed)
        kve_api_refuse(&c->error, 499, "", "the client left");
    c->failed = true;
    cancel_all(c);
    let_go(c);
}

/* It closed its end, or all of it: either way it doesn't wait for the answer. */
static void on_leaves(evutil_socket_t fd, short what, void *arg)
{
    struct kve_call *c = arg;
    struct evhttp_connection *conn = evhttp_request_get_connection(c->req);

    (void)fd, (void)what;
    give_back(c);
    evhttp_connection_free(conn); /* and the request with it */
    left(c);
}

/* The same, seen by evhttp first: a write that failed, or nobody read for too long. */
static void on_closed(struct evhttp_connection *conn, void *arg)
{
    struct kve_call *c = arg;
    struct evhttp_request *req = c->req;

    (void)conn;
    if (req != NULL && evhttp_request_get_connection(req) == NULL) {
        give_back(c);
        evhttp_request_free(req); /* evhttp has left it to us */
    } else {
        give_back(c);
    }
    left(c);
}

/* ---- what the job says ---- */

static kvw_err show(struct choice *ch, size_t n, const char *finish)
{
    struct kve_call *c = ch->call;
    const bool first = !ch->begun;

    if (!c->api.stream) {
        if (ch->room - ch->used < n) {
            const size_t room = 2 * (ch->used + n);
            char *text = realloc(ch->text, room);

            if (text == NULL)
                return KVW_E_NOMEM;
            ch->text = text;
            ch->room = room;
        }
        if (n > 0)
            memcpy(ch->text + ch->used, ch->stop.held, n);
        ch->used += n;
    } else if (c->req != NULL && (n > 0 || finish != NULL)) {
        struct kve_api_logprobs l;
        const struct kve_api_choice said = {ch->stop.held, n, finish, logprobs_of(ch, &l)};

        begin_stream(c);
        ch->begun = true;
        ch->told = ch->job.rep.id_count;
        send_event(c, kve_api_say_piece(&c->head, ch->index, &said, first, c->api.usage));
    }
    kve_stop_shown(&ch->stop, n);
    return KVW_OK;
}

static kvw_err on_text(struct kve_job *j, const char *at, size_t n)
{
    struct choice *ch = j->owner;
    const bool stopped = ch->stop.hit;
    size_t ready;
    kvw_err err = kve_stop_push(&ch->stop, at, n, &ready);

    if (err == KVW_OK && !stopped)
        err = show(ch, ready, NULL);
    if (err == KVW_OK && !stopped && ch->stop.hit) {
        kve_front_cancel(j->front, j);
        ch->call->http->cfg->wake(ch->call->http->cfg->arg);
    }
    return err;
}

static enum kve_outcome outcome_of(const struct choice *ch)
{
    if (ch->stop.hit)
        return KVE_STOPPED;
    if (ch->job.failed)
        return ch->call->req == NULL || ch->call->failed ? KVE_CANCELED : KVE_FAILED;
    return strcmp(ch->job.rep.finish_reason, "stop") == 0 ? KVE_STOPPED : KVE_LENGTH;
}

/* When the client may come again; lost on a stream that has begun. */
static void say_retry(struct kve_call *c, uint32_t seconds)
{
    char text[16];

    snprintf(text, sizeof(text), "%u", seconds);
    evhttp_remove_header(evhttp_request_get_output_headers(c->req), "Retry-After");
    evhttp_add_header(evhttp_request_get_output_headers(c->req), "Retry-After", text);
}

static void on_ended(struct kve_job *j)
{
    struct choice *ch = j->owner;
    struct kve_call *c = ch->call;
    const bool ok = !j->failed || ch->stop.hit;

    ch->done = true;
    kve_metrics_take(c->http->cfg->metrics, &j->rep, outcome_of(ch), j->queued_ns / 1000,
                     kve_now_ns() / 1000);
    if (ok && !c->failed && show(ch, kve_stop_rest(&ch->stop), finish_of(ch)) != KVW_OK)
        fail(c, 500, "router: out of memory");
    if (!ok && j->retry_s > 0 && !c->failed && c->req != NULL)
        say_retry(c, j->retry_s);
    if (!ok)
        fail(c,
             j->retry_s > 0                                  ? 429
             : strstr(j->ticket.why, "time ran out") != NULL ? 504
                                                             : 500,
             j->ticket.why);
    let_go(c);
}

/* ---- the beginning ---- */

static uint64_t client_of(struct evhttp_request *req)
{
    uint64_t hash = 14695981039346656037ull;
    char *address = NULL;
    uint16_t port;

    evhttp_connection_get_peer(evhttp_request_get_connection(req), &address, &port);
    for (const char *at = address; at != NULL && *at != '\0'; ++at)
        hash = (hash ^ (unsigned char)*at) * 1099511628211ull;
    return hash;
}

static kvw_err take_ids(struct kve_request *q, const cJSON *list)
{
    const cJSON *item;

    q->tokens = malloc((size_t)cJSON_GetArraySize(list) * sizeof(*q->tokens));
    if (q->tokens == NULL)
        return KVW_E_NOMEM;
    q->count = 0;
    cJSON_ArrayForEach(item, list)
    {
        q->tokens[q->count++] = (uint32_t)item->valuedouble;
    }
    return KVW_OK;
}

static kvw_err encode(struct kve_call *c, uint32_t prompt, struct kve_request *q, char *why)
{
    const struct kve_prompts *p = c->http->cfg->prompts;
    const struct kve_api_request *api = &c->api;

    if (api->kind == KVE_API_CHAT)
        return kve_prompt_chat(p, api->messages, api->message_count, q, why);
    if (cJSON_IsArray(api->prompts[prompt]))
        return take_ids(q, api->prompts[prompt]);
    const char *text = api->prompts[prompt]->valuestring;
    size_t count = 0;
    const kvw_err err = kve_tok_encode(p->tok, text, strlen(text), false, true, &q->tokens, &count);
    q->count = (uint32_t)count;
    return err;
}

/* Tokens of prompt number prompt, and how long its answers may be. False: c->error. */
static bool make_request(struct kve_call *c, uint32_t prompt, struct kve_request *q)
{
    const uint32_t context = c->http->cfg->prompts->context;
    char why[KVE_WHY_BYTES] = "";

    *q = c->api.q;
    const kvw_err err = encode(c, prompt, q, why);
    c->tokens[prompt] = q->tokens;
    if (err != KVW_OK || q->count == 0) {
        kve_api_refuse(&c->error, err == KVW_E_NOMEM ? 500 : 400, "", "%s",
                       why[0] != '\0'  ? why
                       : err != KVW_OK ? kvw_strerror(err)
                                       : "prompt: no token stands for it");
        return false;
    }
    if (q->count < context && (!c->api.max_said || q->max_tokens <= context - q->count)) {
        kve_prompt_clip(c->http->cfg->prompts, q);
        return true;
    }
    kve_api_refuse(&c->error, 400, c->api.kind == KVE_API_CHAT ? "messages" : "prompt",
                   "the prompt has %u tokens and the answer may have %u, the model's context is %u",
                   q->count, q->max_tokens, context);
    c->error.code = "context_length_exceeded";
    return false;
}

/* About when a place in the queue is free. */
static void add_retry_after(struct kve_call *c)
{
    const struct kve_front *f = c->http->cfg->front;
    const struct kve_histogram *h = &c->http->cfg->metrics->whole;
    uint64_t n = 0;

    for (uint32_t i = 0; i <= h->count; ++i)
        n += h->in[i];
    double s = n > 0 ? h->sum / (double)n * f->queued / (f->slots > 0 ? f->slots : 1) : 1;
    s = s < 1 ? 1 : s > RETRY_S_MAX ? RETRY_S_MAX : s;
    say_retry(c, (uint32_t)(s + 0.5));
}

/* All choices into the queue, or none. False: c->error. */
static bool submit(struct kve_call *c)
{
    struct kve_front *f = c->http->cfg->front;
    const uint64_t client = client_of(c->req);
    char why[KVE_WHY_BYTES];

    if (f->queue_max - f->queued < c->count) {
        c->http->cfg->metrics->refused_full++;
        add_retry_after(c);
        kve_api_refuse(&c->error, 429, "", "the queue is full: %u requests wait", f->queued);
        return false;
    }
    for (uint32_t i = 0; i < c->count; ++i) {
        struct kve_job *j = &c->choices[i].job;
        kvw_err err;

        j->owner = &c->choices[i];
        j->client = client;
        j->text = on_text;
        j->ended = on_ended;
        if ((err = kve_front_submit(f, j, why)) == KVW_OK) {
            ++c->left;
            continue;
        }
        if (err == KVW_E_AGAIN)
            say_retry(c, j->retry_s > 0 ? j->retry_s : 1);
        kve_api_refuse(&c->error,
                       err == KVW_E_AGAIN   ? 429
                       : err == KVW_E_NOMEM ? 500
                                            : 400,
                       err == KVW_E_NOBLOCKS ? "max_tokens" : "", "%s",
                       why[0] != '\0' ? why : kvw_strerror(err));
        c->failed = true;
        for (uint32_t k = i; k < c->count; ++k)
            c->choices[k].done = true;
        cancel_all(c); /* those before it */
        return false;
    }
    return true;
}

static bool make_choices(struct kve_call *c)
{
    const uint32_t prompts = c->api.kind == KVE_API_CHAT ? 1 : c->api.prompt_count;
    const uint32_t count = prompts * c->api.n;
    struct kve_request q = {0};

    c->choices = calloc(count, sizeof(*c->choices));
    if (c->choices == NULL) {
        kve_api_refuse(&c->error, 500, "", "out of memory");
        return false;
    }
    c->count = count;
    for (uint32_t i = 0; i < count; ++i) {
        struct choice *ch = &c->choices[i];

        if (i % c->api.n == 0 && !make_request(c, i / c->api.n, &q))
            return false;
        ch->call = c;
        ch->index = i;
        ch->job.q = q;
        ch->job.q.sample.seed = (q.sample.seed + i % c->api.n) & ((1ull << 52) - 1);
        if (kve_stop_open(&ch->stop, c->api.stops, c->api.stop_count) != KVW_OK) {
            kve_api_refuse(&c->error, 500, "", "out of memory");
            return false;
        }
    }
    return true;
}

/* Whether there is anybody to ask. False: c->error. */
static bool can_serve(struct kve_call *c)
{
    const struct kve_http *h = c->http;

    if (!h->draining && kve_dispatch_ready(h->cfg->front->d))
        return true;
    kve_api_refuse(&c->error, 503, "",
                   h->draining ? "the server is about to end"
                               : "the workers are loading the model");
    evhttp_add_header(evhttp_request_get_output_headers(c->req), "Retry-After", "1");
    return false;
}

static bool parse(struct kve_call *c, enum kve_api_kind kind)
{
    struct kve_api_terms terms = c->http->cfg->terms;
    size_t n;
    const char *body = kve_http_body(c->req, &n);

    if (getrandom(&terms.seed, sizeof(terms.seed), 0) < 0)
        terms.seed = kve_now_ns();
    terms.seed &= (1ull << 52) - 1;
    if (body == NULL) {
        kve_api_refuse(&c->error, 500, "", "out of memory");
        return false;
    }
    return kve_api_parse(&c->api, kind, body, n, &terms, &c->error) == KVW_OK;
}

/* So that a client's leaving is seen while nothing is written to it. */
static void watch(struct kve_call *c)
{
    struct evhttp_connection *conn = evhttp_request_get_connection(c->req);
    const evutil_socket_t fd = bufferevent_getfd(evhttp_connection_get_bufferevent(conn));

    evhttp_connection_set_closecb(conn, on_closed, c);
    c->leaves = event_new(c->http->base, fd, EV_CLOSED, on_leaves, c);
    if (c->leaves != NULL)
        event_add(c->leaves, NULL);
}

void kve_answer_begin(struct kve_http *h, struct evhttp_request *req, enum kve_api_kind kind)
{
    struct kve_call *c = calloc(1, sizeof(*c));
    struct kve_api_error none;
    uint64_t random = 0;

    if (c == NULL) {
        kve_api_refuse(&none, 500, "", "out of memory");
        kve_http_reply_error(h, req, &none);
        return;
    }
    c->http = h;
    c->req = req;
    c->left = 1;
    c->next = h->calls;
    h->calls = c;
    if (getrandom(&random, sizeof(random), 0) < 0)
        random = kve_now_ns();
    snprintf(c->id, sizeof(c->id), "%s-%016llx", kind == KVE_API_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)random);
    c->head = (struct kve_api_head){.chat = kind == KVE_API_CHAT,
                                    .id = c->id,
                                    .model = h->cfg->terms.model,
                                    .created = (uint64_t)time(NULL)};
    watch(c);
    if (!parse(c, kind) || !can_serve(c) || !make_choices(c) || !submit(c))
        c->failed = true;
    h->cfg->wake(h->cfg->arg);
    let_go(c);
}
