/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer.c - the receiver's transfers: blocks lent under an epoch and a lease, COMMIT, and the
 * moment when everything is there (SPEC.md 4.1, 4.3, 4.4).
 *
 * Timers, per transfer:  lease     since the peer was last heard on it: KVW_E_LEASE
 *                        deadline  the caller's: KVW_E_DEADLINE
 */
#include <string.h>

#include "session.h"

kvw_err kvw_offer(struct kvw_session *s, kvw_xfer_id id, const struct kvw_blocks *blocks,
                  const struct kvw_terms *terms, uint64_t now_ns)
{
    static const struct kvw_terms plain;
    const struct kvw_terms *t = terms != NULL ? terms : &plain;
    const uint64_t lease_ns = t->lease_ns != 0 ? t->lease_ns : KVW_LEASE_NS_DEFAULT;
    struct kvw_xfer *x;
    kvw_err err;

    s->now_ns = now_ns;
    if (s->role != KVW_ROLE_RECEIVER || lease_ns < KVW_LEASE_NS_MIN ||
        lease_ns > KVW_LEASE_NS_MAX || (uint32_t)t->budget > KVW_BUDGET_E4)
        return KVW_E_INVALID;
    if ((err = kvw_xfer_take(s, id.value, blocks, &x)) != KVW_OK)
        return err;
    x->epoch = s->next_epoch++;
    if (s->next_epoch == 0) /* 0 says "whichever" in ABORT */
        s->next_epoch = 1;
    x->lease_ns = lease_ns;
    x->lease_until_ns = now_ns + lease_ns;
    x->deadline_ns = t->deadline_ns != 0 ? t->deadline_ns : UINT64_MAX;
    x->budget = t->budget;
    x->exact_first = t->exact_first;
    x->exact_last = t->exact_last;
    return KVW_OK;
}

void kvw_offer_heard(struct kvw_session *s, struct kvw_xfer *x)
{
    x->lease_until_ns = s->now_ns + x->lease_ns;
    x->graced = false;
}

void kvw_offer_renew(struct kvw_session *s, const struct kvw_xfer_msg *m)
{
    struct kvw_xfer *x = kvw_xfer_match(s, m->xfer, m->epoch);

    if (x != NULL)
        kvw_offer_heard(s, x);
    else
        kvw_session_stray(s, m->xfer, m->epoch, KVW_E_CANCELED);
}

void kvw_offer_commit(struct kvw_session *s, const struct kvw_commit_msg *m)
{
    struct kvw_xfer *x = kvw_xfer_match(s, m->x.xfer, m->x.epoch);

    if (x == NULL) {
        kvw_session_stray(s, m->x.xfer, m->x.epoch, KVW_E_CANCELED);
        return;
    }
    if (x->committed) {
        kvw_xfer_finishf(s, x, KVW_E_PROTOCOL, "the peer committed twice");
        return;
    }
    kvw_offer_heard(s, x);
    x->committed = true;
    x->commit_chunks = m->chunks;
    x->commit_raw_bytes = m->raw_bytes;
    x->note_bytes = m->note_bytes;
    memcpy(x->note, m->note, m->note_bytes);
    kvw_offer_settle(s, x);
}

void kvw_offer_settle(struct kvw_session *s, struct kvw_xfer *x)
{
    const bool full = x->layers_ready == s->pool.layers;

    /* Chunks may still be on their way: COMMIT overtakes puts. */
    if (!x->committed || (x->chunks < x->commit_chunks && !full))
        return;
    if (full && x->chunks == x->commit_chunks && x->raw_bytes == x->commit_raw_bytes)
        kvw_xfer_finish(s, x, KVW_OK, KVW_REPLY_DONE, "complete");
    else
        kvw_xfer_finishf(s, x, KVW_E_PROTOCOL,
                         "the peer committed %u chunks, %llu bytes; here %u, %llu, and %u of %u "
                         "layers complete",
                         x->commit_chunks, (unsigned long long)x->commit_raw_bytes, x->chunks,
                         (unsigned long long)x->raw_bytes, x->layers_ready, s->pool.layers);
}

