/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers: the table, and the one place where each ends. */
#include "transfer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "../peer/events.h"
#include "../peer/slots.h"
#include "decode.h"
#include "hold.h"
#include "staging.h"

struct kvw_local_pool *kvw_core_pool(const struct kvw_core *c, kvw_pool_id id)
{
    for (uint32_t i = 0; i < KVW_POOLS_MAX && id.value != 0; ++i)
        if (c->pools[i].place != NULL && c->pools[i].id == id.value)
            return (struct kvw_local_pool *)(uintptr_t)&c->pools[i];
    return NULL;
}

/* --- made ------------------------------------------------------------------------------------- */

static bool KVW_PRINTF(3, 4) fail(char *why, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return false;
}

/* One group's blocks as the caller gave them. Receivers and senders of paged groups: the table
 * begins at a block's first token; a row group has one block. */
static bool blocks_are_sound(const struct kvw_layout *l, const struct kvw_group_blocks *b,
                             uint32_t tokens, char *why, size_t size)
{
    const struct kvw_layout_group *g = &l->groups[b->group];
    const uint64_t block_tokens = (uint64_t)g->block_entries * g->entry_tokens;

    if (b->block_count > KVW_XFER_BLOCKS_MAX || (b->block_count > 0 && b->blocks == NULL))
        return fail(why, size, "group %u: block_count is %u, at most %u, and blocks must be there",
                    b->group, b->block_count, KVW_XFER_BLOCKS_MAX);
    for (uint32_t i = 0; i < b->block_count; ++i)
        if (b->blocks[i] >= g->blocks)
            return fail(why, size, "group %u: blocks[%u] is %u, the pool has %u", b->group, i,
                        b->blocks[i], g->blocks);
    if (b->want_first > b->want_end || b->want_end > tokens)
        return fail(why, size, "group %u: want_first %u, want_end %u, of %u tokens", b->group,
                    b->want_first, b->want_end, tokens);
    if (g->kind == KVW_GROUP_ROW)
        return b->block_count == 1 ||
               fail(why, size, "group %u has one row a request, not %u", b->group, b->block_count);
    if (b->token_first % block_tokens != 0 || b->token_first > tokens)
        return fail(why, size, "group %u: token_first is %u, not a multiple of a block's %llu",
                    b->group, b->token_first, (unsigned long long)block_tokens);
    return true;
}

static bool groups_are_sound(const struct kvw_layout *l, const struct kvw_group_blocks *groups,
                             uint32_t count, uint32_t tokens, char *why, size_t size)
{
    uint32_t seen = 0;

    if (tokens < 1 || tokens > KVW_XFER_TOKENS_MAX)
        return fail(why, size, "tokens is %u, not 1 to %u", tokens, KVW_XFER_TOKENS_MAX);
    if (groups == NULL || count < 1 || count > l->group_count)
        return fail(why, size, "group_count is %u, the pool has %u", count, l->group_count);
    for (uint32_t i = 0; i < count; ++i) {
        if (groups[i].group >= l->group_count || (seen >> groups[i].group & 1) != 0)
            return fail(why, size, "groups[%u].group is %u: not there, or twice", i,
                        groups[i].group);
        seen |= 1u << groups[i].group;
        if (!blocks_are_sound(l, &groups[i], tokens, why, size))
            return false;
    }
    return true;
}

bool kvw_groups_in(struct kvw_group_blocks *to, const struct kvw_group_blocks *from, uint32_t count,
                   uint32_t bytes, char *why, size_t size)
{
    const uint32_t each = bytes != 0 ? bytes : 32; /* up to want_end, as it was at first */

    if (from == NULL || count < 1 || count > KVW_GROUPS_MAX)
        return fail(why, size, "group_count is %u, not 1 to %u, or groups is missing", count,
                    KVW_GROUPS_MAX);
    for (uint32_t i = 0; i < count; ++i)
        if (!kvw_core_copy_in(&to[i], sizeof(to[i]), (const uint8_t *)from + (size_t)i * each,
                              each))
            return fail(why, size, "group_bytes is %u, or unknown fields of groups[%u] aren't 0",
                        bytes, i);
    return true;
}

