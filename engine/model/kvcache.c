/* SPDX-License-Identifier: Apache-2.0 */
/* kvcache.c - the paged KV cache: its memory, its free blocks, where a token lies. */
#include "kvcache.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../kvwire/wire.h"

static bool in_range(uint32_t v, uint32_t max)
{
    return v >= 1 && v <= max;
}

/*
 * [layer][block][K|V][token][head][dim]: one block's K of one layer is what a chunk wants, in the
 * order that it wants it, so the network gathers whole blocks with one copy each; and attention,
 * which takes a run of tokens for all heads, reads it front to back.
 */
static bool lay_out(struct kvw_pool *p)
{
    uint64_t layer;

    p->head_stride = (uint64_t)p->head_dim * sizeof(uint16_t);
    p->token_stride = p->head_stride * p->kv_heads;
    p->kv_stride = p->token_stride * p->block_tokens; /* at most 2^31 */
    p->block_stride = 2 * p->kv_stride;
    layer = p->block_stride * p->blocks; /* at most 2^56 */
    p->layer_stride = layer;
    return !__builtin_mul_overflow(layer, (uint64_t)p->layers, &p->mem.bytes) &&
           p->mem.bytes <= SIZE_MAX / 2;
}

kvw_err kve_kvcache_open(struct kve_kvcache *kv, uint32_t layers, uint32_t kv_heads,
                         uint32_t head_dim, uint32_t block_tokens, uint32_t blocks)
{
    struct kve_kvcache c = {
        .pool = {.layers = layers,
                 .blocks = blocks,
                 .block_tokens = block_tokens,
                 .kv_heads = kv_heads,
                 .head_dim = head_dim,
                 .dtype = KVW_DTYPE_BF16},
        .free_count = blocks,
    };

    if (!in_range(layers, KVW_LAYERS_MAX) || !in_range(kv_heads, KVW_HEADS_MAX) ||
        !in_range(head_dim, KVW_HEAD_DIM_MAX) || !in_range(block_tokens, KVW_BLOCK_TOKENS_MAX) ||
        !in_range(blocks, KVW_POOL_BLOCKS_MAX))
        return KVW_E_INVALID;
    if (!lay_out(&c.pool))
        return KVW_E_NOMEM;
    c.free_ids = malloc((size_t)blocks * sizeof(*c.free_ids));
    if (c.free_ids == NULL)
        return KVW_E_NOMEM;
    c.taken = calloc(blocks, 1);
    if (c.taken == NULL)
        goto free_ids;
    c.pool.mem.base =
        mmap(NULL, c.pool.mem.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c.pool.mem.base == MAP_FAILED)
        goto free_taken;
    c.pool.mem.kind = KVW_MEM_HOST;
    c.pool.mem.dmabuf_fd = -1;
    for (uint32_t i = 0; i < blocks; ++i) /* the lowest id is handed out first */
        c.free_ids[i] = blocks - 1 - i;
    *kv = c;
    return KVW_OK;

free_taken:
    free(c.taken);
free_ids:
    free(c.free_ids);
    return KVW_E_NOMEM;
}

void kve_kvcache_close(struct kve_kvcache *kv)
{
    if (kv->pool.mem.base != NULL)
        munmap(kv->pool.mem.base, kv->pool.mem.bytes);
    free(kv->taken);
    free(kv->free_ids);
    *kv = (struct kve_kvcache){0};
}

kvw_err kve_kvcache_alloc(struct kve_kvcache *kv, uint32_t count, uint32_t *ids)
{
    if (count > kv->free_count)
        return KVW_E_NOBLOCKS;
    for (uint32_t i = 0; i < count; ++i) {
        ids[i] = kv->free_ids[--kv->free_count];
        assert(!kv->taken[ids[i]]);
        kv->taken[ids[i]] = 1;
    }
    return KVW_OK;
}

void kve_kvcache_free(struct kve_kvcache *kv, const uint32_t *ids, uint32_t count)
{
    /* Last first, so that the next allocation gets the same ids in the same order. */
    for (uint32_t i = count; i > 0; --i) {
        const uint32_t id = ids[i - 1];

        assert(id < kv->pool.blocks && kv->taken[id]);
        if (id >= kv->pool.blocks || !kv->taken[id])
            continue; /* not ours to give back: a block freed twice must not be handed out twice */
        kv->taken[id] = 0;
        kv->free_ids[kv->free_count++] = id;
    }
}
