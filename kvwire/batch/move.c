/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks of batches, out and in. */
#include "move.h"

#include <stdio.h>

#include "../digest.h"
#include "../kv/staging.h"
#include "../kv/transfer.h"
#include "../peer/events.h"
#include "../peer/slots.h"
#include "flight.h"

static uint64_t digest_of(kvw_digest_id id, const uint8_t *bytes, uint32_t n)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, id) != KVW_OK)
        return 0; /* can't be: it is in both HELLOs */
    kvw_digest_update(&d, bytes, n);
    return kvw_digest_value(&d);
}

static uint32_t chunk_bytes_at(const struct kvw_flight *f, uint64_t offset)
{
    const uint64_t left = f->bytes - offset;

    return left < f->chunk_bytes ? (uint32_t)left : f->chunk_bytes;
}

static void touch(struct kvw_core *c, const struct kvw_flight *f)
{
    if (f->batch != NULL && f->batch->first_ns == 0)
        f->batch->first_ns = c->now_ns;
}

/* --- out -------------------------------------------------------------------------------------- */

/* The next chunk of the peer's first flight, gathered; false: no staging slot is free. */
static bool gather(struct kvw_core *c, struct kvw_batch_peer *b)
{
    struct kvw_flight *f = kvw_list_of(b->moving.next, struct kvw_flight, moving);
    const uint64_t offset = (uint64_t)f->moved * f->chunk_bytes;
    const uint32_t n = chunk_bytes_at(f, offset);
    struct kvw_staged *s = kvw_staging_lend(&c->stages, f->peer);
    uint8_t *at;

    if (s == NULL)
        return false;
    at = kvw_staging_mem(&c->stages, s) + KVW_WIRE_CHUNK_LEN;
    s->raw_bytes = n;
    s->bytes = KVW_WIRE_CHUNK_LEN + n;
    kvw_runs_gather(&f->runs, offset, at, n);
    s->job.digest_value = digest_of(f->peer->digest, at, n);
    b->pending = s;
    b->pending_of = f;
    return true;
}

static void write_header(const struct kvw_core *c, const struct kvw_peer *p,
                         const struct kvw_staged *s, const struct kvw_flight *f)
{
    const struct kvw_wire_batch_chunk h = {
        .epoch = f->epoch,
        .offset = (uint64_t)f->moved * f->chunk_bytes,
        .digest_value = s->job.digest_value,
        .seq = (uint32_t)p->credit.next,
        .bytes = s->raw_bytes,
        .op = f->op,
        .digest = (uint8_t)p->digest,
    };

    kvw_wire_batch_chunk_encode(kvw_staging_mem(&c->stages, s), &h);
}

/* The transport has the pending chunk. */
static void account(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_batch_peer *b = p->batches;
    struct kvw_flight *f = b->pending_of;
    struct kvw_staged *s = b->pending;

    b->pending = NULL;
    b->pending_of = NULL;
    p->rate.rtt_ns = c->ways[p->path].rtt_ns;
    s->conn = p->link->conn;
    s->path = p->path;
    kvw_rate_sent(&p->rate, &s->mark, s->bytes, c->now_ns);
    ++p->credit.next;
    ++p->flying;
    p->raw_sent += s->raw_bytes;
    touch(c, f);
    ++f->moved;
    c->stats.batch_bytes_sent += s->raw_bytes;
    c->stats.batch_message_bytes += KVW_WIRE_CHUNK_LEN;
    c->ways[p->path].sent = true;
    kvw_list_remove(&f->moving); /* the next flight's turn */
    if (f->moved < f->chunks)
        kvw_list_add(&b->moving, &f->moving);
    if (kvw_list_empty(&b->moving))
        kvw_list_remove(&b->sending);
}

/* The transport takes the pending chunk; false: not now. */
static bool put(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_core_way *way = &c->ways[p->path];
    struct kvw_staged *s = p->batches->pending;
    struct kvw_put put = {
        .key = p->hello.region,
        .offset = (uint64_t)kvw_credit_slot(&p->credit) * p->hello.slot_bytes,
        .iov_count = 1,
        .imm = (uint32_t)p->credit.next,
        .cookie = (uint64_t)(s - c->stages.stages),
    };
    kvw_err err;

    write_header(c, p, s, p->batches->pending_of);
    put.iov[0] = (struct kvw_iov){kvw_staging_mem(&c->stages, s), s->bytes};
    err = way->transport->ops->put(way->transport, p->link->conn, &put);
    if (err == KVW_OK) {
        account(c, p);
        return true;
    }
    if (err == KVW_E_AGAIN) {
        if (p->flying == 0) /* else a PUT_DONE of its own comes */
            c->put_retry_ns = c->now_ns + KVW_PUT_RETRY_NS;
    } else if (err != KVW_E_NOTFOUND) /* gone: CONN_DOWN is on its way */
        kvw_core_breach(c, p, "the transport refused a put to the peer's landing slots");
    return false;
}

/* One chunk of one peer; false: it has to wait for something to come in. */
static bool send_one(struct kvw_core *c, struct kvw_peer *p)
{
    if (p->credit.return_due || p->credit.next + kvw_peer_unnumbered(p) >= p->credit.limit)
        return false;
    if (p->batches->pending == NULL && !gather(c, p->batches))
        return false;
    return put(c, p);
}

