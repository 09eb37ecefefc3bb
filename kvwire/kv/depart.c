/* SPDX-License-Identifier: Apache-2.0 */
/*
 * depart.c - the sender's chunks. Blocks are read by jobs only; when a flow ends its jobs are taken
 * back first (staging.h), while staging slots stay lent to the transport until their PUT_DONE.
 */
#include "depart.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "../peer/traced.h"
#include "../wire/chunks.h"
#include "../wire/le.h"
#include "device.h"
#include "staging.h"

/* What goes out next. */
struct cut {
    struct kvw_flow *flow;
    struct kvw_flow_span *span;
    uint32_t layer_at;                  /* of the span */
    uint32_t row, rows, entry, entries; /* from the span's first */
};

/* --- credit ----------------------------------------------------------------------------------- */

/* More than KVW_CREDIT_FIRST are granted: a path that holds so much. False: no memory. */
static bool grow(struct kvw_credit *credit)
{
    credit->more = malloc(KVW_CREDIT_MAX * sizeof(credit->more[0]));
    for (uint64_t i = credit->next; i < credit->limit && credit->more != NULL; ++i)
        credit->more[i % KVW_CREDIT_MAX] = credit->ring[i % KVW_CREDIT_FIRST];
    return credit->more != NULL;
}

static bool add_slots(struct kvw_credit *credit, const struct kvw_wire_grant *m)
{
    if (credit->more == NULL && credit->limit + m->count - credit->next > KVW_CREDIT_FIRST &&
        !grow(credit))
        return false;
    for (uint32_t i = 0; i < m->count; ++i, ++credit->limit) {
        const uint16_t slot = (uint16_t)kvw_wire_grant_slot(m, i);

        if (credit->more != NULL)
            credit->more[credit->limit % KVW_CREDIT_MAX] = slot;
        else
            credit->ring[credit->limit % KVW_CREDIT_FIRST] = slot;
    }
    return true;
}

void kvw_depart_grant(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_grant *m)
{
    struct kvw_credit *credit = &p->credit;

    if (m->from != credit->limit || credit->limit + m->count - credit->next > KVW_CREDIT_MAX) {
        kvw_core_breach(c, p, "a GRANT that doesn't follow the one before, or of too many slots");
        return;
    }
    if (!add_slots(credit, m)) {
        kvw_core_breach(c, p, "no memory for the slots that a peer grants");
        return;
    }
    for (uint32_t i = 0; i < c->codec_count && m->codec != 0; ++i)
        if (c->codecs[i]->id == m->codec)
            kvw_choose_told(&p->chooser, i, m->decode_ps);
    kvw_peer_busy(c, p);
    if (kvw_traced(c))
        kvw_trace_tell(c, (struct kvw_trace_event){.kind = KVW_TRACE_GRANT,
                                                   .peer = p->hello.instance,
                                                   .seq = m->from,
                                                   .count = m->count});
}

void kvw_depart_recall(struct kvw_core *c, struct kvw_peer *p)
{
    p->credit.return_due = true;
    kvw_peer_owes(c, p);
}

void kvw_depart_start(struct kvw_core *c, struct kvw_peer *p)
{
    p->credit.next = p->credit.limit = 0;
    p->credit.return_due = p->stalled = false;
    p->digest =
        (p->hello.digests >> KVW_DIGEST_LANES & 1) != 0 ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64;
    p->allowed = 0;
    for (uint32_t i = 0; i < c->codec_count; ++i)
        if ((p->hello.codecs >> c->codecs[i]->id & 1) != 0)
            p->allowed |= 1ull << i;
    kvw_device_reach(c, p);
}

/* A staging slot is free again, or the transport takes puts again: who waits for that goes on. */
static void wake_starved(struct kvw_core *c)
{
    c->put_retry_ns = UINT64_MAX;
    kvw_list_each(it, after, &c->starved)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, starved);

        kvw_list_remove(&p->starved);
        kvw_peer_busy(c, p);
    }
}

