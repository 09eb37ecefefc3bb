/* SPDX-License-Identifier: Apache-2.0 */
/* K and V of equal heads, as views and as a pool's description. */
#include "dense.h"

#include <string.h>

uint32_t kvw_dtype_bytes(kvw_dtype dtype)
{
    switch (dtype) {
    case KVW_DTYPE_F32:
        return 4;
    case KVW_DTYPE_F16:
    case KVW_DTYPE_BF16:
        return 2;
    case KVW_DTYPE_F8_E4M3:
    case KVW_DTYPE_F8_E5M2:
        return 1;
    }
    return 0;
}

struct kvw_view kvw_pool_view(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t layer,
                              uint32_t kv, uint32_t first, uint32_t tokens)
{
    return (struct kvw_view){
        .base = (unsigned char *)pool->mem.base + layer * pool->layer_stride + kv * pool->kv_stride,
        .blocks = blocks,
        .block_tokens = pool->block_tokens,
        .first_token = first,
        .tokens = tokens,
        .heads = pool->kv_heads,
        .head_bytes = pool->head_dim * kvw_dtype_bytes(pool->dtype),
        .dtype = pool->dtype,
        .block_stride = pool->block_stride,
        .token_stride = pool->token_stride,
        .head_stride = pool->head_stride,
    };
}

void kvw_dense_make(struct kvw_dense *d, const struct kvw_pool *pool, const char *name)
{
    memset(d, 0, sizeof(*d));
    d->mem = pool->mem;
    for (uint32_t k = 0; k < 2; ++k) {
        for (uint32_t i = 0; i < pool->layers; ++i) {
            d->layers[i] = i;
            d->planes[k][i] = (struct kvw_plane){
                /* Strides may be nonsense: the pool's checks say which. */
                .base = (void *)((uintptr_t)pool->mem.base + i * pool->layer_stride +
                                 k * pool->kv_stride),
                .block_stride = pool->block_stride,
                .entry_stride = pool->token_stride,
                .row_stride = pool->head_stride,
            };
        }
        d->parts[k] = (struct kvw_part_desc){
            .name = k == 0 ? "k" : "v",
            .dtype = (uint32_t)pool->dtype,
            .row_bytes = pool->head_dim * kvw_dtype_bytes(pool->dtype),
            .rows = pool->kv_heads,
            .rows_model = pool->kv_heads,
            .plane_bytes = sizeof(d->planes[k][0]),
            .planes = d->planes[k],
        };
    }
    d->group = (struct kvw_group_desc){
        .kind = KVW_GROUP_PAGED,
        .blocks = pool->blocks,
        .block_entries = pool->block_tokens,
        .entry_tokens = 1,
        .layer_count = pool->layers,
        .layers = d->layers,
        .part_count = 2,
        .part_bytes = sizeof(d->parts[0]),
        .parts = d->parts,
    };
    d->desc = (struct kvw_pool_desc){
        .size = sizeof(d->desc),
        .model_layers = pool->layers,
        .name = name,
        .mem_count = 1,
        .mem_bytes = sizeof(d->mem),
        .mems = &d->mem,
        .group_count = 1,
        .group_bytes = sizeof(d->group),
        .groups = &d->group,
    };
}
