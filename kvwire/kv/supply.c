/* SPDX-License-Identifier: Apache-2.0 */
/*
 * supply.c - the sender's transfers.
 *
 * Timers  transfer  deadline: the caller's; offer_by: until all receivers' offers have come
 *         flow      an offer without a stream: take_by; then the receiver is told
 *         peer      ALIVE: a quarter of the shortest lease of its open flows (owed.c)
 */
#include "supply.h"

#include <stdarg.h>
#include <stdio.h>

#include "../peer/events.h"
#include "../peer/traced.h"
#include "../wire/chunks.h"
#include "hold.h"
#include "lend.h"
#include "staging.h"

/* --- offer and stream meet -------------------------------------------------------------------- */

static bool KVW_PRINTF(3, 4) fail(char *why, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return false;
}

/* How many entries, or rows of one entry, a full chunk of a span has, so that any codec that may be
 * used fits the peer's slots and ours. */
static bool size_chunks(const struct kvw_core *c, const struct kvw_peer *p, struct kvw_flow_span *s,
                        const struct kvw_layout_group *g, uint32_t dtype)
{
    const uint32_t slot =
        p->hello.slot_bytes < c->stages.slot_bytes ? p->hello.slot_bytes : c->stages.slot_bytes;
    const uint32_t entry_bytes = s->rows * s->row_bytes;
    const bool whole = entry_bytes / s->row_bytes == s->rows && entry_bytes <= KVW_CHUNK_RAW_MAX;
    const struct kvw_codec_ops *raw = c->codecs[c->raw];

    s->chunk_entries =
        whole ? kvw_chunk_tokens(raw, entry_bytes, g->block_entries, c->chunk_raw_bytes, slot) : 0;
    s->chunk_rows = kvw_chunk_tokens(raw, s->row_bytes, 1, c->chunk_raw_bytes, slot);
    if (s->chunk_rows > s->rows)
        s->chunk_rows = s->rows;
    for (uint32_t i = 0; i < c->codec_count && s->chunk_entries > 0; ++i) {
        uint32_t n;

        if ((p->allowed >> i & 1) == 0 || (c->codecs[i]->dtypes >> dtype & 1) == 0)
            continue;
        n = kvw_chunk_tokens(c->codecs[i], entry_bytes, g->block_entries, c->chunk_raw_bytes, slot);
        if (n > 0 && n < s->chunk_entries)
            s->chunk_entries = n;
    }
    return s->chunk_rows > 0;
}

/* The span's layers in this side's pool, and whether the stream's blocks hold what is asked for. */
static kvw_err find_span(const struct kvw_core *c, const struct kvw_flow *f,
                         struct kvw_flow_span *s, const struct kvw_layout *theirs, char *why,
                         size_t size)
{
    const struct kvw_transfer *t = f->transfer;
    const struct kvw_layout *here = c->pools[t->pool].place->layout;

    for (uint32_t l = 0; l < s->layer_count; ++l) {
        struct kvw_cut *cut = &s->cuts[l];
        const struct kvw_layout_group *g;
        const struct kvw_table *table;

        if (kvw_map_find(&cut->at, theirs, s->group, s->part, s->layer[l], here, why, size) !=
            KVW_OK)
            return KVW_E_MISMATCH; /* can't be: kvw_map_check() was satisfied */
        g = &here->groups[cut->at.group];
        table = &t->tables[cut->at.group];
        cut->row_at = s->row_first - g->parts[cut->at.part].row_first;
        if (s->units == 0)
            continue; /* a window that has gone on */
        if (!table->used || s->entry_first < table->entry_base ||
            s->entry_end - table->entry_base > (uint64_t)table->block_count * g->block_entries) {
            fail(why, size, "the stream's blocks of layer %u don't hold tokens %u to %u",
                 s->layer[l], s->token_first, s->token_end - 1);
            return KVW_E_MISMATCH;
        }
    }
    if (!size_chunks(c, f->peer, s, &theirs->groups[s->group],
                     theirs->groups[s->group].parts[s->part].dtype)) {
        fail(why, size, "the peer's landing slots of %u bytes don't hold a row of %u",
             f->peer->hello.slot_bytes, s->row_bytes);
        return KVW_E_MISMATCH;
    }
    return KVW_OK;
}

