/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scatter.h - the memory of batches: slots, one for each batch in flight, each of pieces that lie
 * in order or in random order. Every byte can be made again from a seed.
 *
 * threads  one      memory  make takes it, free gives it back      time  none
 */
#ifndef KVP_SCATTER_H
#define KVP_SCATTER_H

#include "cache.h"

struct kvp_scatter {
    uint64_t piece_bytes;
    uint32_t pieces, slots; /* pieces of a slot */
    uint32_t *order;        /* by slot * pieces + piece: where it lies; NULL: in order */
};

/* scattered: in an order that seed tells, inside each slot. False: no memory. */
bool kvp_scatter_make(struct kvp_scatter *s, bool scattered, uint64_t seed);
void kvp_scatter_free(struct kvp_scatter *s);

uint64_t kvp_scatter_bytes(const struct kvp_scatter *s);
/* Where a piece lies, from the beginning of the memory. */
uint64_t kvp_scatter_at(const struct kvp_scatter *s, uint32_t slot, uint32_t piece);

/* Write every piece's bytes where it lies; values 0: the same byte everywhere. */
void kvp_scatter_fill(const struct kvp_scatter *s, unsigned char *base, uint64_t values);
/* How many bytes differ from what fill would have written. */
struct kvp_check kvp_scatter_check(const struct kvp_scatter *s, const unsigned char *base,
                                   uint64_t values);

#endif
