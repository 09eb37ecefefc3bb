/* SPDX-License-Identifier: Apache-2.0 */
/* http_reply.c - what a request brought, and what it gets. */
#include "http_impl.h"

#include <string.h>

#include "api_say.h"

static const char json_type[] = "application/json";

static void on_read(struct evhttp_request *req, void *arg)
{
    struct kve_http *h = arg;

    evhttp_connection_set_closecb(evhttp_request_get_connection(req), NULL, NULL);
    --h->replying;
}

static void on_cut_off(struct evhttp_connection *c, void *arg)
{
    struct kve_http *h = arg;

    (void)c;
    --h->replying;
}

void kve_http_last_piece(struct kve_http *h, struct evhttp_request *req)
{
    struct evhttp_connection *c = evhttp_request_get_connection(req);

    if (c == NULL)
        return;
    ++h->replying;
    evhttp_connection_set_closecb(c, on_cut_off, h);
    evhttp_request_set_on_complete_cb(req, on_read, h);
}

void kve_http_reply(struct kve_http *h, struct evhttp_request *req, int status, const char *type,
                    const char *text, size_t n)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *out = evbuffer_new();

    h->cfg->metrics->replies[status / 100 % 6]++;
    evhttp_add_header(headers, "Content-Type", type);
    evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
    if (h->draining)
        evhttp_add_header(headers, "Connection", "close");
    if (out != NULL)
        evbuffer_add(out, text, n);
    kve_http_last_piece(h, req);
    evhttp_send_reply(req, status, NULL, out);
    if (out != NULL)
        evbuffer_free(out);
}

void kve_http_reply_json(struct kve_http *h, struct evhttp_request *req, int status, char *json)
{
    static const char none[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
        "\"param\":null,\"code\":null}}";

    if (json != NULL)
        kve_http_reply(h, req, status, json_type, json, strlen(json));
    else
        kve_http_reply(h, req, 500, json_type, none, sizeof(none) - 1);
    cJSON_free(json);
}

void kve_http_reply_error(struct kve_http *h, struct evhttp_request *req,
                          const struct kve_api_error *e)
{
    kve_http_reply_json(h, req, e->status, kve_api_say_error(e));
}

const char *kve_http_body(struct evhttp_request *req, size_t *n)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    const char *text;

    *n = evbuffer_get_length(in);
    if (*n == 0)
        return "";
    text = (const char *)evbuffer_pullup(in, -1);
    if (text == NULL)
        *n = 1;
    return text;
}