static struct kvw_transfer *transfer_alloc(const struct kvw_layout *l,
                                           const struct kvw_group_blocks *groups, uint32_t count,
                                           bool receiver)
{
    const size_t by_layer = receiver ? 2 * sizeof(uint32_t) : sizeof(struct kvw_pushed);
    struct kvw_transfer *t;
    size_t blocks = 0, bad_bytes = 0;
    uint32_t *block;
    uint8_t *bad;

    for (uint32_t i = 0; i < count; ++i) {
        blocks += groups[i].block_count;
        bad_bytes += receiver ? (groups[i].block_count + 7) / 8 : 0;
    }
    t = calloc(1, sizeof(*t) + l->group_count * sizeof(t->tables[0]) + l->model_layers * by_layer +
                      blocks * sizeof(uint32_t) + bad_bytes);
    if (t == NULL)
        return NULL;
    t->tables = (struct kvw_table *)(t + 1);
    if (receiver) {
        t->layer_left = (uint32_t *)(t->tables + l->group_count);
        t->layer_coming = t->layer_left + l->model_layers;
    } else {
        t->pushed = (struct kvw_pushed *)(t->tables + l->group_count);
    }
    block =
        receiver ? t->layer_coming + l->model_layers : (uint32_t *)(t->pushed + l->model_layers);
    bad = (uint8_t *)(block + blocks);
    for (uint32_t i = 0; i < count; ++i) {
        const struct kvw_layout_group *g = &l->groups[groups[i].group];
        struct kvw_table *table = &t->tables[groups[i].group];

        *table = (struct kvw_table){.blocks = block,
                                    .block_count = groups[i].block_count,
                                    .want_first = groups[i].want_first,
                                    .want_end = groups[i].want_end,
                                    .used = true};
        if (g->kind != KVW_GROUP_ROW)
            table->entry_base = groups[i].token_first / g->entry_tokens;
        for (uint32_t b = 0; b < table->block_count; ++b) /* NULL: in their order, from the first */
            block[b] = groups[i].blocks != NULL ? groups[i].blocks[b] : b;
        block += table->block_count;
        table->bad = bad;
        bad += receiver ? (table->block_count + 7) / 8 : 0;
    }
    return t;
}

static void begin(struct kvw_core *c, struct kvw_transfer *t)
{
    const struct kvw_layout *l = c->pools[t->pool].place->layout;

    t->state = KVW_TRANSFER_OPEN;
    t->ref = ++c->next_ref;
    t->group_count = l->group_count;
    t->model_layers = l->model_layers;
    t->opened_ns = c->now_ns;
    t->deadline_ns = t->offer_by_ns = UINT64_MAX;
    t->codec = c->fixed_codec;
    kvw_list_init(&t->flows);
    kvw_list_init(&t->marked);
    kvw_list_init(&t->pending);
    kvw_list_init(&t->all);
    kvw_timer_init(&t->timer, KVW_TIMER_TRANSFER);
    kvw_list_add(&c->transfers, &t->all);
    kvw_index_add(&c->refs, &t->by_ref, kvw_index_mix(t->ref));
    ++c->transfer_count;
}

kvw_err kvw_transfer_new(struct kvw_core *c, struct kvw_transfer **out,
                         const struct kvw_local_pool *pool, const kvw_key *key, uint32_t tokens,
                         const struct kvw_group_blocks *groups, uint32_t group_count, bool receiver,
                         char *why, size_t size)
{
    const struct kvw_layout *l = pool->place->layout;
    struct kvw_transfer *t;

    if (kvw_transfer_of_key(c, key, receiver) != NULL) {
        fail(why, size, "this key is open here already");
        return KVW_E_INVALID;
    }
    if (!groups_are_sound(l, groups, group_count, tokens, why, size))
        return KVW_E_INVALID;
    if (c->transfer_count == c->xfers_max) {
        fail(why, size, "%u transfers are open, or ended and their events not taken", c->xfers_max);
        return KVW_E_AGAIN;
    }
    if ((t = transfer_alloc(l, groups, group_count, receiver)) == NULL) {
        fail(why, size, "no memory for a transfer");
        return KVW_E_NOMEM;
    }
    t->receiver = receiver;
    t->key = *key;
    t->pool = (uint32_t)(pool - c->pools);
    t->place = pool->place;
    t->tokens = tokens;
    begin(c, t);
    kvw_index_add(&c->keys, &t->by_key, kvw_key_hash(key, receiver));
    *out = t;
    return KVW_OK;
}

/* A hold's entries as the tables of a transfer: its blocks are in their order. */
static uint32_t groups_of(const struct kvw_hold *h, struct kvw_group_blocks *groups)
{
    const struct kvw_layout *l = h->place->layout;
    uint32_t n = 0;

    for (uint32_t g = 0; g < l->group_count; ++g)
        if (h->entries[g].count > 0)
            groups[n++] = (struct kvw_group_blocks){
                .group = g,
                .block_count = (h->entries[g].count - 1) / l->groups[g].block_entries + 1,
                .token_first = h->entries[g].first * l->groups[g].entry_tokens};
    return n;
}

