/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - the sender's transfers: opened under an offer or before it, pushed layer by layer,
 * committed, and done when the receiver says so (SPEC.md 4.1, 4.3, 4.4).
 *
 * Timers, per stream:  offer_by  until its offer has come: KVW_E_DEADLINE
 *                      deadline  the caller's: KVW_E_DEADLINE
 *                      renew     a quarter of the lease: RENEW
 *         per offer without a stream:  its lease; then it is forgotten
 */
#include <string.h>

#include "session.h"

struct kvw_offer_in *kvw_stream_offer_find(const struct kvw_session *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        if (s->offers[i].used && !s->offers[i].declined && s->offers[i].id == id)
            return &s->offers[i];
    return NULL;
}

/* Offer and stream have met. */
static void join(struct kvw_session *s, struct kvw_xfer *x, const struct kvw_offer_in *o)
{
    x->epoch = o->epoch;
    x->lease_ns = o->lease_ns;
    x->budget = o->budget;
    x->exact_first = o->exact_first;
    x->exact_last = o->exact_last;
    x->renew_at_ns = s->now_ns; /* at once: the receiver's lease has been running since its offer */
    if (o->tokens != x->tokens)
        kvw_xfer_finishf(s, x, KVW_E_MISMATCH, "the offer is for %u tokens, the stream has %u",
                         o->tokens, x->tokens);
}

void kvw_stream_offer(struct kvw_session *s, const struct kvw_offer_msg *m)
{
    struct kvw_xfer *x = kvw_xfer_find(s, m->xfer);
    const struct kvw_offer_in offer = {
        .used = true,
        .id = m->xfer,
        .epoch = m->epoch,
        .tokens = m->tokens,
        .lease_ns = m->lease_ns,
        .until_ns = s->now_ns + m->lease_ns,
        .budget = m->budget,
        .exact_first = m->exact_first,
        .exact_last = m->exact_last,
    };
    struct kvw_offer_in *o = NULL;
    struct kvw_event_rec *rec;

    if ((x != NULL && x->epoch != 0) || kvw_stream_offer_find(s, m->xfer) != NULL) {
        kvw_handshake_breach(s, "an offer for a transfer that is already offered");
        return;
    }
    if (x == NULL) {
        for (uint32_t i = 0; i < s->xfers_max && o == NULL; ++i)
            if (!s->offers[i].used)
                o = &s->offers[i];
        if (o == NULL) { /* only after declining some: their ABORTs haven't left yet */
            kvw_session_stray(s, m->xfer, m->epoch, KVW_E_CANCELED);
            return;
        }
        *o = offer;
    }
    rec = kvw_events_push(&s->events, KVW_EV_OFFERED, s->now_ns);
    rec->xfer = m->xfer;
    if (x != NULL)
        join(s, x, &offer);
}

kvw_err kvw_stream_open(struct kvw_session *s, kvw_xfer_id id, const struct kvw_blocks *blocks,
                        uint64_t offer_by_ns, uint64_t deadline_ns, uint64_t now_ns)
{
    struct kvw_offer_in *o;
    struct kvw_xfer *x;
    kvw_err err;

    s->now_ns = now_ns;
    if (s->role != KVW_ROLE_SENDER)
        return KVW_E_INVALID;
    if ((err = kvw_xfer_take(s, id.value, blocks, &x)) != KVW_OK)
        return err;
    x->deadline_ns = deadline_ns != 0 ? deadline_ns : UINT64_MAX;
    x->opened_ns = now_ns;
    if (offer_by_ns != 0)
        x->offer_by_ns = offer_by_ns;
    else if (deadline_ns == 0) /* nothing waits for ever */
        x->offer_by_ns = now_ns + KVW_LEASE_NS_MAX;
    if ((o = kvw_stream_offer_find(s, id.value)) != NULL) {
        o->used = false;
        join(s, x, o);
    }
    return KVW_OK;
}

/* A layer's tokens up to this one are computed. */
static void pushed(const struct kvw_session *s, struct kvw_xfer *x, struct kvw_layer_out *l,
                   uint32_t tokens)
{
    x->pushed_bytes += 2ull * (tokens - l->pushed) * s->token_bytes; /* K and V */
    l->pushed = tokens;
}

kvw_err kvw_push_layer(struct kvw_session *s, kvw_xfer_id id, uint32_t layer, uint32_t tokens,
                       const struct kvw_ready *ready)
{
    const bool now = ready == NULL || ready->query == NULL;
    struct kvw_layer_out *l;
    struct kvw_xfer *x;

    if (s->role != KVW_ROLE_SENDER || layer >= s->pool.layers)
        return KVW_E_INVALID;
    if ((x = kvw_xfer_find(s, id.value)) == NULL)
        return KVW_E_NOTFOUND;
    if (tokens > x->tokens)
        return KVW_E_INVALID;
    l = &x->layers[layer];
    if (tokens <= l->promised)
        return KVW_OK;
    if (now) { /* says as much as every mark before it, and more */
        x->marks_pending -= l->mark_count;
        l->mark_count = 0;
        pushed(s, x, l, tokens);
    } else if (l->mark_count == KVW_MARKS_MAX) {
        return KVW_E_AGAIN;
    } else {
        l->marks[l->mark_count].tokens = tokens;
        l->marks[l->mark_count].ready = *ready;
        ++l->mark_count;
        ++x->marks_pending;
    }
    l->promised = tokens;
    return KVW_OK;
}

