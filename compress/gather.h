/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather.h - between a view of the paged pool and its canonical bytes, a piece at a time: codecs
 * work on pieces small enough for the first-level cache.
 *
 * threads  pure functions
 * memory   the caller's; a piece never reaches outside the view
 * time     none
 */
#ifndef KVC_GATHER_H
#define KVC_GATHER_H

#include <stdbool.h>

#include "../kvwire/mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Canonical bytes [at, at + bytes) of the view, which has them all, to to. */
void kvc_gather(const struct kvw_view *v, uint64_t at, uint64_t bytes, void *to);
/* The way back. */
void kvc_scatter(const struct kvw_view *v, uint64_t at, uint64_t bytes, const void *from);
/* The same past the caches, for what is not looked at again: kvw_past_done() ends it. */
void kvc_scatter_past(const struct kvw_view *v, uint64_t at, uint64_t bytes, const void *from);
/* Where those bytes lie if they lie side by side in the pool, else NULL. */
unsigned char *kvc_contiguous(const struct kvw_view *v, uint64_t at, uint64_t bytes);
/* Where the rows of row_bytes lie that a view's tokens are cut into, worked out for one block of
 * the pool: all others are alike. */
#define KVC_ROW_MAP_MAX 4096u
struct kvc_row_map {
    uint32_t rows;       /* of one block */
    uint32_t token_rows; /* of one token */
    uint64_t offset[KVC_ROW_MAP_MAX];
};

/* false, and *m is rubbish: a row doesn't lie in one piece, or a block has more than the map. */
bool kvc_row_map(const struct kvw_view *v, uint32_t row_bytes, struct kvc_row_map *m);
/* Where count rows lie from row `first` of the view's canonical bytes on. */
void kvc_rows(const struct kvw_view *v, const struct kvc_row_map *m, uint64_t first, uint32_t count,
              unsigned char **rows);

#ifdef __cplusplus
}
#endif
#endif
