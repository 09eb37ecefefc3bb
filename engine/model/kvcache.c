/* SPDX-License-Identifier: Apache-2.0 */
/* kvcache.c - the paged KV cache: its memory, its free blocks, who has them, where a token lies. */
#include "kvcache.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../kvwire/wire.h"
#include "prefix.h"

static bool in_range(uint32_t v, uint32_t max)
{
    return v >= 1 && v <= max;
}

/* What forward.c or a GPU (device.c) computes with; 0 is bf16. */
static bool is_type(kvw_dtype dtype)
{
    return dtype == 0 || dtype == KVW_DTYPE_BF16 || dtype == KVW_DTYPE_F32 ||
           dtype == KVW_DTYPE_F8_E4M3;
}

/*
 * [layer][block][K|V][token][head][dim]: one block's K of one layer is what a chunk wants, in the
 * order that it wants it, so the network gathers whole blocks with one copy each; and attention,
 * which takes a run of tokens for all heads, reads it front to back.
 */
kvw_err kve_kvcache_lay_out(struct kvw_pool *p)
{
    uint64_t layer;

    if (!in_range(p->layers, KVW_LAYERS_MAX) || !in_range(p->kv_heads, KVW_HEADS_MAX) ||
        !in_range(p->head_dim, KVW_HEAD_DIM_MAX) ||
        !in_range(p->block_tokens, KVW_BLOCK_TOKENS_MAX) ||
        !in_range(p->blocks, KVW_POOL_BLOCKS_MAX) || !is_type(p->dtype))
        return KVW_E_INVALID;
    if (p->dtype == 0)
        p->dtype = KVW_DTYPE_BF16;
    p->head_stride = (uint64_t)p->head_dim * kvw_dtype_bytes(p->dtype);
    p->token_stride = p->head_stride * p->kv_heads;
    p->kv_stride = p->token_stride * p->block_tokens; /* at most 2^31 */
    p->block_stride = 2 * p->kv_stride;
    layer = p->block_stride * p->blocks; /* at most 2^56 */
    p->layer_stride = layer;
    return !__builtin_mul_overflow(layer, (uint64_t)p->layers, &p->mem.bytes) &&
                   p->mem.bytes <= SIZE_MAX / 2
               ? KVW_OK
               : KVW_E_NOMEM;
}

/* Into the queue of free blocks, behind the one at `after`. */
static void queue_after(struct kve_kvcache *kv, uint32_t id, uint32_t after)
{
    const uint32_t next = kv->block[after].next;

    kv->block[id].prev = after;
    kv->block[id].next = next;
    kv->block[after].next = id;
    kv->block[next].prev = id;
}

static void unqueue(struct kve_kvcache *kv, uint32_t id)
{
    const struct kve_block *b = &kv->block[id];

    kv->block[b->prev].next = b->next;
    kv->block[b->next].prev = b->prev;
    --kv->free_count;
}

static void free_lists(struct kve_kvcache *kv)
{
    free(kv->taken);
    free(kv->block);
    free(kv->bucket);
    free(kv->tokens);
}

/* All blocks free, the lowest id first. False: out of memory. */
static bool open_lists(struct kve_kvcache *kv)
{
    const uint32_t blocks = kv->pool.blocks;

    for (kv->buckets = 1; kv->buckets < blocks; kv->buckets *= 2)
        ;
    kv->taken = calloc(blocks, sizeof(*kv->taken));
    kv->block = calloc((size_t)blocks + 1, sizeof(*kv->block));
    kv->bucket = malloc(kv->buckets * sizeof(*kv->bucket));
    kv->tokens = malloc((size_t)blocks * kv->pool.block_tokens * sizeof(*kv->tokens));
    if (kv->taken == NULL || kv->block == NULL || kv->bucket == NULL || kv->tokens == NULL)
        return false;
    memset(kv->bucket, 0xff, kv->buckets * sizeof(*kv->bucket));
    kv->block[blocks].prev = kv->block[blocks].next = blocks;
    for (uint32_t i = 0; i < blocks; ++i)
        queue_after(kv, i, kv->block[blocks].prev);
    return true;
}

