/* SPDX-License-Identifier: Apache-2.0 */
/* The table of batches. */
#include "batch.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define ID_BITS 12u /* of an id: its place in the table; above: how many were made before */

_Static_assert(KVW_BATCHES_MAX <= 1u << ID_BITS, "a place fits an id");
_Static_assert(KVW_NOTE_MAX == KVW_WIRE_NOTE_MAX, "what a caller may send is what may be sent");
_Static_assert(KVW_NODE_REGIONS_MAX <= KVW_WIRE_REGIONS_MAX, "peers can know all of a node's");

kvw_err kvw_batch_open(struct kvw_core *c)
{
    struct kvw_batch_core *b = calloc(1, sizeof(*b));

    if (b == NULL)
        return KVW_E_NOMEM;
    if ((b->msg = malloc(KVW_MSG_BYTES_MAX)) == NULL) {
        free(b);
        return KVW_E_NOMEM;
    }
    kvw_list_init(&b->sending);
    b->deadline_ns = UINT64_MAX;
    c->batches = b;
    return KVW_OK;
}

void kvw_batch_close(struct kvw_core *c)
{
    struct kvw_batch_core *b = c->batches;

    if (b == NULL)
        return;
    assert(kvw_list_empty(&b->sending));
    for (uint32_t i = 0; i < b->room; ++i)
        if (b->table[i] != NULL)
            kvw_batch_free(c, b->table[i]);
    kvw_list_each(it, after, &c->events)
    {
        struct kvw_core_rec *rec = kvw_list_of(it, struct kvw_core_rec, in);

        free(rec->note);
        rec->note = NULL;
    }
    kvw_regions_free(&b->regions);
    free(b->gone);
    free(b->table);
    free(b->msg);
    free(b);
    c->batches = NULL;
}

/* A free place in the table; UINT32_MAX: none, or no memory for more. */
static uint32_t free_place(struct kvw_batch_core *b)
{
    const uint32_t more = b->room == 0 ? 16 : 2 * b->room;
    struct kvw_batch **table;

    for (uint32_t i = 0; b->count < b->room && i < b->room; ++i)
        if (b->table[i] == NULL)
            return i;
    if (more > KVW_BATCHES_MAX || (table = realloc(b->table, more * sizeof(table[0]))) == NULL)
        return UINT32_MAX;
    memset(&table[b->room], 0, (more - b->room) * sizeof(table[0]));
    b->table = table;
    b->room = more;
    return b->count; /* all places below were taken */
}

struct kvw_batch *kvw_batch_new(struct kvw_core *c)
{
    struct kvw_batch_core *b = c->batches;
    const uint32_t at = free_place(b);
    struct kvw_batch *x;

    if (at == UINT32_MAX || (x = calloc(1, sizeof(*x))) == NULL)
        return NULL;
    x->id = ++b->next_life << ID_BITS | at;
    x->state = KVW_BATCH_IDLE;
    kvw_list_init(&x->rec.in);
    b->table[at] = x;
    ++b->count;
    return x;
}

struct kvw_batch *kvw_batch_of_id(const struct kvw_core *c, kvw_batch_id id)
{
    const struct kvw_batch_core *b = c->batches;
    const uint64_t at = id.value & ((1u << ID_BITS) - 1);

    return at < b->room && b->table[at] != NULL && b->table[at]->id == id.value ? b->table[at]
                                                                                : NULL;
}

void kvw_batch_free(struct kvw_core *c, struct kvw_batch *x)
{
    assert(x->flight == NULL);
    c->batches->table[x->id & ((1u << ID_BITS) - 1)] = NULL;
    --c->batches->count;
    kvw_list_remove(&x->rec.in);
    kvw_runs_free(&x->local);
    kvw_runs_free(&x->remote);
    free(x->after);
    free(x->note);
    free(x);
}

void kvw_batch_fill_event(struct kvw_core_event *ev, const struct kvw_batch *x)
{
    ev->batch.value = x->id;
    ev->raw_bytes = x->moved;
    ev->first_ns = x->first_ns;
    ev->last_ns = x->end_ns;
    snprintf(ev->text, sizeof(ev->text), "%s", x->text);
}

void kvw_batch_stats(const struct kvw_core *c, struct kvw_core_stats *s)
{
    s->regions = c->batches->regions.count;
    s->batches = c->batches->count;
}

uint64_t kvw_batch_deadline_ns(const struct kvw_core *c)
{
    return c->batches->deadline_ns;
}

uint64_t kvw_batch_ended(const struct kvw_core *c)
{
    return c->batches->ended;
}
