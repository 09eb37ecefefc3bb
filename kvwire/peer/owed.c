/* SPDX-License-Identifier: Apache-2.0 */
/* Messages made from what is owed. */
#include "owed.h"

#include <stdio.h>

#include "../kv/transfer.h"
#include "../wire/credit.h"
#include "../wire/le.h"
#include "slots.h"
#include "traced.h"

bool kvw_owed_send(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_core_way *way = &c->ways[p->link->path];

    if (way->transport->ops->send(way->transport, p->link->conn, msg, bytes) == KVW_E_AGAIN) {
        c->retry_ns = c->now_ns + KVW_MSG_RETRY_NS;
        return false;
    }
    way->sent = true;
    return true;
}

static bool send_msg(struct kvw_core *c, struct kvw_peer *p, uint32_t bytes)
{
    return kvw_owed_send(c, p, c->msg, bytes);
}

static struct kvw_wire_about about(const kvw_key *key, uint32_t epoch)
{
    struct kvw_wire_about a = {.epoch = epoch};

    memcpy(a.key.bytes, key->bytes, sizeof(a.key.bytes));
    return a;
}

/* --- pools ------------------------------------------------------------------------------------ */

static bool send_pools(struct kvw_core *c, struct kvw_peer *p)
{
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i) {
        const uint32_t bit = 1u << i;

        if ((p->pools_gone & bit) != 0) {
            /* The number of the pool that was told; another may have its place already. */
            if (!send_msg(c, p, kvw_pool_gone_encode(c->msg, p->pool_numbers[i])))
                return false;
            p->pools_gone &= ~bit;
            p->pools_told &= ~bit;
        }
        if (c->pools[i].place != NULL && (p->pools_told & bit) == 0) {
            if (!kvw_owed_send(c, p, c->pools[i].message, c->pools[i].message_bytes))
                return false;
            p->pools_told |= bit;
            p->pool_numbers[i] = (uint16_t)c->pools[i].id;
        }
    }
    return true;
}

/* --- ends ------------------------------------------------------------------------------------- */

static uint32_t encode_reply(struct kvw_core *c, const struct kvw_flow *f)
{
    struct kvw_wire_abort m = {.about = about(&f->key, f->epoch), .err = f->err};

    if (f->reply == KVW_TELL_DONE) {
        const struct kvw_wire_done done = {m.about, f->raw_bytes, f->chunks};

        return kvw_wire_done_encode(c->msg, &done);
    }
    if (f->reply == KVW_TELL_REFUSE && f->receiver)
        m.about.epoch = 0; /* the sender has never heard of this offer */
    snprintf(m.text, sizeof(m.text), "%s", f->text != NULL ? f->text : "");
    return kvw_wire_abort_encode(
        c->msg, f->reply == KVW_TELL_REFUSE ? KVW_WIRE_REFUSE : KVW_WIRE_ABORT, &m);
}

static bool send_ends(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_each(it, after, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        if (f->reply == KVW_TELL_NONE)
            continue;
        if (!send_msg(c, p, encode_reply(c, f)))
            return false;
        f->reply = KVW_TELL_NONE;
        kvw_flow_release(c, f);
    }
    return true;
}

static bool send_refusals(struct kvw_core *c, struct kvw_peer *p)
{
    for (uint32_t i = 0; i < KVW_REFUSALS_MAX; ++i) {
        struct kvw_refusal *r = &c->refusals[i];
        struct kvw_wire_abort m;

        if (r->peer != p)
            continue;
        m = (struct kvw_wire_abort){.about = about(&r->key, r->epoch), .err = r->err};
        memcpy(m.text, r->text, sizeof(r->text));
        if (!send_msg(c, p, kvw_wire_abort_encode(c->msg, KVW_WIRE_REFUSE, &m)))
            return false;
        r->peer = NULL;
    }
    return true;
}

/* --- slots ------------------------------------------------------------------------------------ */

static bool send_return(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_credit *credit = &p->credit;
    const uint64_t next = credit->next + kvw_peer_unnumbered(p); /* the line keeps its own */

    if (!credit->return_due || next > credit->limit)
        return true;
    if (!send_msg(c, p, kvw_wire_return_encode(c->msg, next)))
        return false;
    credit->return_due = false;
    credit->limit = next;
    kvw_peer_busy(c, p); /* its line stood still meanwhile */
    return true;
}

/* One codec's cost rides on each GRANT, in turn. */
static void tell_cost(struct kvw_core *c, struct kvw_peer *p, struct kvw_wire_grant *m)
{
    for (uint32_t n = 0; n < c->codec_count && m->codec == 0; ++n) {
        const struct kvw_choice *choice = &p->chooser.codecs[p->told_codec];

        p->told_codec = (p->told_codec + 1) % c->codec_count;
        if (choice->decode_ps >= 1) {
            m->codec = choice->ops->id;
            m->decode_ps =
                choice->decode_ps < UINT32_MAX ? (uint32_t)choice->decode_ps : UINT32_MAX;
        }
    }
}

/* Peers that need slots; *before: those without any that have waited longer than p. core.receiving
 * has the peer that was granted some last at its end. */
