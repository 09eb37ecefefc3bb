/* SPDX-License-Identifier: Apache-2.0 */
/* What is pushed goes into staging memory, and from there to whoever names it. */
#include "stage.h"

#include <stdarg.h>
#include <stdio.h>

#include "../peer/events.h"
#include "../peer/traced.h"

#define UNTIL_NS (60ull * 1000 * 1000 * 1000) /* default */

/* --- copied ----------------------------------------------------------------------------------- */

/* Rows of one plane that are computed, of those that the hold has. */
static uint64_t rows_ready(const struct kvw_hold *h, uint32_t group, uint32_t rows, uint32_t tokens)
{
    const struct kvw_layout_group *g = &h->place->layout->groups[group];
    uint64_t end = (uint64_t)h->entries[group].first + h->entries[group].count;

    if (tokens < h->tokens && g->kind == KVW_GROUP_ROW)
        end = 0;
    else if (tokens < h->tokens && tokens / g->entry_tokens < end)
        end = tokens / g->entry_tokens;
    return end > h->entries[group].first ? (end - h->entries[group].first) * rows : 0;
}

/* `rows` rows from *done on, an entry's at a time. */
static void copy_rows(const struct kvw_hold *h, const struct kvw_piece *plane, uint64_t done,
                      uint64_t rows)
{
    const struct kvw_transfer *t = h->from;
    const struct kvw_layout_group *g = &h->place->layout->groups[plane->group];
    const struct kvw_layout_part *part = &g->parts[plane->part];
    const struct kvw_table *table = &t->tables[plane->group];
    const uint32_t at = plane->part * g->layer_count + plane->layer_at;
    unsigned char *to = (unsigned char *)h->place->planes[plane->group][at].base;

    for (uint64_t end = done + rows, n; done < end; done += n) {
        struct kvw_piece piece = *plane;
        struct kvw_view view;

        piece.row_at = (uint32_t)(done % part->rows);
        n = part->rows - piece.row_at < end - done ? part->rows - piece.row_at : end - done;
        piece.rows = (uint32_t)n;
        piece.entry_first =
            (uint32_t)(h->entries[plane->group].first + done / part->rows - table->entry_base);
        piece.entries = 1;
        piece.blocks = table->blocks;
        view = kvw_place_view(t->place, &piece);
        if (view.head_stride == part->row_bytes) {
            memcpy(to + done * part->row_bytes, kvw_view_at(&view, 0, 0), n * part->row_bytes);
            continue;
        }
        for (uint32_t r = 0; r < piece.rows; ++r)
            memcpy(to + (done + r) * part->row_bytes, kvw_view_at(&view, 0, r), part->row_bytes);
    }
}

/* One part of one layer: up to a chunk of it. *full: all of it is there. True: something was
 * copied. */
static bool copy_part(struct kvw_core *c, struct kvw_hold *h, const struct kvw_piece *plane,
                      bool *full)
{
    const struct kvw_layout_group *g = &h->place->layout->groups[plane->group];
    const struct kvw_layout_part *part = &g->parts[plane->part];
    uint64_t *done = &h->done[plane->group][plane->part * g->layer_count + plane->layer_at];
    const uint64_t all = (uint64_t)h->entries[plane->group].count * part->rows;
    const uint64_t ready =
        rows_ready(h, plane->group, part->rows, h->from->pushed[g->layers[plane->layer_at]].tokens);
    const uint64_t aim = c->chunk_raw_bytes / part->row_bytes;
    uint64_t rows = ready > *done ? ready - *done : 0;

    if (rows > aim)
        rows = aim > 0 ? aim : 1;
    if (rows > 0)
        copy_rows(h, plane, *done, rows);
    *done += rows;
    h->from->raw_bytes += rows * part->row_bytes;
    *full = *full && *done == all;
    return rows > 0;
}

/* The next piece of a layer, of all its groups and parts. */
static bool copy_layer(struct kvw_core *c, struct kvw_hold *h, uint32_t layer, bool *full)
{
    const struct kvw_layout *l = h->place->layout;

    *full = true;
    for (uint32_t g = 0; g < l->group_count; ++g) {
        struct kvw_piece plane = {.group = g};

        if (h->entries[g].count == 0)
            continue;
        plane.layer_at = kvw_layout_layer(&l->groups[g], layer);
        if (plane.layer_at == KVW_LAYERS_MAX)
            continue;
        for (plane.part = 0; plane.part < l->groups[g].part_count; ++plane.part)
            if (copy_part(c, h, &plane, full))
                return true;
    }
    return false;
}

static void layer_is_staged(struct kvw_core *c, struct kvw_hold *h, uint32_t layer)
{
    struct kvw_pushed *l = &h->from->pushed[layer];

    if (!l->in_pool || l->reported)
        return;
    l->reported = true;
    kvw_core_emit_layer(c, KVW_CEV_LAYER_SENT, h->from, layer);
}

