/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.c - the order of work in a poll, and what an event of a transport means. The one file that
 * hangs up on a peer that is up.
 */
#include <assert.h>
#include <stdio.h>

#include "batch/batch.h"
#include "batch/flight.h"
#include "batch/move.h"
#include "batch/take.h"
#include "batch/tell.h"
#include "kv/arrive.h"
#include "kv/depart.h"
#include "kv/stage.h"
#include "peer/events.h"
#include "peer/link.h"
#include "peer/owed.h"
#include "peer/slots.h"
#include "peer/traced.h"
#include "wire/fields.h"
#include "wire/layout.h"

/* --- a peer comes and goes -------------------------------------------------------------------- */

/* A complete flow of a transfer that is open stays: what it brought is in place. */
static void end_flow_of_lost(struct kvw_core *c, struct kvw_flow *f, kvw_err err, const char *text)
{
    struct kvw_transfer *t = f->transfer;

    f->reply = KVW_TELL_NONE; /* nobody is left to be told */
    if (f->state == KVW_FLOW_OPEN || (f->receiver && f->state == KVW_FLOW_WAITING)) {
        kvw_transfer_finish(c, t, err, KVW_TELL_ABORT, text);
        return; /* other peers' flows of it are told, this one has gone */
    }
    if (f->state == KVW_FLOW_WAITING) { /* an offer without a stream */
        kvw_list_remove(&f->of_transfer);
        kvw_flow_end(c, f, KVW_TELL_NONE, err, text);
    }
    kvw_flow_release(c, f);
}

/* How a peer's connection goes. */
enum loss {
    LOSS_TOLD,    /* PEER_LOST says so */
    LOSS_QUIET,   /* by this side's user */
    LOSS_CROSSED, /* both have dialled, and the peer never looked at this one of the two: what was
                     offered there is offered again by the other */
};

/* The connection that was the peer's is no more, or is about to be dropped; it has been taken out.
 * */
static void lose(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text,
                 enum loss how)
{
    if (c->now_ns - p->ready_ns >= KVW_STEADY_NS)
        p->dial_delay_ns = 0;
    p->link = NULL;
    --c->peers_up;
    snprintf(p->why, sizeof(p->why), "%s", text);
    kvw_list_each(it, after, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        if (how == LOSS_CROSSED && f->receiver && f->state <= KVW_FLOW_OPEN && !f->heard)
            f->state = KVW_FLOW_WAITING;
        else
            end_flow_of_lost(c, f, err == KVW_E_CANCELED ? err : KVW_E_PEER_LOST, text);
    }
    kvw_flight_peer_lost(c, p, err == KVW_E_CANCELED ? err : KVW_E_PEER_LOST, text);
    kvw_depart_stop(c, p);
    if (!kvw_slots_take_back(&c->slots, p, 0))
        assert(!"all that was lent can be taken back");
    p->lent = (struct kvw_lent){.limit = 0};
    kvw_slots_wake(c); /* who had asked for them back hears it from nobody else */
    p->idle_at_ns = UINT64_MAX;
    p->pools_told = p->pools_gone = 0;
    p->alive_due = false;
    kvw_heap_set(&c->timers, &p->alive, UINT64_MAX);
    kvw_peer_drop_pools(p);
    kvw_list_remove(&p->due);
    for (uint32_t i = 0; i < KVW_REFUSALS_MAX; ++i)
        if (c->refusals[i].peer == p)
            c->refusals[i].peer = NULL;
    if (how == LOSS_TOLD)
        kvw_core_emit_peer(c, KVW_CEV_PEER_LOST, p, err, text);
    p->told_down = true;
    kvw_link_dial_again(c, p, 0);
}

/* Hang up on a peer. */
static void hang_up(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text,
                    enum loss how)
{
    struct kvw_link *l = p->link;

    lose(c, p, err, text, how);
    kvw_link_drop(c, l);
}

void kvw_core_hang_up(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text)
{
    hang_up(c, p, err, text, LOSS_QUIET);
}