static uint32_t receiving_peers(const struct kvw_core *c, const struct kvw_peer *p,
                                uint32_t *before)
{
    uint32_t n = 0;
    bool seen = false;

    *before = 0;
    kvw_list_each(it, after, &c->receiving)
    {
        const struct kvw_peer *q = kvw_list_of(it, struct kvw_peer, receiving);

        ++n;
        seen = seen || q == p;
        *before +=
            !seen && q->link != NULL && !q->lent.recalled && q->lent.granted + q->lent.landed == 0;
    }
    return n;
}

/* Slots that p has and could do without: all if no flow needs them, else all but one. */
static uint32_t spare(const struct kvw_peer *p)
{
    const uint32_t keeps = kvw_peer_needs_slots(p) ? 1 : 0;

    return p->link == NULL || p->lent.recall_due || p->lent.recalled || p->lent.granted <= keeps
               ? 0
               : p->lent.granted;
}

/* Somebody needs slots and there is none: the peer that has most is asked for what it doesn't use.
 * */
static void ask_back(struct kvw_core *c)
{
    struct kvw_peer *most = NULL;

    kvw_list_each(it, after, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (spare(p) > (most != NULL ? spare(most) : 0))
            most = p;
    }
    if (most == NULL)
        return;
    most->lent.recall_due = true;
    kvw_peer_owes(c, most);
}

/* One message, of up to KVW_WIRE_GRANT_MAX slots; *want becomes what is left. False: not now. */
static bool grant(struct kvw_core *c, struct kvw_peer *p, uint32_t *want)
{
    struct kvw_wire_grant m = {.from = p->lent.limit,
                               .count = *want < KVW_WIRE_GRANT_MAX ? *want : KVW_WIRE_GRANT_MAX};

    tell_cost(c, p, &m);
    m.count = kvw_slots_lend(&c->slots, p, m.count, c->msg + KVW_WIRE_GRANT_LEN, c->now_ns);
    if (!send_msg(c, p, kvw_wire_grant_encode(c->msg, &m))) {
        if (!kvw_slots_take_back(&c->slots, p, m.from)) /* none of them has been used */
            kvw_core_breach(c, p, "slots that were never granted are in use");
        return false;
    }
    *want -= m.count;
    if (kvw_traced(c))
        kvw_trace_tell(c, (struct kvw_trace_event){.kind = KVW_TRACE_GRANT,
                                                   .peer = p->hello.instance,
                                                   .seq = m.from,
                                                   .count = m.count});
    return true;
}

/* How many slots p is to hold. Far away all of its share: what is on a long wire comes cold in any
 * case, and a trial with fewer costs round trips (window.h). */
static uint32_t holds(struct kvw_core *c, struct kvw_peer *p, uint32_t receiving)
{
    const uint32_t share = kvw_slots_share(&c->slots, p, receiving);
    const uint32_t enough = kvw_window_size(&p->lent.window, share);

    return c->ways[p->path].rtt_ns >= KVW_FAR_NS ? share : enough;
}

static bool send_grant(struct kvw_core *c, struct kvw_peer *p)
{
    const uint32_t held = p->lent.granted + p->lent.landed;
    uint32_t before;
    const uint32_t share = holds(c, p, receiving_peers(c, p, &before));
    const uint32_t free = c->slots.free_count > before ? c->slots.free_count - before : 0;
    uint32_t want = share > held ? share - held : 0;

    if (!kvw_peer_needs_slots(p) || p->lent.recall_due || p->lent.recalled)
        return true;
    /* Not for every slot a message: when a quarter of the share can be given, or nothing is left.
     * */
    if (want == 0 || (want < (share + 3) / 4 && p->lent.granted > 0))
        return true;
    if (want > free)
        want = free;
    if (want == 0) {
        if (held == 0)
            ask_back(c);
        return true;
    }
    while (want > 0)
        if (!grant(c, p, &want))
            return false;
    kvw_list_remove(&p->receiving);
    kvw_list_add(&c->receiving, &p->receiving);
    return true;
}

static bool send_recall(struct kvw_core *c, struct kvw_peer *p)
{
    if (!p->lent.recall_due)
        return true;
    if (!send_msg(c, p, kvw_wire_recall_encode(c->msg)))
        return false;
    p->lent.recall_due = false;
    p->lent.recalled = true;
    ++c->stats.slots_recalled;
    return true;
}

void kvw_owed_idle_slots(struct kvw_core *c, struct kvw_peer *p)
{
    p->idle_at_ns = UINT64_MAX;
    if (p->link == NULL || kvw_peer_needs_slots(p) || p->lent.granted == 0 || p->lent.recalled)
        return;
    p->lent.recall_due = true;
    kvw_peer_owes(c, p);
}

/* The transport lets the peer put while offers are open with it; true: it may, or needs no leave.
 * */
