/* SPDX-License-Identifier: Apache-2.0 */
#include "xfer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "session.h"

struct kvw_xfer *kvw_xfer_find(const struct kvw_session *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        if (s->xfers[i].state == KVW_XFER_OPEN && s->xfers[i].id == id)
            return &s->xfers[i];
    return NULL;
}

struct kvw_xfer *kvw_xfer_match(const struct kvw_session *s, uint64_t id, uint32_t epoch)
{
    struct kvw_xfer *x = kvw_xfer_find(s, id);

    if (x == NULL || x->epoch != epoch)
        return NULL;
    /* A receiver's epoch that no OFFER has carried yet can't have been echoed by the peer. */
    return s->role == KVW_ROLE_SENDER || x->offer_sent ? x : NULL;
}

static bool blocks_in_range(const struct kvw_session *s, const struct kvw_blocks *b)
{
    if (b->ids == NULL || b->tokens == 0 || b->tokens > s->xfer_tokens_max || b->count == 0 ||
        b->count > KVW_XFER_BLOCKS_MAX || (uint64_t)b->count * s->pool.block_tokens < b->tokens)
        return false;
    for (uint32_t i = 0; i < b->count; ++i)
        if (b->ids[i] >= s->pool.blocks)
            return false;
    return true;
}

static void start_layers(struct kvw_session *s, struct kvw_xfer *x)
{
    if (s->role == KVW_ROLE_RECEIVER) {
        for (uint32_t i = 0; i < 2 * s->pool.layers; ++i)
            kvw_ranges_init(&x->cover[i]);
    } else {
        memset(x->layers, 0, s->pool.layers * sizeof(x->layers[0]));
    }
}

kvw_err kvw_xfer_take(struct kvw_session *s, uint64_t id, const struct kvw_blocks *blocks,
                      struct kvw_xfer **out)
{
    struct kvw_xfer *x = NULL;

    if (kvw_xfer_find(s, id) != NULL || !blocks_in_range(s, blocks))
        return KVW_E_INVALID;
    for (uint32_t i = 0; i < s->xfers_max && x == NULL; ++i)
        if (s->xfers[i].state == KVW_XFER_FREE)
            x = &s->xfers[i];
    if (x == NULL)
        return KVW_E_AGAIN;

    const struct kvw_xfer fresh = {
        .state = KVW_XFER_OPEN,
        .serial = ++s->next_serial,
        .id = id,
        .tokens = blocks->tokens,
        /* More blocks than the tokens need are the caller's business, not the peer's. */
        .block_count = (blocks->tokens + s->pool.block_tokens - 1) / s->pool.block_tokens,
        .blocks = x->blocks,
        .deadline_ns = UINT64_MAX,
        .lease_until_ns = UINT64_MAX,
        .offer_by_ns = UINT64_MAX,
        .renew_at_ns = UINT64_MAX,
        .note = x->note,
        .cover = x->cover,
        .layers = x->layers,
    };

    *x = fresh;
    memcpy(x->blocks, blocks->ids, x->block_count * sizeof(x->blocks[0]));
    start_layers(s, x);
    *out = x;
    return KVW_OK;
}

void kvw_xfer_finish(struct kvw_session *s, struct kvw_xfer *x, kvw_err err, enum kvw_reply reply,
                     const char *text)
{
    struct kvw_event_rec *rec = kvw_events_push(&s->events, KVW_EV_XFER_DONE, s->now_ns);
    /* A receiver's peer knows nothing of an offer that wasn't sent. A sender's may have one on its
     * way to us, so it is told in any case. */
    const bool known = s->ready != NULL && (s->role == KVW_ROLE_SENDER || x->offer_sent);

    assert(x->state == KVW_XFER_OPEN);
    if (s->role == KVW_ROLE_SENDER)
        kvw_send_take_back(s, x);
    x->state = KVW_XFER_ENDED;
    x->err = err;
    x->event_due = true;
    x->reply = known ? reply : KVW_REPLY_NONE;
    snprintf(x->text, sizeof(x->text), "%s", text);
    rec->err = err;
    rec->xfer = x->id;
    rec->xfer_at = (uint32_t)(x - s->xfers);
    if (s->role == KVW_ROLE_RECEIVER)
        for (uint32_t i = 0; i < 2 * s->pool.layers; ++i)
            kvw_ranges_free(&x->cover[i], &s->span_pool);
    if (err == KVW_OK)
        ++s->stats.xfers_ok;
    else
        ++s->stats.xfers_failed;
}

