/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.h - the queue of events that can't overflow.
 *
 * Two kinds of place are counted apart. One XFER_DONE place belongs to each transfer, so that a
 * transfer can always end. All other events share the rest; whoever is about to do a step asks
 * kvw_events_room() first and leaves the step for later when there is none.
 *
 * threads  one      memory  the records are the caller's      time  none
 */
#ifndef KVW_EVENT_H
#define KVW_EVENT_H

#include <stdbool.h>

#include "kvwire.h"
#include "wire.h"

struct kvw_event_rec {
    kvw_event_kind kind;
    kvw_err err;
    uint32_t xfer_at; /* XFER_DONE: index of the transfer; its text and note lie there */
    uint32_t layer;
    uint64_t xfer;
    uint64_t at_ns;
    char text[KVW_TEXT_BYTES_MAX + 1]; /* all but XFER_DONE */
};

struct kvw_events {
    struct kvw_event_rec *recs;
    uint32_t capacity; /* xfers_max + what other events may take */
    uint32_t other_max;
    uint32_t head, count;
    uint32_t others; /* of count, those that aren't XFER_DONE */
};

/* The most events, XFER_DONE aside, that one step can make: DONE reports every layer as sent, a
 * lost and a new peer make two, with some to spare. */
#define KVW_EVENTS_STEP(layers) ((layers) + 4u)
/* Two steps' worth and some, so that one more step fits while the caller is taking events. */
#define KVW_EVENTS_OTHER_MAX(layers) (2u * KVW_EVENTS_STEP(layers) + 32u)

/* Whether `steps` events other than XFER_DONE fit. */
static inline bool kvw_events_room(const struct kvw_events *q, uint32_t events)
{
    return q->other_max - q->others >= events;
}

/* Append a record and return it, to be filled in; its place was made sure of before. */
struct kvw_event_rec *kvw_events_push(struct kvw_events *q, kvw_event_kind kind, uint64_t now_ns);

/* Oldest record, or NULL; valid until the next push. */
const struct kvw_event_rec *kvw_events_pop(struct kvw_events *q);

#endif
