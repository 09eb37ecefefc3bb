/* SPDX-License-Identifier: Apache-2.0 */
/* http.c - the server: where it listens, who may ask what, and how it replies. */
#include "http_impl.h"

#include <arpa/inet.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api_say.h"
#include "health.h"
#include "page.h"

#define SPARE_DESCRIPTORS 32 /* of this process, beside connections */
#define AGAIN_MS          100

static void refuse(struct kve_http *h, struct evhttp_request *req, int status, const char *why)
{
    struct kve_api_error e;

    kve_api_refuse(&e, status, "", "%s", why);
    kve_http_reply_error(h, req, &e);
}

/* ---- routes ---- */

static void get_health(struct kve_http *h, struct evhttp_request *req)
{
    if (h->draining)
        refuse(h, req, 503, "the server is about to end");
    else if (!kve_dispatch_ready(h->cfg->front->d))
        refuse(h, req, 503, "the workers are loading the model");
    else
        kve_http_reply_json(h, req, 200, kve_health_say(h->cfg->front));
}

static void get_models(struct kve_http *h, struct evhttp_request *req)
{
    kve_http_reply_json(
        h, req, 200, kve_api_say_models(h->cfg->terms.model, h->started, h->cfg->prompts->context));
}

static void get_metrics(struct kve_http *h, struct evhttp_request *req)
{
    const struct kve_front *f = h->cfg->front;
    struct kve_metrics_worker workers[KVE_WORKERS_MAX];
    const struct kve_metrics_now now = {
        .model = h->cfg->terms.model,
        .running = f->active,
        .waiting = f->queued,
        .up = kve_dispatch_ready(f->d),
        .refused_late = f->refused,
        .restarted = f->restarted,
        .turns = f->place.turns,
        .workers = workers,
        .count = kve_health_workers(f, workers),
        .prefills = f->d->spawn.prefills,
        .pairs = f->place.requests,
        .pairs_each = KVE_WORKERS_MAX,
    };
    size_t n;
    char *text = kve_metrics_text(h->cfg->metrics, &now, &n);

    if (text == NULL)
        refuse(h, req, 500, "out of memory");
    else
        kve_http_reply(h, req, 200, "text/plain; version=0.0.4", text, n);
    free(text);
}

static void get_page(struct kve_http *h, struct evhttp_request *req)
{
    evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Security-Policy",
                      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                      "connect-src 'self'");
    kve_http_reply(h, req, 200, "text/html; charset=utf-8", kve_page, strlen(kve_page));
}

static void post_chat(struct kve_http *h, struct evhttp_request *req)
{
    kve_answer_begin(h, req, KVE_API_CHAT);
}

static void post_completions(struct kve_http *h, struct evhttp_request *req)
{
    kve_answer_begin(h, req, KVE_API_COMPLETIONS);
}

static void post_tokenize(struct kve_http *h, struct evhttp_request *req)
{
    struct kve_request q = {0};
    struct kve_api_request r;
    struct kve_api_error e;
    char why[KVE_WHY_BYTES] = "";
    size_t n, count = 0;
    const char *body = kve_http_body(req, &n);
    kvw_err err = body != NULL ? kve_api_parse(&r, KVE_API_TOKENIZE, body, n, &h->cfg->terms, &e)
                               : KVW_E_NOMEM;

    if (body == NULL || err != KVW_OK) {
        if (body == NULL)
            refuse(h, req, 500, "out of memory");
        else
            kve_http_reply_error(h, req, &e);
    } else {
        const char *text = r.prompt_count > 0 ? cJSON_GetStringValue(r.prompts[0]) : NULL;

        if (r.message_count > 0)
            err = kve_prompt_chat(h->cfg->prompts, r.messages, r.message_count, &q, why);
        else if (text != NULL)
            err = kve_tok_encode(h->cfg->prompts->tok, text, strlen(text), false, true, &q.tokens,
                                 &count);
        else
            err = KVW_E_INVALID;
        q.count += (uint32_t)count;
        if (err != KVW_OK)
            refuse(h, req, 400, why[0] != '\0' ? why : "prompt: it is no text");
        else
            kve_http_reply_json(h, req, 200,
                                kve_api_say_tokens(q.tokens, q.count, h->cfg->prompts->context));
    }
    kve_request_free(&q);
    if (body != NULL)
        kve_api_free(&r);
}