kvw_err kvw_transfer_serve(struct kvw_core *c, struct kvw_transfer **out, struct kvw_hold *h,
                           char *why, size_t size)
{
    struct kvw_group_blocks groups[KVW_GROUPS_MAX];
    const uint32_t count = groups_of(h, groups);
    struct kvw_transfer *t = NULL;

    if (c->transfer_count < c->xfers_max)
        t = transfer_alloc(h->place->layout, groups, count, false);
    if (t == NULL) {
        fail(why, size, "%u transfers are open there, or no memory for another", c->transfer_count);
        return KVW_E_NOMEM;
    }
    t->serves = t->commit_due = true;
    t->key = h->key;
    t->pool = h->pool;
    t->place = h->place;
    t->tokens = h->tokens;
    begin(c, t);
    t->hold = h;
    ++h->pulling;
    t->flows_wanted = 1;
    t->pushed_bytes = t->all_bytes = h->bytes;
    for (uint32_t l = 0; l < t->model_layers; ++l) {
        t->pushed[l].tokens = t->pushed[l].promised = t->tokens;
        t->pushed[l].reported = true; /* nobody asks */
    }
    t->note_bytes = h->note_bytes;
    memcpy(t->note, h->note, h->note_bytes);
    *out = t;
    return KVW_OK;
}

void kvw_transfer_undo(struct kvw_core *c, struct kvw_transfer *t)
{
    kvw_list_each(it, after, &t->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_transfer);

        kvw_flow_end(c, f, KVW_TELL_NONE, KVW_E_NOMEM, "");
        kvw_flow_free(c, f);
    }
    kvw_index_remove(&c->keys, &t->by_key);
    t->state = KVW_TRANSFER_ENDED;
    t->event_due = false;
    kvw_transfer_release(c, t);
}

struct kvw_transfer *kvw_transfer_of_key(const struct kvw_core *c, const kvw_key *key,
                                         bool receiver)
{
    for (struct kvw_indexed *m = kvw_index_first(&c->keys, kvw_key_hash(key, receiver)); m != NULL;
         m = kvw_index_next(m)) {
        struct kvw_transfer *t = kvw_list_of(m, struct kvw_transfer, by_key);

        if (t->receiver == receiver && kvw_key_equal(&t->key, key))
            return t;
    }
    return NULL;
}

struct kvw_transfer *kvw_transfer_of_ref(const struct kvw_core *c, kvw_xfer_ref ref)
{
    for (struct kvw_indexed *m = kvw_index_first(&c->refs, kvw_index_mix(ref.value)); m != NULL;
         m = kvw_index_next(m)) {
        struct kvw_transfer *t = kvw_list_of(m, struct kvw_transfer, by_ref);

        if (t->ref == ref.value)
            return t;
    }
    return NULL;
}

/* --- ended ------------------------------------------------------------------------------------ */

void kvw_flow_end(struct kvw_core *c, struct kvw_flow *f, enum kvw_flow_reply reply, kvw_err err,
                  const char *text)
{
    struct kvw_peer *p = f->peer;
    const bool counted = f->state == KVW_FLOW_WAITING || f->state == KVW_FLOW_OPEN;

    if (counted && f->receiver) {
        --p->receiver_flows;
        if (!kvw_peer_needs_slots(p))
            kvw_slots_unneeded(c, p);
    }
    if (counted && !f->receiver) {
        if (f->state == KVW_FLOW_WAITING)
            --c->waiting_count;
        else
            --p->sender_flows;
    }
    if (f->receiver)
        kvw_decode_take_back(c, f);
    else
        kvw_staging_take_back(c, f);
    for (uint32_t i = 0; i < f->span_count && f->receiver; ++i)
        for (uint32_t l = 0; l < f->spans[i].layer_count; ++l) {
            const uint16_t free = c->span_pool.free_count;

            kvw_ranges_free(&f->spans[i].covers[l], &c->span_pool);
            kvw_ranges_init(&f->spans[i].covers[l]);
            p->lent.gaps -= (uint32_t)(c->span_pool.free_count - free);
        }
    kvw_heap_set(&c->timers, &f->timer, UINT64_MAX);
    f->state = reply == KVW_TELL_DONE ? KVW_FLOW_COMPLETE : KVW_FLOW_ENDED;
    f->reply = p->link != NULL ? reply : KVW_TELL_NONE;
    f->err = err;
    f->text = text;
    if (f->reply != KVW_TELL_NONE || f->receiver)
        kvw_peer_owes(c, p);
}

