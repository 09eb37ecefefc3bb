/* SPDX-License-Identifier: Apache-2.0 */
/* Regions, ends, notifications and BATCHes, as messages. */
#include "tell.h"

#include <stdio.h>
#include <stdlib.h>

#include "../kv/transfer.h"
#include "../peer/owed.h"
#include "flight.h"

static bool send_msg(struct kvw_core *c, struct kvw_peer *p, uint32_t bytes)
{
    if (!kvw_owed_send(c, p, c->batches->msg, bytes))
        return false;
    c->stats.batch_message_bytes += bytes;
    return true;
}

/* --- regions ---------------------------------------------------------------------------------- */

static bool send_gone(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_batch_core *all = c->batches;
    struct kvw_batch_peer *b = p->batches;

    while (b->gone_told < all->gone_base + all->gone_count) {
        const uint32_t id = all->gone[b->gone_told - all->gone_base];

        /* One that was added and removed before the peer heard of it isn't mentioned. */
        if (id <= b->regions_told) {
            if (!send_msg(c, p, kvw_wire_gone_encode(all->msg, id)))
                return false;
            b->end_due = true;
        }
        ++b->gone_told;
    }
    return true;
}

static bool send_regions(struct kvw_core *c, struct kvw_peer *p)
{
    static const struct kvw_wire_region that_is_all;
    struct kvw_batch_core *all = c->batches;
    struct kvw_batch_peer *b = p->batches;
    uint32_t at = all->regions.count;

    while (at > 0 && all->regions.list[at - 1].id > b->regions_told)
        --at;
    for (; at < all->regions.count; ++at) {
        const struct kvw_region *r = &all->regions.list[at];
        const struct kvw_wire_region m = {
            .base = r->base, .bytes = r->bytes, .id = r->id, .rights = r->rights};

        if (r->rights != 0) {
            if (!send_msg(c, p, kvw_wire_region_encode(all->msg, &m)))
                return false;
            b->end_due = true;
        }
        b->regions_told = r->id;
    }
    if (b->end_due && !send_msg(c, p, kvw_wire_region_encode(all->msg, &that_is_all)))
        return false;
    b->end_due = false;
    return true;
}

/* --- ends and notifications ------------------------------------------------------------------- */

static bool send_ends_of(struct kvw_core *c, struct kvw_peer *p, struct kvw_list *flights)
{
    kvw_list_each(it, after, flights)
    {
        struct kvw_flight *f = kvw_list_of(it, struct kvw_flight, in);
        struct kvw_wire_batch_done m;

        if (f->state != KVW_FLIGHT_OVER)
            continue;
        m = (struct kvw_wire_batch_done){.epoch = f->epoch, .err = f->err, .of_reader = !f->ours};
        m.bytes = f->err == KVW_OK ? f->bytes : 0;
        snprintf(m.text, sizeof(m.text), "%s", f->text);
        if (!send_msg(c, p, kvw_wire_batch_done_encode(c->batches->msg, &m)))
            return false;
        kvw_flight_free(c, f);
    }
    return true;
}

static bool send_notes(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_each(it, after, &p->batches->notes)
    {
        struct kvw_batch_note *n = kvw_list_of(it, struct kvw_batch_note, in);
        const struct kvw_wire_notify m = {n->bytes, n->note};

        if (!send_msg(c, p, kvw_wire_notify_encode(c->batches->msg, &m)))
            return false;
        kvw_list_remove(&n->in);
        --p->batches->note_count;
        ++c->stats.notes_sent;
        free(n);
    }
    return true;
}

/* --- batches ---------------------------------------------------------------------------------- */

/* The next part of a BATCH, as many runs as fit a message. */
static bool send_part(struct kvw_core *c, struct kvw_flight *f)
{
    const struct kvw_batch *x = f->batch;
    uint8_t *msg = c->batches->msg;
    struct kvw_wire_batch m = {
        .epoch = f->told == 0 ? f->peer->batches->epoch_out + 1 : f->epoch,
        .bytes = f->bytes,
        .chunk_bytes = f->chunk_bytes,
        .runs = f->wire_runs,
        .first = f->told,
        .note_bytes = f->told == 0 ? x->note_bytes : 0,
        .op = f->op,
        .note = x->note,
    };
    const uint32_t room = KVW_MSG_BYTES_MAX - KVW_WIRE_BATCH_LEN - m.note_bytes;

    m.count = f->wire_runs - f->told;
    if (m.count > room / KVW_WIRE_RUN_LEN)
        m.count = room / KVW_WIRE_RUN_LEN;
    for (uint32_t i = 0; i < m.count; ++i) {
        const struct kvw_run *r = &x->remote.runs[f->told + i];
        const struct kvw_wire_run w = {r->base, r->stride, r->bytes, r->count, r->region};

        kvw_wire_run_encode(msg + kvw_wire_batch_run_at(&m, i), &w);
    }
    if (!send_msg(c, f->peer, kvw_wire_batch_encode(msg, &m)))
        return false;
    if (f->told == 0) {
        f->epoch = ++f->peer->batches->epoch_out;
        kvw_flight_count(f);
        c->stats.notes_sent += m.note_bytes > 0;
    }
    f->told += m.count;
    return true;
}

static bool send_batches(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_batch_peer *b = p->batches;

    kvw_list_each(it, after, &b->ours)
    {
        struct kvw_flight *f = kvw_list_of(it, struct kvw_flight, in);

        if (f->state != KVW_FLIGHT_TELLING)
            continue;
        if (f->told == 0 && !kvw_flight_fits(&b->out, f->wire_runs, f->chunks))
            return true; /* when one has ended this is looked at again */
        while (f->told < f->wire_runs)
            if (!send_part(c, f))
                return false;
        if (kvw_flight_begin(c, f) != KVW_OK) {
            kvw_flight_end(c, f, KVW_E_NOMEM, true, "no memory for the list of its chunks");
            return false; /* its BATCH_DONE is owed now, and goes with the next flush */
        }
    }
    return true;
}

bool kvw_batch_flush(struct kvw_core *c, struct kvw_peer *p)
{
    if (!kvw_batch_knows(p))
        return true;
    if (!send_gone(c, p) || !send_regions(c, p) || !send_ends_of(c, p, &p->batches->theirs) ||
        !send_ends_of(c, p, &p->batches->ours) || !send_notes(c, p))
        return false;
    return send_batches(c, p);
}
