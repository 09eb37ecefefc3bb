/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks that have landed: believed only after every field was checked against the flow. */
#include "arrive.h"

#include <stdio.h>

#include "../peer/events.h"
#include "../peer/slots.h"
#include "../peer/traced.h"
#include "../wire/chunks.h"
#include "../wire/le.h"
#include "decode.h"

static struct kvw_flow_span *span_of(struct kvw_flow *f, const struct kvw_wire_chunk *h,
                                     uint32_t *layer_at)
{
    for (uint32_t i = 0; i < f->span_count; ++i) {
        struct kvw_flow_span *s = &f->spans[i];

        if (s->group != h->group || s->part != h->part || h->row_first < s->row_first ||
            h->row_first + h->rows > s->row_first + s->rows)
            continue;
        if ((*layer_at = kvw_flow_layer(s, h->layer)) < KVW_LAYERS_MAX)
            return s;
    }
    return NULL;
}

/* Whether its stream is where this side can look for it. */
static bool is_at_hand(const struct kvw_core *c, const struct kvw_wire_chunk *h)
{
    return h->where == KVW_CHUNK_HERE ||
           (c->device.twins != NULL && h->stream_bytes <= c->slots.slot_bytes - KVW_WIRE_CHUNK_LEN);
}

/* What is wrong with a chunk for its flow, or NULL; fills in where it belongs. */
static const char *fault_of(const struct kvw_core *c, struct kvw_decode *t)
{
    const struct kvw_wire_chunk *h = &t->header;
    const struct kvw_flow *f = t->flow;
    const struct kvw_layout *l = c->pools[f->transfer->pool].place->layout;

    if ((t->span = span_of(t->flow, h, &t->layer_at)) == NULL)
        return "its part, layer or rows were not asked for";
    if (h->entry_first < t->span->entry_first || h->entry_first + h->entries > t->span->entry_end)
        return "its entries were not asked for";
    if (h->rows != t->span->rows && h->entries != 1)
        return "it has some rows of several entries";
    if (h->raw_bytes != (uint64_t)h->entries * h->rows * t->span->row_bytes)
        return "its raw bytes don't fit its entries";
    if (h->raw_bytes > c->slots.slot_bytes - KVW_WIRE_CHUNK_LEN)
        return "its raw bytes are more than a landing slot holds"; /* nor would scratch do */
    if (!is_at_hand(c, h))
        return "its stream is in memory that this side doesn't share";
    t->first = (h->entry_first - t->span->entry_first) * t->span->rows +
               (h->row_first - t->span->row_first);
    t->end = t->first + h->entries * h->rows;
    for (t->codec = 0; t->codec < c->codec_count; ++t->codec)
        if (c->codecs[t->codec]->id == h->codec)
            break;
    if (t->codec == c->codec_count)
        return "its codec is not in this side's HELLO";
    if (c->codecs[t->codec]->budget > f->budget)
        return "its codec loses more than the offer allows";
    if ((c->codecs[t->codec]->dtypes >> l->groups[h->group].parts[h->part].dtype & 1) == 0)
        return "its codec doesn't take this element type";
    if ((c->ways[0].hello.digests >> h->digest & 1) == 0)
        return "its digest is not in this side's HELLO";
    if (kvw_ranges_overlap(&t->span->covers[t->layer_at], &c->span_pool, t->first, t->end))
        return "its entries have come before";
    return NULL;
}

static void refuse(struct kvw_core *c, struct kvw_flow *f, const struct kvw_wire_chunk *h,
                   kvw_err err, const char *why)
{
    ++c->stats.chunks_rejected;
    kvw_transfer_finishf(c, f->transfer, err,
                         "chunk of layer %u group %u part %u entries %u to %u: %s", h->layer,
                         h->group, h->part, h->entry_first, h->entry_first + h->entries - 1, why);
}

static uint64_t clock_ns(const struct kvw_core *c)
{
    return c->clock.now_ns != NULL ? c->clock.now_ns(c->clock.arg) : 0;
}