void kvw_depart_stop(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_staging_drop_line(c, p);
    kvw_device_leave(c, p);
    for (uint32_t i = 0; i < c->stages.count; ++i) /* what flies ends with its PUT_DONE */
        if (c->stages.stages[i].peer == p)
            c->stages.stages[i].peer = NULL;
    p->flying = 0;
    kvw_list_remove(&p->starved);
    kvw_rate_stop(&p->rate);
    kvw_choose_stop(&p->chooser);
    kvw_list_remove(&p->busy);
    p->turn = NULL;
    wake_starved(c);
}

/* --- which piece ------------------------------------------------------------------------------ */

/* The next piece of one layer of a span, if anything of it is computed and not cut. */
static bool next_in(const struct kvw_core *c, struct kvw_flow *f, struct kvw_flow_span *s,
                    uint32_t layer_at, struct cut *cut)
{
    const uint32_t done = s->cuts[layer_at].units;
    const uint32_t ready = kvw_supply_ready(c, f, s, layer_at);
    const uint32_t entry = done / s->rows, row = done % s->rows;

    if (entry >= ready)
        return false;
    *cut = (struct cut){f, s, layer_at, row, s->rows - row, entry, 1};
    if (s->chunk_entries > 0) {
        cut->entries = ready - entry < s->chunk_entries ? ready - entry : s->chunk_entries;
    } else if (cut->rows > s->chunk_rows) {
        cut->rows = s->chunk_rows;
    }
    return true;
}

/* Lowest layer first, then the spans in their order. */
static bool next_of(const struct kvw_core *c, struct kvw_flow *f, struct cut *cut)
{
    const uint32_t layers = c->pools[f->transfer->pool].place->layout->model_layers;
    bool full = true; /* all layers so far are cut in full */

    for (uint32_t layer = f->low; layer < layers; ++layer) {
        for (uint32_t i = 0; i < f->span_count; ++i) {
            struct kvw_flow_span *s = &f->spans[i];
            const uint32_t l = kvw_flow_layer(s, layer);

            if (l == KVW_LAYERS_MAX || s->cuts[l].units == s->units)
                continue;
            full = false;
            if (next_in(c, f, s, l, cut))
                return true;
        }
        if (full)
            f->low = layer + 1;
    }
    return false;
}

/* Round robin over the peer's flows, a chunk each. */
static bool next_cut(const struct kvw_core *c, struct kvw_peer *p, struct cut *cut)
{
    struct kvw_list *at = p->turn != NULL ? p->turn : p->flows.next;
    bool wrapped = false;

    if (kvw_list_empty(&p->flows))
        return false;
    for (struct kvw_list *begin = at; !wrapped || at != begin;) {
        if (at == &p->flows) {
            wrapped = true;
            at = p->flows.next;
            if (at == begin)
                break;
            continue;
        }
        struct kvw_flow *f = kvw_list_of(at, struct kvw_flow, of_peer);

        if (!f->receiver && f->state == KVW_FLOW_OPEN && f->left > 0 && next_of(c, f, cut))
            return true;
        at = at->next;
    }
    return false;
}

/* --- which codec ------------------------------------------------------------------------------ */

static struct kvw_choose_ask situation(const struct kvw_core *c, const struct kvw_peer *p,
                                       const struct cut *cut, uint32_t raw_bytes)
{
    const struct kvw_transfer *t = cut->flow->transfer;
    const double took = (double)(c->now_ns - t->opened_ns);
    struct kvw_choose_ask ask = {
        .layer = cut->span->layer[cut->layer_at] % KVW_CHOICE_LAYERS,
        .kv = cut->span->part & 1,
        .raw_bytes = raw_bytes,
        .left = cut->flow->left,
        .queued_wire = p->rate.in_flight,
        .encoders = c->encoder_count,
        .budget = (kvw_budget)cut->flow->budget,
        .now_ns = c->now_ns,
    };

    if (t->pushed_bytes > 0 && t->all_bytes > t->pushed_bytes)
        ask.due_ns = took * (double)(t->all_bytes - t->pushed_bytes) / (double)t->pushed_bytes;
    for (uint32_t at = p->line_head; at != KVW_STAGE_NONE; at = c->stages.stages[at].next) {
        const struct kvw_staged *s = &c->stages.stages[at];

        if (kvw_job_done(&s->job))
            ask.queued_wire += s->job.stream_bytes;
        else
            ask.queued_raw += s->raw_bytes;
    }
    return ask;
}

