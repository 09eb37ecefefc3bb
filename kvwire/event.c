/* SPDX-License-Identifier: Apache-2.0 */
#include "event.h"

#include <assert.h>

struct kvw_event_rec *kvw_events_push(struct kvw_events *q, kvw_event_kind kind, uint64_t now_ns)
{
    struct kvw_event_rec *rec = &q->recs[(q->head + q->count) % q->capacity];

    assert(q->count < q->capacity);
    assert(kind == KVW_EV_XFER_DONE || q->others < q->other_max);
    ++q->count;
    if (kind != KVW_EV_XFER_DONE)
        ++q->others;
    rec->kind = kind;
    rec->err = KVW_OK;
    rec->xfer_at = 0;
    rec->layer = 0;
    rec->xfer = 0;
    rec->at_ns = now_ns;
    rec->text[0] = '\0';
    return rec;
}

const struct kvw_event_rec *kvw_events_pop(struct kvw_events *q)
{
    const struct kvw_event_rec *rec;

    if (q->count == 0)
        return NULL;
    rec = &q->recs[q->head];
    q->head = (q->head + 1) % q->capacity;
    --q->count;
    if (rec->kind != KVW_EV_XFER_DONE)
        --q->others;
    return rec;
}
