/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.c - the receiver's transfers.
 *
 * An offer whose sources are all up is mapped at once; else it is pending, and looked at again when
 * a peer tells a pool. Then each source has a flow, whose OFFER owed.c sends.
 *
 * Timers  transfer  deadline: the caller's; while pending: take_by
 *         flow      until the sender takes it up: take_by and a lease; then: the lease
 */
#include "lend.h"

#include "hold.h"

#include <stdarg.h>

#include <stdio.h>
#include <stdlib.h>

#include "../peer/events.h"
#include "../peer/slots.h"
#include "../peer/traced.h"

/* A look before the end, so that who sleeps until the deadline has read what came by then. */
static void watch(struct kvw_core *c, struct kvw_flow *f)
{
    kvw_heap_set(&c->timers, &f->timer, f->until_ns - f->lease_ns / 8);
}

/* --- mapped ----------------------------------------------------------------------------------- */

/* How many parts of layers that are here the peer's pool has, too. */
static uint32_t in_common(const struct kvw_layout *here, const struct kvw_layout *peer)
{
    uint32_t n = 0;

    for (uint32_t g = 0; g < here->group_count; ++g)
        for (uint32_t p = 0; p < here->groups[g].part_count; ++p)
            for (uint32_t l = 0; l < here->groups[g].layer_count; ++l) {
                struct kvw_place_at at;
                char why[160];

                n += kvw_map_find(&at, here, g, p, here->groups[g].layers[l], peer, why,
                                  sizeof(why)) == KVW_OK;
            }
    return n;
}

/* A pool that the peer has told for the same weights; of several, that which has most in common
 * with ours. NULL: none so far. */
static struct kvw_peer_pool *pool_of(const struct kvw_peer *p, const struct kvw_layout *here)
{
    const struct kvw_peer_pool *best = NULL;
    uint32_t most = 0;
    bool weighed = false; /* most is best's */

    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i) {
        const struct kvw_layout *l = p->pools[i].layout;
        uint32_t n;

        if (l == NULL || memcmp(l->fingerprint, here->fingerprint, sizeof(l->fingerprint)) != 0)
            continue;
        if (best == NULL) {
            best = &p->pools[i];
            continue;
        }
        if (!weighed)
            most = in_common(here, best->layout);
        weighed = true;
        if ((n = in_common(here, l)) > most) {
            most = n;
            best = &p->pools[i];
        }
    }
    return (struct kvw_peer_pool *)(uintptr_t)best;
}

/* All sources are up and have told a pool that may fit; else *text says what is waited for. */
static bool sources_are_up(const struct kvw_transfer *t, const struct kvw_layout *here,
                           const struct kvw_layout **layouts, char *text, size_t size)
{
    for (uint32_t s = 0; s < t->flows_wanted; ++s) {
        const struct kvw_peer *p = t->sources[s];
        const struct kvw_peer_pool *pool = pool_of(p, here);

        if (p->link == NULL || pool == NULL) {
            snprintf(text, size,
                     p->link == NULL ? "the peer %s is not connected%s%s"
                                     : "the peer %s has no pool with this fingerprint%s%s",
                     p->hello.name[0] != '\0' ? p->hello.name : p->address,
                     p->link == NULL && p->why[0] != '\0' ? ": " : "",
                     p->link == NULL ? p->why : "");
            return false;
        }
        layouts[s] = pool->layout;
    }
    return true;
}

/* A pull: each source, which is up, is the node that staged what is asked of it. */
static kvw_err sources_stage(const struct kvw_transfer *t, char *why, size_t size)
{
    for (uint32_t s = 0; s < t->flows_wanted; ++s) {
        const struct kvw_peer *p = t->sources[s];

        if (t->pulls[s].number == 0)
            continue;
        if (t->pulls[s].instance != p->instance) {
            snprintf(why, size,
                     "staged[%u] is of another life of the peer %s, or of another node: staged by "
                     "%016llx, the peer is %016llx",
                     s, p->hello.name, (unsigned long long)t->pulls[s].instance,
                     (unsigned long long)p->instance);
            return KVW_E_NOTFOUND;
        }
        if ((p->hello.features & KVW_FEATURE_STAGE) == 0) {
            snprintf(why, size, "the peer %s doesn't stage", p->hello.name);
            return KVW_E_UNSUPPORTED;
        }
    }
    return KVW_OK;
}