/* Codecs of p->allowed that may be used for this chunk: dtype, budget, and their longest stream
 * fits a slot. Raw is always among them. */
static uint64_t usable(const struct kvw_core *c, const struct kvw_peer *p, const struct cut *cut,
                       uint32_t dtype, uint32_t raw_bytes)
{
    const uint32_t slot =
        p->hello.slot_bytes < c->stages.slot_bytes ? p->hello.slot_bytes : c->stages.slot_bytes;
    uint64_t bits = 0;

    for (uint32_t i = 0; i < c->codec_count; ++i)
        if ((p->allowed >> i & 1) != 0 && (c->codecs[i]->dtypes >> dtype & 1) != 0 &&
            c->codecs[i]->budget <= cut->flow->budget &&
            c->codecs[i]->bound(raw_bytes) + KVW_WIRE_CHUNK_LEN <= slot)
            bits |= 1ull << i;
    return bits | 1ull << c->raw;
}

static bool on_device(const struct kvw_core *c, const struct kvw_flow *f)
{
    return c->pools[f->transfer->pool].place->kind == KVW_MEM_CUDA;
}

/* Whether its chunks' streams go into the peer's GPU memory. */
static bool into_twins(const struct kvw_core *c, const struct kvw_peer *p, const struct kvw_flow *f)
{
    return p->twins != NULL && on_device(c, f);
}

/* The codec for a chunk, and when it should be across. */
static uint32_t choose(struct kvw_core *c, struct kvw_peer *p, const struct cut *cut,
                       uint32_t dtype, uint32_t raw_bytes, uint64_t *predicted_ns)
{
    const struct kvw_choose_ask ask = situation(c, p, cut, raw_bytes);
    const uint64_t allowed = usable(c, p, cut, dtype, raw_bytes);
    const bool one_host = c->ways[p->path].transport->one_host;
    const uint32_t named = cut->flow->transfer->codec;
    uint32_t pick = c->raw;

    if (named < c->codec_count) {
        if ((allowed >> named & 1) != 0)
            pick = named;
    } else if (!one_host && !into_twins(c, p, cut->flow)) { /* else the wire is a copy by those who
                                                              would code */
        pick = kvw_choose(&p->chooser, &p->rate, allowed, &ask);
    }
    /* Encoders that are this far behind hold the wire up; raw costs them next to nothing. */
    if (c->jobs != NULL && !on_device(c, cut->flow) && ask.queued_wire == 0 &&
        named == c->codec_count && pick != c->raw && p->queued >= c->encoder_count * KVW_AHEAD) {
        pick = c->raw;
        ++c->stats.encoder_stalls;
    }
    *predicted_ns = (uint64_t)kvw_choose_predict_ns(&p->chooser, &p->rate, pick, &ask);
    return pick;
}

/* How many of the chunk's entries are among the sequence's first or last exact tokens. */
static struct kvw_codec_args args_of(const struct cut *cut, uint32_t entry_tokens)
{
    const struct kvw_flow *f = cut->flow;
    const uint32_t per = entry_tokens > 0 ? entry_tokens : 1;
    const uint32_t first = cut->span->entry_first + cut->entry, end = first + cut->entries;
    const uint32_t head = (f->exact_first + per - 1) / per; /* entries [0, head) stay exact */
    const uint32_t tail = f->exact_last < f->tokens ? (f->tokens - f->exact_last) / per : 0;
    struct kvw_codec_args args = {.kv = cut->span->part & 1};

