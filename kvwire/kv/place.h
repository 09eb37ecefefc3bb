/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.h - a pool of this process: its layout (wire/layout.h), and where each plane of it lies.
 *
 * threads  plain data once made
 * memory   one allocation beside the layout's, from kvw_place_make() to kvw_place_free(); the
 * pool's
 *          own memory stays the caller's
 * time     none
 */
#ifndef KVW_KV_PLACE_H
#define KVW_KV_PLACE_H

#include "../wire/layout.h"

struct kvw_place {
    struct kvw_layout *layout;
    kvw_mem_kind kind;         /* of all mems */
    struct kvw_plane **planes; /* [group][part * layer_count + layer index] */
    struct kvw_mem *mems;
    uint32_t mem_count;
};

/*
 *   KVW_E_INVALID      why names the field: out of range, or an address outside of mems
 *   KVW_E_UNSUPPORTED  why names what this version doesn't map
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvw_place_make(struct kvw_place **out, const struct kvw_pool_desc *desc,
                                     char *why, size_t why_bytes);
/* Takes NULL. */
void kvw_place_free(struct kvw_place *p);

/*
 * The same pool in one stretch of memory: of group g entries[g] entries (0: none), each plane's one
 * after the other, block 0 first. It borrows like's layout: kvw_place_flat_free(), not _free().
 */
uint64_t kvw_place_flat_bytes(const struct kvw_layout *l, const uint32_t *entries);
/* NULL: no memory. */
struct kvw_place *kvw_place_flat(const struct kvw_place *like, const uint32_t *entries,
                                 unsigned char *mem);
void kvw_place_flat_free(struct kvw_place *p);

/* What a view is cut from: which rows and entries of which part of which layer. */
struct kvw_piece {
    uint32_t group, part, layer_at; /* indexes in this process's layout */
    uint32_t row_at, rows;          /* from this process's first row */
    uint32_t entry_first, entries;  /* from the first entry of `blocks` */
    const uint32_t *blocks;         /* borrowed by the view */
};

/* The view of a piece that lies inside the pool. */
struct kvw_view kvw_place_view(const struct kvw_place *p, const struct kvw_piece *piece);

#endif