/* The next piece of a hold, lowest layer first; false: nothing that is computed isn't here. */
static bool copy_one(struct kvw_core *c, struct kvw_hold *h)
{
    const uint32_t layers = h->place->layout->model_layers;

    for (uint32_t layer = h->low; layer < layers; ++layer) {
        const struct kvw_pushed *l = &h->from->pushed[layer];
        bool full;

        if (copy_layer(c, h, layer, &full)) {
            if (h->from->first_ns == 0)
                h->from->first_ns = c->now_ns;
            h->from->last_ns = c->now_ns;
            return true;
        }
        full = full && (!l->in_pool || l->tokens == h->tokens);
        if (full)
            layer_is_staged(c, h, layer);
        if (full && layer == h->low)
            h->low = layer + 1;
    }
    return false;
}

/* All that was pushed is here; is that all there will be? */
static void settle(struct kvw_core *c, struct kvw_hold *h)
{
    struct kvw_transfer *t = h->from;

    kvw_list_remove(&h->filling);
    if (!t->commit_due || h->low < h->place->layout->model_layers)
        return;
    h->note_bytes = t->note_bytes;
    memcpy(h->note, t->note, t->note_bytes);
    kvw_transfer_finish(c, t, KVW_OK, KVW_TELL_NONE, "staged");
}

/* Each hold a piece in turn. */
static bool fill(struct kvw_core *c)
{
    for (uint32_t n = 0; n < KVW_CHUNKS_A_TURN; ++n) {
        struct kvw_hold *h;

        if (kvw_list_empty(&c->holds.filling) || !kvw_core_room(c, KVW_STEP_EVENTS))
            return false;
        h = kvw_list_of(c->holds.filling.next, struct kvw_hold, filling);
        if (copy_one(c, h)) {
            kvw_list_remove(&h->filling);
            kvw_list_add(&c->holds.filling, &h->filling);
        } else {
            settle(c, h);
        }
    }
    return !kvw_list_empty(&c->holds.filling);
}

/* --- pulled ----------------------------------------------------------------------------------- */

/* The pull ends here, before anything of it was sent. False: too much is owed, later. */
static bool refuse(struct kvw_core *c, struct kvw_flow *f, kvw_err err, const char *text)
{
    if (!kvw_core_owe_refusal(c, f->peer, &f->key, f->epoch, err, text))
        return false;
    kvw_list_remove(&f->of_transfer); /* from core.waiting */
    kvw_flow_end(c, f, KVW_TELL_NONE, err, NULL);
    kvw_flow_release(c, f);
    return true;
}

static void serve(struct kvw_core *c, struct kvw_hold *h, struct kvw_flow *f)
{
    struct kvw_transfer *t;
    char why[160];
    const kvw_err err = kvw_transfer_serve(c, &t, h, why, sizeof(why));

    if (err != KVW_OK) {
        (void)refuse(c, f, err, why);
        return;
    }
    (void)kvw_supply_join(c, t, f);
}

/* A pull that waits: is what it names here, and whose turn is it? */
static void look_at(struct kvw_core *c, struct kvw_flow *f)
{
    struct kvw_hold *h = kvw_hold_find(c, f->stage);
    const char *text;
    kvw_err err;

    if (h == NULL) {
        err = kvw_hold_why(c, f->stage, &text);
        (void)refuse(c, f, err, text);
    } else if (!kvw_key_equal(&h->key, &f->key)) {
        (void)refuse(c, f, KVW_E_NOTFOUND, "what is staged under that number has another key");
    } else if (h->state == KVW_HOLD_READY && h->pulling + h->pulled < h->pulls) {
        serve(c, h, f);
    }
}

void kvw_stage_offer(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m)
{
    struct kvw_flow *f = kvw_supply_keep(c, p, m);

    if (f != NULL)
        look_at(c, f);
}

static void look_at_all(struct kvw_core *c)
{
    c->holds.pulls_due = false;
    kvw_list_each(it, after, &c->waiting)
    {
        struct kvw_flow *f = kvw_list_of(it, struct kvw_flow, of_transfer);

        if (f->stage != 0)
            look_at(c, f);
    }
}

bool kvw_stage_poll(struct kvw_core *c)
{
    const bool more = fill(c);

    if (c->holds.pulls_due)
        look_at_all(c);
    return more || c->holds.pulls_due;
}

/* --- ended ------------------------------------------------------------------------------------ */

void kvw_stage_end(struct kvw_core *c, struct kvw_hold *h, kvw_err err, const char *text)
{
    if (h->state == KVW_HOLD_FILLING) {
        kvw_transfer_finish(c, h->from, err, KVW_TELL_NONE, text);
        return;
    }
    kvw_list_each(it, after, &c->transfers)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, all);

        if (t->hold == h && h->pulling > 0)
            kvw_transfer_finish(c, t, err, KVW_TELL_ABORT, text);
    }
    kvw_hold_end(c, h, err, text);
}

void kvw_stage_timer(struct kvw_core *c, struct kvw_hold *h)
{
    kvw_stage_end(c, h, KVW_E_DEADLINE,
                  h->state == KVW_HOLD_FILLING ? "it was not staged in full when its time passed"
                                               : "what was staged was not pulled in its time");
}

/* --- asked for -------------------------------------------------------------------------------- */

