/* SPDX-License-Identifier: Apache-2.0 */
/* REGION, GONE, BATCH, BATCH_DONE, NOTIFY of a peer. */
#include "take.h"

#include <stdio.h>
#include <stdlib.h>

#include "../kv/transfer.h"
#include "../peer/events.h"
#include "../peer/slots.h"
#include "flight.h"

/* --- regions ---------------------------------------------------------------------------------- */

static bool take_region(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_batch_peer *b = p->batches;
    struct kvw_wire_region m;
    struct kvw_region r;

    if (kvw_wire_region_decode(&m, msg, bytes) != KVW_OK)
        return false;
    if (m.id == 0) {
        if (b->news)
            kvw_core_emit_peer(c, KVW_CEV_REGIONS, p, KVW_OK, NULL);
        b->told = true;
        b->news = false;
        return true;
    }
    if (b->regions.count > 0 && m.id <= b->regions.list[b->regions.count - 1].id)
        return false;
    if (b->regions.count == KVW_WIRE_REGIONS_MAX) {
        kvw_core_breach(c, p, "more regions than a node can know of a peer");
        return true;
    }
    r = (struct kvw_region){.base = m.base, .bytes = m.bytes, .id = m.id, .rights = m.rights};
    if (kvw_regions_add(&b->regions, &r) != KVW_OK)
        kvw_core_breach(c, p, "no memory for the peer's regions");
    b->news = true;
    return true;
}

static bool take_gone(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    uint32_t id;

    if (kvw_wire_gone_decode(&id, msg, bytes) != KVW_OK ||
        !kvw_regions_remove(&p->batches->regions, id))
        return false;
    p->batches->news = true;
    ++c->batches->changes; /* batches look their regions up again */
    return true;
}

/* --- BATCH ------------------------------------------------------------------------------------ */

/* The first part of a new one; NULL: it can't be, the breach says why. */
static struct kvw_flight *first_part(struct kvw_core *c, struct kvw_peer *p,
                                     const struct kvw_wire_batch *m)
{
    struct kvw_batch_peer *b = p->batches;
    const uint64_t chunks = (m->bytes + m->chunk_bytes - 1) / m->chunk_bytes;
    struct kvw_flight *f;

    if (m->first != 0 || m->epoch != b->epoch_in + 1) {
        kvw_core_breach(c, p, "a BATCH whose epoch or part doesn't follow the one before");
        return NULL;
    }
    if (m->chunk_bytes > c->slots.slot_bytes - KVW_WIRE_CHUNK_LEN ||
        chunks > KVW_WIRE_CHUNKS_OPEN_MAX || !kvw_flight_fits(&b->in, m->runs, (uint32_t)chunks)) {
        kvw_core_breach(c, p, "a BATCH beyond what a node holds for a peer");
        return NULL;
    }
    if ((f = kvw_flight_new(p, false, m->op, m->bytes, m->chunk_bytes)) == NULL) {
        kvw_core_breach(c, p, "no memory for a batch of the peer's");
        return NULL;
    }
    b->epoch_in = f->epoch = m->epoch;
    f->wire_runs = m->runs;
    kvw_flight_count(f);
    b->coming = f;
    if (m->note_bytes > 0 && (f->note = malloc(m->note_bytes)) != NULL) {
        memcpy(f->note, m->note, m->note_bytes);
        f->note_bytes = m->note_bytes;
    } else if (m->note_bytes > 0) {
        kvw_core_breach(c, p, "no memory for a notification of the peer's");
        return NULL;
    }
    return f;
}

/* The part's runs; false: no memory. */
static bool add_runs(struct kvw_flight *f, const struct kvw_wire_batch *m)
{
    for (uint32_t i = 0; i < m->count; ++i) {
        const struct kvw_wire_run w = kvw_wire_batch_run(m, i);
        const struct kvw_run r = {.base = w.base,
                                  .stride = w.stride,
                                  .bytes = w.bytes,
                                  .count = w.count,
                                  .region = w.region};

        if ((uint64_t)w.bytes * w.count > KVW_WIRE_BATCH_BYTES_MAX - f->runs.bytes ||
            kvw_runs_append(&f->runs, &r) != KVW_OK)
            return false;
    }
    f->told += m->count;
    return true;
}