/* What of it came by the transport. */
static uint32_t wire_bytes_of(const struct kvw_wire_chunk *h)
{
    return KVW_WIRE_CHUNK_LEN + (h->where == KVW_CHUNK_HERE ? h->stream_bytes : 0);
}

static void trace_decoded(const struct kvw_core *c, const struct kvw_flow *f,
                          const struct kvw_wire_chunk *h, uint64_t took)
{
    struct kvw_trace_event ev = kvw_trace_flow(KVW_TRACE_DECODED, f);

    ev.layer = h->layer;
    ev.group = h->group;
    ev.part = h->part;
    ev.row_first = h->row_first;
    ev.rows = h->rows;
    ev.entry_first = h->entry_first;
    ev.entries = h->entries;
    ev.raw_bytes = h->raw_bytes;
    ev.wire_bytes = wire_bytes_of(h);
    ev.codec = h->codec;
    ev.seq = h->seq;
    ev.ns = took;
    kvw_trace_tell(c, ev);
}

static struct kvw_view view_of(const struct kvw_core *c, const struct kvw_decode *t)
{
    const struct kvw_wire_chunk *h = &t->header;
    const struct kvw_place *place = c->pools[t->flow->transfer->pool].place;
    const struct kvw_layout_group *g = &place->layout->groups[h->group];
    const struct kvw_table *table = &t->flow->transfer->tables[h->group];
    const struct kvw_piece piece = {
        .group = h->group,
        .part = h->part,
        .layer_at = kvw_layout_layer(g, h->layer),
        .row_at = h->row_first - g->parts[h->part].row_first,
        .rows = h->rows,
        .entry_first = h->entry_first - table->entry_base,
        .entries = h->entries,
        .blocks = table->blocks,
    };

    return kvw_place_view(place, &piece);
}

/* Decode here and now. No CPU may touch blocks in a device's memory. */
static void decode(struct kvw_core *c, struct kvw_decode *t, const struct kvw_landing *slot)
{
    const struct kvw_codec_ops *codec = c->codecs[t->codec];
    const struct kvw_view view = view_of(c, t);
    const uint64_t begin = clock_ns(c);
    const unsigned char *stream = NULL;
    struct kvw_digest digest;

    t->job.err = t->refused;
    if (t->job.err == KVW_OK && c->pools[t->flow->transfer->pool].place->kind != KVW_MEM_HOST)
        t->job.err = KVW_E_UNSUPPORTED;
    if (t->job.err == KVW_OK && (stream = kvw_decode_stream(c, slot, &t->header, false)) == NULL)
        t->job.err = KVW_E_DEVICE;
    if (t->job.err == KVW_OK)
        t->job.err = kvw_digest_begin_chunk(&digest, (kvw_digest_id)t->header.digest, &view);
    if (t->job.err == KVW_OK)
        t->job.err =
            codec->decode(stream, t->header.stream_bytes, NULL, &view, &digest, c->scratch);
    if (t->job.err == KVW_OK)
        t->job.digest_value = kvw_digest_value(&digest);
    t->job.ns = clock_ns(c) - begin;
}

/* Is what was decoded what the sender had? False: the transfer has ended. */
static bool is_right(struct kvw_core *c, const struct kvw_decode *t)
{
    const struct kvw_wire_chunk *h = &t->header;
    const kvw_err err = t->job.err;
    char why[96];

    if (err != KVW_OK) {
        snprintf(why, sizeof(why), "codec %s: %s", c->codecs[t->codec]->name, kvw_strerror(err));
        refuse(c, t->flow, h, err == KVW_E_DEVICE ? err : KVW_E_CODEC, why);
        return false;
    }
    if (t->job.digest_value != h->digest_value) {
        snprintf(why, sizeof(why), "digest here %016llx, sender %016llx",
                 (unsigned long long)t->job.digest_value, (unsigned long long)h->digest_value);
        refuse(c, t->flow, h, KVW_E_CHECKSUM, why);
        return false;
    }
    kvw_choose_decoded(&t->flow->peer->chooser, t->codec, h->raw_bytes, h->stream_bytes, t->job.ns);
    if (kvw_traced(c))
        trace_decoded(c, t->flow, h, t->job.ns);
    return true;
}