kvw_err kvw_commit(struct kvw_session *s, kvw_xfer_id id, const void *note, uint32_t note_bytes)
{
    struct kvw_xfer *x;

    if (s->role != KVW_ROLE_SENDER || note_bytes > KVW_COMMIT_NOTE_MAX ||
        (note == NULL && note_bytes > 0))
        return KVW_E_INVALID;
    if ((x = kvw_xfer_find(s, id.value)) == NULL)
        return KVW_E_NOTFOUND;
    if (x->commit_due)
        return KVW_E_INVALID;
    for (uint32_t l = 0; l < s->pool.layers; ++l)
        if (x->layers[l].promised != x->tokens)
            return KVW_E_INVALID;
    x->commit_due = true;
    x->note_bytes = note_bytes;
    if (note_bytes > 0)
        memcpy(x->note, note, note_bytes);
    return KVW_OK;
}

void kvw_stream_layer_sent(struct kvw_session *s, struct kvw_xfer *x, uint32_t layer)
{
    struct kvw_layer_out *l = &x->layers[layer];
    struct kvw_event_rec *rec;

    if (l->reported || l->in_flight > 0 || l->cut[0] != x->tokens || l->cut[1] != x->tokens)
        return;
    l->reported = true;
    rec = kvw_events_push(&s->events, KVW_EV_LAYER_SENT, s->now_ns);
    rec->xfer = x->id;
    rec->layer = layer;
}

void kvw_stream_done(struct kvw_session *s, const struct kvw_done_msg *m)
{
    struct kvw_xfer *x = kvw_xfer_match(s, m->x.xfer, m->x.epoch);

    if (x == NULL)
        return; /* it ended here meanwhile */
    if (!x->commit_sent || m->chunks != x->chunks || m->raw_bytes != x->raw_bytes) {
        kvw_xfer_finishf(
            s, x, KVW_E_PROTOCOL, "the peer is done with %u chunks, %llu bytes; here %u, %llu, %s",
            m->chunks, (unsigned long long)m->raw_bytes, x->chunks,
            (unsigned long long)x->raw_bytes, x->commit_sent ? "committed" : "not committed");
        return;
    }
    /* DONE may overtake the outcomes of the last puts. It says what they would have said. */
    for (uint32_t l = 0; l < s->pool.layers; ++l) {
        x->layers[l].in_flight = 0;
        kvw_stream_layer_sent(s, x, l);
    }
    kvw_xfer_finish(s, x, KVW_OK, KVW_REPLY_NONE, "complete");
}

/* The marks of one layer, oldest first; false: the stream has ended. */
static bool ask_layer(struct kvw_session *s, struct kvw_xfer *x, struct kvw_layer_out *l)
{
    while (l->mark_count > 0) {
        const kvw_err err = l->marks[0].ready.query(l->marks[0].ready.arg);

        if (err == KVW_E_AGAIN)
            return true;
        if (err != KVW_OK) {
            kvw_xfer_finishf(s, x, err < 0 ? err : KVW_E_DEVICE, "layer %u will never be ready: %s",
                             (uint32_t)(l - x->layers), kvw_strerror(err));
            return false;
        }
        pushed(s, x, l, l->marks[0].tokens);
        --l->mark_count;
        --x->marks_pending;
        memmove(&l->marks[0], &l->marks[1], l->mark_count * sizeof(l->marks[0]));
    }
    return true;
}

void kvw_stream_marks(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];

        if (x->state != KVW_XFER_OPEN || x->marks_pending == 0)
            continue;
        for (uint32_t l = x->low_layer; l < s->pool.layers; ++l)
            if (!ask_layer(s, x, &x->layers[l]))
                break;
    }
}

void kvw_stream_timers(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];
        struct kvw_offer_in *o = &s->offers[i];

        if (o->used && s->now_ns >= o->until_ns)
            o->used = false;
        if (x->state != KVW_XFER_OPEN)
            continue;
        if (s->now_ns >= x->deadline_ns)
            kvw_xfer_finishf(s, x, KVW_E_DEADLINE, "the sender's deadline passed");
        else if (x->epoch == 0 && s->now_ns >= x->offer_by_ns)
            kvw_xfer_finishf(s, x, KVW_E_DEADLINE, "the receiver did not offer blocks in time");
    }
}

bool kvw_stream_flush_declined(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_offer_in *o = &s->offers[i];
        struct kvw_abort_msg m = {.x = {.xfer = o->id, .epoch = o->epoch}, .err = KVW_E_CANCELED};

        if (!o->used || !o->declined)
            continue;
        memcpy(m.text, o->text, sizeof(m.text));
        if (kvw_session_send(s, kvw_abort_encode(s->msg, &m)) == KVW_E_AGAIN)
            return false;
        o->used = false;
    }
    return true;
}

static kvw_err send_commit(struct kvw_session *s, const struct kvw_xfer *x)
{
    const struct kvw_commit_msg m = {
        .x = {.xfer = x->id, .epoch = x->epoch},
        .chunks = x->chunks,
        .raw_bytes = x->raw_bytes,
        .note = x->note,
        .note_bytes = x->note_bytes,
    };

    return kvw_session_send(s, kvw_commit_encode(s->msg, &m));
}

void kvw_stream_flush(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];
        const struct kvw_xfer_msg about = {.xfer = x->id, .epoch = x->epoch};

        if (x->state != KVW_XFER_OPEN || x->epoch == 0)
            continue;
        if (x->commit_due && !x->commit_sent && x->low_layer == s->pool.layers && x->queued == 0) {
            if (send_commit(s, x) != KVW_OK)
                return;
            x->commit_sent = true;
        }
        if (s->now_ns >= x->renew_at_ns) {
            /* Full: try again soon, but don't make a poll loop spin over it. */
            x->renew_at_ns = s->now_ns + KVW_RENEW_RETRY_NS;
            if (kvw_session_send(s, kvw_renew_encode(s->msg, &about)) != KVW_OK)
                return;
            x->renew_at_ns = s->now_ns + x->lease_ns / 4;
        }
    }
}