    if (first < head)
        args.exact_first = head - first < cut->entries ? head - first : cut->entries;
    if (f->exact_last > 0 && end > tail)
        args.exact_last = end - tail < cut->entries ? end - tail : cut->entries;
    return args;
}

/* --- cut and put ------------------------------------------------------------------------------ */

static struct kvw_view view_of(const struct cut *cut)
{
    const struct kvw_transfer *t = cut->flow->transfer;
    const struct kvw_cut *k = &cut->span->cuts[cut->layer_at];
    const struct kvw_table *table = &t->tables[k->at.group];
    const struct kvw_piece piece = {
        .group = k->at.group,
        .part = k->at.part,
        .layer_at = k->at.layer_at,
        .row_at = k->row_at + cut->row,
        .rows = cut->rows,
        .entry_first = cut->span->entry_first + cut->entry - table->entry_base,
        .entries = cut->entries,
        .blocks = table->blocks,
    };

    return kvw_place_view(t->place, &piece);
}

/* Queues are as long as there are slots, so they can't be full. What a GPU's queue doesn't take by
 * one codec it takes raw; else the transfer ends, since no CPU may read those blocks. */
static void begin_job(struct kvw_core *c, struct kvw_staged *s)
{
    const bool device = on_device(c, s->flow);
    struct kvw_jobs *q = device ? c->device.jobs : c->jobs;
    kvw_err err = q != NULL ? q->ops->submit(q, &s->job) : KVW_E_UNSUPPORTED;

    if (device && q != NULL && err != KVW_OK && s->codec != c->raw) {
        s->codec = c->raw;
        s->job.codec = c->codecs[c->raw];
        err = q->ops->submit(q, &s->job);
    }
    if (err == KVW_OK) {
        s->jobs = q;
    } else if (device) {
        s->job.err = err;
        kvw_job_set(&s->job, KVW_JOB_DONE);
    } else {
        kvw_job_run(&s->job, c->scratch, &c->clock);
    }
}

/* With the peer's twins at hand a chunk has its slot before it is encoded: that may write there. */
static void number(const struct kvw_core *c, struct kvw_peer *p, struct kvw_staged *s)
{
    if (p->twins == NULL)
        return;
    s->numbered = true;
    s->slot = kvw_credit_slot(&p->credit);
    s->seq = p->credit.next++;
    if (!into_twins(c, p, s->flow))
        return;
    s->shared = true;
    s->job.to = kvw_device_twin(p->twins, p->hello.slot_bytes, s->slot);
    s->job.to_bytes = p->hello.slot_bytes - KVW_WIRE_CHUNK_LEN;
}

/* Give a piece a staging slot and an encoder. Its place in the line is its place on the wire. */
static void take_cut(struct kvw_core *c, struct kvw_peer *p, const struct cut *cut)
{
    struct kvw_staged *s = kvw_staging_take(&c->stages, p);
    const struct kvw_view view = view_of(cut);
    struct kvw_cut *k = &cut->span->cuts[cut->layer_at];
    const struct kvw_layout_group *g =
        &c->pools[cut->flow->transfer->pool].place->layout->groups[k->at.group];
    const uint32_t raw_bytes = (uint32_t)kvw_view_bytes(&view);

    s->flow = cut->flow;
    s->span = (uint32_t)(cut->span - cut->flow->spans);
    s->layer_at = cut->layer_at;
    s->layer = cut->span->layer[cut->layer_at];
    s->part = cut->span->part;
    s->row_first = cut->span->row_first + cut->row;
    s->rows = cut->rows;
    s->entry_first = cut->span->entry_first + cut->entry;
    s->entries = cut->entries;
    s->raw_bytes = raw_bytes;
    s->chosen_ns = c->now_ns;
    s->codec = choose(c, p, cut, (uint32_t)view.dtype, raw_bytes, &s->predicted_ns);
    s->job.codec = c->codecs[s->codec];
    s->job.args = args_of(cut, g->entry_tokens);
    s->job.view = view;
    s->job.to = kvw_staging_mem(&c->stages, s) + KVW_WIRE_CHUNK_LEN;
    s->job.to_bytes = c->stages.slot_bytes - KVW_WIRE_CHUNK_LEN;
    s->job.digest = p->digest;
    number(c, p, s);
    k->units += cut->entries * cut->rows;
    ++k->flying;
    ++cut->flow->queued;
    cut->flow->left -= raw_bytes;
    if (kvw_traced(c))
        kvw_trace_staged(c, KVW_TRACE_CUT, p, s, s->predicted_ns);
    begin_job(c, s);
}