static void count(struct kvw_core *c, const struct kvw_decode *t)
{
    const struct kvw_wire_chunk *h = &t->header;
    struct kvw_transfer *x = t->flow->transfer;
    const uint64_t wire = wire_bytes_of(h);

    if (x->first_ns == 0)
        x->first_ns = c->now_ns;
    x->last_ns = c->now_ns;
    ++x->chunks;
    ++x->codec_chunks[h->codec];
    x->raw_bytes += h->raw_bytes;
    x->wire_bytes += wire;
    ++t->flow->chunks;
    t->flow->raw_bytes += h->raw_bytes;
    t->flow->left -= h->raw_bytes;
    ++t->flow->peer->chunks_landed;
    t->flow->peer->raw_landed += h->raw_bytes;
    ++c->stats.chunks_landed;
    c->stats.raw_bytes_landed += h->raw_bytes;
    c->stats.wire_bytes_landed += wire;
}

/* It was decoded, here or by a queue. */
static void place(struct kvw_core *c, const struct kvw_decode *t)
{
    struct kvw_ranges *cover = &t->span->covers[t->layer_at];
    struct kvw_flow *f = t->flow;
    const uint32_t layer = t->header.layer;
    uint16_t free;

    if (!is_right(c, t))
        return;
    free = c->span_pool.free_count;
    if (kvw_ranges_add(cover, &c->span_pool, t->first, t->end) != KVW_OK) {
        refuse(c, f, &t->header, KVW_E_PROTOCOL, "more gaps than an ascending sender can leave");
        return;
    }
    f->peer->lent.gaps += (uint32_t)free - c->span_pool.free_count;
    count(c, t);
    if (cover->prefix == t->span->units && --f->transfer->layer_left[layer] == 0)
        kvw_core_emit_layer(c, KVW_CEV_LAYER_READY, f->transfer, layer);
    kvw_lend_settle(c, f);
}

static void take_chunk(struct kvw_core *c, struct kvw_decode *t, const struct kvw_landing *slot)
{
    const char *fault = fault_of(c, t);

    kvw_lend_heard(c, t->flow);
    if (fault != NULL) {
        refuse(c, t->flow, &t->header, KVW_E_PROTOCOL, fault);
        return;
    }
    decode(c, t, slot);
    place(c, t);
}

/* A slot's header, and the flow that it names, if that is open; *breach: what is wrong, or NULL. */
static bool read_header(const struct kvw_core *c, const struct kvw_landing *slot,
                        struct kvw_decode *t, const char **breach)
{
    const unsigned char *at = kvw_slots_mem(&c->slots, slot);

    *breach = NULL;
    t->flow = NULL;
    /* A header that can't be believed belongs to no transfer that could be ended for it. */
    if (kvw_wire_chunk_decode(&t->header, at, slot->bytes) != KVW_OK ||
        t->header.seq != (uint32_t)slot->seq) {
        *breach = "a chunk's header is damaged or malformed";
        return false;
    }
    if (t->header.where == KVW_CHUNK_NOWHERE)
        return false;
    t->flow = kvw_flow_find(c, slot->peer, t->header.epoch, true);
    if (t->flow != NULL && t->flow->state != KVW_FLOW_OPEN)
        t->flow = NULL;
    if (t->flow != NULL && kvw_load_le64(t->flow->key.bytes) != t->header.key_front) {
        t->flow = NULL;
        *breach = "a chunk names another key than its epoch's";
    }
    return t->flow != NULL;
}

static bool has_queue(const struct kvw_core *c)
{
    return c->jobs != NULL || c->device.jobs != NULL;
}