static kvw_err check(const struct kvw_core *c, const struct kvw_flow *f,
                     const struct kvw_layout *theirs, char *why, size_t size)
{
    const struct kvw_transfer *t = f->transfer;
    kvw_err err = KVW_OK;

    if (f->tokens != t->tokens) {
        fail(why, size, "the offer is for %u tokens, the stream has %u", f->tokens, t->tokens);
        return KVW_E_MISMATCH;
    }
    for (uint32_t i = 0; i < f->span_count && err == KVW_OK; ++i) {
        const struct kvw_flow_span *s = &f->spans[i];
        const struct kvw_wire_span w = {
            .group = (uint8_t)s->group,
            .part = (uint8_t)s->part,
            .layer_first = s->layer_first,
            .layers = s->layers,
            .row_first = s->row_first,
            .rows = s->rows,
        };

        err = kvw_map_check(c->pools[t->pool].place->layout, theirs, &w, why, size);
        if (err == KVW_OK)
            err = find_span(c, f, &f->spans[i], theirs, why, size);
    }
    return err == KVW_E_PROTOCOL ? KVW_E_MISMATCH : err;
}

static const struct kvw_layout *their_pool(const struct kvw_peer *p, uint16_t number)
{
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i)
        if (p->pools[i].layout != NULL && p->pools[i].number == number)
            return p->pools[i].layout;
    return NULL;
}

bool kvw_supply_join(struct kvw_core *c, struct kvw_transfer *t, struct kvw_flow *f)
{
    const struct kvw_layout *theirs = their_pool(f->peer, f->pool);
    char why[KVW_TEXT_BYTES_MAX + 1];
    kvw_err err = KVW_E_MISMATCH;

    kvw_list_remove(&f->of_transfer); /* from core.waiting */
    --c->waiting_count;
    f->transfer = t;
    f->state = KVW_FLOW_OPEN;
    ++f->peer->sender_flows;
    kvw_list_add(&t->flows, &f->of_transfer);
    kvw_heap_set(&c->timers, &f->timer, UINT64_MAX);
    if (++t->flow_count == t->flows_wanted)
        kvw_heap_set(&c->timers, &t->timer, t->deadline_ns);
    fail(why, sizeof(why), "the offer's pool is gone");
    if (theirs != NULL)
        err = check(c, f, theirs, why, sizeof(why));
    if (err != KVW_OK) {
        kvw_transfer_finish(c, t, err, KVW_TELL_ABORT, why);
        return false;
    }
    f->peer->alive_due = true; /* at once: the offer is taken up */
    kvw_peer_owes(c, f->peer);
    kvw_peer_busy(c, f->peer);
    return true;
}

/* --- OFFER ------------------------------------------------------------------------------------ */

/* Spans of an offer, checked against the layout that the peer has told. */
static const char *spans_of(const struct kvw_wire_offer *m, const struct kvw_layout *theirs,
                            struct kvw_wire_span *spans)
{
    for (uint32_t i = 0; i < m->span_count; ++i) {
        const struct kvw_wire_span s = kvw_wire_offer_span(m, i);

        if (s.group >= theirs->group_count || s.part >= theirs->groups[s.group].part_count)
            return "an offer of a group or part that its pool doesn't have";
        if (s.row_first + s.rows > theirs->groups[s.group].parts[s.part].rows_model)
            return "an offer of rows that its model doesn't have";
        spans[i] = s;
    }
    return NULL;
}

static void refuse(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m,
                   kvw_err err, const char *text)
{
    kvw_key key;

    memcpy(key.bytes, m->about.key.bytes, sizeof(key.bytes));
    (void)kvw_core_owe_refusal(c, p, &key, m->about.epoch, err, text); /* lost: take_by ends it */
}