static void peer_up(struct kvw_core *c, const struct kvw_verdict *v)
{
    struct kvw_peer *p = v->peer;
    char text[160];

    if (p->link != NULL)
        hang_up(c, p, KVW_E_PEER_LOST, "the peer connected anew",
                v->quiet ? LOSS_CROSSED : LOSS_TOLD);
    p->link = v->link;
    p->path = v->link->path;
    p->ready_ns = c->now_ns;
    p->dial_at_ns = UINT64_MAX;
    kvw_heap_set(&c->timers, &p->timer, UINT64_MAX);
    p->told_down = false;
    p->why[0] = '\0';
    ++c->peers_up;
    kvw_depart_start(c, p);
    if (kvw_flight_peer_up(c, p) != KVW_OK)
        kvw_core_breach(c, p, "no memory for what a peer needs");
    kvw_peer_owes(c, p);
    snprintf(text, sizeof(text), "%s by %s", p->hello.name[0] != '\0' ? p->hello.name : "a node",
             c->ways[p->path].name);
    kvw_core_emit_peer(c, KVW_CEV_PEER_UP, p, KVW_OK, text);
}

static void act(struct kvw_core *c, const struct kvw_verdict *v)
{
    struct kvw_core_rec *rec;

    switch (v->kind) {
    case KVW_VERDICT_NONE:
        break;
    case KVW_VERDICT_UP:
        peer_up(c, v);
        break;
    case KVW_VERDICT_SAME:
        rec = kvw_core_emit(c, KVW_CEV_PEER_UP, v->peer, KVW_OK, "up already, by another way");
        rec->peer = v->also;
        kvw_lend_peer_up(c, v->peer);
        break;
    case KVW_VERDICT_LOST:
        lose(c, v->peer, v->err, v->text, LOSS_TOLD);
        if (v->rejected)
            kvw_link_drop(c, v->link);
        else
            kvw_link_gone(c, v->link);
        break;
    case KVW_VERDICT_FAILED:
        kvw_core_emit_peer(c, KVW_CEV_PEER_LOST, v->peer, v->err, v->text);
        break;
    }
}

static void act_on_breach(struct kvw_core *c)
{
    struct kvw_peer *p = c->breach;
    char text[KVW_TEXT_BYTES_MAX + 1];

    if (p == NULL || !kvw_core_room(c, KVW_PEER_NAMES_MAX))
        return; /* without room for the news it waits; nothing of the peer is looked at meanwhile */
    memcpy(text, c->breach_text, sizeof(text));
    c->breach = NULL;
    if (p->link != NULL)
        hang_up(c, p, KVW_E_PROTOCOL, text, LOSS_TOLD);
}

/* --- messages of a peer that is up ------------------------------------------------------------ */

static bool take_pool(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_layout *l;
    char why[160];
    uint16_t number;

    if (kvw_pool_msg_gone(msg, bytes)) {
        if (kvw_pool_gone_decode(&number, msg, bytes) != KVW_OK)
            return false;
        for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i)
            if (p->pools[i].layout != NULL && p->pools[i].number == number) {
                kvw_layout_free(p->pools[i].layout);
                p->pools[i].layout = NULL;
                return true;
            }
        return false;
    }
    if (kvw_layout_decode(&l, &number, msg, bytes, why, sizeof(why)) != KVW_OK) {
        kvw_core_breach(c, p, why);
        return true;
    }
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i)
        if (p->pools[i].layout != NULL && p->pools[i].number == number) {
            kvw_layout_free(l);
            return false;
        }
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i)
        if (p->pools[i].layout == NULL) {
            p->pools[i] = (struct kvw_peer_pool){l, number};
            kvw_core_emit_peer(c, KVW_CEV_PEER_POOL, p, KVW_OK, l->name);
            kvw_lend_peer_up(c, p);
            return true;
        }
    kvw_layout_free(l);
    kvw_core_breach(c, p, "more pools than a node can know of a peer");
    return true;
}

/* An epoch of ours, or one of the peer's: numbers may be the same on both sides, keys are not. A
 * REFUSE without a key is about an epoch of the peer's (an ALIVE or COMMIT of ours that met
 * nothing). */