static uint32_t wants_of(const struct kvw_transfer *t, const struct kvw_layout *here,
                         struct kvw_map_want *wants)
{
    uint32_t n = 0;

    for (uint32_t g = 0; g < here->group_count; ++g) {
        const struct kvw_table *table = &t->tables[g];
        const bool row = here->groups[g].kind == KVW_GROUP_ROW;
        uint32_t first, end;

        if (!table->used || (!row && table->want_first == table->want_end))
            continue;
        wants[n] = (struct kvw_map_want){g, row ? 0 : table->want_first,
                                         row ? t->tokens : table->want_end};
        kvw_layout_entries(&here->groups[g], t->tokens, wants[n].token_first, wants[n].token_end,
                           &first, &end);
        n += first < end; /* else all of it has left the window */
    }
    return n;
}

/* One source's flow. */
static kvw_err add_flow(struct kvw_core *c, struct kvw_transfer *t, uint32_t source,
                        const struct kvw_map_asked *asked, char *why, size_t size)
{
    struct kvw_peer *p = t->sources[source];
    struct kvw_flow *f;
    const kvw_err err = kvw_flow_new(&f, c->pools[t->pool].place->layout, asked->spans,
                                     asked->count, t->tokens, true, why, size);

    if (err != KVW_OK)
        return err;
    f->peer = p;
    f->transfer = t;
    f->key = t->key;
    f->epoch = c->next_epoch++;
    if (c->next_epoch == 0) /* 0 says "no epoch" */
        c->next_epoch = 1;
    f->lease_ns = t->lease_ns;
    f->budget = t->budget;
    f->exact_first = t->exact_first;
    f->exact_last = t->exact_last;
    f->pool = (uint16_t)c->pools[t->pool].id;
    f->stage = t->pulls[source].number;
    kvw_flow_join(c, f);
    kvw_list_add(&t->flows, &f->of_transfer);
    ++t->flow_count;
    for (uint32_t i = 0; i < f->span_count; ++i)
        for (uint32_t l = 0; l < f->spans[i].layer_count && f->spans[i].units > 0; ++l) {
            ++t->layer_left[f->spans[i].layer[l]];
            ++t->layer_coming[f->spans[i].layer[l]];
        }
    ++p->receiver_flows;
    kvw_slots_needed(c, p);
    f->until_ns = t->take_by_ns + f->lease_ns;
    watch(c, f);
    kvw_peer_owes(c, p);
    return KVW_OK;
}

/*
 * Share a pending offer among its sources, if they are all there.
 *   KVW_E_AGAIN  they aren't; why says who is missing
 *   other        it can't be done; nothing was added
 */
static kvw_err map(struct kvw_core *c, struct kvw_transfer *t, char *why, size_t size)
{
    const struct kvw_layout *here = c->pools[t->pool].place->layout;
    const struct kvw_layout *layouts[KVW_SOURCES_MAX];
    struct kvw_map_want wants[KVW_GROUPS_MAX];
    struct kvw_map_asked asked[KVW_SOURCES_MAX];
    struct kvw_wire_span *spans;
    kvw_err err;

    if (!sources_are_up(t, here, layouts, why, size))
        return KVW_E_AGAIN;
    if ((err = sources_stage(t, why, size)) != KVW_OK)
        return err;
    spans = malloc(t->flows_wanted * KVW_WIRE_SPANS_MAX * sizeof(spans[0]));
    if (spans == NULL) {
        snprintf(why, size, "no memory to share an offer");
        return KVW_E_NOMEM;
    }
    for (uint32_t s = 0; s < t->flows_wanted; ++s)
        asked[s] = (struct kvw_map_asked){spans + s * KVW_WIRE_SPANS_MAX, 0, KVW_WIRE_SPANS_MAX};
    err = kvw_map_share(here, wants, wants_of(t, here, wants), layouts, t->flows_wanted, asked, why,
                        size);
    for (uint32_t s = 0; s < t->flows_wanted && err == KVW_OK; ++s)
        err = add_flow(c, t, s, &asked[s], why, size);
    free(spans);
    if (err == KVW_OK) {
        kvw_list_remove(&t->pending);
        kvw_heap_set(&c->timers, &t->timer, t->deadline_ns);
    }
    return err;
}

