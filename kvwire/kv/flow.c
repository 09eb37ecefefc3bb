/* SPDX-License-Identifier: Apache-2.0 */
/* Flows: what one peer was asked for, or asks for, of one transfer. */
#include "flow.h"

#include <stdio.h>
#include <stdlib.h>

/* Layers of the group that lie in the span's range; writes their numbers unless to is NULL. */
static uint32_t layers_in(const struct kvw_layout_group *g, const struct kvw_wire_span *w,
                          uint16_t *to)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->layer_count; ++i) {
        if (g->layers[i] < w->layer_first || g->layers[i] - w->layer_first >= w->layers)
            continue;
        if (to != NULL)
            to[n] = g->layers[i];
        ++n;
    }
    return n;
}

static bool fill_span(struct kvw_flow_span *s, const struct kvw_layout *layout,
                      const struct kvw_wire_span *w, uint32_t tokens)
{
    const struct kvw_layout_group *g = &layout->groups[w->group];
    uint64_t units;

    *s = (struct kvw_flow_span){
        .group = w->group,
        .part = w->part,
        .layer_first = w->layer_first,
        .layers = w->layers,
        .row_first = w->row_first,
        .rows = w->rows,
        .token_first = w->token_first,
        .token_end = w->token_end,
        .row_bytes = g->parts[w->part].row_bytes,
    };
    kvw_layout_entries(g, tokens, w->token_first, w->token_end, &s->entry_first, &s->entry_end);
    units = (uint64_t)(s->entry_end - s->entry_first) * s->rows;
    s->units = (uint32_t)units;
    return units <= UINT32_MAX / 2;
}

/* The tables that hang behind a flow: layers' numbers, and progress by layer. */
static void hang_tables(struct kvw_flow *f, const struct kvw_layout *layout,
                        const struct kvw_wire_span *spans, size_t layers)
{
    struct kvw_cut *cut = (struct kvw_cut *)(f->spans + f->span_count);
    struct kvw_ranges *cover = (struct kvw_ranges *)(f->spans + f->span_count);
    uint32_t *begun = (uint32_t *)(cover + layers);
    uint16_t *number = f->receiver ? (uint16_t *)(begun + layers) : (uint16_t *)(cut + layers);

    for (uint32_t i = 0; i < f->span_count; ++i) {
        struct kvw_flow_span *s = &f->spans[i];

        s->layer = number;
        s->layer_count = layers_in(&layout->groups[s->group], &spans[i], number);
        number += s->layer_count;
        f->left += (uint64_t)s->layer_count * s->units * s->row_bytes;
        if (!f->receiver) {
            s->cuts = cut;
            cut += s->layer_count;
            continue;
        }
        s->covers = cover;
        cover += s->layer_count;
        s->begun = begun;
        begun += s->layer_count;
        for (uint32_t l = 0; l < s->layer_count; ++l)
            kvw_ranges_init(&s->covers[l]);
    }
}

kvw_err kvw_flow_new(struct kvw_flow **out, const struct kvw_layout *layout,
                     const struct kvw_wire_span *spans, uint32_t span_count, uint32_t tokens,
                     bool receiver, char *why, size_t size)
{
    const size_t each =
        receiver ? sizeof(struct kvw_ranges) + sizeof(uint32_t) : sizeof(struct kvw_cut);
    struct kvw_flow *f;
    size_t layers = 0;

    for (uint32_t i = 0; i < span_count; ++i)
        layers += layers_in(&layout->groups[spans[i].group], &spans[i], NULL);
    f = calloc(1, sizeof(*f) + span_count * sizeof(f->spans[0]) + layers * each +
                      layers * sizeof(uint16_t));
    if (f == NULL) {
        snprintf(why, size, "no memory for a flow");
        return KVW_E_NOMEM;
    }
    f->spans = (struct kvw_flow_span *)(f + 1);
    f->span_count = span_count;
    f->receiver = receiver;
    f->tokens = tokens;
    f->state = KVW_FLOW_WAITING;
    kvw_list_init(&f->of_peer);
    kvw_list_init(&f->of_transfer);
    kvw_timer_init(&f->timer, KVW_TIMER_FLOW);
    for (uint32_t i = 0; i < span_count; ++i)
        if (!fill_span(&f->spans[i], layout, &spans[i], tokens)) {
            snprintf(why, size, "span %u has more rows than 32 bits count", i);
            free(f);
            return KVW_E_UNSUPPORTED;
        }
    hang_tables(f, layout, spans, layers);
    *out = f;
    return KVW_OK;
}

static uint64_t epoch_hash(const struct kvw_peer *p, uint32_t epoch, bool receiver)
{
    return kvw_index_mix(receiver ? epoch : (uint64_t)p->id << 32 | epoch);
}

void kvw_flow_join(struct kvw_core *c, struct kvw_flow *f)
{
    kvw_list_add(&f->peer->flows, &f->of_peer);
    kvw_index_add(f->receiver ? &c->epochs : &c->offers, &f->by_epoch,
                  epoch_hash(f->peer, f->epoch, f->receiver));
}

void kvw_flow_free(struct kvw_core *c, struct kvw_flow *f)
{
    kvw_heap_set(&c->timers, &f->timer, UINT64_MAX);
    if (!kvw_list_empty(&f->of_peer)) {
        if (f->peer->turn == &f->of_peer)
            f->peer->turn = NULL;
        kvw_list_remove(&f->of_peer);
        kvw_index_remove(f->receiver ? &c->epochs : &c->offers, &f->by_epoch);
    }
    kvw_list_remove(&f->of_transfer);
    free(f);
}

struct kvw_flow *kvw_flow_find(const struct kvw_core *c, const struct kvw_peer *p, uint32_t epoch,
                               bool receiver)
{
    const uint64_t hash = epoch_hash(p, epoch, receiver);

    for (struct kvw_indexed *m = kvw_index_first(receiver ? &c->epochs : &c->offers, hash);
         m != NULL; m = kvw_index_next(m)) {
        struct kvw_flow *f = kvw_list_of(m, struct kvw_flow, by_epoch);

        if (f->peer == p && f->epoch == epoch)
            return f;
    }
    return NULL;
}

uint32_t kvw_flow_layer(const struct kvw_flow_span *s, uint32_t layer)
{
    uint32_t low = 0, high = s->layer_count;

    while (low < high) {
        const uint32_t mid = (low + high) / 2;

        if (s->layer[mid] < layer)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->layer_count && s->layer[low] == layer ? low : KVW_LAYERS_MAX;
}

struct kvw_flow *kvw_flow_of_key(const struct kvw_peer *p, const kvw_key *key, bool receiver)
{
    kvw_list_each(it, after, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_peer);

        if (f->receiver == receiver && f->state < KVW_FLOW_ENDED && kvw_key_equal(&f->key, key))
            return f;
    }
    return NULL;
}
