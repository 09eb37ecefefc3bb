/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traced.h - the core's tracepoints (../trace.h). When nobody listens each costs one branch on a
 * pointer that is NULL.
 *
 * threads  the core's      memory  none      time  of the core's clock, if it has one
 */
#ifndef KVW_PEER_TRACED_H
#define KVW_PEER_TRACED_H

#include "../trace.h"
#include "core_state.h"

static inline bool kvw_traced(const struct kvw_core *c)
{
    return __builtin_expect(c->trace != NULL, 0);
}

/* Tell an event; its time is filled in. */
static inline void kvw_trace_tell(const struct kvw_core *c, struct kvw_trace_event ev)
{
    ev.now_ns = c->clock.now_ns != NULL ? c->clock.now_ns(c->clock.arg) : c->now_ns;
    c->trace(c->trace_arg, &ev);
}

/* What is about a flow with a peer. */
static inline struct kvw_trace_event kvw_trace_flow(uint32_t kind, const struct kvw_flow *f)
{
    return (struct kvw_trace_event){
        .kind = kind, .epoch = f->epoch, .peer = f->peer->hello.instance, .key = f->key};
}

/* CUT, PUT, DONE: a chunk in a staging slot; its flow may have ended. */
static inline void kvw_trace_staged(const struct kvw_core *c, uint32_t kind,
                                    const struct kvw_peer *p, const struct kvw_staged *s,
                                    uint64_t ns)
{
    struct kvw_trace_event ev = {.kind = kind, .peer = p->hello.instance};

    if (s->flow != NULL) {
        ev = kvw_trace_flow(kind, s->flow);
        ev.group = s->flow->spans[s->span].group;
    }
    ev.layer = s->layer;
    ev.part = s->part;
    ev.row_first = s->row_first;
    ev.rows = s->rows;
    ev.entry_first = s->entry_first;
    ev.entries = s->entries;
    ev.raw_bytes = s->raw_bytes;
    ev.codec = s->job.codec->id;
    ev.ns = ns;
    if (kind != KVW_TRACE_CUT)
        ev.wire_bytes = s->bytes;
    if (kind == KVW_TRACE_PUT)
        ev.seq = p->credit.next;
    kvw_trace_tell(c, ev);
}

/* An offer left, or came. */
static inline void kvw_trace_offer(const struct kvw_core *c, const struct kvw_flow *f)
{
    struct kvw_trace_event ev = kvw_trace_flow(KVW_TRACE_OFFER, f);

    ev.count = f->span_count;
    ev.tokens = f->tokens;
    ev.seq = f->stage;
    kvw_trace_tell(c, ev);
}

/* A COMMIT left, or came. */
static inline void kvw_trace_commit(const struct kvw_core *c, const struct kvw_flow *f,
                                    uint32_t chunks)
{
    struct kvw_trace_event ev = kvw_trace_flow(KVW_TRACE_COMMIT, f);

    ev.count = chunks;
    kvw_trace_tell(c, ev);
}

/* READY, SENT, PUSHED, END: what is about a transfer. */
static inline struct kvw_trace_event kvw_trace_transfer(uint32_t kind, const struct kvw_transfer *t,
                                                        uint32_t layer)
{
    return (struct kvw_trace_event){.kind = kind, .key = t->key, .layer = layer};
}

#endif