static struct kvw_flow *flow_of_end(const struct kvw_core *c, const struct kvw_peer *p,
                                    const struct kvw_wire_abort *m, uint8_t type)
{
    static const kvw_key no_key;
    struct kvw_flow *f = kvw_flow_find(c, p, m->about.epoch, true);

    if (f != NULL && memcmp(f->key.bytes, m->about.key.bytes, sizeof(f->key.bytes)) == 0)
        return f;
    f = kvw_flow_find(c, p, m->about.epoch, false);
    if (f == NULL || memcmp(f->key.bytes, m->about.key.bytes, sizeof(f->key.bytes)) == 0)
        return f;
    return type == KVW_WIRE_REFUSE &&
                   memcmp(no_key.bytes, m->about.key.bytes, sizeof(no_key.bytes)) == 0
               ? f
               : NULL;
}

static bool take_abort(struct kvw_core *c, struct kvw_peer *p, uint8_t type, const uint8_t *msg,
                       uint32_t bytes)
{
    struct kvw_wire_abort m;
    struct kvw_flow *f;
    const char *text;
    kvw_key key;
    kvw_err err;
    bool pull;

    if (kvw_wire_abort_decode(&m, type, msg, bytes) != KVW_OK)
        return false;
    if (m.about.epoch == 0) {
        kvw_supply_refused(c, p, &m);
        return true;
    }
    err = kvw_transfer_err_from_peer(m.err);
    text = m.text[0] != '\0' ? m.text : "aborted by the peer";
    f = flow_of_end(c, p, &m, type);
    if (f == NULL || f->state >= KVW_FLOW_COMPLETE)
        return true; /* it ended here meanwhile */
    if (f->transfer != NULL) {
        f->reply = KVW_TELL_NONE;
        f->quiet = true;
        kvw_transfer_finish(c, f->transfer, err, KVW_TELL_ABORT, text);
        return true;
    }
    key = f->key;
    pull = f->stage != 0;
    kvw_list_remove(&f->of_transfer); /* from core.waiting */
    kvw_flow_end(c, f, KVW_TELL_NONE, err, NULL);
    kvw_flow_release(c, f);
    if (!pull)
        kvw_recent_add(c, &key, KVW_RECENT_OFFER, err, text);
    return true;
}

static bool take_alive(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    const uint8_t *epochs;
    uint32_t n;

    if (kvw_wire_alive_decode(&epochs, &n, msg, bytes) != KVW_OK)
        return false;
    for (uint32_t i = 0; i < n; ++i)
        kvw_lend_alive(c, p, kvw_load_le32(epochs + (size_t)4 * i));
    return true;
}

static bool take_return(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    uint64_t next;

    if (kvw_wire_return_decode(&next, msg, bytes) != KVW_OK || !p->lent.recalled ||
        (next == 0 && p->lent.landed > 0) || !kvw_slots_take_back(&c->slots, p, next))
        return false;
    p->lent.recalled = false;
    kvw_arrive_check_gaps(c, p);
    kvw_peer_owes(c, p);
    kvw_list_each(it, after, &c->receiving)
        kvw_peer_owes(c, kvw_list_of(it, struct kvw_peer, receiving));
    return true;
}

/* Messages about slots and chunks of a transfer. False: malformed. */
static bool take_small(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_commit commit;
    struct kvw_wire_grant grant;
    struct kvw_wire_done done;

    switch (msg[0]) {
    case KVW_WIRE_GRANT:
        if (kvw_wire_grant_decode(&grant, msg, bytes) != KVW_OK)
            return false;
        kvw_depart_grant(c, p, &grant);
        return true;
    case KVW_WIRE_RECALL:
        if (kvw_wire_recall_decode(msg, bytes) != KVW_OK)
            return false;
        kvw_depart_recall(c, p);
        return true;
    case KVW_WIRE_RETURN:
        return take_return(c, p, msg, bytes);
    case KVW_WIRE_COMMIT:
        if (kvw_wire_commit_decode(&commit, msg, bytes) != KVW_OK)
            return false;
        kvw_lend_commit(c, p, &commit);
        return true;
    case KVW_WIRE_DONE:
        if (kvw_wire_done_decode(&done, msg, bytes) != KVW_OK)
            return false;
        kvw_supply_done(c, p, &done);
        return true;
    default:
        return false;
    }
}

