/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dense.h - a pool whose layers all hold K and V of the same heads (struct kvw_pool, mem.h), as our
 * own engine and the benches have it: as views of its chunks, and as a pool's description (pool.h).
 * Not installed.
 *
 * threads  plain data      memory  the caller's      time  none
 */
#ifndef KVW_KV_DENSE_H
#define KVW_KV_DENSE_H

#include "../pool.h"
#include "../wire.h"

/* The chunk (layer, kv, all heads, tokens [first, first + tokens)) of the sequence in blocks. */
struct kvw_view kvw_pool_view(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t layer,
                              uint32_t kv, uint32_t first, uint32_t tokens);

/* A description with all that it points to but the memory. It must not be moved once made. */
struct kvw_dense {
    struct kvw_pool_desc desc; /* fingerprint: zeros, the caller's to set */
    struct kvw_group_desc group;
    struct kvw_part_desc parts[2]; /* "k", "v" */
    struct kvw_mem mem;
    uint32_t layers[KVW_LAYERS_MAX];
    struct kvw_plane planes[2][KVW_LAYERS_MAX];
};

/* pool->layers <= KVW_LAYERS_MAX; name is borrowed as long as *d is used. All else is checked
 * where the description is added. */
void kvw_dense_make(struct kvw_dense *d, const struct kvw_pool *pool, const char *name);

#endif
