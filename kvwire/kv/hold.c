/* SPDX-License-Identifier: Apache-2.0 */
/* Staging memory: who has which stretch of it, how a hold ends, and what a reference says. */
#include "hold.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "../peer/traced.h"
#include "../wire/le.h"

#define REF_MAGIC 0x3153564bu /* "KVS1", little-endian */

/* --- the memory ------------------------------------------------------------------------------- */

kvw_err kvw_holds_open(struct kvw_core *c, uint64_t bytes)
{
    struct kvw_holds *h = &c->holds;

    kvw_list_init(&h->all);
    kvw_list_init(&h->filling);
    kvw_list_init(&h->gone);
    h->bytes = bytes / 64 * 64;
    if (h->bytes == 0)
        return KVW_OK;
    h->mem = bytes <= SIZE_MAX / 2 ? aligned_alloc(64, h->bytes) : NULL;
    return h->mem != NULL ? KVW_OK : KVW_E_NOMEM;
}

void kvw_holds_close(struct kvw_core *c)
{
    struct kvw_list *const heads[] = {&c->holds.all, &c->holds.gone};

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); ++i)
        kvw_list_each(it, after, heads[i])
        {
            struct kvw_hold *h = kvw_list_of(it, struct kvw_hold, all);

            kvw_place_flat_free(h->place);
            kvw_heap_set(&c->timers, &h->timer, UINT64_MAX);
            kvw_list_remove(&h->filling);
            kvw_list_remove(&h->rec.in);
            kvw_hold_free(h);
        }
    free(c->holds.mem);
    c->holds.mem = NULL;
}

/* The shortest stretch that is long enough, so that long ones stay: *at, and before whom in the
 * list. False: none; *longest says how long the longest is. */
static bool find_stretch(struct kvw_holds *holds, uint64_t bytes, uint64_t *at,
                         struct kvw_list **before, uint64_t *longest)
{
    uint64_t from = 0, best = UINT64_MAX;

    *longest = 0;
    for (struct kvw_list *it = holds->all.next;; it = it->next) {
        const bool last = it == &holds->all;
        const struct kvw_hold *h = last ? NULL : kvw_list_of(it, struct kvw_hold, all);
        const uint64_t length = (last ? holds->bytes : h->at) - from;

        *longest = length > *longest ? length : *longest;
        if (length >= bytes && length < best) {
            best = length;
            *at = from;
            *before = it;
        }
        if (last)
            return best != UINT64_MAX;
        from = h->at + h->bytes;
    }
}

/* --- holds ------------------------------------------------------------------------------------ */

static struct kvw_hold *hold_alloc(const struct kvw_layout *l)
{
    struct kvw_hold *h;
    uint64_t *done;
    size_t planes = 0;

    for (uint32_t g = 0; g < l->group_count; ++g)
        planes += (size_t)l->groups[g].layer_count * l->groups[g].part_count;
    h = calloc(1, sizeof(*h) + planes * sizeof(done[0]));
    if (h == NULL)
        return NULL;
    done = (uint64_t *)(h + 1);
    for (uint32_t g = 0; g < l->group_count; ++g) {
        h->done[g] = done;
        done += (size_t)l->groups[g].layer_count * l->groups[g].part_count;
    }
    kvw_list_init(&h->all);
    kvw_list_init(&h->filling);
    kvw_list_init(&h->rec.in);
    kvw_timer_init(&h->timer, KVW_TIMER_HOLD);
    h->state = KVW_HOLD_FILLING;
    return h;
}

kvw_err kvw_hold_new(struct kvw_core *c, struct kvw_hold **out, const struct kvw_place *like,
                     const struct kvw_hold_entries *entries, char *why, size_t size)
{
    struct kvw_holds *holds = &c->holds;
    uint32_t counts[KVW_GROUPS_MAX];
    struct kvw_list *before;
    uint64_t bytes, at, longest;
    struct kvw_hold *h;

    for (uint32_t g = 0; g < like->layout->group_count; ++g)
        counts[g] = entries[g].count;
    bytes = kvw_place_flat_bytes(like->layout, counts);
    if (bytes > holds->bytes) {
        snprintf(why, size, "the request needs %llu bytes, all of stage_bytes is %llu",
                 (unsigned long long)bytes, (unsigned long long)holds->bytes);
        return KVW_E_NOMEM;
    }
    if (holds->count == KVW_STAGES_MAX || !find_stretch(holds, bytes, &at, &before, &longest)) {
        ++c->stats.stages_full;
        if (holds->count == KVW_STAGES_MAX)
            snprintf(why, size, "%u requests are staged, the most that can be", holds->count);
        else
            snprintf(why, size,
                     "staging memory is full: the request needs %llu bytes, of %llu are %llu free, "
                     "at most %llu of them side by side",
                     (unsigned long long)bytes, (unsigned long long)holds->bytes,
                     (unsigned long long)(holds->bytes - holds->used), (unsigned long long)longest);
        return KVW_E_AGAIN;
    }
    h = hold_alloc(like->layout);
    if (h == NULL || (h->place = kvw_place_flat(like, counts, holds->mem + at)) == NULL) {
        free(h);
        snprintf(why, size, "no memory for what goes with a stage");
        return KVW_E_NOMEM;
    }
    memcpy(h->entries, entries, like->layout->group_count * sizeof(entries[0]));
    h->at = at;
    h->bytes = bytes;
    h->number = ++holds->last_number;
    kvw_list_add(before, &h->all); /* before that one: the list goes round */
    ++holds->count;
    holds->used += bytes;
    *out = h;
    return KVW_OK;
}