void kvw_flow_release(struct kvw_core *c, struct kvw_flow *f)
{
    struct kvw_transfer *t = f->transfer;

    if (f->state < KVW_FLOW_COMPLETE || f->reply != KVW_TELL_NONE)
        return;
    /* A complete flow of an open transfer is still looked at: bad blocks, counts. */
    if (t != NULL && t->state == KVW_TRANSFER_OPEN)
        return;
    kvw_flow_free(c, f);
    if (t != NULL)
        kvw_transfer_release(c, t);
}

void kvw_transfer_release(struct kvw_core *c, struct kvw_transfer *t)
{
    if (t->state != KVW_TRANSFER_ENDED || t->event_due || t->ending || !kvw_list_empty(&t->flows))
        return;
    kvw_heap_set(&c->timers, &t->timer, UINT64_MAX);
    kvw_list_remove(&t->all);
    kvw_list_remove(&t->marked);
    kvw_list_remove(&t->pending);
    kvw_index_remove(&c->refs, &t->by_ref);
    --c->transfer_count;
    free(t);
}

/* What a peer hears of a flow's end; an offer that never left is refused by its key instead, unless
 * it was a pull: nobody waits for that. */
static enum kvw_flow_reply reply_for(const struct kvw_flow *f, enum kvw_flow_reply reply)
{
    if (f->quiet)
        return KVW_TELL_NONE;
    if (reply == KVW_TELL_ABORT && f->receiver && f->state == KVW_FLOW_WAITING)
        return f->stage != 0 ? KVW_TELL_NONE : KVW_TELL_REFUSE;
    return reply;
}

/* Entries [first, end) of a span aren't in place: the blocks they lie in are bad. */
static void mark_bad(const struct kvw_layout_group *g, struct kvw_table *table, uint32_t first,
                     uint32_t end)
{
    if (first >= end)
        return;
    for (uint32_t b = (first - table->entry_base) / g->block_entries;
         b <= (end - 1 - table->entry_base) / g->block_entries; ++b)
        table->bad[b / 8] |= (uint8_t)(1u << b % 8);
}

/* A receiver's transfer has failed: which blocks of the caller's aren't whole. */
static void find_bad_blocks(struct kvw_core *c, struct kvw_transfer *t, const struct kvw_flow *f)
{
    const struct kvw_layout *l = c->pools[t->pool].place->layout;

    for (uint32_t i = 0; i < f->span_count; ++i) {
        const struct kvw_flow_span *s = &f->spans[i];

        for (uint32_t k = 0; k < s->layer_count; ++k) {
            uint32_t whole = s->covers[k].prefix / s->rows; /* entries, from entry_first */

            for (uint16_t at = s->covers[k].spans; at != KVW_SPAN_NONE;
                 at = c->span_pool.spans[at].next) {
                const struct kvw_span *in = &c->span_pool.spans[at];

                mark_bad(&l->groups[s->group], &t->tables[s->group], s->entry_first + whole,
                         s->entry_first + (in->first + s->rows - 1) / s->rows);
                whole = in->end / s->rows;
            }
            mark_bad(&l->groups[s->group], &t->tables[s->group], s->entry_first + whole,
                     s->entry_end);
        }
    }
}

/* It was never mapped: all that was wanted is lacking. */
static void mark_all_bad(struct kvw_core *c, struct kvw_transfer *t)
{
    const struct kvw_layout *l = c->pools[t->pool].place->layout;

    for (uint32_t g = 0; g < t->group_count; ++g) {
        const struct kvw_table *table = &t->tables[g];
        uint32_t first, end;

        if (!table->used)
            continue;
        kvw_layout_entries(&l->groups[g], t->tokens, table->want_first, table->want_end, &first,
                           &end);
        mark_bad(&l->groups[g], &t->tables[g], first, end);
    }
}

/* A receiver's offer ends before its sources have heard of it; they may wait for it. */
static void end_pending(struct kvw_core *c, struct kvw_transfer *t, kvw_err err, const char *text)
{
    for (uint32_t s = 0; s < t->flows_wanted && t->pulls[0].number == 0; ++s)
        (void)kvw_core_owe_refusal(c, t->sources[s], &t->key, 0, err, text);
    mark_all_bad(c, t);
}