static const struct route {
    const char *path;
    enum evhttp_cmd_type method;
    bool open; /* no key is needed */
    void (*serve)(struct kve_http *h, struct evhttp_request *req);
} routes[] = {
    {"/", EVHTTP_REQ_GET, true, get_page},
    {"/health", EVHTTP_REQ_GET, true, get_health},
    {"/metrics", EVHTTP_REQ_GET, false, get_metrics},
    {"/v1/models", EVHTTP_REQ_GET, false, get_models},
    {"/v1/completions", EVHTTP_REQ_POST, false, post_completions},
    {"/v1/chat/completions", EVHTTP_REQ_POST, false, post_chat},
    {"/tokenize", EVHTTP_REQ_POST, false, post_tokenize},
};

/* The same time for every wrong key of a length. */
static bool has_key(const struct kve_http *h, struct evhttp_request *req)
{
    const char *said = evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");
    const char *key = h->cfg->key;
    unsigned different = 0;

    if (key == NULL)
        return true;
    if (said == NULL || strncasecmp(said, "Bearer ", 7) != 0 || strlen(said + 7) != strlen(key))
        return false;
    for (size_t i = 0; key[i] != '\0'; ++i)
        different |= (unsigned)(key[i] ^ said[7 + i]);
    return different == 0;
}

/* libevent takes "HTTP/0.7" and "HTTP/1.-3", too, and its answer would name that version. */
static bool is_http1(struct evhttp_request *req)
{
    if (req->major == 1 && req->minor >= 0 && req->minor <= 9)
        return true;
    req->major = req->minor = 1;
    return false;
}

static void on_request(struct evhttp_request *req, void *arg)
{
    struct kve_http *h = arg;
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri != NULL ? evhttp_uri_get_path(uri) : NULL;
    enum evhttp_cmd_type method = evhttp_request_get_command(req);
    const struct route *found = NULL;

    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); ++i)
        if (path != NULL && strcmp(path, routes[i].path) == 0)
            found = &routes[i];
    if (method == EVHTTP_REQ_HEAD)
        method = EVHTTP_REQ_GET;
    if (!is_http1(req)) {
        refuse(h, req, 505, "the request's version: HTTP/1.1 is spoken here");
    } else if (found == NULL) {
        refuse(h, req, 404, "there is nothing under this path; see kvserve --help");
    } else if (!found->open && !has_key(h, req)) {
        evhttp_add_header(evhttp_request_get_output_headers(req), "WWW-Authenticate", "Bearer");
        refuse(h, req, 401, "Authorization: the API key is missing or another one");
    } else if (method != found->method) {
        evhttp_add_header(evhttp_request_get_output_headers(req), "Allow",
                          found->method == EVHTTP_REQ_GET ? "GET, HEAD" : "POST");
        refuse(h, req, 405, "this path doesn't take this method");
    } else {
        found->serve(h, req);
    }
}

/* ---- listening ---- */

/* "127.0.0.1:8080", "[::1]:0", ":8080" for all addresses. */
static bool split(const char *listen, char host[64], uint16_t *port)
{
    const char *colon = strrchr(listen, ':');
    char *end;

    if (colon == NULL || colon[1] == '\0')
        return false;
    const unsigned long p = strtoul(colon + 1, &end, 10);
    size_t n = (size_t)(colon - listen);
    if (*end != '\0' || p > 65535 || colon[1] == '-' || colon[1] == '+' || n >= 64)
        return false;
    if (n >= 2 && listen[0] == '[' && listen[n - 1] == ']') {
        ++listen;
        n -= 2;
    }
    memcpy(host, listen, n);
    host[n] = '\0';
    if (n == 0)
        strcpy(host, "0.0.0.0");
    *port = (uint16_t)p;
    return true;
}