/*
 * A lease that ran out while nobody polled proves nothing: what the peer sent may lie in the
 * transport, unread. It is given a quarter more, once, to be read.
 */
static bool lease_over(struct kvw_session *s, struct kvw_xfer *x)
{
    if (s->now_ns < x->lease_until_ns)
        return false;
    if (s->gap_ns <= x->lease_ns / 4 || x->graced)
        return true;
    x->graced = true;
    x->lease_until_ns = s->now_ns + x->lease_ns / 4;
    return false;
}

void kvw_offer_timers(struct kvw_session *s)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];

        if (x->state != KVW_XFER_OPEN)
            continue;
        if (s->now_ns >= x->deadline_ns)
            kvw_xfer_finishf(s, x, KVW_E_DEADLINE, "the receiver's deadline passed");
        else if (lease_over(s, x))
            kvw_xfer_finishf(s, x, KVW_E_LEASE, "%s for %llu ms",
                             x->offer_sent ? "the sender was silent about this transfer"
                                           : "no peer came to take the offer",
                             (unsigned long long)(x->lease_ns / 1000000));
    }
}

void kvw_offer_lend(struct kvw_session *s)
{
    const struct kvw_transport_ops *ops = s->transport->ops;
    bool open = false;

    if (ops->region_open == NULL)
        return;
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        open |= s->xfers[i].state == KVW_XFER_OPEN;
    if (open && !s->lent)
        s->lent = ops->region_open(s->transport, s->ready->id, &s->hello.region) == KVW_OK;
    else if (!open && s->lent)
        ops->region_shut(s->transport, s->ready->id, &s->hello.region);
    else
        return;
    s->lent = open && s->lent;
    s->sent = true;
}

static kvw_err send_offer(struct kvw_session *s, struct kvw_xfer *x)
{
    const struct kvw_offer_msg m = {
        .xfer = x->id,
        .epoch = x->epoch,
        .tokens = x->tokens,
        .lease_ns = x->lease_ns,
        .budget = x->budget,
        .exact_first = x->exact_first,
        .exact_last = x->exact_last,
    };

    return kvw_session_send(s, kvw_offer_encode(s->msg, &m));
}

/* One codec's cost rides on each GRANT, in turn. */
static void tell_cost(struct kvw_session *s, struct kvw_grant *m)
{
    for (uint32_t n = 0; n < s->codec_count && m->codec == 0; ++n) {
        const struct kvw_choice *c = &s->chooser.codecs[s->told_codec];

        s->told_codec = (s->told_codec + 1) % s->codec_count;
        if (c->decode_ps >= 1) {
            m->codec = c->ops->id;
            m->decode_ps = c->decode_ps < UINT32_MAX ? (uint32_t)c->decode_ps : UINT32_MAX;
        }
    }
}

void kvw_offer_flush(struct kvw_session *s)
{
    uint32_t held = 0; /* offers the peer holds now: never more than it said it can */

    if (kvw_window_limit(&s->window) > s->window.told) {
        struct kvw_grant grant = {.limit = kvw_window_limit(&s->window)};

        tell_cost(s, &grant);
        if (kvw_session_send(s, kvw_grant_encode(s->msg, &grant)) != KVW_OK)
            return;
        s->window.told = grant.limit;
    }
    if (s->transport->ops->region_open != NULL && !s->lent)
        return; /* tried again at the next poll; whoever hears of an offer may put */
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        held += s->xfers[i].state == KVW_XFER_OPEN && s->xfers[i].offer_sent;
    for (uint32_t i = 0; i < s->xfers_max && held < s->ready->hello.xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[i];

        if (x->state != KVW_XFER_OPEN || x->offer_sent)
            continue;
        if (send_offer(s, x) != KVW_OK)
            return;
        x->offer_sent = true;
        ++held;
    }
}
