/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http_impl.h - what http.c, answer.c and http_reply.c share.
 *
 * threads  one    memory  a struct kve_http is http.c's, a struct kve_call answer.c's    time  none
 */
#ifndef KVE_HTTP_IMPL_H
#define KVE_HTTP_IMPL_H

#include <event2/buffer.h>
#include <event2/http.h>

#include "http.h"

struct kve_call;

struct kve_http {
    const struct kve_http_config *cfg;
    struct event_base *base;
    struct evhttp *server;
    struct evhttp_bound_socket *bound;
    struct event *again; /* accepts again after there were no descriptors */
    bool draining;
    uint64_t started; /* seconds since 1970 */
    struct kve_call *calls;
    uint32_t replying; /* replies that aren't read to their end yet */
    char url[80];
};

/* http_reply.c. What is sent next is all that is: until it is read, the server is busy. */
void kve_http_last_piece(struct kve_http *h, struct evhttp_request *req);
/* Reply with text (borrowed), count it. */
void kve_http_reply(struct kve_http *h, struct evhttp_request *req, int status, const char *type,
                    const char *text, size_t n);
/* JSON of cJSON's, which is freed; NULL: 500. */
void kve_http_reply_json(struct kve_http *h, struct evhttp_request *req, int status, char *json);
void kve_http_reply_error(struct kve_http *h, struct evhttp_request *req,
                          const struct kve_api_error *e);
/* The body in one piece, borrowed; *n its length. NULL with *n 1: out of memory. */
const char *kve_http_body(struct evhttp_request *req, size_t *n);

/* answer.c: POST of a completion or a chat. */
void kve_answer_begin(struct kve_http *h, struct evhttp_request *req, enum kve_api_kind kind);

#endif
