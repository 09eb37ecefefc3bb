/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvcache.h - the paged KV cache: a pool of blocks of block_tokens tokens in bf16, and each
 * sequence's block table.
 *
 * threads  allocation calls come from one thread at a time; reads and writes of blocks are the
 *          owner's
 * memory   one allocation at open; a block belongs to whoever allocated it, once, until freed
 * time     none
 */
#ifndef KVE_KVCACHE_H
#define KVE_KVCACHE_H

#include "../../kvwire/mem.h"

struct kve_kvcache {
    struct kvw_pool pool; /* what kvwire moves: base, shapes, strides */
    uint32_t *free_ids;   /* stack of free block ids */
    uint32_t free_count;
    uint8_t *taken; /* per block, to catch a double free */
};

/* Layer-major: [layer][block][K|V][token][head][dim], what attention reads front to back.
 * KVW_E_NOMEM, KVW_E_INVALID. The memory is page-aligned and touched lazily. */
KVW_NODISCARD kvw_err kve_kvcache_open(struct kve_kvcache *kv, uint32_t layers, uint32_t kv_heads,
                                       uint32_t head_dim, uint32_t block_tokens, uint32_t blocks);
void kve_kvcache_close(struct kve_kvcache *kv);

/* All count blocks, or KVW_E_NOBLOCKS and none. */
KVW_NODISCARD kvw_err kve_kvcache_alloc(struct kve_kvcache *kv, uint32_t count, uint32_t *ids);
void kve_kvcache_free(struct kve_kvcache *kv, const uint32_t *ids, uint32_t count);

/* A sequence: its blocks and how many tokens of K and V they hold. */
struct kve_seq {
    uint32_t *blocks;     /* block table, block_count ids, the owner's array */
    uint32_t block_count; /* capacity in blocks */
    uint32_t tokens;      /* KV present for positions 0 .. tokens-1 */
};

#endif