static void take_peer_message(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg,
                              uint32_t bytes)
{
    struct kvw_wire_offer offer;
    char text[80];
    bool fine;

    switch (bytes > 0 ? msg[0] : 0) {
    case KVW_WIRE_POOL:
        fine = take_pool(c, p, msg, bytes);
        break;
    case KVW_WIRE_OFFER:
        fine = kvw_wire_offer_decode(&offer, msg, bytes) == KVW_OK;
        if (fine && offer.stage != 0)
            kvw_stage_offer(c, p, &offer);
        else if (fine)
            kvw_supply_offer(c, p, &offer);
        break;
    case KVW_WIRE_ALIVE:
        fine = take_alive(c, p, msg, bytes);
        break;
    case KVW_WIRE_REGION:
    case KVW_WIRE_GONE:
    case KVW_WIRE_BATCH:
    case KVW_WIRE_BATCH_DONE:
    case KVW_WIRE_NOTIFY:
        fine = kvw_batch_take(c, p, msg, bytes);
        break;
    case KVW_WIRE_ABORT:
    case KVW_WIRE_REFUSE:
        fine = take_abort(c, p, msg[0], msg, bytes);
        break;
    default:
        fine = bytes > 0 && take_small(c, p, msg, bytes);
    }
    if (!fine) {
        snprintf(text, sizeof(text), "a malformed or misplaced message of type %u, %u bytes",
                 bytes > 0 ? msg[0] : 0, bytes);
        kvw_core_breach(c, p, text);
    }
}

/* --- events of a transport -------------------------------------------------------------------- */

static void take_message(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev)
{
    struct kvw_link *l = kvw_link_find(c, way, ev->conn);
    struct kvw_verdict v = {.kind = KVW_VERDICT_NONE};

    if (l == NULL)
        return; /* hung up on already */
    if (l->state == KVW_LINK_READY &&
        (ev->bytes == 0 || (*(const uint8_t *)ev->msg != KVW_WIRE_REJECT))) {
        take_peer_message(c, l->peer, ev->msg, ev->bytes);
        return;
    }
    kvw_link_message(c, l, ev->msg, ev->bytes, &v);
    act(c, &v);
}

static void take_landed(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev)
{
    const struct kvw_link *l = kvw_link_find(c, way, ev->conn);

    if (l == NULL || l->state != KVW_LINK_READY)
        return;
    if (kvw_slots_land(&c->slots, l->peer, ev->offset, ev->bytes, ev->imm, c->now_ns) != KVW_OK)
        kvw_core_breach(c, l->peer, "a put landed where none was granted");
    else if (kvw_traced(c))
        kvw_trace_tell(c, (struct kvw_trace_event){.kind = KVW_TRACE_LANDED,
                                                   .peer = l->peer->hello.instance,
                                                   .seq = ev->imm,
                                                   .wire_bytes = ev->bytes});
}

static void take_event(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev)
{
    struct kvw_verdict v = {.kind = KVW_VERDICT_NONE};

    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        kvw_link_conn_up(c, way, ev);
        break;
    case KVW_TEV_CONN_DOWN:
        kvw_link_conn_down(c, way, ev, &v);
        act(c, &v);
        break;
    case KVW_TEV_MESSAGE:
        take_message(c, way, ev);
        break;
    case KVW_TEV_PUT_DONE:
        kvw_depart_put_done(c, way, ev);
        break;
    case KVW_TEV_PUT_LANDED:
        take_landed(c, way, ev);
        break;
    }
    act_on_breach(c);
}

