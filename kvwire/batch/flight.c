/* SPDX-License-Identifier: Apache-2.0 */
/* Flights: begun, counted, ended. */
#include "flight.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "../kv/staging.h"
#include "../peer/events.h"
#include "../peer/slots.h"

struct kvw_flight *kvw_flight_new(struct kvw_peer *p, bool ours, uint8_t op, uint64_t bytes,
                                  uint32_t chunk_bytes)
{
    struct kvw_batch_peer *b = p->batches;
    struct kvw_flight *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return NULL;
    f->peer = p;
    f->ours = ours;
    f->op = op;
    f->state = KVW_FLIGHT_TELLING;
    f->bytes = bytes;
    f->chunk_bytes = chunk_bytes;
    f->chunks = (uint32_t)((bytes + chunk_bytes - 1) / chunk_bytes);
    kvw_list_init(&f->in);
    kvw_list_init(&f->moving);
    kvw_list_add(ours ? &b->ours : &b->theirs, &f->in);
    return f;
}

struct kvw_flight *kvw_flight_of_epoch(const struct kvw_peer *p, bool ours, uint64_t epoch)
{
    struct kvw_batch_peer *b = p->batches;

    kvw_list_each(it, after, ours ? &b->ours : &b->theirs)
    {
        struct kvw_flight *f = kvw_list_of(it, struct kvw_flight, in);

        if (f->epoch == epoch && f->epoch != 0 && f->state != KVW_FLIGHT_OVER)
            return f;
    }
    return NULL;
}

/* --- limits ----------------------------------------------------------------------------------- */

bool kvw_flight_fits(const struct kvw_batch_open *open, uint32_t runs, uint32_t chunks)
{
    return open->batches < KVW_WIRE_BATCHES_MAX && runs <= KVW_WIRE_RUNS_OPEN_MAX - open->runs &&
           chunks <= KVW_WIRE_CHUNKS_OPEN_MAX - open->chunks;
}

void kvw_flight_count(struct kvw_flight *f)
{
    struct kvw_batch_open *open = f->ours ? &f->peer->batches->out : &f->peer->batches->in;

    ++open->batches;
    open->runs += f->wire_runs;
    open->chunks += f->chunks;
}

static void uncount(const struct kvw_flight *f)
{
    struct kvw_batch_open *open = f->ours ? &f->peer->batches->out : &f->peer->batches->in;

    --open->batches;
    open->runs -= f->wire_runs;
    open->chunks -= f->chunks;
}

/* --- begin ------------------------------------------------------------------------------------ */

kvw_err kvw_flight_begin(struct kvw_core *c, struct kvw_flight *f)
{
    struct kvw_batch_peer *b = f->peer->batches;
    const bool receives = f->ours == (f->op == KVW_BATCH_READ);

    if (receives) {
        if ((f->got = calloc((f->chunks + 7) / 8, 1)) == NULL)
            return KVW_E_NOMEM;
        f->needs_slots = true;
        kvw_slots_need(c, f->peer);
    } else {
        kvw_list_add(&b->moving, &f->moving);
        kvw_list_want(&c->batches->sending, &b->sending);
        c->more = true;
    }
    f->state = KVW_FLIGHT_OPEN;
    return KVW_OK;
}

/* --- end -------------------------------------------------------------------------------------- */

void kvw_flight_free(struct kvw_core *c, struct kvw_flight *f)
{
    assert(f->batch == NULL && !f->needs_slots && kvw_list_empty(&f->moving));
    if (f->epoch != 0)
        uncount(f);
    kvw_peer_owes(c, f->peer); /* the next BATCH may fit now */
    kvw_list_remove(&f->in);
    if (!f->ours)
        kvw_runs_free(&f->runs);
    free(f->got);
    free(f->note);
    free(f);
}

/* A READ is in place: its note may go. */
static void queue_note(struct kvw_core *c, struct kvw_peer *p, struct kvw_batch *x)
{
    kvw_list_add(&p->batches->notes, &x->after->in);
    ++p->batches->note_count;
    x->after = NULL;
    kvw_peer_owes(c, p);
}

/* The post of a batch is over. */
static void post_over(struct kvw_core *c, struct kvw_flight *f, kvw_err err, const char *text)
{
    struct kvw_batch *x = f->batch;

    f->batch = NULL;
    x->flight = NULL;
    x->state = KVW_BATCH_DONE;
    x->err = err;
    x->end_ns = c->now_ns;
    x->moved = kvw_flight_moved(f);
    snprintf(x->text, sizeof(x->text), "%s", text != NULL ? text : "");
    if (x->after != NULL && err == KVW_OK)
        queue_note(c, f->peer, x);
    free(x->after);
    free(x->note);
    x->after = NULL;
    x->note = NULL;
    ++c->batches->ended;
    if (err == KVW_OK)
        ++c->stats.batches_ok;
    else
        ++c->stats.batches_failed;
    if (x->quiet)
        return;
    x->rec = (struct kvw_core_rec){
        .kind = KVW_CEV_BATCH_DONE, .err = err, .peer = x->peer, .at_ns = c->now_ns, .batch = x};
    kvw_list_init(&x->rec.in);
    kvw_list_add(&c->events, &x->rec.in);
}