/* Whether an offer can be kept; else it has been refused. */
static bool can_keep(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m,
                     const struct kvw_transfer *t, const kvw_key *key)
{
    const struct kvw_recent *ended = kvw_recent_find(c, key, KVW_RECENT_STREAM);

    if (c->waiting_count >= c->xfers_max)
        refuse(c, p, m, KVW_E_NOMEM, "too many offers wait here for their streams");
    else if (m->stage != 0)
        return true;
    else if (t == NULL && ended != NULL)
        refuse(c, p, m, ended->err == KVW_OK ? KVW_E_CANCELED : ended->err,
               ended->err == KVW_OK ? "the stream of this key has been complete" : ended->text);
    else if (t != NULL && t->hold != NULL)
        refuse(c, p, m, KVW_E_MISMATCH, "this key is being staged: it is to be pulled");
    else if (t != NULL && t->flow_count == t->flows_wanted)
        refuse(c, p, m, KVW_E_CANCELED, "the stream of this key has all its receivers");
    else
        return true;
    return false;
}

static struct kvw_flow *make_flow(struct kvw_core *c, struct kvw_peer *p,
                                  const struct kvw_wire_offer *m, const struct kvw_layout *theirs,
                                  const struct kvw_wire_span *spans)
{
    struct kvw_flow *f;
    char why[96];

    if (kvw_flow_new(&f, theirs, spans, m->span_count, m->tokens, false, why, sizeof(why)) !=
        KVW_OK) {
        refuse(c, p, m, KVW_E_NOMEM, why);
        return NULL;
    }
    f->peer = p;
    memcpy(f->key.bytes, m->about.key.bytes, sizeof(f->key.bytes));
    f->epoch = m->about.epoch;
    f->pool = m->pool;
    f->stage = m->stage;
    f->lease_ns = m->lease_ns;
    f->budget = m->budget;
    f->exact_first = m->exact_first;
    f->exact_last = m->exact_last;
    kvw_flow_join(c, f);
    kvw_list_add(&c->waiting, &f->of_transfer);
    ++c->waiting_count;
    kvw_heap_set(&c->timers, &f->timer, c->now_ns + m->take_by_ns);
    return f;
}

struct kvw_flow *kvw_supply_keep(struct kvw_core *c, struct kvw_peer *p,
                                 const struct kvw_wire_offer *m)
{
    const struct kvw_layout *theirs = their_pool(p, m->pool);
    struct kvw_wire_span spans[KVW_WIRE_SPANS_MAX];
    const char *fault;
    struct kvw_flow *f;
    kvw_key key;

    memcpy(key.bytes, m->about.key.bytes, sizeof(key.bytes));
    if (kvw_flow_find(c, p, m->about.epoch, false) != NULL ||
        kvw_flow_of_key(p, &key, false) != NULL) {
        kvw_core_breach(c, p, "an offer for a transfer that is already offered");
        return NULL;
    }
    if (theirs == NULL) {
        refuse(c, p, m, KVW_E_MISMATCH, "the offer names a pool that is not known here");
        return NULL;
    }
    if ((fault = spans_of(m, theirs, spans)) != NULL) {
        kvw_core_breach(c, p, fault);
        return NULL;
    }
    if (!can_keep(c, p, m, kvw_transfer_of_key(c, &key, false), &key) ||
        (f = make_flow(c, p, m, theirs, spans)) == NULL)
        return NULL;
    if (kvw_traced(c))
        kvw_trace_offer(c, f);
    return f;
}

void kvw_supply_offer(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m)
{
    struct kvw_flow *f = kvw_supply_keep(c, p, m);
    struct kvw_core_rec *rec;
    struct kvw_transfer *t;

    if (f == NULL)
        return;
    kvw_recent_forget(c, &f->key, KVW_RECENT_OFFER);
    t = kvw_transfer_of_key(c, &f->key, false);
    if (t != NULL) {
        (void)kvw_supply_join(c, t, f);
        return;
    }
    rec = kvw_core_emit(c, KVW_CEV_OFFERED, p, KVW_OK, NULL);
    rec->key = f->key;
}

