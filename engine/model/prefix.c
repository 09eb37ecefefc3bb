/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.c - the tree of kept blocks: found by what came before them and their own tokens. */
#include "prefix.h"

#include <string.h>

#include <xxhash.h>

static uint32_t *bucket_of(const struct kve_kvcache *kv, uint64_t parent, const uint32_t *tokens)
{
    const uint64_t hash =
        XXH3_64bits_withSeed(tokens, kv->pool.block_tokens * sizeof(*tokens), parent);

    return &kv->bucket[hash & (kv->buckets - 1)];
}

static uint32_t *tokens_of(const struct kve_kvcache *kv, uint32_t id)
{
    return kv->tokens + (size_t)id * kv->pool.block_tokens;
}

uint32_t kve_prefix_find(const struct kve_kvcache *kv, uint64_t parent, const uint32_t *tokens)
{
    const size_t bytes = kv->pool.block_tokens * sizeof(*tokens);
    uint32_t id = *bucket_of(kv, parent, tokens);

    while (id != KVE_PREFIX_NONE &&
           (kv->block[id].parent != parent || memcmp(tokens_of(kv, id), tokens, bytes) != 0))
        id = kv->block[id].chain;
    return id;
}

void kve_prefix_add(struct kve_kvcache *kv, uint32_t id, uint64_t parent, const uint32_t *tokens)
{
    uint32_t *bucket = bucket_of(kv, parent, tokens);
    struct kve_block *block = &kv->block[id];

    block->parent = parent;
    block->serial = ++kv->serial;
    block->chain = *bucket;
    *bucket = id;
    memcpy(tokens_of(kv, id), tokens, kv->pool.block_tokens * sizeof(*tokens));
}

void kve_prefix_forget(struct kve_kvcache *kv, uint32_t id)
{
    uint32_t *at;

    if (kv->block[id].serial == 0)
        return;
    at = bucket_of(kv, kv->block[id].parent, tokens_of(kv, id));
    while (*at != id)
        at = &kv->block[*at].chain;
    *at = kv->block[id].chain;
    kv->block[id].serial = 0;
}