void kvw_lend_peer_up(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_each(it, after, &c->pending)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, pending);
        char why[KVW_TEXT_BYTES_MAX + 1];
        bool its = false;
        kvw_err err;

        for (uint32_t s = 0; s < t->flows_wanted; ++s)
            its = its || t->sources[s] == p;
        if (its && (err = map(c, t, why, sizeof(why))) != KVW_OK && err != KVW_E_AGAIN)
            kvw_transfer_finish(c, t, err, KVW_TELL_ABORT, why);
    }
}

void kvw_lend_pending_late(struct kvw_core *c, struct kvw_transfer *t)
{
    const struct kvw_layout *layouts[KVW_SOURCES_MAX];
    char why[KVW_TEXT_BYTES_MAX + 1] = "";

    (void)sources_are_up(t, c->pools[t->pool].place->layout, layouts, why, sizeof(why));
    kvw_transfer_finish(c, t, KVW_E_DEADLINE, KVW_TELL_ABORT, why);
}

/* --- offered ---------------------------------------------------------------------------------- */

static bool KVW_PRINTF(3, 4) fail(char *why, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return false;
}

/* Terms of a caller that may know a shorter or longer struct; false: why says what is wrong. */
static bool take_terms(struct kvw_offer_terms *to, const struct kvw_offer_terms *from, char *why,
                       size_t size)
{
    memset(to, 0, sizeof(*to));
    if (from != NULL && !kvw_core_copy_in(to, sizeof(*to), from, from->size))
        return fail(why, size, "terms.size is %u, or unknown fields aren't 0", from->size);
    if (to->lease_ns == 0)
        to->lease_ns = KVW_LEASE_NS_DEFAULT;
    if (to->take_by_ns == 0)
        to->take_by_ns = KVW_TAKE_BY_NS;
    if (to->lease_ns < KVW_LEASE_NS_MIN || to->lease_ns > KVW_LEASE_NS_MAX)
        return fail(why, size, "terms.lease_ns is %llu", (unsigned long long)to->lease_ns);
    if (to->take_by_ns > KVW_WIRE_TAKE_BY_NS_MAX)
        return fail(why, size, "terms.take_by_ns is %llu", (unsigned long long)to->take_by_ns);
    if (to->budget > KVW_BUDGET_E4)
        return fail(why, size, "terms.budget is %u", to->budget);
    if (to->exact_first > UINT8_MAX || to->exact_last > UINT16_MAX)
        return fail(why, size, "terms.exact_first is %u, exact_last %u", to->exact_first,
                    to->exact_last);
    return true;
}

/* The blocks cover what is wanted of each group. */
static bool tables_cover(const struct kvw_transfer *t, const struct kvw_layout *l, char *why,
                         size_t size)
{
    struct kvw_map_want wants[KVW_GROUPS_MAX];
    const uint32_t n = wants_of(t, l, wants);

    for (uint32_t i = 0; i < n; ++i) {
        const struct kvw_layout_group *g = &l->groups[wants[i].group];
        const struct kvw_table *table = &t->tables[wants[i].group];
        uint32_t first, end;

        kvw_layout_entries(g, t->tokens, wants[i].token_first, wants[i].token_end, &first, &end);
        if (first < end &&
            (first < table->entry_base ||
             end - table->entry_base > (uint64_t)table->block_count * g->block_entries))
            return fail(why, size,
                        "group %u: tokens %u to %u are wanted, and the blocks don't hold them",
                        wants[i].group, wants[i].token_first, wants[i].token_end - 1);
    }
    return true;
}

static kvw_err find_sources(struct kvw_core *c, struct kvw_transfer *t,
                            const struct kvw_offer_args *a, char *why, size_t size)
{
    for (uint32_t s = 0; s < a->source_count; ++s) {
        t->sources[s] = kvw_core_peer(c, a->sources[s]);
        if (t->sources[s] == NULL) {
            fail(why, size, "sources[%u]: no such peer", s);
            return KVW_E_NOTFOUND;
        }
        for (uint32_t k = 0; k < s; ++k)
            if (t->sources[k] == t->sources[s]) {
                fail(why, size, "sources[%u] and sources[%u] are the same peer", k, s);
                return KVW_E_INVALID;
            }
    }
    t->flows_wanted = a->source_count;
    return KVW_OK;
}