void kvw_supply_timer(struct kvw_core *c, struct kvw_flow *f)
{
    kvw_list_remove(&f->of_transfer);
    kvw_flow_end(c, f, KVW_TELL_REFUSE, KVW_E_DEADLINE,
                 f->stage != 0
                     ? "what was staged could not be pulled in the time that the offer gives"
                     : "no stream of this key was opened in the time that the offer gives");
    kvw_flow_release(c, f);
}

/* --- streams ---------------------------------------------------------------------------------- */

void kvw_supply_begin(struct kvw_core *c, struct kvw_transfer *t)
{
    const struct kvw_layout *l = c->pools[t->pool].place->layout;

    for (uint32_t g = 0; g < l->group_count; ++g) {
        const struct kvw_layout_group *group = &l->groups[g];
        uint64_t entry_bytes = 0;

        if (!t->tables[g].used)
            continue;
        for (uint32_t p = 0; p < group->part_count; ++p)
            entry_bytes += (uint64_t)group->parts[p].rows * group->parts[p].row_bytes;
        for (uint32_t i = 0; i < group->layer_count; ++i) {
            struct kvw_pushed *layer = &t->pushed[group->layers[i]];
            const uint32_t per = group->entry_tokens > 0 ? group->entry_tokens : t->tokens;

            layer->in_pool = true;
            layer->token_bytes += (uint32_t)(entry_bytes / per);
        }
    }
    for (uint32_t i = 0; i < l->model_layers; ++i)
        t->all_bytes += (uint64_t)t->pushed[i].token_bytes * t->tokens;
}

static void meet_waiting(struct kvw_core *c, struct kvw_transfer *t)
{
    kvw_list_each(it, after, &c->waiting)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_transfer);

        if (f->stage != 0 || !kvw_key_equal(&f->key, &t->key) || t->flow_count == t->flows_wanted)
            continue;
        if (!kvw_supply_join(c, t, f))
            return;
    }
}

/* Index of a codec that a caller names, UINT32_MAX: none of the core's. 0: the config's. */
static uint32_t codec_named(const struct kvw_core *c, uint32_t id)
{
    if (id == 0)
        return c->fixed_codec;
    for (uint32_t i = 0; i < c->codec_count; ++i)
        if (c->codecs[i]->id == id)
            return i;
    return UINT32_MAX;
}

kvw_err kvw_core_stream(struct kvw_core *c, const struct kvw_stream_args *args, uint64_t now_ns,
                        kvw_xfer_ref *xfer, char *why, size_t why_bytes)
{
    const struct kvw_recent *ended;
    char text[KVW_TEXT_BYTES_MAX + 1] = "";
    struct kvw_group_blocks groups[KVW_GROUPS_MAX];
    struct kvw_local_pool *pool;
    struct kvw_stream_args a;
    struct kvw_transfer *t;
    kvw_err err = KVW_E_INVALID;

    c->now_ns = now_ns;
    if (!kvw_core_copy_in(&a, sizeof(a), args, args->size) || a.receivers > KVW_SOURCES_MAX) {
        fail(text, sizeof(text), "size is %u, receivers %u, or unknown fields aren't 0", args->size,
             args->receivers);
    } else if (codec_named(c, a.codec) == UINT32_MAX || a.reserved != 0) {
        fail(text, sizeof(text), "codec is %u, none of this core's, or reserved isn't 0", a.codec);
    } else if ((pool = kvw_core_pool(c, a.pool)) == NULL) {
        fail(text, sizeof(text), "pool: no such pool");
        err = KVW_E_NOTFOUND;
    } else if (kvw_groups_in(groups, a.groups, a.group_count, a.group_bytes, text, sizeof(text))) {
        err = kvw_transfer_new(c, &t, pool, &a.key, a.tokens, groups, a.group_count, false, text,
                               sizeof(text));
    }
    if (err != KVW_OK) {
        if (why != NULL && why_bytes > 0)
            snprintf(why, why_bytes, "%s", text);
        return err;
    }
    kvw_supply_begin(c, t);
    t->codec = codec_named(c, a.codec);
    t->flows_wanted = a.receivers != 0 ? a.receivers : 1;
    t->deadline_ns = a.deadline_ns != 0 ? a.deadline_ns : UINT64_MAX;
    t->offer_by_ns = a.offer_by_ns != 0 ? a.offer_by_ns : now_ns + KVW_TAKE_BY_NS;
    kvw_heap_set(&c->timers, &t->timer,
                 t->offer_by_ns < t->deadline_ns ? t->offer_by_ns : t->deadline_ns);
    *xfer = (kvw_xfer_ref){t->ref};
    c->more = true;
    if ((ended = kvw_recent_find(c, &a.key, KVW_RECENT_OFFER)) != NULL) {
        snprintf(text, sizeof(text), "%s", ended->text);
        kvw_transfer_finish(c, t, ended->err, KVW_TELL_NONE, text);
        return KVW_OK;
    }
    kvw_recent_forget(c, &a.key, KVW_RECENT_STREAM);
    meet_waiting(c, t);
    return KVW_OK;
}

