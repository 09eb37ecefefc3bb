/* SPDX-License-Identifier: Apache-2.0 */
/* How two layouts of the same model's state fit each other, and who is asked for what. */
#include "map.h"

#include <stdio.h>
#include <string.h>

/* --- one part --------------------------------------------------------------------------------- */

static uint32_t part_named(const struct kvw_layout_group *g, const char *name)
{
    for (uint32_t p = 0; p < g->part_count; ++p)
        if (strcmp(g->parts[p].name, name) == 0)
            return p;
    return KVW_PARTS_MAX;
}

/* The first field in which two groups' parts of the same name differ, or NULL. */
static const char *difference(const struct kvw_layout_group *here,
                              const struct kvw_layout_part *here_part,
                              const struct kvw_layout_group *peer,
                              const struct kvw_layout_part *peer_part, uint32_t values[2])
{
    const struct {
        const char *field;
        uint32_t here, peer;
    } fields[] = {
        {"kind", here->kind, peer->kind},
        {"entry_tokens", here->entry_tokens, peer->entry_tokens},
        {"window_tokens", here->window_tokens, peer->window_tokens},
        {"dtype", here_part->dtype, peer_part->dtype},
        {"row_bytes", here_part->row_bytes, peer_part->row_bytes},
        {"rows_model", here_part->rows_model, peer_part->rows_model},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); ++i)
        if (fields[i].here != fields[i].peer) {
            values[0] = fields[i].here;
            values[1] = fields[i].peer;
            return fields[i].field;
        }
    return NULL;
}

kvw_err kvw_map_find(struct kvw_place_at *at, const struct kvw_layout *here, uint32_t group,
                     uint32_t part, uint32_t layer, const struct kvw_layout *peer, char *why,
                     size_t size)
{
    const struct kvw_layout_group *hg = &here->groups[group];
    const struct kvw_layout_part *hp = &hg->parts[part];

    if (memcmp(here->fingerprint, peer->fingerprint, sizeof(here->fingerprint)) != 0) {
        snprintf(why, size, "fingerprint differs: here %s, peer %s", here->name, peer->name);
        return KVW_E_MISMATCH;
    }
    for (uint32_t g = 0; g < peer->group_count; ++g) {
        const struct kvw_layout_group *pg = &peer->groups[g];
        const uint32_t layer_at = kvw_layout_layer(pg, layer);
        const uint32_t p = layer_at < KVW_LAYERS_MAX ? part_named(pg, hp->name) : KVW_PARTS_MAX;
        uint32_t values[2];
        const char *field;

        if (p == KVW_PARTS_MAX)
            continue;
        if ((field = difference(hg, hp, pg, &pg->parts[p], values)) != NULL) {
            snprintf(why, size, "%s of part \"%s\" of layer %u differs: here %u, peer %u", field,
                     hp->name, layer, values[0], values[1]);
            return KVW_E_MISMATCH;
        }
        *at = (struct kvw_place_at){g, p, layer_at};
        return KVW_OK;
    }
    snprintf(why, size, "the peer has no part \"%s\" of layer %u", hp->name, layer);
    return KVW_E_NOTFOUND;
}

kvw_err kvw_map_check(const struct kvw_layout *here, const struct kvw_layout *peer,
                      const struct kvw_wire_span *span, char *why, size_t size)
{
    const struct kvw_layout_group *pg;
    const struct kvw_layout_part *pp;
    bool any = false;

    if (span->group >= peer->group_count || span->part >= peer->groups[span->group].part_count) {
        snprintf(why, size, "the offer asks for group %u part %u, which its pool doesn't have",
                 span->group, span->part);
        return KVW_E_PROTOCOL;
    }
    pg = &peer->groups[span->group];
    pp = &pg->parts[span->part];
    for (uint32_t i = 0; i < pg->layer_count; ++i) {
        const struct kvw_layout_part *hp;
        struct kvw_place_at at;

        if (pg->layers[i] < span->layer_first || pg->layers[i] - span->layer_first >= span->layers)
            continue;
        any = true;
        if (kvw_map_find(&at, peer, span->group, span->part, pg->layers[i], here, why, size) !=
            KVW_OK)
            return KVW_E_MISMATCH;
        hp = &here->groups[at.group].parts[at.part];
        if (span->row_first < hp->row_first ||
            span->row_first + span->rows > hp->row_first + hp->rows) {
            snprintf(
                why, size,
                "the offer asks for rows %u to %u of part \"%s\" of layer %u, here are %u to %u",
                span->row_first, span->row_first + span->rows - 1, pp->name, pg->layers[i],
                hp->row_first, hp->row_first + hp->rows - 1);
            return KVW_E_MISMATCH;
        }
    }
    if (any)
        return KVW_OK;
    snprintf(why, size, "the offer asks for layers %u to %u, of which group %u has none",
             span->layer_first, span->layer_first + span->layers - 1, span->group);
    return KVW_E_PROTOCOL;
}