static void stop_moving(struct kvw_core *c, struct kvw_flight *f)
{
    struct kvw_batch_peer *b = f->peer->batches;

    kvw_list_remove(&f->moving);
    if (kvw_list_empty(&b->moving))
        kvw_list_remove(&b->sending);
    if (b->pending_of == f) {
        kvw_staging_free(&c->stages, b->pending);
        b->pending = NULL;
        b->pending_of = NULL;
        c->put_retry_ns = c->now_ns; /* transfers that wait for a staging slot look again */
        c->more = true;
    }
    if (f->needs_slots)
        kvw_slots_need_no_more(c, f->peer);
    f->needs_slots = false;
}

void kvw_flight_end(struct kvw_core *c, struct kvw_flight *f, kvw_err err, bool tell,
                    const char *text)
{
    assert(f->state != KVW_FLIGHT_OVER);
    stop_moving(c, f);
    if (f->batch != NULL)
        post_over(c, f, err, text);
    f->runs = f->ours ? (struct kvw_runs){.runs = NULL} : f->runs; /* they were the batch's */
    if (f->peer->batches->coming == f)
        f->peer->batches->coming = NULL;
    if (!tell || f->epoch == 0) {
        kvw_flight_free(c, f);
        return;
    }
    f->state = KVW_FLIGHT_OVER;
    f->err = err;
    snprintf(f->text, sizeof(f->text), "%s", text != NULL ? text : "");
    kvw_peer_owes(c, f->peer);
}

/* --- peers ------------------------------------------------------------------------------------ */

kvw_err kvw_flight_peer_up(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_batch_peer *b;

    if ((p->hello.features & KVW_FEATURE_BATCH) == 0)
        return KVW_OK;
    if ((b = calloc(1, sizeof(*b))) == NULL)
        return KVW_E_NOMEM;
    kvw_list_init(&b->sending);
    kvw_list_init(&b->ours);
    kvw_list_init(&b->theirs);
    kvw_list_init(&b->moving);
    kvw_list_init(&b->notes);
    b->parked = KVW_SLOT_LINE_EMPTY;
    b->end_due = true;
    b->gone_told = c->batches->gone_base + c->batches->gone_count;
    p->batches = b;
    kvw_peer_owes(c, p);
    return KVW_OK;
}

void kvw_flight_peer_lost(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text)
{
    struct kvw_batch_peer *b = p->batches;

    if (b == NULL)
        return;
    kvw_list_each(it, after, &b->ours)
    {
        struct kvw_flight *f = kvw_list_of(it, struct kvw_flight, in);

        if (f->state == KVW_FLIGHT_OVER)
            kvw_flight_free(c, f);
        else
            kvw_flight_end(c, f, err, false, text);
    }
    kvw_list_each(at, next, &b->theirs)
    {
        struct kvw_flight *f = kvw_list_of(at, struct kvw_flight, in);

        if (f->state == KVW_FLIGHT_OVER)
            kvw_flight_free(c, f);
        else
            kvw_flight_end(c, f, err, false, text);
    }
    kvw_list_each(note, later, &b->notes) free(kvw_list_of(note, struct kvw_batch_note, in));
    kvw_slots_unpark(&c->slots, &b->parked);
    kvw_regions_free(&b->regions);
    kvw_list_remove(&b->sending);
    ++c->batches->changes;
    free(b);
    p->batches = NULL;
}

/* --- deadlines -------------------------------------------------------------------------------- */

void kvw_flight_deadlines(struct kvw_core *c)
{
    struct kvw_batch_core *b = c->batches;

    if (c->now_ns < b->deadline_ns)
        return;
    b->deadline_ns = UINT64_MAX;
    for (uint32_t i = 0; i < b->room; ++i) {
        struct kvw_batch *x = b->table[i];

        if (x == NULL || x->flight == NULL || x->deadline_ns == 0)
            continue;
        if (c->now_ns >= x->deadline_ns)
            kvw_flight_end(c, x->flight, KVW_E_DEADLINE, true, "the post's deadline passed");
        else if (x->deadline_ns < b->deadline_ns)
            b->deadline_ns = x->deadline_ns;
    }
}