uint32_t kvw_supply_ready(const struct kvw_core *c, const struct kvw_flow *f,
                          const struct kvw_flow_span *s, uint32_t layer_at)
{
    const struct kvw_transfer *t = f->transfer;
    const struct kvw_layout_group *g =
        &c->pools[t->pool].place->layout->groups[s->cuts[layer_at].at.group];
    const uint32_t tokens = t->pushed[s->layer[layer_at]].tokens;
    uint32_t entries = s->entry_end;

    if (tokens < t->tokens)
        entries = g->kind == KVW_GROUP_ROW ? 0 : tokens / g->entry_tokens;
    if (entries > s->entry_end)
        entries = s->entry_end;
    return entries > s->entry_first ? entries - s->entry_first : 0;
}

/* A layer's tokens up to this one are computed. */
static void computed(struct kvw_core *c, struct kvw_transfer *t, struct kvw_pushed *l,
                     uint32_t tokens)
{
    t->pushed_bytes += (uint64_t)(tokens - l->tokens) * l->token_bytes;
    l->tokens = tokens;
    if (kvw_traced(c)) {
        struct kvw_trace_event ev =
            kvw_trace_transfer(KVW_TRACE_PUSHED, t, (uint32_t)(l - t->pushed));

        ev.tokens = tokens;
        kvw_trace_tell(c, ev);
    }
    if (t->hold != NULL)
        kvw_hold_wants(c, t->hold);
    kvw_list_each(it, after, &t->flows)
        kvw_peer_busy(c, kvw_list_of(it, struct kvw_flow, of_transfer)->peer);
}

kvw_err kvw_core_push(struct kvw_core *c, kvw_xfer_ref xfer, uint32_t layer, uint32_t tokens,
                      const struct kvw_ready *ready)
{
    struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);
    const bool now = ready == NULL || ready->query == NULL;
    struct kvw_pushed *l;

    if (t == NULL || t->state != KVW_TRANSFER_OPEN || t->receiver)
        return t != NULL && t->receiver ? KVW_E_INVALID : KVW_E_NOTFOUND;
    if (layer >= c->pools[t->pool].place->layout->model_layers || !t->pushed[layer].in_pool ||
        tokens > t->tokens)
        return KVW_E_INVALID;
    l = &t->pushed[layer];
    if (tokens <= l->promised)
        return KVW_OK;
    if (now) { /* says as much as every mark before it, and more */
        t->marks_pending -= l->mark_count;
        l->mark_count = 0;
        if (t->marks_pending == 0)
            kvw_list_remove(&t->marked);
        computed(c, t, l, tokens);
    } else if (l->mark_count == KVW_PUSH_MARKS) {
        return KVW_E_AGAIN;
    } else {
        l->marks[l->mark_count].tokens = tokens;
        l->marks[l->mark_count].ready = *ready;
        ++l->mark_count;
        ++t->marks_pending;
        kvw_list_want(&c->marked, &t->marked);
        c->more = true;
    }
    l->promised = tokens;
    return KVW_OK;
}