/* What is pulled, of each source; the key is theirs. */
static kvw_err find_staged(struct kvw_transfer *t, const struct kvw_offer_args *a, char *why,
                           size_t size)
{
    for (uint32_t s = 0; s < a->source_count && a->staged != NULL; ++s) {
        struct kvw_hold_name name;

        (void)!kvw_hold_ref_decode(&name, &a->staged[s]); /* key_of() has looked */
        if (!kvw_key_equal(&name.key, &t->key)) {
            fail(why, size, "staged[%u] is of another key than staged[0], or than key", s);
            return KVW_E_INVALID;
        }
        t->pulls[s].instance = name.instance;
        t->pulls[s].number = name.number;
    }
    return KVW_OK;
}

/* The key: the caller's, or what staged says if the caller leaves it 0. */
static kvw_err key_of(const struct kvw_offer_args *a, kvw_key *key, char *why, size_t size)
{
    static const kvw_key no_key;

    *key = a->key;
    for (uint32_t s = 0; s < a->source_count && a->staged != NULL; ++s) {
        struct kvw_hold_name name;

        if (kvw_hold_ref_decode(&name, &a->staged[s]) != KVW_OK) {
            fail(why, size, "staged[%u] is no reference", s);
            return KVW_E_FORMAT;
        }
        if (kvw_key_equal(key, &no_key))
            *key = name.key;
    }
    return KVW_OK;
}

static kvw_err offer(struct kvw_core *c, const struct kvw_offer_args *a, struct kvw_transfer **out,
                     char *why, size_t size)
{
    struct kvw_local_pool *pool = kvw_core_pool(c, a->pool);
    struct kvw_transfer *t;
    struct kvw_group_blocks groups[KVW_GROUPS_MAX];
    struct kvw_offer_terms terms;
    kvw_key key;
    kvw_err err;

    if (pool == NULL) {
        fail(why, size, "pool: no such pool");
        return KVW_E_NOTFOUND;
    }
    if (a->source_count < 1 || a->source_count > KVW_SOURCES_MAX || a->sources == NULL) {
        fail(why, size, "source_count is %u, not 1 to %u", a->source_count, KVW_SOURCES_MAX);
        return KVW_E_INVALID;
    }
    if (!take_terms(&terms, a->terms, why, size) ||
        !kvw_groups_in(groups, a->groups, a->group_count, a->group_bytes, why, size))
        return KVW_E_INVALID;
    if ((err = key_of(a, &key, why, size)) != KVW_OK ||
        (err = kvw_transfer_new(c, &t, pool, &key, a->tokens, groups, a->group_count, true, why,
                                size)) != KVW_OK)
        return err;
    t->lease_ns = terms.lease_ns;
    t->take_by_ns = c->now_ns + terms.take_by_ns;
    t->deadline_ns = terms.deadline_ns != 0 ? terms.deadline_ns : UINT64_MAX;
    t->budget = terms.budget;
    t->exact_first = terms.exact_first;
    t->exact_last = terms.exact_last;
    if ((err = find_sources(c, t, a, why, size)) == KVW_OK &&
        (err = find_staged(t, a, why, size)) == KVW_OK &&
        !tables_cover(t, pool->place->layout, why, size))
        err = KVW_E_INVALID;
    if (err == KVW_OK) {
        kvw_list_add(&c->pending, &t->pending);
        kvw_heap_set(&c->timers, &t->timer,
                     t->take_by_ns < t->deadline_ns ? t->take_by_ns : t->deadline_ns);
        err = map(c, t, why, size);
    }
    if (err != KVW_OK && err != KVW_E_AGAIN) {
        kvw_transfer_undo(c, t);
        return err;
    }
    *out = t;
    return KVW_OK;
}

kvw_err kvw_core_offer(struct kvw_core *c, const struct kvw_offer_args *args, uint64_t now_ns,
                       kvw_xfer_ref *xfer, char *why, size_t why_bytes)
{
    char text[KVW_TEXT_BYTES_MAX + 1] = "";
    struct kvw_offer_args a;
    struct kvw_transfer *t;
    kvw_err err = KVW_E_INVALID;

    c->now_ns = now_ns;
    if (!kvw_core_copy_in(&a, sizeof(a), args, args->size))
        fail(text, sizeof(text), "size is %u, or unknown fields aren't 0", args->size);
    else
        err = offer(c, &a, &t, text, sizeof(text));
    if (err == KVW_OK) {
        *xfer = (kvw_xfer_ref){t->ref};
        c->more = true;
    } else if (why != NULL && why_bytes > 0) {
        snprintf(why, why_bytes, "%s", text);
    }
    return err;
}