bool kvw_batch_send(struct kvw_core *c)
{
    uint32_t left = KVW_CHUNKS_A_TURN;
    bool again = true;

    while (again && left > 0) {
        again = false;
        kvw_list_each(it, after, &c->batches->sending)
        {
            const struct kvw_batch_peer *b = kvw_list_of(it, struct kvw_batch_peer, sending);
            const struct kvw_flight *f = kvw_list_of(b->moving.next, struct kvw_flight, moving);

            if (c->breach != NULL || left == 0)
                return false;
            if (send_one(c, f->peer)) {
                again = true;
                --left;
            }
        }
    }
    return left == 0 && !kvw_list_empty(&c->batches->sending);
}

/* --- in --------------------------------------------------------------------------------------- */

/* All chunks of a flight are in place. */
static void in_place(struct kvw_core *c, struct kvw_flight *f)
{
    struct kvw_peer *p = f->peer;

    if (f->note != NULL) {
        kvw_core_emit_note(c, p, f->note, f->note_bytes);
        f->note = NULL;
    }
    kvw_flight_end(c, f, KVW_OK, true, NULL);
}

static void take_chunk(struct kvw_core *c, struct kvw_flight *f,
                       const struct kvw_wire_batch_chunk *h, const uint8_t *bytes)
{
    const uint64_t at = h->offset / f->chunk_bytes;
    char text[160];

    if (h->offset % f->chunk_bytes != 0 || at >= f->chunks ||
        h->bytes != chunk_bytes_at(f, h->offset) || (f->got[at / 8] >> at % 8 & 1) != 0) {
        kvw_core_breach(c, f->peer, "a batch's chunk outside the batch, or sent twice");
        return;
    }
    if ((KVW_DIGESTS >> h->digest & 1) == 0) {
        kvw_core_breach(c, f->peer, "a batch's chunk whose digest is not in this side's HELLO");
        return;
    }
    if (digest_of((kvw_digest_id)h->digest, bytes, h->bytes) != h->digest_value) {
        ++c->stats.chunks_rejected;
        snprintf(text, sizeof(text), "the digest of bytes %llu to %llu of the batch doesn't fit",
                 (unsigned long long)h->offset, (unsigned long long)(h->offset + h->bytes - 1));
        kvw_flight_end(c, f, KVW_E_CHECKSUM, true, text);
        return;
    }
    kvw_runs_scatter(&f->runs, h->offset, bytes, h->bytes);
    f->got[at / 8] |= (uint8_t)(1u << at % 8);
    touch(c, f);
    ++f->moved;
    f->peer->raw_landed += h->bytes;
    c->stats.batch_bytes_landed += h->bytes;
    if (f->moved == f->chunks)
        in_place(c, f);
}

/* One landed slot; true: it is kept until its BATCH has come. */
static bool take_slot(struct kvw_core *c, struct kvw_landing *slot)
{
    const uint8_t *at = kvw_slots_mem(&c->slots, slot);
    struct kvw_peer *p = slot->peer;
    struct kvw_batch_peer *b = p->batches;
    struct kvw_wire_batch_chunk h;
    struct kvw_flight *f;

    if (b == NULL || kvw_wire_batch_chunk_decode(&h, at, slot->bytes) != KVW_OK ||
        h.seq != (uint32_t)slot->seq) {
        ++c->stats.chunks_rejected;
        kvw_core_breach(c, p, "a batch's chunk is damaged or malformed");
        return false;
    }
    if (h.op == KVW_BATCH_WRITE &&
        (h.epoch > b->epoch_in || (b->coming != NULL && h.epoch == b->coming->epoch))) {
        if (h.epoch - b->epoch_in <= KVW_WIRE_BATCHES_MAX)
            return true; /* puts overtake messages */
        kvw_core_breach(c, p, "a chunk of a batch that can't be open yet");
        return false;
    }
    if (h.op == KVW_BATCH_READ && h.epoch > b->epoch_out) {
        kvw_core_breach(c, p, "a chunk of a READ that was never asked for");
        return false;
    }
    f = kvw_flight_of_epoch(p, h.op == KVW_BATCH_READ, h.epoch);
    if (f == NULL || f->op != h.op || f->got == NULL)
        ++c->stats.chunks_stale; /* it has ended */
    else
        take_chunk(c, f, &h, at + KVW_WIRE_CHUNK_LEN);
    return false;
}

bool kvw_batch_arrive(struct kvw_core *c)
{
    struct kvw_landing *slot;

    for (uint32_t n = 0; n < KVW_CHUNKS_A_TURN; ++n) {
        struct kvw_peer *p;

        if (c->breach != NULL || (slot = kvw_slots_batch_first(&c->slots)) == NULL)
            return false;
        if (!kvw_core_room(c, 2))
            return false;
        p = slot->peer; /* NULL: it was lost meanwhile */
        if (p != NULL && take_slot(c, slot)) {
            kvw_slots_park(&c->slots, &p->batches->parked);
            continue;
        }
        kvw_slots_batch_pop(&c->slots);
        kvw_slots_wake(c);
        if (p != NULL)
            kvw_peer_owes(c, p); /* a GRANT, perhaps */
    }
    return kvw_slots_batch_first(&c->slots) != NULL;
}
