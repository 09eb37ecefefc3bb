/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of events of a core. */
#include "events.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "traced.h"

static struct kvw_core_rec *append(struct kvw_core *c, uint32_t kind)
{
    struct kvw_core_rec *rec = kvw_list_of(c->free_recs.next, struct kvw_core_rec, in);

    assert(!kvw_list_empty(&c->free_recs)); /* its place was made sure of before */
    kvw_list_remove(&rec->in);
    *rec = (struct kvw_core_rec){.kind = kind, .at_ns = c->now_ns};
    kvw_list_init(&rec->in);
    kvw_list_add(&c->events, &rec->in);
    return rec;
}

struct kvw_core_rec *kvw_core_emit(struct kvw_core *c, uint32_t kind, const struct kvw_peer *peer,
                                   kvw_err err, const char *text)
{
    struct kvw_core_rec *rec = append(c, kind);

    assert(c->other_room > 0);
    --c->other_room;
    rec->peer = peer != NULL ? peer->id : 0;
    rec->err = err;
    snprintf(rec->text, sizeof(rec->text), "%s", text != NULL ? text : "");
    return rec;
}

void kvw_core_emit_peer(struct kvw_core *c, uint32_t kind, const struct kvw_peer *peer, kvw_err err,
                        const char *text)
{
    for (uint32_t i = 0; i < peer->name_count; ++i)
        kvw_core_emit(c, kind, peer, err, text)->peer = peer->names[i].id;
}

void kvw_core_emit_note(struct kvw_core *c, const struct kvw_peer *peer, uint8_t *note,
                        uint32_t note_bytes)
{
    struct kvw_core_rec *rec = kvw_core_emit(c, KVW_CEV_NOTIFY, peer, KVW_OK, NULL);

    rec->note = note;
    rec->note_bytes = note_bytes;
    ++c->stats.notes_received;
}

void kvw_core_emit_layer(struct kvw_core *c, uint32_t kind, const struct kvw_transfer *t,
                         uint32_t layer)
{
    struct kvw_core_rec *rec = kvw_core_emit(c, kind, NULL, KVW_OK, NULL);

    rec->xfer = t->ref;
    rec->key = t->key;
    rec->layer = layer;
    if (kvw_traced(c) && kind != KVW_CEV_LAYER_CAME && kind != KVW_CEV_COMMITTED)
        kvw_trace_tell(c, kvw_trace_transfer(kind == KVW_CEV_LAYER_READY ? KVW_TRACE_READY
                                             : t->hold != NULL           ? KVW_TRACE_STAGED
                                                                         : KVW_TRACE_SENT,
                                             t, layer));
}

void kvw_core_emit_done(struct kvw_core *c, struct kvw_transfer *t)
{
    struct kvw_core_rec *rec;

    if (!t->serves) {
        rec = append(c, KVW_CEV_XFER_DONE);
        rec->xfer = t->ref;
        rec->key = t->key;
        rec->err = t->err;
        rec->done = t;
        t->event_due = true;
    }
    if (kvw_traced(c)) {
        struct kvw_trace_event ev = kvw_trace_transfer(KVW_TRACE_END, t, 0);

        ev.err = t->err;
        ev.text = t->text;
        kvw_trace_tell(c, ev);
    }
}

struct kvw_core_rec *kvw_core_rec_take(struct kvw_core *c)
{
    struct kvw_core_rec *rec;

    if (kvw_list_empty(&c->events))
        return NULL;
    rec = kvw_list_of(c->events.next, struct kvw_core_rec, in);
    kvw_list_remove(&rec->in);
    if (rec->kind != KVW_CEV_XFER_DONE && rec->batch == NULL && rec->hold == NULL)
        ++c->other_room;
    return rec;
}

void kvw_core_rec_free(struct kvw_core *c, struct kvw_core_rec *rec)
{
    free(rec->note);
    rec->note = NULL;
    if (rec->batch == NULL && rec->hold == NULL) /* else it lies there */
        kvw_list_add(&c->free_recs, &rec->in);
}
