/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.h - OpenAI's interface over HTTP (libevent's evhttp): routes, keys, limits, replies. What a
 * request for an answer does is answer.c's.
 *
 * threads  one, that of the event loop
 * memory   of a connection: KVE_HEADER_BYTES and body_bytes while it asks, then its answer
 * time     a client that neither sends nor reads for idle_s seconds is cut off
 */
#ifndef KVE_HTTP_H
#define KVE_HTTP_H

#include <event2/event.h>

#include "api.h"
#include "front.h"
#include "metrics.h"
#include "prompt.h"

#define KVE_HEADER_BYTES 16384

struct kve_http_config {
    const char *listen; /* ADDR:PORT, [ADDR]:PORT; port 0: a free one */
    const char *key;    /* NULL: anybody may ask */
    uint32_t body_bytes;
    uint32_t connections;
    uint32_t idle_s;
    struct kve_api_terms terms;
    const struct kve_prompts *prompts;
    struct kve_front *front;
    struct kve_metrics *metrics;
    /* There is something new in the front: step it soon. */
    void (*wake)(void *arg);
    void *arg;
};

struct kve_http; /* opaque */

/* *cfg and what it points to must outlive *h. KVW_E_ADDRESS, KVW_E_INVALID, KVW_E_NOMEM with a
 * sentence in why (KVE_WHY_BYTES). */
KVW_NODISCARD kvw_err kve_http_open(struct kve_http **h, struct event_base *base,
                                    const struct kve_http_config *cfg, char *why);
/* No more requests: new ones are refused with 503, and nobody can connect. */
void kve_http_drain(struct kve_http *h);
/* Answers under way, and replies that somebody still reads. */
bool kve_http_busy(const struct kve_http *h);
/* No answer may be under way (kve_front_fail_all() and steps see to that). Takes NULL. */
void kve_http_close(struct kve_http *h);
/* http://ADDR:PORT */
const char *kve_http_url(const struct kve_http *h);

#endif
