/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranges.h - which tokens of a (layer, K|V) are in place: a prefix [0, prefix), and spans beyond it
 * that overtook it.
 *
 * A sender cuts each (layer, K|V) in ascending token order and numbers its puts as it goes; with S
 * landing slots at most S - 1 puts can have been processed ahead of the oldest one that hasn't.
 * Each span holds at least one of those, so a peer needs at most S - 1 spans over all of its
 * transfers and layers. A pool of S is therefore enough for every peer that keeps to SPEC.md 4.2,
 * and running dry convicts one that doesn't.
 *
 * threads  one      memory  the spans are the pool's, the pool is the caller's      time  none
 */
#ifndef KVW_RANGES_H
#define KVW_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "../err.h"

#define KVW_SPAN_NONE UINT16_MAX

struct kvw_span {
    uint32_t first, end; /* tokens [first, end) */
    uint16_t next;       /* ascending, never touching its neighbour; or the next free one */
};

struct kvw_span_pool {
    struct kvw_span *spans;
    uint16_t count;
    uint16_t free; /* first free one */
    uint16_t free_count;
};

struct kvw_ranges {
    uint32_t prefix; /* tokens [0, prefix) are in place */
    uint16_t spans;  /* first span beyond it, or KVW_SPAN_NONE */
};

void kvw_span_pool_init(struct kvw_span_pool *pool, struct kvw_span *spans, uint16_t count);

static inline void kvw_ranges_init(struct kvw_ranges *r)
{
    r->prefix = 0;
    r->spans = KVW_SPAN_NONE;
}

/* Give r's spans back. */
void kvw_ranges_free(struct kvw_ranges *r, struct kvw_span_pool *pool);

/* Whether any of [first, end) is in place already. */
bool kvw_ranges_overlap(const struct kvw_ranges *r, const struct kvw_span_pool *pool,
                        uint32_t first, uint32_t end);

/* [first, end), which overlaps nothing, is in place. KVW_E_NOMEM: the pool is dry; r is
 * as before. */
KVW_NODISCARD kvw_err kvw_ranges_add(struct kvw_ranges *r, struct kvw_span_pool *pool,
                                     uint32_t first, uint32_t end);

#endif