static void remember(struct kvw_core *c, const struct kvw_hold *h, kvw_err err, const char *text)
{
    struct kvw_hold_ended *e = &c->holds.ended[c->holds.ended_at++ % KVW_RECENT];

    *e = (struct kvw_hold_ended){.number = h->number, .err = err != KVW_OK ? err : KVW_E_NOTFOUND};
    snprintf(e->text, sizeof(e->text), "%s", text);
}

/* STAGE_GONE: its place in the queue lies in the hold, so that it is always there. */
static void queue_gone(struct kvw_core *c, struct kvw_hold *h, kvw_err err, const char *text)
{
    h->rec = (struct kvw_core_rec){.kind = KVW_CEV_STAGE_GONE,
                                   .err = err,
                                   .xfer = h->ref,
                                   .key = h->key,
                                   .at_ns = c->now_ns,
                                   .hold = h};
    snprintf(h->rec.text, sizeof(h->rec.text), "%s", text);
    kvw_list_init(&h->rec.in);
    kvw_list_add(&c->events, &h->rec.in);
    kvw_list_add(&c->holds.gone, &h->all);
}

void kvw_hold_end(struct kvw_core *c, struct kvw_hold *h, kvw_err err, const char *text)
{
    const bool ready = h->state == KVW_HOLD_READY;

    assert(h->state != KVW_HOLD_GONE && h->pulling == 0);
    remember(c, h, err, text);
    kvw_list_remove(&h->all);
    kvw_list_remove(&h->filling);
    kvw_heap_set(&c->timers, &h->timer, UINT64_MAX);
    kvw_place_flat_free(h->place);
    h->place = NULL;
    h->state = KVW_HOLD_GONE;
    --c->holds.count;
    c->holds.used -= h->bytes;
    c->holds.pulls_due = true; /* who waits for it must be told */
    c->more = true;
    c->stats.stages_pulled += err == KVW_OK;
    c->stats.stages_expired += err == KVW_E_DEADLINE;
    if (kvw_traced(c))
        kvw_trace_tell(
            c,
            (struct kvw_trace_event){
                .kind = KVW_TRACE_GONE, .key = h->key, .seq = h->number, .err = err, .text = text});
    if (ready)
        queue_gone(c, h, err, text);
    else
        kvw_hold_free(h);
}

void kvw_hold_transfer_ended(struct kvw_core *c, struct kvw_transfer *t)
{
    struct kvw_hold *h = t->hold;

    t->hold = NULL;
    c->holds.pulls_due = true;
    c->more = true;
    if (!t->serves) {
        h->from = NULL;
        if (t->err == KVW_OK)
            h->state = KVW_HOLD_READY;
        else
            kvw_hold_end(c, h, t->err, t->text);
        return;
    }
    --h->pulling;
    h->raw_bytes += t->raw_bytes;
    h->wire_bytes += t->wire_bytes;
    h->chunks += t->chunks;
    if (t->err == KVW_OK && ++h->pulled == h->pulls)
        kvw_hold_end(c, h, KVW_OK, "what was staged has been pulled");
}

void kvw_hold_free(struct kvw_hold *h)
{
    kvw_list_remove(&h->all);
    free(h);
}

struct kvw_hold *kvw_hold_find(const struct kvw_core *c, uint32_t number)
{
    kvw_list_each(it, after, &c->holds.all)
    {
        struct kvw_hold *h = kvw_list_of(it, struct kvw_hold, all);

        if (h->number == number)
            return h;
    }
    return NULL;
}

kvw_err kvw_hold_why(const struct kvw_core *c, uint32_t number, const char **text)
{
    for (uint32_t i = 0; i < KVW_RECENT; ++i)
        if (c->holds.ended[i].number == number) {
            *text = c->holds.ended[i].text;
            return c->holds.ended[i].err;
        }
    *text = number > c->holds.last_number ? "nothing was ever staged here under that number"
                                          : "what was staged under that number is gone long since";
    return KVW_E_NOTFOUND;
}

/* --- references: magic, number, instance, key ------------------------------------------------ */

void kvw_hold_ref_encode(struct kvw_stage_ref *to, const struct kvw_hold_name *name)
{
    kvw_store_le32(to->bytes, REF_MAGIC);
    kvw_store_le32(to->bytes + 4, name->number);
    kvw_store_le64(to->bytes + 8, name->instance);
    memcpy(to->bytes + 16, name->key.bytes, sizeof(name->key.bytes));
}

kvw_err kvw_hold_ref_decode(struct kvw_hold_name *out, const struct kvw_stage_ref *ref)
{
    struct kvw_hold_name name = {.number = kvw_load_le32(ref->bytes + 4),
                                 .instance = kvw_load_le64(ref->bytes + 8)};

    if (kvw_load_le32(ref->bytes) != REF_MAGIC || name.number == 0 || name.instance == 0)
        return KVW_E_FORMAT;
    memcpy(name.key.bytes, ref->bytes + 16, sizeof(name.key.bytes));
    *out = name;
    return KVW_OK;
}