/* The marks of one layer, oldest first; false: the stream has ended. */
static bool ask_layer(struct kvw_core *c, struct kvw_transfer *t, uint32_t layer)
{
    struct kvw_pushed *l = &t->pushed[layer];

    while (l->mark_count > 0) {
        const kvw_err err = l->marks[0].ready.query(l->marks[0].ready.arg);

        if (err == KVW_E_AGAIN)
            return true;
        if (err != KVW_OK) {
            kvw_transfer_finishf(c, t, err < 0 ? err : KVW_E_DEVICE,
                                 "layer %u will never be ready: %s", layer, kvw_strerror(err));
            return false;
        }
        --t->marks_pending;
        computed(c, t, l, l->marks[0].tokens);
        --l->mark_count;
        memmove(&l->marks[0], &l->marks[1], l->mark_count * sizeof(l->marks[0]));
    }
    return true;
}

void kvw_supply_marks(struct kvw_core *c)
{
    kvw_list_each(it, after, &c->marked)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, marked);
        const uint32_t layers = c->pools[t->pool].place->layout->model_layers;
        bool open = true;

        for (uint32_t l = 0; l < layers && open; ++l)
            open = ask_layer(c, t, l);
        if (open && t->marks_pending == 0)
            kvw_list_remove(&t->marked);
    }
}

/* Tokens of this group that some layer promised: chunks of them may be read by now. */
static uint32_t promised(const struct kvw_transfer *t, const struct kvw_layout_group *g)
{
    uint32_t most = 0;

    for (uint32_t l = 0; l < g->layer_count; ++l)
        if (t->pushed[g->layers[l]].promised > most)
            most = t->pushed[g->layers[l]].promised;
    return most;
}

kvw_err kvw_core_stream_blocks(struct kvw_core *c, kvw_xfer_ref xfer, uint32_t group,
                               uint32_t first, const uint32_t *ids, uint32_t count)
{
    struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);
    const struct kvw_layout_group *g;
    struct kvw_table *table;
    uint64_t entry;

    if (t == NULL || t->state != KVW_TRANSFER_OPEN || t->receiver)
        return t != NULL && t->receiver ? KVW_E_INVALID : KVW_E_NOTFOUND;
    if (group >= t->group_count || !t->tables[group].used || (count > 0 && ids == NULL))
        return KVW_E_INVALID;
    g = &c->pools[t->pool].place->layout->groups[group];
    table = &t->tables[group];
    entry = table->entry_base + (uint64_t)first * g->block_entries;
    if (first > table->block_count || count > table->block_count - first)
        return KVW_E_INVALID;
    if (g->kind == KVW_GROUP_ROW ? promised(t, g) == t->tokens
                                 : entry * g->entry_tokens < promised(t, g))
        return KVW_E_INVALID;
    for (uint32_t i = 0; i < count; ++i)
        if (ids[i] >= g->blocks)
            return KVW_E_INVALID;
    if (count > 0)
        memcpy(table->blocks + first, ids, count * sizeof(ids[0]));
    return KVW_OK;
}