static void refill(struct kvw_core *c, struct kvw_core_way *way)
{
    way->batch_at = 0;
    way->batch_count =
        way->transport->ops->poll(way->transport, c->now_ns, way->batch, KVW_BATCH_EVENTS);
    way->sent = false;
    way->transport->ops->stats(way->transport, &way->stats);
    way->rtt_ns = way->stats.srtt_ns;
}

/* Take what a transport has; true: it may have more. */
static bool take_input(struct kvw_core *c, uint32_t at)
{
    struct kvw_core_way *way = &c->ways[at];

    for (uint32_t n = 0; n < KVW_BATCHES_A_TURN; ++n) {
        bool full;

        if (way->batch_at == way->batch_count)
            refill(c, way);
        full = way->batch_count == KVW_BATCH_EVENTS;
        while (way->batch_at < way->batch_count) {
            if (!kvw_core_room(c, KVW_STEP_EVENTS))
                return false;
            take_event(c, at, &way->batch[way->batch_at++]);
        }
        if (!full)
            return false;
    }
    return true;
}

/* --- timers ----------------------------------------------------------------------------------- */

static void transfer_timer(struct kvw_core *c, struct kvw_transfer *t)
{
    if (c->now_ns >= t->deadline_ns)
        kvw_transfer_finishf(c, t, KVW_E_DEADLINE, "the %s's deadline passed",
                             t->receiver ? "receiver" : "sender");
    else if (t->receiver)
        kvw_lend_pending_late(c, t);
    else
        kvw_transfer_finishf(c, t, KVW_E_DEADLINE, "of %u receivers %u offered blocks in time",
                             t->flows_wanted, t->flow_count);
}

static void peer_timer(struct kvw_core *c, struct kvw_peer *p, struct kvw_verdict *v)
{
    if (c->now_ns >= p->idle_at_ns)
        kvw_owed_idle_slots(c, p);
    if (c->now_ns >= p->dial_at_ns) {
        p->dial_at_ns = UINT64_MAX; /* what is there, when it ends, says when to dial again */
        if (p->link == NULL && p->dialing == NULL)
            kvw_link_dial(c, p, v);
    }
    kvw_heap_set(&c->timers, &p->timer,
                 p->dial_at_ns < p->idle_at_ns ? p->dial_at_ns : p->idle_at_ns);
}

static void run_timers(struct kvw_core *c)
{
    struct kvw_timer *t;

    while (kvw_core_room(c, KVW_STEP_EVENTS) &&
           (t = kvw_heap_take(&c->timers, c->now_ns)) != NULL) {
        struct kvw_verdict v = {.kind = KVW_VERDICT_NONE};
        struct kvw_flow *f;
        struct kvw_peer *p;

        switch (t->kind) {
        case KVW_TIMER_LINK:
            kvw_link_timer(c, kvw_list_of(t, struct kvw_link, timer), &v);
            break;
        case KVW_TIMER_PEER:
            peer_timer(c, kvw_list_of(t, struct kvw_peer, timer), &v);
            break;
        case KVW_TIMER_ALIVE:
            p = kvw_list_of(t, struct kvw_peer, alive);
            p->alive_due = true;
            kvw_peer_owes(c, p);
            break;
        case KVW_TIMER_FLOW:
            f = kvw_list_of(t, struct kvw_flow, timer);
            if (f->receiver)
                kvw_lend_timer(c, f);
            else
                kvw_supply_timer(c, f);
            break;
        case KVW_TIMER_TRANSFER:
            transfer_timer(c, kvw_list_of(t, struct kvw_transfer, timer));
            break;
        case KVW_TIMER_HOLD:
            kvw_stage_timer(c, kvw_list_of(t, struct kvw_hold, timer));
            break;
        }
        act(c, &v);
    }
}

/* Messages that are owed to a peer; false: its transport is full. */
static bool flush_peer(struct kvw_core *c, struct kvw_peer *p)
{
    if (!kvw_owed_flush(c, p) || !kvw_batch_flush(c, p))
        return false;
    return p->batches_in == 0 || kvw_owed_flush(c, p); /* a READ that has begun needs slots */
}