/* --- many sources ----------------------------------------------------------------------------- */

/* Rows of one part of one layer that each source holds of what is wanted; empty: first == end. */
struct holders {
    struct {
        uint32_t first, end;
    } of[KVW_SOURCES_MAX];
};

static bool same_holders(const struct holders *a, const struct holders *b, uint32_t n)
{
    return memcmp(a->of, b->of, n * sizeof(a->of[0])) == 0;
}

static kvw_err holders_of(struct holders *h, const struct kvw_layout *here, uint32_t group,
                          uint32_t part, uint32_t layer, const struct kvw_layout *const *sources,
                          uint32_t source_count, char *why, size_t size)
{
    const struct kvw_layout_part *p = &here->groups[group].parts[part];

    memset(h, 0, sizeof(*h));
    for (uint32_t s = 0; s < source_count; ++s) {
        const struct kvw_layout_part *q;
        struct kvw_place_at at;
        const kvw_err err = kvw_map_find(&at, here, group, part, layer, sources[s], why, size);

        if (err == KVW_E_NOTFOUND)
            continue;
        if (err != KVW_OK)
            return err;
        q = &sources[s]->groups[at.group].parts[at.part];
        h->of[s].first = q->row_first > p->row_first ? q->row_first : p->row_first;
        h->of[s].end = q->row_first + q->rows < p->row_first + p->rows ? q->row_first + q->rows
                                                                       : p->row_first + p->rows;
        if (h->of[s].first >= h->of[s].end)
            h->of[s].first = h->of[s].end = 0;
    }
    return KVW_OK;
}

/* Where the set of holders changes next above `row`, at most end. */
static uint32_t next_bound(const struct holders *h, uint32_t n, uint32_t row, uint32_t end)
{
    for (uint32_t s = 0; s < n; ++s) {
        if (h->of[s].first > row && h->of[s].first < end)
            end = h->of[s].first;
        if (h->of[s].end > row && h->of[s].end < end)
            end = h->of[s].end;
    }
    return end;
}

/* A run of layers (indexes [first, end) of the group) that the same sources hold alike. */
struct run {
    uint32_t group, part, first, end;
};

static kvw_err ask(struct kvw_map_asked *asked, const struct kvw_layout_group *g,
                   const struct run *run, const struct kvw_map_want *want, uint32_t row_first,
                   uint32_t row_end)
{
    struct kvw_wire_span *last = asked->count > 0 ? &asked->spans[asked->count - 1] : NULL;
    const struct kvw_wire_span span = {
        .group = (uint8_t)run->group,
        .part = (uint8_t)run->part,
        .layer_first = g->layers[run->first],
        .layers = g->layers[run->end - 1] - g->layers[run->first] + 1u,
        .token_first = want->token_first,
        .token_end = want->token_end,
        .row_first = row_first,
        .rows = row_end - row_first,
    };

    /* Rows that follow those of the span before are one span with it. */
    if (last != NULL && last->group == span.group && last->part == span.part &&
        last->layer_first == span.layer_first && last->layers == span.layers &&
        last->row_first + last->rows == span.row_first) {
        last->rows += span.rows;
        return KVW_OK;
    }
    if (asked->count == asked->max)
        return KVW_E_NOMEM;
    asked->spans[asked->count++] = span;
    return KVW_OK;
}