kvw_err kvw_core_commit(struct kvw_core *c, kvw_xfer_ref xfer, const void *note,
                        uint32_t note_bytes)
{
    struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);

    if (note_bytes > KVW_COMMIT_NOTE_MAX || (note == NULL && note_bytes > 0) ||
        (t != NULL && (t->receiver || t->commit_due)))
        return KVW_E_INVALID;
    if (t == NULL || t->state != KVW_TRANSFER_OPEN)
        return KVW_E_NOTFOUND;
    for (uint32_t l = 0; l < c->pools[t->pool].place->layout->model_layers; ++l)
        if (t->pushed[l].in_pool && t->pushed[l].promised != t->tokens)
            return KVW_E_INVALID;
    t->commit_due = true;
    t->note_bytes = note_bytes;
    if (note_bytes > 0)
        memcpy(t->note, note, note_bytes);
    if (t->hold != NULL)
        kvw_hold_wants(c, t->hold);
    kvw_list_each(it, after, &t->flows)
        kvw_peer_owes(c, kvw_list_of(it, struct kvw_flow, of_transfer)->peer);
    return KVW_OK;
}

/* --- how it ends ------------------------------------------------------------------------------ */

static bool layer_is_sent(const struct kvw_flow *f, uint32_t layer)
{
    for (uint32_t i = 0; i < f->span_count; ++i) {
        const struct kvw_flow_span *s = &f->spans[i];
        const uint32_t l = kvw_flow_layer(s, layer);

        if (l < KVW_LAYERS_MAX && (s->cuts[l].units < s->units || s->cuts[l].flying > 0))
            return false;
    }
    return true;
}

void kvw_supply_layer_sent(struct kvw_core *c, struct kvw_transfer *t, uint32_t layer)
{
    struct kvw_pushed *l = &t->pushed[layer];

    if (!l->in_pool || l->reported || l->tokens < t->tokens || t->flow_count < t->flows_wanted)
        return;
    kvw_list_each(
        it, after,
        &t->flows) if (!layer_is_sent(kvw_list_of(it, struct kvw_flow, of_transfer), layer)) return;
    l->reported = true;
    kvw_core_emit_layer(c, KVW_CEV_LAYER_SENT, t, layer);
}

void kvw_supply_done(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_done *m)
{
    struct kvw_flow *f = kvw_flow_find(c, p, m->about.epoch, false);
    struct kvw_transfer *t;

    if (f == NULL || f->state != KVW_FLOW_OPEN)
        return; /* it ended here meanwhile */
    t = f->transfer;
    if (!f->committed || m->chunks != f->chunks || m->raw_bytes != f->raw_bytes) {
        kvw_transfer_finishf(
            c, t, KVW_E_PROTOCOL, "the peer is done with %u chunks, %llu bytes; here %u, %llu, %s",
            m->chunks, (unsigned long long)m->raw_bytes, f->chunks,
            (unsigned long long)f->raw_bytes, f->committed ? "committed" : "not committed");
        return;
    }
    /* DONE may overtake the outcomes of the last puts. It says what they would have said. */
    for (uint32_t i = 0; i < f->span_count; ++i)
        for (uint32_t l = 0; l < f->spans[i].layer_count; ++l)
            f->spans[i].cuts[l].flying = 0;
    kvw_staging_take_back(c, f);
    f->state = KVW_FLOW_COMPLETE;
    --p->sender_flows;
    if (++t->flows_complete < t->flows_wanted)
        return;
    for (uint32_t l = 0; l < c->pools[t->pool].place->layout->model_layers; ++l)
        kvw_supply_layer_sent(c, t, l);
    kvw_transfer_finish(c, t, KVW_OK, KVW_TELL_NONE, "complete");
}

void kvw_supply_refused(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_abort *m)
{
    struct kvw_transfer *t;
    kvw_key key;

    (void)p;
    memcpy(key.bytes, m->about.key.bytes, sizeof(key.bytes));
    t = kvw_transfer_of_key(c, &key, false);
    if (t != NULL && t->flow_count < t->flows_wanted)
        kvw_transfer_finish(c, t, kvw_transfer_err_from_peer(m->err), KVW_TELL_ABORT,
                            m->text[0] != '\0' ? m->text : "the receiver will not offer this key");
    else if (t == NULL)
        kvw_recent_add(c, &key, KVW_RECENT_OFFER, kvw_transfer_err_from_peer(m->err),
                       m->text[0] != '\0' ? m->text : "the receiver will not offer this key");
}