kvw_err kve_kvcache_open_over(struct kve_kvcache *kv, const struct kvw_pool *pool)
{
    struct kve_kvcache c = {.pool = *pool, .borrowed = true, .free_count = pool->blocks};

    if (!open_lists(&c)) {
        free_lists(&c);
        return KVW_E_NOMEM;
    }
    *kv = c;
    return KVW_OK;
}

kvw_err kve_kvcache_open(struct kve_kvcache *kv, uint32_t layers, uint32_t kv_heads,
                         uint32_t head_dim, uint32_t block_tokens, uint32_t blocks)
{
    struct kvw_pool p = {
        .layers = layers,
        .blocks = blocks,
        .block_tokens = block_tokens,
        .kv_heads = kv_heads,
        .head_dim = head_dim,
        .mem = {.kind = KVW_MEM_HOST, .dmabuf_fd = -1},
    };
    kvw_err err = kve_kvcache_lay_out(&p);

    if (err != KVW_OK)
        return err;
    p.mem.base =
        mmap(NULL, p.mem.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p.mem.base == MAP_FAILED)
        return KVW_E_NOMEM;
    err = kve_kvcache_open_over(kv, &p);
    if (err != KVW_OK)
        munmap(p.mem.base, p.mem.bytes);
    else
        kv->borrowed = false;
    return err;
}

void kve_kvcache_close(struct kve_kvcache *kv)
{
    if (kv->pool.mem.base != NULL && !kv->borrowed)
        munmap(kv->pool.mem.base, kv->pool.mem.bytes);
    free_lists(kv);
    *kv = (struct kve_kvcache){0};
}

kvw_err kve_kvcache_alloc(struct kve_kvcache *kv, uint32_t count, uint32_t *ids)
{
    if (count > kv->free_count)
        return KVW_E_NOBLOCKS;
    for (uint32_t i = 0; i < count; ++i) {
        ids[i] = kv->block[kv->pool.blocks].next;
        assert(kv->taken[ids[i]] == 0);
        unqueue(kv, ids[i]);
        kve_prefix_forget(kv, ids[i]);
        kv->taken[ids[i]] = 1;
    }
    return KVW_OK;
}

void kve_kvcache_free(struct kve_kvcache *kv, const uint32_t *ids, uint32_t count)
{
    /* Last first, so that the next allocation gets the same ids in the same order. */
    for (uint32_t i = count; i > 0; --i) {
        const uint32_t id = ids[i - 1];

        assert(id < kv->pool.blocks && kv->taken[id] > 0);
        if (id >= kv->pool.blocks || kv->taken[id] == 0)
            continue; /* not ours to give back: a block freed twice must not be handed out twice */
        if (--kv->taken[id] > 0)
            continue;
        queue_after(kv, id,
                    kv->block[id].serial != 0 ? kv->block[kv->pool.blocks].prev : kv->pool.blocks);
        ++kv->free_count;
    }
}

uint32_t kve_kvcache_share(struct kve_kvcache *kv, const uint32_t *tokens, uint32_t blocks,
                           uint32_t *ids)
{
    uint64_t parent = 0;

    for (uint32_t b = 0; b < blocks; ++b, tokens += kv->pool.block_tokens) {
        const uint32_t id = kve_prefix_find(kv, parent, tokens);

        if (id == KVE_PREFIX_NONE)
            return b;
        if (kv->taken[id]++ == 0)
            unqueue(kv, id);
        parent = kv->block[id].serial;
        ids[b] = id;
    }
    return blocks;
}

void kve_kvcache_keep(struct kve_kvcache *kv, const uint32_t *tokens, uint32_t blocks,
                      const uint32_t *ids)
{
    uint64_t parent = 0;

    for (uint32_t b = 0; b < blocks; ++b, tokens += kv->pool.block_tokens) {
        uint32_t id = kve_prefix_find(kv, parent, tokens);

        if (id == KVE_PREFIX_NONE) {
            id = ids[b];
            if (kv->block[id].serial != 0)
                return; /* it holds something else: the caller's mistake must not spread */
            kve_prefix_add(kv, id, parent, tokens);
        }
        parent = kv->block[id].serial;
    }
}
