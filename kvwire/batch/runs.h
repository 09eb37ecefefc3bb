/* SPDX-License-Identifier: Apache-2.0 */
/*
 * runs.h - lists of regions and run-length lists of pieces.
 *
 * A list of pieces is a row of bytes, in the order of the pieces; each side has its own list of the
 * same length. Pieces that lie side by side are one, equal ones at equal distances are one run.
 *
 * threads  any, nothing is kept      memory  growing arrays, freed by *_free      time  none
 */
#ifndef KVW_BATCH_RUNS_H
#define KVW_BATCH_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../err.h"

struct kvw_region {
    uint64_t base, bytes;
    uint32_t id, rights;
};

struct kvw_region_at {
    uint64_t base;
    uint64_t reach; /* the last byte of this region, or of one before it if that ends later */
    uint32_t index; /* in kvw_regions.list */
};

struct kvw_regions {
    struct kvw_region *list; /* by ascending ids */
    uint32_t count, room;
    struct kvw_region_at *at; /* by ascending bases; as many */
    uint32_t at_room;
};

struct kvw_run {
    uint64_t base;
    int64_t stride;
    uint64_t start; /* of its first byte in the row */
    uint32_t bytes, count;
    uint32_t region;
};

struct kvw_runs {
    struct kvw_run *runs;
    uint32_t count, room;
    uint64_t bytes;
};

/* r->id is higher than all that are there. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_regions_add(struct kvw_regions *g, const struct kvw_region *r);
bool kvw_regions_remove(struct kvw_regions *g, uint32_t id); /* false: not there */
void kvw_regions_free(struct kvw_regions *g);
/* NULL: none. */
const struct kvw_region *kvw_regions_of_id(const struct kvw_regions *g, uint32_t id);
/* A region that holds all of [base, base + bytes) and gives the rights; if none does, one that
 * holds it; NULL: none does. *hint: index to look at first; updated. A binary search, and of those
 * that overlap there one after the other. */
const struct kvw_region *kvw_regions_at(const struct kvw_regions *g, uint64_t base, uint64_t bytes,
                                        uint32_t rights, uint32_t *hint);

/* Append a piece, whose addresses don't wrap. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_runs_add(struct kvw_runs *l, uint32_t region, uint64_t base,
                                   uint64_t bytes);
/* Append a run as it is. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_runs_append(struct kvw_runs *l, const struct kvw_run *r);
void kvw_runs_free(struct kvw_runs *l);

/*
 * Every piece lies in its run's region, which gives the rights. Else, with a sentence:
 *   KVW_E_NOTFOUND  no such region; or a piece isn't inside it
 *   KVW_E_MISMATCH  the region doesn't give the right
 */
KVW_NODISCARD kvw_err kvw_runs_check(const struct kvw_runs *l, const struct kvw_regions *g,
                                     uint32_t rights, char *why, size_t why_bytes);
/* Whether any run is in that region. */
bool kvw_runs_use(const struct kvw_runs *l, uint32_t region);

/* Bytes [from, from + n) of the row, within it, into buffer (gather) or out of it (scatter). */
void kvw_runs_gather(const struct kvw_runs *l, uint64_t from, uint8_t *buffer, uint32_t n);
void kvw_runs_scatter(const struct kvw_runs *l, uint64_t from, const uint8_t *buffer, uint32_t n);

#endif