/* All parts are there: does the memory exist, and may the peer do that to it? */
static void whole(struct kvw_core *c, struct kvw_peer *p, struct kvw_flight *f)
{
    const uint32_t rights = f->op == KVW_BATCH_WRITE ? KVW_REGION_WRITE : KVW_REGION_READ;
    char text[sizeof(f->text)] = "no memory for the list of its chunks";
    kvw_err err;

    p->batches->coming = NULL;
    kvw_slots_unpark(&c->slots, &p->batches->parked); /* its chunks, if any; or stale ones */
    c->more = true;
    err = kvw_runs_check(&f->runs, &c->batches->regions, rights, text, sizeof(text));
    if (err == KVW_OK)
        err = kvw_flight_begin(c, f);
    if (err != KVW_OK)
        kvw_flight_end(c, f, err, true, text);
}

static bool take_batch(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_flight *f = p->batches->coming;
    struct kvw_wire_batch m;

    if (kvw_wire_batch_decode(&m, msg, bytes) != KVW_OK)
        return false;
    if (f == NULL && (f = first_part(c, p, &m)) == NULL)
        return true;
    if (m.epoch != f->epoch || m.op != f->op || m.bytes != f->bytes || m.runs != f->wire_runs ||
        m.chunk_bytes != f->chunk_bytes || m.first != f->told || !add_runs(f, &m))
        return false;
    if (f->told < f->wire_runs)
        return true;
    if (f->runs.bytes != f->bytes)
        return false;
    whole(c, p, f);
    return true;
}

/* --- BATCH_DONE, NOTIFY ----------------------------------------------------------------------- */

static bool take_done(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_batch_done m;
    struct kvw_flight *f;

    if (kvw_wire_batch_done_decode(&m, msg, bytes) != KVW_OK)
        return false;
    if ((f = kvw_flight_of_epoch(p, m.of_reader, m.epoch)) == NULL)
        return m.epoch <= (m.of_reader ? p->batches->epoch_out : p->batches->epoch_in);
    /* That a WRITE of ours is in place says its owner; that a READ is says its reader. */
    if (m.err == KVW_OK && (m.bytes != f->bytes || m.of_reader == (f->op == KVW_BATCH_READ)))
        return false;
    if (f->state == KVW_FLIGHT_TELLING && (m.of_reader || m.err == KVW_OK))
        return false; /* nobody knows a batch that isn't told, and nothing of it is in place */
    if (f->ours && m.err != KVW_OK)
        m.err = kvw_transfer_err_from_peer(m.err);
    if (!f->ours && f->state == KVW_FLIGHT_TELLING)
        kvw_slots_unpark(&c->slots, &p->batches->parked);
    kvw_flight_end(c, f, m.err, false, m.text);
    return true;
}

static bool take_notify(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_notify m;
    uint8_t *note;

    if (kvw_wire_notify_decode(&m, msg, bytes) != KVW_OK)
        return false;
    if ((note = malloc(m.bytes)) == NULL) {
        kvw_core_breach(c, p, "no memory for a notification of the peer's");
        return true;
    }
    memcpy(note, m.note, m.bytes);
    kvw_core_emit_note(c, p, note, m.bytes);
    return true;
}

bool kvw_batch_take(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes)
{
    if (!kvw_batch_knows(p))
        return false;
    switch (msg[0]) {
    case KVW_WIRE_REGION:
        return take_region(c, p, msg, bytes);
    case KVW_WIRE_GONE:
        return take_gone(c, p, msg, bytes);
    case KVW_WIRE_BATCH:
        return take_batch(c, p, msg, bytes);
    case KVW_WIRE_BATCH_DONE:
        return take_done(c, p, msg, bytes);
    default:
        return take_notify(c, p, msg, bytes);
    }
}