static bool open_region(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_core_way *way = &c->ways[p->link->path];
    const struct kvw_transport_ops *ops = way->transport->ops;
    const bool need = kvw_peer_needs_slots(p) || p->lent.granted + p->lent.landed > 0;

    if (ops->region_open == NULL)
        return true;
    if (need && !p->lent.open) {
        p->lent.open =
            ops->region_open(way->transport, p->link->conn, &way->hello.region) == KVW_OK;
        way->sent = true;
        if (!p->lent.open)
            c->retry_ns = c->now_ns + KVW_MSG_RETRY_NS;
    } else if (!need && p->lent.open) {
        ops->region_shut(way->transport, p->link->conn, &way->hello.region);
        p->lent.open = false;
        way->sent = true;
    }
    return p->lent.open || !need;
}

/* --- offers, COMMIT, ALIVE -------------------------------------------------------------------- */

static uint32_t encode_offer(struct kvw_core *c, const struct kvw_flow *f)
{
    struct kvw_wire_span spans[KVW_WIRE_SPANS_MAX];
    const struct kvw_transfer *t = f->transfer;
    const struct kvw_wire_offer m = {
        .about = about(&f->key, f->epoch),
        .lease_ns = f->lease_ns,
        .take_by_ns = t->take_by_ns > c->now_ns ? t->take_by_ns - c->now_ns : 1,
        .tokens = f->tokens,
        .pool = f->pool,
        .exact_last = (uint16_t)f->exact_last,
        .exact_first = (uint8_t)f->exact_first,
        .budget = (uint8_t)f->budget,
        .span_count = f->span_count,
        .stage = f->stage,
    };

    for (uint32_t i = 0; i < f->span_count; ++i)
        spans[i] = (struct kvw_wire_span){
            .group = (uint8_t)f->spans[i].group,
            .part = (uint8_t)f->spans[i].part,
            .layer_first = f->spans[i].layer_first,
            .layers = f->spans[i].layers,
            .token_first = f->spans[i].token_first,
            .token_end = f->spans[i].token_end,
            .row_first = f->spans[i].row_first,
            .rows = f->spans[i].rows,
        };
    return kvw_wire_offer_encode(c->msg, &m, spans);
}

static bool send_offers(struct kvw_core *c, struct kvw_peer *p)
{
    uint32_t open = 0; /* offers the peer holds now: never more than it said it can */

    kvw_list_each(it, after, &p->flows)
    {
        const struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        open += f->receiver && f->state == KVW_FLOW_OPEN;
    }
    kvw_list_each(it, after, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        if (!f->receiver || f->state != KVW_FLOW_WAITING)
            continue;
        if (open == p->hello.offers)
            return true; /* when one has ended this is looked at again */
        if (!send_msg(c, p, encode_offer(c, f)))
            return false;
        f->state = KVW_FLOW_OPEN;
        ++open;
        if (kvw_traced(c))
            kvw_trace_offer(c, f);
    }
    return true;
}

static bool commit_is_due(const struct kvw_flow *f)
{
    return !f->receiver && f->state == KVW_FLOW_OPEN && !f->committed && f->left == 0 &&
           f->queued == 0 && f->transfer->commit_due;
}

static bool send_commits(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_each(it, after, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);
        struct kvw_wire_commit m;

        if (!commit_is_due(f))
            continue;
        m = (struct kvw_wire_commit){
            .about = about(&f->key, f->epoch),
            .raw_bytes = f->raw_bytes,
            .chunks = f->chunks,
            .note_bytes = f->transfer->note_bytes,
            .note = f->transfer->note,
        };
        if (!send_msg(c, p, kvw_wire_commit_encode(c->msg, &m)))
            return false;
        f->committed = true;
        if (kvw_traced(c))
            kvw_trace_commit(c, f, f->chunks);
    }
    return true;
}

static bool send_alive(struct kvw_core *c, struct kvw_peer *p)
{
    uint64_t lease_ns = UINT64_MAX;
    uint32_t n = 0;

    if (!p->alive_due)
        return true;
    kvw_list_each(it, after, &p->flows)
    {
        const struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        if (f->receiver || f->state != KVW_FLOW_OPEN)
            continue;
        if (n == KVW_WIRE_ALIVE_MAX) {
            if (!send_msg(c, p, kvw_wire_alive_encode(c->msg, n)))
                return false;
            n = 0;
        }
        kvw_store_le32(c->msg + KVW_WIRE_ALIVE_LEN + (size_t)4 * n++, f->epoch);
        lease_ns = f->lease_ns < lease_ns ? f->lease_ns : lease_ns;
    }
    if (n > 0 && !send_msg(c, p, kvw_wire_alive_encode(c->msg, n)))
        return false;
    p->alive_due = false;
    kvw_heap_set(&c->timers, &p->alive, n > 0 ? c->now_ns + lease_ns / 4 : UINT64_MAX);
    return true;
}

bool kvw_owed_flush(struct kvw_core *c, struct kvw_peer *p)
{
    if (p->link == NULL)
        return true;
    if (!send_pools(c, p) || !send_ends(c, p) || !send_refusals(c, p) || !send_return(c, p) ||
        !send_recall(c, p) || !open_region(c, p) || !send_grant(c, p) || !send_offers(c, p) ||
        !send_commits(c, p))
        return false;
    return send_alive(c, p);
}