void kvw_transfer_finish(struct kvw_core *c, struct kvw_transfer *t, kvw_err err,
                         enum kvw_flow_reply reply, const char *text)
{
    assert(t->state == KVW_TRANSFER_OPEN);
    t->state = KVW_TRANSFER_ENDED;
    t->err = err;
    snprintf(t->text, sizeof(t->text), "%s", text);
    if (!t->serves)
        kvw_index_remove(&c->keys, &t->by_key);
    kvw_heap_set(&c->timers, &t->timer, UINT64_MAX);
    kvw_list_remove(&t->marked);
    if (!kvw_list_empty(&t->pending))
        end_pending(c, t, err, text);
    kvw_list_remove(&t->pending);
    if (!t->receiver && t->hold == NULL)
        kvw_recent_add(c, &t->key, KVW_RECENT_STREAM, err, text);
    if (err == KVW_OK)
        ++c->stats.xfers_ok;
    else
        ++c->stats.xfers_failed;
    kvw_core_emit_done(c, t);
    t->ending = true;
    kvw_list_each(it, after, &t->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_transfer);

        if (t->receiver && err != KVW_OK && f->state < KVW_FLOW_COMPLETE)
            find_bad_blocks(c, t, f);
        if (f->state == KVW_FLOW_WAITING || f->state == KVW_FLOW_OPEN)
            kvw_flow_end(c, f, reply_for(f, reply), err, t->text);
        kvw_flow_release(c, f);
    }
    t->ending = false;
    if (t->hold != NULL)
        kvw_hold_transfer_ended(c, t);
    kvw_transfer_release(c, t);
}

void kvw_transfer_finishf(struct kvw_core *c, struct kvw_transfer *t, kvw_err err,
                          const char *format, ...)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    kvw_transfer_finish(c, t, err, KVW_TELL_ABORT, text);
}

kvw_err kvw_transfer_err_from_peer(kvw_err from_peer)
{
    switch (from_peer) {
    case KVW_E_NOMEM:
    case KVW_E_NOTFOUND:
    case KVW_E_IO:
    case KVW_E_CHECKSUM:
    case KVW_E_CANCELED:
    case KVW_E_LEASE:
    case KVW_E_DEADLINE:
    case KVW_E_NOBLOCKS:
    case KVW_E_CODEC:
    case KVW_E_PROTOCOL:
    case KVW_E_MISMATCH:
    case KVW_E_DEVICE:
    case KVW_E_UNSUPPORTED:
        return from_peer;
    default:
        return KVW_E_CANCELED;
    }
}

bool kvw_core_owe_refusal(struct kvw_core *c, struct kvw_peer *p, const kvw_key *key,
                          uint32_t epoch, kvw_err err, const char *text)
{
    struct kvw_refusal *free = NULL;
    uint32_t its = 0;

    if (p->link == NULL)
        return true;
    for (uint32_t i = 0; i < KVW_REFUSALS_MAX; ++i) {
        struct kvw_refusal *r = &c->refusals[i];

        if (r->peer == NULL)
            free = r;
        else if (r->peer == p && r->epoch == epoch && kvw_key_equal(&r->key, key))
            return true;
        its += r->peer == p;
    }
    if (free == NULL || its >= KVW_REFUSALS_MAX / 2) /* one peer alone can't use them all up */
        return false;
    *free = (struct kvw_refusal){.peer = p, .key = *key, .epoch = epoch, .err = err};
    snprintf(free->text, sizeof(free->text), "%s", text);
    kvw_peer_owes(c, p);
    return true;
}

/* --- keys that ended -------------------------------------------------------------------------- */

void kvw_recent_add(struct kvw_core *c, const kvw_key *key, enum kvw_recent_kind kind, kvw_err err,
                    const char *text)
{
    struct kvw_recent *r = &c->recent[kind][c->recent_at[kind]++ % KVW_RECENT];

    kvw_recent_forget(c, key, kind);
    *r = (struct kvw_recent){.key = *key, .err = err, .used = true};
    snprintf(r->text, sizeof(r->text), "%s", text);
}

const struct kvw_recent *kvw_recent_find(const struct kvw_core *c, const kvw_key *key,
                                         enum kvw_recent_kind kind)
{
    for (uint32_t i = 0; i < KVW_RECENT; ++i) {
        const struct kvw_recent *r = &c->recent[kind][i];

        if (r->used && kvw_key_equal(&r->key, key))
            return r;
    }
    return NULL;
}

void kvw_recent_forget(struct kvw_core *c, const kvw_key *key, enum kvw_recent_kind kind)
{
    for (uint32_t i = 0; i < KVW_RECENT; ++i)
        if (c->recent[kind][i].used && kvw_key_equal(&c->recent[kind][i].key, key))
            c->recent[kind][i].used = false;
}

void kvw_core_breach(struct kvw_core *c, struct kvw_peer *p, const char *text)
{
    if (c->breach != NULL)
        return;
    c->breach = p;
    snprintf(c->breach_text, sizeof(c->breach_text), "%s", text);
}
