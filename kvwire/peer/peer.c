/* SPDX-License-Identifier: Apache-2.0 */
/* The table of peers. */
#include "peer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct kvw_peer *kvw_core_peer(const struct kvw_core *c, kvw_peer_id id)
{
    for (struct kvw_indexed *m = kvw_index_first(&c->peer_ids, kvw_index_mix(id.value)); m != NULL;
         m = kvw_index_next(m)) {
        const struct kvw_peer_name *n = kvw_list_of(m, struct kvw_peer_name, by_id);

        if (n->id == id.value)
            return n->peer;
    }
    return NULL;
}

static void add_name(struct kvw_core *c, struct kvw_peer *p, uint32_t id)
{
    struct kvw_peer_name *n = &p->names[p->name_count++];

    n->id = id;
    n->peer = p;
    kvw_index_add(&c->peer_ids, &n->by_id, kvw_index_mix(id));
}

static void init_links(struct kvw_peer *p)
{
    kvw_list_init(&p->all);
    kvw_list_init(&p->busy);
    kvw_list_init(&p->due);
    kvw_list_init(&p->receiving);
    kvw_list_init(&p->starved);
    kvw_list_init(&p->flows);
    kvw_timer_init(&p->timer, KVW_TIMER_PEER);
    kvw_timer_init(&p->alive, KVW_TIMER_ALIVE);
}

struct kvw_peer *kvw_peer_new(struct kvw_core *c, uint32_t path)
{
    const uint32_t ratios = kvw_chooser_ratios(c->codec_count, KVW_CHOICE_LAYERS);
    struct kvw_peer *p;

    if (c->peer_count == c->peers_max ||
        (p = calloc(1, sizeof(*p) + ratios * sizeof(p->ratios[0]))) == NULL)
        return NULL;
    init_links(p);
    p->path = path;
    p->id = ++c->next_peer;
    p->dial_at_ns = p->idle_at_ns = UINT64_MAX;
    p->line_head = p->line_tail = KVW_STAGE_NONE;
    p->ratios = (uint16_t *)(p + 1);
    kvw_chooser_init(&p->chooser, c->codecs, c->codec_count, KVW_CHOICE_LAYERS, p->ratios);
    add_name(c, p, p->id);
    kvw_list_add(&c->peers, &p->all);
    ++c->peer_count;
    return p;
}

void kvw_peer_free(struct kvw_core *c, struct kvw_peer *p)
{
    assert(p->link == NULL && p->dialing == NULL && kvw_list_empty(&p->flows));
    for (uint32_t i = 0; i < KVW_REFUSALS_MAX; ++i)
        if (c->refusals[i].peer == p)
            c->refusals[i].peer = NULL;
    kvw_peer_set_instance(c, p, 0);
    for (uint32_t i = 0; i < p->name_count; ++i)
        kvw_index_remove(&c->peer_ids, &p->names[i].by_id);
    kvw_heap_set(&c->timers, &p->timer, UINT64_MAX);
    kvw_heap_set(&c->timers, &p->alive, UINT64_MAX);
    kvw_list_remove(&p->all);
    kvw_list_remove(&p->busy);
    kvw_list_remove(&p->due);
    kvw_list_remove(&p->receiving);
    kvw_list_remove(&p->starved);
    kvw_peer_drop_pools(p);
    if (c->breach == p)
        c->breach = NULL;
    --c->peer_count;
    free(p->credit.more);
    free(p);
}

void kvw_peer_drop_pools(struct kvw_peer *p)
{
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i) {
        kvw_layout_free(p->pools[i].layout);
        p->pools[i].layout = NULL;
    }
}

struct kvw_peer *kvw_peer_of_instance(const struct kvw_core *c, uint64_t instance)
{
    for (struct kvw_indexed *m = kvw_index_first(&c->instances, kvw_index_mix(instance)); m != NULL;
         m = kvw_index_next(m)) {
        struct kvw_peer *p = kvw_list_of(m, struct kvw_peer, by_instance);

        if (p->instance == instance)
            return p;
    }
    return NULL;
}

void kvw_peer_set_instance(struct kvw_core *c, struct kvw_peer *p, uint64_t instance)
{
    if (p->instance == instance)
        return;
    if (p->instance != 0)
        kvw_index_remove(&c->instances, &p->by_instance);
    p->instance = instance;
    if (instance != 0)
        kvw_index_add(&c->instances, &p->by_instance, kvw_index_mix(instance));
}

/* Two sources that turn out to be one are asked once. */
static void rename_source(struct kvw_transfer *t, const struct kvw_peer *from, struct kvw_peer *to)
{
    bool there = false;
    uint32_t n = 0;

    for (uint32_t s = 0; s < t->flows_wanted; ++s) {
        struct kvw_peer *p = t->sources[s] == from ? to : t->sources[s];

        if (p == to && there)
            continue;
        there = there || p == to;
        t->sources[n++] = p;
    }
    t->flows_wanted = n;
}

void kvw_peer_absorb(struct kvw_core *c, struct kvw_peer *p, struct kvw_peer *other)
{
    assert(other->link == NULL && kvw_list_empty(&other->flows));
    for (uint32_t i = 0; i < other->name_count && p->name_count < KVW_PEER_NAMES_MAX; ++i)
        add_name(c, p, other->names[i].id);
    if (!p->added && other->added) {
        p->added = true;
        p->path = p->link != NULL ? p->path : other->path;
        p->has_address = other->has_address;
        snprintf(p->address, sizeof(p->address), "%s", other->address);
    }
    kvw_list_each(it, after, &c->pending)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, pending);

        rename_source(t, other, p);
    }
    for (uint32_t i = 0; i < KVW_REFUSALS_MAX; ++i)
        if (c->refusals[i].peer == other)
            c->refusals[i].peer = p;
    /* The names stay p's: the index finds the first that was added, so the old ones go first. */
    for (uint32_t i = 0; i < other->name_count; ++i)
        kvw_index_remove(&c->peer_ids, &other->names[i].by_id);
    other->name_count = 0;
    kvw_peer_free(c, other);
}

static bool is_source(const struct kvw_core *c, const struct kvw_peer *p)
{
    kvw_list_each(it, after, &c->pending)
    {
        const struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, pending);

        for (uint32_t s = 0; s < t->flows_wanted; ++s)
            if (t->sources[s] == p)
                return true;
    }
    return false;
}

struct kvw_peer *kvw_peer_oldest_idle(const struct kvw_core *c)
{
    kvw_list_each(it, after, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (!p->added && p->link == NULL && p->dialing == NULL && kvw_list_empty(&p->flows) &&
            !is_source(c, p))
            return p;
    }
    return NULL;
}