/* Credit and staging slots are shared by transfers and batches: they take turns. */
static bool depart(struct kvw_core *c)
{
    bool more = false;

    c->batches_first = !c->batches_first;
    if (c->batches_first)
        more = kvw_batch_send(c);
    more = kvw_depart_poll(c) || more;
    if (!c->batches_first)
        more = kvw_batch_send(c) || more;
    return more;
}

/* --- poll ------------------------------------------------------------------------------------- */

static void flush(struct kvw_core *c)
{
    c->retry_ns = UINT64_MAX;
    kvw_list_each(it, after, &c->links_due)
    {
        struct kvw_verdict v = {.kind = KVW_VERDICT_NONE};

        if (!kvw_core_room(c, KVW_STEP_EVENTS))
            return;
        kvw_link_flush(c, kvw_list_of(it, struct kvw_link, due), &v);
        act(c, &v);
    }
    kvw_list_each(at, next, &c->due)
    {
        struct kvw_peer *p = kvw_list_of(at, struct kvw_peer, due);

        if (flush_peer(c, p))
            kvw_list_remove(&p->due);
        act_on_breach(c);
    }
}

bool kvw_core_poll(struct kvw_core *c, uint64_t now_ns)
{
    bool more = false;

    kvw_core_assert_consistent(c);
    c->gap_ns = c->polled_ns != 0 ? now_ns - c->polled_ns : 0; /* 0: the first */
    c->polled_ns = c->now_ns = now_ns;
    c->held_up = c->more = false;
    act_on_breach(c);
    for (uint32_t w = 0; w < c->way_count; ++w)
        more = take_input(c, w) || more;
    run_timers(c);
    kvw_flight_deadlines(c);
    more = kvw_arrive_poll(c) || more;
    more = kvw_batch_arrive(c) || more;
    act_on_breach(c);
    kvw_supply_marks(c);
    more = kvw_stage_poll(c) || more;
    more = depart(c) || more;
    act_on_breach(c);
    flush(c);
    /* Let the transports transmit; what they report meanwhile waits for the next poll. */
    for (uint32_t w = 0; w < c->way_count; ++w) {
        if (c->ways[w].sent && c->ways[w].batch_at == c->ways[w].batch_count)
            refill(c, &c->ways[w]);
        more = more || c->ways[w].batch_at < c->ways[w].batch_count;
    }
    /* What was owed has gone, or waits for a transport; what came up since is for the next poll. */
    c->more =
        c->retry_ns == UINT64_MAX && (!kvw_list_empty(&c->due) || !kvw_list_empty(&c->links_due));
    kvw_core_assert_consistent(c);
    return (more || c->more) && !c->held_up;
}

uint64_t kvw_core_deadline_ns(const struct kvw_core *c)
{
    uint64_t at = kvw_heap_first_ns(&c->timers);

    if (c->more || (c->held_up && c->other_room >= KVW_STEP_EVENTS))
        return 0;
    if (c->held_up)
        return UINT64_MAX; /* until events are taken */
    for (uint32_t w = 0; w < c->way_count; ++w) {
        const struct kvw_core_way *way = &c->ways[w];
        const uint64_t its = way->transport->ops->deadline_ns(way->transport);

        if (way->batch_at < way->batch_count)
            return 0;
        at = its < at ? its : at;
    }
    if (c->retry_ns < at)
        at = c->retry_ns;
    if (c->put_retry_ns < at)
        at = c->put_retry_ns;
    if (kvw_batch_deadline_ns(c) < at)
        at = kvw_batch_deadline_ns(c);
    if (!kvw_list_empty(&c->marked) && c->now_ns + KVW_MARKS_NS < at)
        at = c->now_ns + KVW_MARKS_NS;
    if (c->device.jobs != NULL && (!kvw_list_empty(&c->busy) || c->slots.landed_count > 0) &&
        c->now_ns + KVW_DEVICE_NS < at)
        at = c->now_ns + KVW_DEVICE_NS; /* a GPU wakes nobody */
    return at;
}