static bool KVW_PRINTF(3, 4) fail(char *why, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return false;
}

/* Which entries of each group are to be held: from the table's first, or where a window begins. */
static bool entries_of(const struct kvw_transfer *t, const struct kvw_layout *l,
                       struct kvw_hold_entries *entries, char *why, size_t size)
{
    for (uint32_t g = 0; g < l->group_count; ++g) {
        const struct kvw_table *table = &t->tables[g];
        uint32_t first, end;

        entries[g] = (struct kvw_hold_entries){0, 0};
        if (!table->used)
            continue;
        kvw_layout_entries(&l->groups[g], t->tokens, 0, t->tokens, &first, &end);
        if (first < table->entry_base)
            first = table->entry_base;
        if (first < end &&
            end - table->entry_base > (uint64_t)table->block_count * l->groups[g].block_entries)
            return fail(why, size, "group %u: %u blocks don't hold %u tokens", g,
                        table->block_count, t->tokens);
        if (first < end)
            entries[g] = (struct kvw_hold_entries){first, end - first};
    }
    return true;
}

static kvw_err stage(struct kvw_core *c, const struct kvw_stage_args *a, struct kvw_transfer **out,
                     char *why, size_t size)
{
    struct kvw_local_pool *pool = kvw_core_pool(c, a->pool);
    struct kvw_hold_entries entries[KVW_GROUPS_MAX];
    struct kvw_group_blocks groups[KVW_GROUPS_MAX];
    struct kvw_transfer *t;
    struct kvw_hold *h;
    kvw_err err;

    if (c->holds.bytes == 0) {
        fail(why, size, "this node has no staging memory: stage_bytes is 0");
        return KVW_E_UNSUPPORTED;
    }
    if (pool == NULL) {
        fail(why, size, "pool: no such pool");
        return KVW_E_NOTFOUND;
    }
    if (pool->place->kind != KVW_MEM_HOST) {
        fail(why, size, "pool: it lies in a GPU's memory, and only the host's can be staged");
        return KVW_E_UNSUPPORTED;
    }
    if (!kvw_groups_in(groups, a->groups, a->group_count, a->group_bytes, why, size))
        return KVW_E_INVALID;
    if ((err = kvw_transfer_new(c, &t, pool, &a->key, a->tokens, groups, a->group_count, false, why,
                                size)) != KVW_OK)
        return err;
    err = KVW_E_INVALID;
    if (!entries_of(t, pool->place->layout, entries, why, size) ||
        (err = kvw_hold_new(c, &h, pool->place, entries, why, size)) != KVW_OK) {
        kvw_transfer_undo(c, t);
        return err;
    }
    h->from = t;
    h->pool = t->pool;
    h->key = t->key;
    h->ref = t->ref;
    h->tokens = t->tokens;
    h->pulls = a->pulls != 0 ? a->pulls : 1;
    h->until_ns = a->until_ns != 0 ? a->until_ns : c->now_ns + UNTIL_NS;
    kvw_heap_set(&c->timers, &h->timer, h->until_ns);
    t->hold = h;
    kvw_supply_begin(c, t);
    *out = t;
    return KVW_OK;
}

kvw_err kvw_core_stage(struct kvw_core *c, const struct kvw_stage_args *args, uint64_t now_ns,
                       kvw_xfer_ref *xfer, char *why, size_t why_bytes)
{
    char text[KVW_TEXT_BYTES_MAX + 1] = "";
    struct kvw_stage_args a;
    struct kvw_transfer *t;
    kvw_err err = KVW_E_INVALID;

    c->now_ns = now_ns;
    if (!kvw_core_copy_in(&a, sizeof(a), args, args->size) || a.pulls > KVW_SOURCES_MAX)
        fail(text, sizeof(text), "size is %u, pulls %u, or unknown fields aren't 0", args->size,
             args->pulls);
    else if (a.ref == NULL)
        fail(text, sizeof(text), "ref is NULL");
    else
        err = stage(c, &a, &t, text, sizeof(text));
    if (err == KVW_OK) {
        const struct kvw_hold_name name = {c->instance, t->hold->number, t->key};

        *xfer = (kvw_xfer_ref){t->ref};
        kvw_hold_ref_encode(a.ref, &name);
        c->more = true;
    } else if (why != NULL && why_bytes > 0) {
        snprintf(why, why_bytes, "%s", text);
    }
    return err;
}

kvw_err kvw_core_stage_drop(struct kvw_core *c, const struct kvw_stage_ref *ref, uint64_t now_ns)
{
    struct kvw_hold_name name;
    struct kvw_hold *h;

    c->now_ns = now_ns;
    if (kvw_hold_ref_decode(&name, ref) != KVW_OK)
        return KVW_E_FORMAT;
    h = name.instance == c->instance ? kvw_hold_find(c, name.number) : NULL;
    if (h == NULL || !kvw_key_equal(&h->key, &name.key))
        return KVW_E_NOTFOUND;
    kvw_stage_end(c, h, KVW_E_CANCELED, "what was staged was dropped");
    return KVW_OK;
}