/* One landed slot whose turn has come; false: it is being decoded. */
static bool take_slot(struct kvw_core *c, struct kvw_landing *slot)
{
    struct kvw_decode *t = kvw_decode_of(c, slot);
    const char *breach;

    if (t->jobs != NULL) {
        if (t->flow == NULL) /* it ended, and took the job back */
            ++c->stats.chunks_stale;
        else if (!t->jobs->ops->done(t->jobs, &t->job))
            return false;
        else
            place(c, t);
        return true;
    }
    if (slot == kvw_slots_unseen(&c->slots) && has_queue(c))
        return false; /* its queue is full */
    if (read_header(c, slot, t, &breach))
        take_chunk(c, t, slot);
    else if (breach == NULL)
        ++c->stats.chunks_stale;
    if (breach != NULL) {
        ++c->stats.chunks_rejected;
        kvw_core_breach(c, slot->peer, breach);
    }
    return true;
}

/* --- ahead of their turn ---------------------------------------------------------------------- */

/* All of a layer from one span has come: when that is so of every span, a stream may wait. */
static void count_begun(struct kvw_core *c, const struct kvw_decode *t)
{
    uint32_t *begun = &t->span->begun[t->layer_at];
    struct kvw_transfer *x = t->flow->transfer;

    *begun += t->end - t->first;
    if (*begun == t->span->units && --x->layer_coming[t->header.layer] == 0 &&
        t->jobs->ops->before != NULL)
        kvw_core_emit_layer(c, KVW_CEV_LAYER_CAME, x, t->header.layer);
}

/* Give a chunk to the queue that decodes into its pool, if there is one; where threads' queue is
 * full poll decodes it. What is wrong with a chunk is said when its turn comes. False: a GPU's
 * queue is full. */
static bool begin(struct kvw_core *c, const struct kvw_landing *slot)
{
    struct kvw_decode *t = kvw_decode_of(c, slot);
    struct kvw_jobs *q;
    struct kvw_view view;
    const char *breach;
    kvw_err err;

    t->refused = KVW_OK;
    if (slot->peer == NULL || !read_header(c, slot, t, &breach) ||
        (q = kvw_decode_queue(c, t->flow->transfer->pool)) == NULL || fault_of(c, t) != NULL ||
        kvw_decode_overlaps(c, slot, t))
        return true;
    view = view_of(c, t);
    if ((err = kvw_decode_begin(c, q, slot, t, &view)) == KVW_E_AGAIN)
        return q == c->jobs;
    kvw_lend_heard(c, t->flow);
    if (err == KVW_OK)
        count_begun(c, t);
    return true;
}

static void begin_all(struct kvw_core *c)
{
    const struct kvw_landing *slot;

    if (!has_queue(c))
        return;
    while ((slot = kvw_slots_unseen(&c->slots)) != NULL && kvw_core_room(c, 1) && begin(c, slot))
        kvw_slots_see(&c->slots);
    if (c->device.jobs != NULL)
        c->device.jobs->ops->flush(c->device.jobs);
    if (c->jobs != NULL)
        c->jobs->ops->flush(c->jobs);
}

/*
 * Before each gap in what is in place stands a put that was granted and hasn't been taken: a sender
 * cuts in ascending order (SPEC.md 4.2). So no peer can use up the spans that the others need.
 */
void kvw_arrive_check_gaps(struct kvw_core *c, struct kvw_peer *p)
{
    if (p->lent.gaps > p->lent.granted + p->lent.landed)
        kvw_core_breach(c, p, "more gaps than an ascending sender can leave");
}

bool kvw_arrive_poll(struct kvw_core *c)
{
    struct kvw_landing *slot;

    begin_all(c);
    for (uint32_t n = 0; n < KVW_CHUNKS_A_TURN; ++n) {
        struct kvw_peer *p;

        if (c->breach != NULL || (slot = kvw_slots_first(&c->slots)) == NULL)
            return false;
        if (!kvw_core_room(c, 1))
            return false;
        p = slot->peer; /* NULL: it was lost meanwhile */
        if (p != NULL && !take_slot(c, slot))
            return false; /* who decodes it wakes the core, or core.c looks again soon */
        kvw_decode_of(c, slot)->jobs = NULL;
        kvw_slots_pop(&c->slots);
        kvw_slots_wake(c);
        if (p != NULL) {
            kvw_arrive_check_gaps(c, p);
            kvw_peer_owes(c, p); /* a GRANT, perhaps */
        }
    }
    return kvw_slots_first(&c->slots) != NULL;
}
