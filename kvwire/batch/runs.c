/* SPDX-License-Identifier: Apache-2.0 */
/* Regions and runs of pieces. */
#include "runs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core_types.h"
#include "../cpu.h"
#include "../past.h"
#include "../wire/batches.h"

#define RUN_BYTES_MAX (1u << 30) /* longer pieces are runs of such */
#define AHEAD         512u       /* bytes of the next piece that are fetched while one is copied */
#define ABREAST       4u         /* pieces that are gathered at the same time */
#define ABREAST_MAX   16384u     /* bytes of each; longer ones' beginnings cost little */
#define STEP          256u       /* bytes of each of them in turn */

/* --- regions ---------------------------------------------------------------------------------- */

/* Room for one more of what is `bytes` long each; false: no memory. */
static bool grow(void **list, uint32_t count, uint32_t *room, size_t bytes)
{
    const uint32_t more = *room == 0 ? 16 : 2 * *room;
    void *p;

    if (count < *room)
        return true;
    if ((p = realloc(*list, more * bytes)) == NULL)
        return false;
    *list = p;
    *room = more;
    return true;
}

/* How many regions begin at or before base: the place behind the last of them in g->at. */
static uint32_t begun(const struct kvw_regions *g, uint64_t base)
{
    uint32_t low = 0, high = g->count;

    while (low < high) {
        const uint32_t mid = low + (high - low) / 2;

        if (g->at[mid].base <= base)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The places from this one on have changed. */
static void reach_again(struct kvw_regions *g, uint32_t from)
{
    for (uint32_t i = from; i < g->count; ++i) {
        const struct kvw_region *r = &g->list[g->at[i].index];
        const uint64_t last = r->base + r->bytes - 1;

        g->at[i].reach = i > 0 && g->at[i - 1].reach > last ? g->at[i - 1].reach : last;
    }
}

kvw_err kvw_regions_add(struct kvw_regions *g, const struct kvw_region *r)
{
    void *list = g->list, *order = g->at;
    uint32_t place;

    if (!grow(&list, g->count, &g->room, sizeof(*r)))
        return KVW_E_NOMEM;
    g->list = list;
    if (!grow(&order, g->count, &g->at_room, sizeof(g->at[0])))
        return KVW_E_NOMEM;
    g->at = order;
    place = begun(g, r->base);
    memmove(&g->at[place + 1], &g->at[place], (g->count - place) * sizeof(g->at[0]));
    g->at[place] = (struct kvw_region_at){.base = r->base, .index = g->count};
    g->list[g->count++] = *r;
    reach_again(g, place);
    return KVW_OK;
}

/* Where the id is or would be. */
static uint32_t place_of(const struct kvw_regions *g, uint32_t id)
{
    uint32_t low = 0, high = g->count;

    while (low < high) {
        const uint32_t mid = low + (high - low) / 2;

        if (g->list[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool kvw_regions_remove(struct kvw_regions *g, uint32_t id)
{
    const uint32_t at = place_of(g, id);
    uint32_t n = 0, from = g->count;

    if (at == g->count || g->list[at].id != id)
        return false;
    for (uint32_t i = 0; i < g->count; ++i) {
        if (g->at[i].index == at) {
            from = i;
            continue;
        }
        g->at[n] = g->at[i];
        g->at[n++].index -= g->at[i].index > at;
    }
    --g->count;
    memmove(&g->list[at], &g->list[at + 1], (g->count - at) * sizeof(g->list[0]));
    reach_again(g, from);
    return true;
}

void kvw_regions_free(struct kvw_regions *g)
{
    free(g->list);
    free(g->at);
    *g = (struct kvw_regions){.list = NULL};
}

const struct kvw_region *kvw_regions_of_id(const struct kvw_regions *g, uint32_t id)
{
    const uint32_t at = place_of(g, id);

    return at < g->count && g->list[at].id == id ? &g->list[at] : NULL;
}

static bool holds(const struct kvw_region *r, uint64_t base, uint64_t bytes)
{
    return base >= r->base && bytes <= r->bytes && base - r->base <= r->bytes - bytes;
}

const struct kvw_region *kvw_regions_at(const struct kvw_regions *g, uint64_t base, uint64_t bytes,
                                        uint32_t rights, uint32_t *hint)
{
    const struct kvw_region *some = NULL;

    if (*hint < g->count && holds(&g->list[*hint], base, bytes) &&
        (g->list[*hint].rights & rights) == rights)
        return &g->list[*hint];
    for (uint32_t i = begun(g, base); i > 0 && g->at[i - 1].reach >= base + bytes - 1; --i) {
        const struct kvw_region *r = &g->list[g->at[i - 1].index];

        if (!holds(r, base, bytes))
            continue;
        if ((r->rights & rights) == rights) {
            *hint = g->at[i - 1].index;
            return r;
        }
        some = r;
    }
    return some;
}

/* --- runs ------------------------------------------------------------------------------------- */

kvw_err kvw_runs_append(struct kvw_runs *l, const struct kvw_run *r)
{
    void *list = l->runs;

    if (!grow(&list, l->count, &l->room, sizeof(*r)))
        return KVW_E_NOMEM;
    l->runs = list;
    l->runs[l->count] = *r;
    l->runs[l->count++].start = l->bytes;
    l->bytes += (uint64_t)r->bytes * r->count;
    return KVW_OK;
}

/* Whether the piece could be made part of the last run. */
static bool joined(struct kvw_runs *l, uint32_t region, uint64_t base, uint32_t bytes)
{
    struct kvw_run *r = l->count > 0 ? &l->runs[l->count - 1] : NULL;

    if (r == NULL || r->region != region || r->count == UINT32_MAX)
        return false;
    if (r->count == 1 && r->base + r->bytes == base && bytes <= RUN_BYTES_MAX - r->bytes) {
        r->bytes += bytes;
    } else if (r->bytes == bytes &&
               (r->count == 1 || base == r->base + r->count * (uint64_t)r->stride)) {
        r->stride = (int64_t)(r->count == 1 ? base - r->base : (uint64_t)r->stride);
        ++r->count;
    } else {
        return false;
    }
    l->bytes += bytes;
    return true;
}

kvw_err kvw_runs_add(struct kvw_runs *l, uint32_t region, uint64_t base, uint64_t bytes)
{
    while (bytes > 0) {
        const uint32_t n = bytes > RUN_BYTES_MAX ? RUN_BYTES_MAX : (uint32_t)bytes;
        const struct kvw_run r = {.base = base, .bytes = n, .count = 1, .region = region};

        if (!joined(l, region, base, n)) {
            const kvw_err err = kvw_runs_append(l, &r);

            if (err != KVW_OK)
                return err;
        }
        base += n;
        bytes -= n;
    }
    return KVW_OK;
}

void kvw_runs_free(struct kvw_runs *l)
{
    free(l->runs);
    *l = (struct kvw_runs){.runs = NULL};
}

kvw_err kvw_runs_check(const struct kvw_runs *l, const struct kvw_regions *g, uint32_t rights,
                       char *why, size_t why_bytes)
{
    const struct kvw_region *r = NULL;

    for (uint32_t i = 0; i < l->count; ++i) {
        const struct kvw_run *run = &l->runs[i];
        const struct kvw_wire_run w = {
            .base = run->base, .stride = run->stride, .bytes = run->bytes, .count = run->count};
        uint64_t low = 0, end = 0;

        if (r == NULL || r->id != run->region)
            r = kvw_regions_of_id(g, run->region);
        if (r == NULL) {
            snprintf(why, why_bytes, "there is no region %u", run->region);
            return KVW_E_NOTFOUND;
        }
        if (!kvw_wire_run_ends(&w, &low, &end) || !holds(r, low, end - low)) {
            snprintf(why, why_bytes, "addresses %#llx to %#llx aren't all in region %u",
                     (unsigned long long)low, (unsigned long long)end, run->region);
            return KVW_E_NOTFOUND;
        }
        if ((r->rights & rights) != rights) {
            snprintf(why, why_bytes, "region %u may not be %s", run->region,
                     rights == KVW_REGION_WRITE ? "written" : "read");
            return KVW_E_MISMATCH;
        }
    }
    return KVW_OK;
}

bool kvw_runs_use(const struct kvw_runs *l, uint32_t region)
{
    for (uint32_t i = 0; i < l->count; ++i)
        if (l->runs[i].region == region)
            return true;
    return false;
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* The run that byte `from` of the row is in. */
static const struct kvw_run *run_at(const struct kvw_runs *l, uint64_t from)
{
    uint32_t low = 0, high = l->count;

    while (high - low > 1) {
        const uint32_t mid = low + (high - low) / 2;

        if (l->runs[mid].start <= from)
            low = mid;
        else
            high = mid;
    }
    return &l->runs[low];
}

static inline uint8_t *piece_at(const struct kvw_run *r, uint64_t k)
{
    return (uint8_t *)(uintptr_t)(r->base + k * (uint64_t)r->stride);
}

/* Pieces lie anywhere: the next one's page is looked up, and its first lines are fetched, while
 * this one is gathered. The CPU's own prefetchers don't look beyond a page. */
static inline void look_ahead(const struct kvw_runs *l, const struct kvw_run *r, uint64_t k)
{
    const uint8_t *at;
    uint32_t ahead;

    if (++k == r->count) {
        if (++r == l->runs + l->count)
            return;
        k = 0;
    }
    at = piece_at(r, k);
    ahead = r->bytes < AHEAD ? r->bytes : AHEAD;
    for (uint32_t i = 0; i < ahead; i += 64)
        __builtin_prefetch(at + i);
}

/*
 * The next pieces of the row, which begins with whole ones at r: as long as each other, and of
 * whole steps. Returns what they are together, 0: they aren't such, or more than n.
 */
static uint32_t abreast(const struct kvw_runs *l, const struct kvw_run *r, uint64_t k, uint32_t n,
                        const uint8_t *from[ABREAST])
{
    const struct kvw_run *const end = l->runs + l->count;
    const uint32_t bytes = r->bytes;

    if (bytes % STEP != 0 || bytes > ABREAST_MAX || bytes > n / ABREAST)
        return 0;
    for (uint32_t i = 0; i < ABREAST; ++i, ++k) {
        if (k == r->count) {
            ++r;
            k = 0;
        }
        if (r == end || r->bytes != bytes)
            return 0;
        from[i] = piece_at(r, k);
    }
    return ABREAST * bytes;
}

/* A piece that lies on its own costs a page's look-up and the time until its first lines come: of
 * several at a time these overlap. */
static KVW_FOR_EACH_CPU void gather_abreast(uint8_t *restrict to,
                                            const uint8_t *const from[ABREAST], uint32_t bytes)
{
    typedef uint64_t words __attribute__((vector_size(32), aligned(1)));

    for (uint32_t at = 0; at < bytes; at += STEP)
        for (uint32_t i = 0; i < ABREAST; ++i)
            for (uint32_t w = 0; w < STEP; w += sizeof(words)) {
                words v;

                memcpy(&v, from[i] + at + w, sizeof(v));
                memcpy(to + (size_t)i * bytes + at + w, &v, sizeof(v));
            }
}

void kvw_runs_gather(const struct kvw_runs *l, uint64_t from, uint8_t *buffer, uint32_t n)
{
    const struct kvw_run *r = run_at(l, from);

    while (n > 0) {
        const uint8_t *pieces[ABREAST];
        uint32_t skip, len;
        uint64_t k;

        while (from - r->start >= (uint64_t)r->bytes * r->count)
            ++r;
        k = (from - r->start) / r->bytes;
        skip = (uint32_t)((from - r->start) % r->bytes);
        len = skip == 0 ? abreast(l, r, k, n, pieces) : 0;
        if (len > 0) {
            gather_abreast(buffer, pieces, len / ABREAST);
        } else {
            len = r->bytes - skip < n ? r->bytes - skip : n;
            look_ahead(l, r, k);
            memcpy(buffer, piece_at(r, k) + skip, len);
        }
        buffer += len;
        from += len;
        n -= len;
    }
}

void kvw_runs_scatter(const struct kvw_runs *l, uint64_t from, const uint8_t *buffer, uint32_t n)
{
    for (const struct kvw_run *r = run_at(l, from); n > 0; ++r) {
        const uint64_t in = from - r->start;
        uint64_t k = in / r->bytes;
        uint32_t skip = (uint32_t)(in % r->bytes);

        for (; k < r->count && n > 0; ++k) {
            const uint32_t left = r->bytes - skip, len = left < n ? left : n;

            kvw_past_copy(piece_at(r, k) + skip, buffer, len);
            buffer += len;
            from += len;
            n -= len;
            skip = 0;
        }
    }
    kvw_past_done();
}