static void write_header(const struct kvw_core *c, struct kvw_staged *s)
{
    const struct kvw_flow *f = s->flow;
    const struct kvw_wire_chunk h = {
        .key_front = kvw_load_le64(f->key.bytes),
        .digest_value = s->job.digest_value,
        .epoch = f->epoch,
        .seq = (uint32_t)s->seq,
        .layer = s->layer,
        .row_first = s->row_first,
        .rows = s->rows,
        .entry_first = s->entry_first,
        .entries = s->entries,
        .raw_bytes = s->raw_bytes,
        .stream_bytes = (uint32_t)s->job.stream_bytes,
        .group = (uint8_t)f->spans[s->span].group,
        .part = (uint8_t)s->part,
        .codec = s->job.codec->id,
        .digest = (uint8_t)s->job.digest,
        .where = s->shared ? KVW_CHUNK_SHARED : KVW_CHUNK_HERE,
    };

    kvw_wire_chunk_encode(kvw_staging_mem(&c->stages, s), &h);
    s->bytes = KVW_WIRE_CHUNK_LEN + (s->shared ? 0 : h.stream_bytes);
}

/* Of a chunk whose transfer ended while it stood in the line, and whose number is taken. */
static void write_nothing(const struct kvw_core *c, struct kvw_staged *s)
{
    const struct kvw_wire_chunk h = {
        .epoch = 1,
        .seq = (uint32_t)s->seq,
        .rows = 1,
        .entries = 1,
        .raw_bytes = 1,
        .stream_bytes = 1,
        .codec = KVW_CODEC_RAW,
        .digest = (uint8_t)s->job.digest,
        .where = KVW_CHUNK_NOWHERE,
    };

    kvw_wire_chunk_encode(kvw_staging_mem(&c->stages, s), &h);
    s->bytes = KVW_WIRE_CHUNK_LEN;
}

/* The transport has it. */
static void begin_flight(struct kvw_core *c, struct kvw_peer *p, struct kvw_staged *s)
{
    p->rate.rtt_ns = c->ways[p->path].rtt_ns;
    s->state = KVW_STAGING_FLIGHT;
    s->conn = p->link->conn;
    s->path = p->path;
    kvw_rate_sent(&p->rate, &s->mark, s->bytes, c->now_ns);
    if (!s->numbered)
        ++p->credit.next;
    ++p->flying;
    c->ways[p->path].sent = true;
}

/* And it is of a transfer: count it. */
static void account(struct kvw_core *c, struct kvw_peer *p, struct kvw_staged *s)
{
    struct kvw_flow *f = s->flow;
    struct kvw_transfer *t = f->transfer;

    if (kvw_traced(c))
        kvw_trace_staged(c, KVW_TRACE_PUT, p, s, s->job.ns);
    kvw_choose_encoded(&p->chooser, s->codec, s->layer % KVW_CHOICE_LAYERS, s->part & 1,
                       s->raw_bytes, (uint32_t)s->job.stream_bytes, s->job.ns);
    ++p->chunks_sent;
    p->raw_sent += s->raw_bytes;
    p->last_codec = s->job.codec->id;
    p->last_named = t->codec < c->codec_count;
    --f->queued;
    ++f->chunks;
    f->raw_bytes += s->raw_bytes;
    f->wire_bytes += s->bytes;
    if (t->first_ns == 0)
        t->first_ns = c->now_ns;
    t->last_ns = c->now_ns;
    ++t->chunks;
    ++t->codec_chunks[s->job.codec->id];
    t->raw_bytes += s->raw_bytes;
    t->wire_bytes += s->bytes;
    ++c->stats.chunks_sent;
    c->stats.raw_bytes_sent += s->raw_bytes;
    c->stats.wire_bytes_sent += s->bytes;
    if (f->left == 0 && f->queued == 0)
        kvw_peer_owes(c, p); /* COMMIT, perhaps */
}

