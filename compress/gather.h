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
/* Where those bytes lie if they lie side by side in the pool, else NULL. */
unsigned char *kvc_contiguous(const struct kvw_view *v, uint64_t at, uint64_t bytes);
/* Where each of the count rows of row_bytes lies that canonical bytes at.. are cut into; false, and
 * rows is rubbish, unless every one lies in one piece. */
bool kvc_rows(const struct kvw_view *v, uint64_t at, uint32_t count, uint32_t row_bytes,
              unsigned char **rows);

#ifdef __cplusplus
}
#endif
#endif