void kvw_xfer_finishf(struct kvw_session *s, struct kvw_xfer *x, kvw_err err, const char *format,
                      ...)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    kvw_xfer_finish(s, x, err, KVW_REPLY_ABORT, text);
}

void kvw_xfer_release(struct kvw_xfer *x)
{
    if (x->state == KVW_XFER_ENDED && !x->event_due && x->reply == KVW_REPLY_NONE)
        x->state = KVW_XFER_FREE;
}

kvw_err kvw_xfer_abort_err(kvw_err from_peer)
{
    switch (from_peer) {
    case KVW_E_NOMEM:
    case KVW_E_NOTFOUND:
    case KVW_E_IO:
    case KVW_E_CHECKSUM:
    case KVW_E_CANCELED:
    case KVW_E_LEASE:
    case KVW_E_DEADLINE:
    case KVW_E_NOBLOCKS:
    case KVW_E_CODEC:
    case KVW_E_PROTOCOL:
    case KVW_E_MISMATCH:
    case KVW_E_DEVICE:
    case KVW_E_UNSUPPORTED:
        return from_peer;
    default:
        return KVW_E_CANCELED;
    }
}

static uint32_t encode_reply(const struct kvw_session *s, const struct kvw_xfer *x)
{
    const struct kvw_xfer_msg about = {.xfer = x->id, .epoch = x->epoch};

    if (x->reply == KVW_REPLY_DONE) {
        const struct kvw_done_msg m = {about, x->chunks, x->raw_bytes};

        return kvw_done_encode(s->msg, &m);
    }
    struct kvw_abort_msg m = {.x = about, .err = x->err};

    memcpy(m.text, x->text, sizeof(m.text));
    return kvw_abort_encode(s->msg, &m);
}

bool kvw_xfer_flush_replies(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];

        if (x->state != KVW_XFER_ENDED || x->reply == KVW_REPLY_NONE)
            continue;
        if (kvw_session_send(s, encode_reply(s, x)) == KVW_E_AGAIN)
            return false;
        x->reply = KVW_REPLY_NONE; /* sent, or the connection is gone and CONN_DOWN on its way */
        kvw_xfer_release(x);
    }
    while (s->stray_count > 0) {
        const struct kvw_stray *stray = &s->strays[s->stray_count - 1];
        const struct kvw_abort_msg m = {.x = {.xfer = stray->id, .epoch = stray->epoch},
                                        .err = stray->err,
                                        .text = "no such transfer is open here"};

        if (kvw_session_send(s, kvw_abort_encode(s->msg, &m)) == KVW_E_AGAIN)
            return false;
        --s->stray_count;
    }
    return true;
}

void kvw_xfer_peer_lost(struct kvw_session *s, kvw_err err, const char *text)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];
        /* A stream without an offer, too: that may have been on its way, and such a one doesn't
         * come again. */
        const bool lost = s->role == KVW_ROLE_SENDER || x->offer_sent;

        if (x->state == KVW_XFER_OPEN && lost) {
            kvw_xfer_finish(s, x, err, KVW_REPLY_NONE, text);
        } else if (x->state == KVW_XFER_ENDED) {
            x->reply = KVW_REPLY_NONE; /* nobody is left to be told */
            kvw_xfer_release(x);
        }
    }
    s->stray_count = 0;
}