/* Rows [row, end) of a run are held by the same sources: each is asked for a share of its layers.
 * */
static kvw_err share_rows(const struct kvw_layout_group *g, const struct run *run,
                          const struct kvw_map_want *want, const struct holders *h, uint32_t n,
                          uint32_t row, uint32_t end, struct kvw_map_asked *asked)
{
    const uint32_t layers = run->end - run->first;
    uint32_t holders = 0, nth = 0;

    for (uint32_t s = 0; s < n; ++s)
        holders += h->of[s].first <= row && row < h->of[s].end;
    for (uint32_t s = 0; s < n; ++s) {
        struct run mine = *run;
        kvw_err err;

        if (h->of[s].first > row || row >= h->of[s].end)
            continue;
        mine.first = run->first + nth * layers / holders;
        mine.end = run->first + (nth + 1) * layers / holders;
        ++nth;
        if (mine.first == mine.end)
            continue;
        if ((err = ask(&asked[s], g, &mine, want, row, end)) != KVW_OK)
            return err;
    }
    return KVW_OK;
}

static kvw_err share_run(const struct kvw_layout *here, const struct run *run,
                         const struct kvw_map_want *want, const struct holders *h, uint32_t n,
                         struct kvw_map_asked *asked, char *why, size_t size)
{
    const struct kvw_layout_group *g = &here->groups[run->group];
    const struct kvw_layout_part *p = &g->parts[run->part];
    const uint32_t end = p->row_first + p->rows;

    for (uint32_t row = p->row_first, bound; row < end; row = bound) {
        bool held = false;
        kvw_err err;

        bound = next_bound(h, n, row, end);
        for (uint32_t s = 0; s < n; ++s)
            held = held || (h->of[s].first <= row && row < h->of[s].end);
        if (!held) {
            snprintf(why, size, "no source holds rows %u to %u of part \"%s\" of layer %u", row,
                     bound - 1, p->name, g->layers[run->first]);
            return KVW_E_MISMATCH;
        }
        if ((err = share_rows(g, run, want, h, n, row, bound, asked)) != KVW_OK) {
            snprintf(why, size, "more than %u spans are needed", asked[0].max);
            return err;
        }
    }
    return KVW_OK;
}

static kvw_err share_part(const struct kvw_layout *here, const struct kvw_map_want *want,
                          uint32_t part, const struct kvw_layout *const *sources, uint32_t n,
                          struct kvw_map_asked *asked, char *why, size_t size)
{
    const struct kvw_layout_group *g = &here->groups[want->group];
    struct run run = {.group = want->group, .part = part};
    struct holders h[2]; /* of the run, and of the layer looked at */
    kvw_err err;

    for (uint32_t l = 0; l <= g->layer_count; ++l) {
        if (l < g->layer_count) {
            err = holders_of(&h[1], here, want->group, part, g->layers[l], sources, n, why, size);
            if (err != KVW_OK)
                return err;
            if (l > 0 && same_holders(&h[0], &h[1], n))
                continue;
        }
        run.end = l;
        if (l > 0 && (err = share_run(here, &run, want, &h[0], n, asked, why, size)) != KVW_OK)
            return err;
        run.first = l;
        h[0] = h[1];
    }
    return KVW_OK;
}

kvw_err kvw_map_share(const struct kvw_layout *here, const struct kvw_map_want *wants,
                      uint32_t want_count, const struct kvw_layout *const *sources,
                      uint32_t source_count, struct kvw_map_asked *asked, char *why, size_t size)
{
    for (uint32_t s = 0; s < source_count; ++s)
        asked[s].count = 0;
    for (uint32_t w = 0; w < want_count; ++w)
        for (uint32_t p = 0; p < here->groups[wants[w].group].part_count; ++p) {
            const kvw_err err =
                share_part(here, &wants[w], p, sources, source_count, asked, why, size);

            if (err != KVW_OK)
                return err;
        }
    return KVW_OK;
}