/* --- heard of --------------------------------------------------------------------------------- */

void kvw_lend_heard(struct kvw_core *c, struct kvw_flow *f)
{
    f->heard = true;
    f->graced = false;
    f->until_ns = c->now_ns + f->lease_ns;
    watch(c, f);
}

void kvw_lend_alive(struct kvw_core *c, struct kvw_peer *p, uint32_t epoch)
{
    static const kvw_key no_key;
    struct kvw_flow *f = kvw_flow_find(c, p, epoch, true);

    if (f != NULL && f->state == KVW_FLOW_OPEN)
        kvw_lend_heard(c, f);
    else if (f == NULL || f->reply == KVW_TELL_NONE) /* else it is about to be told */
        (void)kvw_core_owe_refusal(c, p, &no_key, epoch, KVW_E_CANCELED,
                                   "no such transfer is open here"); /* it asks again if lost */
}

void kvw_lend_commit(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_commit *m)
{
    struct kvw_flow *f = kvw_flow_find(c, p, m->about.epoch, true);
    struct kvw_transfer *t;

    if (f == NULL || f->state != KVW_FLOW_OPEN) {
        kvw_lend_alive(c, p, m->about.epoch);
        return;
    }
    t = f->transfer;
    if (f->committed) {
        kvw_transfer_finishf(c, t, KVW_E_PROTOCOL, "the peer committed twice");
        return;
    }
    kvw_lend_heard(c, f);
    f->committed = true;
    f->commit_chunks = m->chunks;
    f->commit_raw = m->raw_bytes;
    if (kvw_traced(c))
        kvw_trace_commit(c, f, m->chunks);
    if (t->note_bytes == 0 && m->note_bytes > 0) { /* of several sources the first that has one */
        t->note_bytes = m->note_bytes;
        memcpy(t->note, m->note, m->note_bytes);
        if (c->pools[t->pool].place->kind == KVW_MEM_CUDA)
            kvw_core_emit_layer(c, KVW_CEV_COMMITTED, t, 0);
    }
    kvw_lend_settle(c, f);
}

void kvw_lend_settle(struct kvw_core *c, struct kvw_flow *f)
{
    struct kvw_transfer *t = f->transfer;

    /* Chunks may still be on their way: COMMIT overtakes puts. */
    if (!f->committed || (f->chunks < f->commit_chunks && f->left > 0))
        return;
    if (f->left > 0 || f->chunks != f->commit_chunks || f->raw_bytes != f->commit_raw) {
        kvw_transfer_finishf(c, t, KVW_E_PROTOCOL,
                             "the peer committed %u chunks, %llu bytes; here %u, %llu, and %llu "
                             "bytes are missing",
                             f->commit_chunks, (unsigned long long)f->commit_raw, f->chunks,
                             (unsigned long long)f->raw_bytes, (unsigned long long)f->left);
        return;
    }
    kvw_flow_end(c, f, KVW_TELL_DONE, KVW_OK, "complete");
    if (++t->flows_complete == t->flows_wanted)
        kvw_transfer_finish(c, t, KVW_OK, KVW_TELL_NONE, "complete");
}

/*
 * A lease that ran out while nobody polled proves nothing: what the peer sent may lie in the
 * transport, unread. It is given a quarter more, once, to be read.
 */
void kvw_lend_timer(struct kvw_core *c, struct kvw_flow *f)
{
    if (c->now_ns < f->until_ns) {
        kvw_heap_set(&c->timers, &f->timer, f->until_ns);
        return;
    }
    if (c->gap_ns > f->lease_ns / 4 && !f->graced) {
        f->graced = true;
        f->until_ns = c->now_ns + f->lease_ns / 4;
        kvw_heap_set(&c->timers, &f->timer, f->until_ns);
        return;
    }
    if (f->heard)
        kvw_transfer_finishf(c, f->transfer, KVW_E_LEASE,
                             "the sender was silent about this transfer for %llu ms",
                             (unsigned long long)(f->lease_ns / 1000000));
    else
        kvw_transfer_finishf(c, f->transfer, KVW_E_DEADLINE,
                             "the sender did not take up the offer in time");
}