/* No descriptors are left: those who wait go on waiting, and this loop doesn't turn for nothing. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    struct kve_http *h = arg;
    const struct timeval t = {.tv_usec = AGAIN_MS * 1000};

    evconnlistener_disable(l);
    event_add(h->again, &t);
}

static void accept_again(evutil_socket_t fd, short what, void *arg)
{
    struct kve_http *h = arg;

    (void)fd, (void)what;
    if (h->bound != NULL)
        evconnlistener_enable(evhttp_bound_socket_get_listener(h->bound));
}

/* libevent counts no connections: descriptors are what bounds them. */
static void bound_connections(uint32_t connections)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    if (r.rlim_cur > connections + SPARE_DESCRIPTORS) {
        r.rlim_cur = connections + SPARE_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

static void note_url(struct kve_http *h, const char *host)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    unsigned port = 0;

    if (getsockname(evhttp_bound_socket_get_fd(h->bound), (struct sockaddr *)&a, &len) == 0)
        port = ntohs(a.ss_family == AF_INET6
                         ? ((const struct sockaddr_in6 *)(const void *)&a)->sin6_port
                         : ((const struct sockaddr_in *)(const void *)&a)->sin_port);
    snprintf(h->url, sizeof(h->url), strchr(host, ':') != NULL ? "http://[%s]:%u" : "http://%s:%u",
             host, port);
}

kvw_err kve_http_open(struct kve_http **out, struct event_base *base,
                      const struct kve_http_config *cfg, char *why)
{
    struct kve_http *h = calloc(1, sizeof(*h));
    char host[64];
    uint16_t port;

    if (!split(cfg->listen, host, &port)) {
        snprintf(why, KVE_WHY_BYTES, "--listen %s: it looks like 127.0.0.1:8080", cfg->listen);
        free(h);
        return KVW_E_INVALID;
    }
    if (h != NULL) {
        h->cfg = cfg;
        h->base = base;
        h->started = (uint64_t)time(NULL);
        h->server = evhttp_new(base);
        h->again = evtimer_new(base, accept_again, h);
    }
    if (h == NULL || h->server == NULL || h->again == NULL) {
        snprintf(why, KVE_WHY_BYTES, "out of memory");
        kve_http_close(h);
        return KVW_E_NOMEM;
    }
    evhttp_set_max_headers_size(h->server, KVE_HEADER_BYTES);
    evhttp_set_max_body_size(h->server, cfg->body_bytes);
    evhttp_set_timeout(h->server, (int)cfg->idle_s);
    evhttp_set_flags(h->server, EVHTTP_SERVER_LINGERING_CLOSE); /* a 413 is read before the end */
    evhttp_set_allowed_methods(h->server, 0xffff);              /* others get 405 from us */
    evhttp_set_default_content_type(h->server, NULL);
    evhttp_set_gencb(h->server, on_request, h);
    h->bound = evhttp_bind_socket_with_handle(h->server, host, port);
    if (h->bound == NULL) {
        snprintf(why, KVE_WHY_BYTES, "--listen %s: %s", cfg->listen, strerror(errno));
        kve_http_close(h);
        return KVW_E_ADDRESS;
    }
    evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(h->bound), on_accept_error);
    bound_connections(cfg->connections);
    note_url(h, host);
    *out = h;
    return KVW_OK;
}

void kve_http_drain(struct kve_http *h)
{
    h->draining = true;
    if (h->bound != NULL)
        evhttp_del_accept_socket(h->server, h->bound);
    h->bound = NULL;
}

bool kve_http_busy(const struct kve_http *h)
{
    return h->calls != NULL || h->replying > 0;
}

void kve_http_close(struct kve_http *h)
{
    if (h == NULL)
        return;
    if (h->server != NULL)
        evhttp_free(h->server);
    if (h->again != NULL)
        event_free(h->again);
    free(h);
}

const char *kve_http_url(const struct kve_http *h)
{
    return h->url;
}