/* The transport takes the first of the line; false: not now. */
static bool put(struct kvw_core *c, struct kvw_peer *p, struct kvw_staged *s)
{
    struct kvw_core_way *way = &c->ways[p->path];
    struct kvw_put put = {
        .key = p->hello.region,
        .iov_count = 1,
        .cookie = (uint64_t)(s - c->stages.stages),
    };
    kvw_err err;

    if (!s->numbered) {
        s->seq = p->credit.next;
        s->slot = kvw_credit_slot(&p->credit);
    }
    put.offset = (uint64_t)s->slot * p->hello.slot_bytes;
    put.imm = (uint32_t)s->seq;
    if (s->flow != NULL)
        write_header(c, s);
    else
        write_nothing(c, s);
    put.iov[0] = (struct kvw_iov){kvw_staging_mem(&c->stages, s), s->bytes};
    err = way->transport->ops->put(way->transport, p->link->conn, &put);
    if (err == KVW_OK) {
        kvw_staging_pop(&c->stages, p);
        begin_flight(c, p, s);
        if (s->flow != NULL)
            account(c, p, s);
        return true;
    }
    if (err == KVW_E_AGAIN) {
        kvw_list_want(&c->starved, &p->starved);
        if (p->flying == 0) /* else a PUT_DONE of its own comes */
            c->put_retry_ns = c->now_ns + KVW_PUT_RETRY_NS;
    } else if (err != KVW_E_NOTFOUND) /* gone: CONN_DOWN is on its way */
        kvw_core_breach(c, p, "the transport refused a put to the peer's landing slots");
    return false;
}

/* Put what is encoded, in order; false: the transport is full, or the peer is to be hung up on. */
static bool put_line(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_staged *s;

    while ((s = kvw_staging_first(&c->stages, p)) != NULL) {
        if (s->flow == NULL && s->numbered) { /* ended while it waited */
            if (!put(c, p, s))
                return false;
            continue;
        }
        if (s->flow == NULL) { /* the same, and its number goes to the next chunk */
            kvw_staging_pop(&c->stages, p);
            kvw_staging_free(&c->stages, s);
            wake_starved(c);
            continue;
        }
        if (s->jobs != NULL && !s->jobs->ops->done(s->jobs, &s->job))
            return true;
        if (s->job.err != KVW_OK) {
            kvw_transfer_finishf(c, s->flow->transfer, s->job.err,
                                 "layer %u part %u entries %u to %u: codec %s: %s", s->layer,
                                 s->part, s->entry_first, s->entry_first + s->entries - 1,
                                 s->job.codec->name, kvw_strerror(s->job.err));
            continue; /* and now it has no flow */
        }
        if (!put(c, p, s))
            return false;
    }
    return true;
}

/* A chunk's turn has come and nothing stands in its way. */
static bool can_cut(struct kvw_core *c, struct kvw_peer *p, const struct cut *cut)
{
    /* What would be cut now is chosen blindly if nothing is known of the wire. */
    if (cut->flow->transfer->codec == c->codec_count && !c->ways[p->path].transport->one_host &&
        !into_twins(c, p, cut->flow) && p->rate.bytes_per_ns <= 0 &&
        p->queued + p->flying >= KVW_BLIND)
        return false;
    if (c->stages.free_count == 0) {
        kvw_list_want(&c->starved, &p->starved);
        return false;
    }
    if (p->credit.next + kvw_peer_unnumbered(p) < p->credit.limit) {
        p->stalled = false;
        return true;
    }
    if (!p->stalled)
        ++c->stats.credit_stalls;
    p->stalled = true;
    return false;
}

/* One chunk of one peer; false: this peer has nothing to do before something comes in. */
static bool send_one(struct kvw_core *c, struct kvw_peer *p)
{
    struct cut cut;

    if (p->link == NULL || p->credit.return_due || !put_line(c, p))
        return false;
    if (!next_cut(c, p, &cut) || !can_cut(c, p, &cut))
        return false;
    take_cut(c, p, &cut);
    p->turn = cut.flow->of_peer.next == &p->flows ? NULL : cut.flow->of_peer.next;
    return put_line(c, p);
}

/* A peer whose jobs are with the encoders stays busy: their end must be looked for. */
static bool waits_for_jobs(const struct kvw_core *c, const struct kvw_peer *p)
{
    return (c->jobs != NULL || c->device.jobs != NULL) && p->queued > 0;
}

static bool take_turns(struct kvw_core *c)
{
    uint32_t left = KVW_CHUNKS_A_TURN;
    bool again = true;

    if (c->put_retry_ns <= c->now_ns)
        wake_starved(c);
    while (again && left > 0) {
        again = false;
        kvw_list_each(it, after, &c->busy)
        {
            struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, busy);

            if (c->breach != NULL)
                return false;
            if (left == 0) /* the rest of them in the next poll */
                break;
            if (send_one(c, p)) {
                again = true;
                --left;
            } else if (!waits_for_jobs(c, p)) {
                kvw_list_remove(&p->busy);
            }
        }
    }
    return left == 0 && !kvw_list_empty(&c->busy);
}

bool kvw_depart_poll(struct kvw_core *c)
{
    const bool again = take_turns(c);

    if (c->device.jobs != NULL)
        c->device.jobs->ops->flush(c->device.jobs);
    if (c->jobs != NULL)
        c->jobs->ops->flush(c->jobs); /* all that was cut in these turns */
    return again;
}

/* A chunk is in the peer's memory. */
static void delivered(struct kvw_core *c, struct kvw_peer *p, const struct kvw_staged *s)
{
    struct cut cut;

    if (kvw_traced(c))
        kvw_trace_staged(c, KVW_TRACE_DONE, p, s, c->now_ns - s->chosen_ns);
    kvw_rate_done(&p->rate, &s->mark, c->now_ns);
    p->chooser.codecs[s->codec].predicted_ns += s->predicted_ns;
    p->chooser.codecs[s->codec].actual_ns += c->now_ns - s->chosen_ns;
    kvw_choose_delivered(&p->chooser, s->codec, s->raw_bytes,
                         p->queued + p->flying == 0 && !next_cut(c, p, &cut), c->now_ns);
    if (s->flow == NULL || s->flow->state != KVW_FLOW_OPEN)
        return;
    if (--s->flow->spans[s->span].cuts[s->layer_at].flying == 0)
        kvw_supply_layer_sent(c, s->flow->transfer, s->layer);
}

void kvw_depart_put_done(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev)
{
    struct kvw_staged *s;

    if (ev->cookie >= c->stages.count)
        return; /* not one of ours: an earlier core's on this transport */
    s = &c->stages.stages[ev->cookie];
    if (s->state != KVW_STAGING_FLIGHT || s->path != way || s->conn.value != ev->conn.value)
        return;
    if (s->peer != NULL) { /* NULL: it is gone */
        --s->peer->flying;
        if (ev->err == KVW_OK && s->batch)
            kvw_rate_done(&s->peer->rate, &s->mark, c->now_ns);
        else if (ev->err == KVW_OK) /* on an error CONN_DOWN follows, and ends its flow */
            delivered(c, s->peer, s);
        kvw_peer_busy(c, s->peer);
    }
    kvw_staging_free(&c->stages, s);
    wake_starved(c);
}
