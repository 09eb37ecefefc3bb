/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvcache.h - the paged KV cache: a pool of blocks of block_tokens tokens in bf16, each sequence's
 * block table, and which blocks hold the beginning of a prompt that another one may share.
 *
 * A block that is kept stays findable after its last owner has given it back, until its memory is
 * needed: free blocks queue up, those that hold nothing in front (the last one given back first),
 * those that are kept behind them (the one given back longest ago first). Of a sequence's blocks
 * the last goes before the first.
 *
 * threads  allocation calls come from one thread at a time; reads and writes of blocks are the
 *          owner's. Nobody writes a block that is kept
 * memory   taken at open; a block belongs to those who allocated or shared it, until each has
 *          freed it
 * time     none
 */
#ifndef KVE_KVCACHE_H
#define KVE_KVCACHE_H

#include <stdbool.h>

#include "../../kvwire/mem.h"

/* A block's place in the queue of free ones, and what it holds. */
struct kve_block {
    uint32_t prev, next;
    uint32_t chain;  /* the next kept block of its bucket */
    uint64_t serial; /* 0: it isn't kept. No two are ever the same */
    uint64_t parent; /* serial of the block before it in the prompt, 0: it is the first */
};

struct kve_kvcache {
    struct kvw_pool pool;    /* what kvwire moves: base, shapes, strides */
    bool borrowed;           /* the pool's memory is the caller's */
    uint32_t free_count;     /* kept ones that nobody has are free, too */
    uint32_t *taken;         /* per block: how many have it */
    struct kve_block *block; /* [pool.blocks + 1]; the last is the queue's two ends */
    uint32_t *bucket;        /* [buckets] first kept block of each */
    uint32_t buckets;        /* a power of two */
    uint32_t *tokens;        /* [pool.blocks][block_tokens], of those that are kept */
    uint64_t serial;         /* the last one */
};

/* Layer-major: [layer][block][K|V][token][head][dim], what attention reads front to back.
 * KVW_E_NOMEM, KVW_E_INVALID. The memory is page-aligned and touched lazily. */
KVW_NODISCARD kvw_err kve_kvcache_open(struct kve_kvcache *kv, uint32_t layers, uint32_t kv_heads,
                                       uint32_t head_dim, uint32_t block_tokens, uint32_t blocks);
/* The same over memory of the caller's, which may be a GPU's: of a pool whose layers, blocks,
 * block_tokens, kv_heads, head_dim and dtype are set (0: bf16; floats: the CPU's alone; fp8 e4m3:
 * a GPU's alone), kve_kvcache_lay_out() makes the strides and mem.bytes; open_over() wants the rest
 * of mem, too, and close leaves it to the caller. */
KVW_NODISCARD kvw_err kve_kvcache_lay_out(struct kvw_pool *pool);
KVW_NODISCARD kvw_err kve_kvcache_open_over(struct kve_kvcache *kv, const struct kvw_pool *pool);
void kve_kvcache_close(struct kve_kvcache *kv);

/* All count blocks, or KVW_E_NOBLOCKS and none. */
KVW_NODISCARD kvw_err kve_kvcache_alloc(struct kve_kvcache *kv, uint32_t count, uint32_t *ids);
/* One owner less of each. */
void kve_kvcache_free(struct kve_kvcache *kv, const uint32_t *ids, uint32_t count);

/* The longest run of kept blocks that hold the K and V of tokens[0 .. blocks * block_tokens - 1]
 * from the first on: one owner more of each, their ids to ids. Returns how many there are. Tokens
 * are compared, not hashes of them. */
uint32_t kve_kvcache_share(struct kve_kvcache *kv, const uint32_t *tokens, uint32_t blocks,
                           uint32_t *ids);
/* These blocks, which the caller has, hold the K and V of tokens[0 .. blocks * block_tokens - 1]
 * and won't change: others may share them. Where an equal one is kept already, it stays the one. */
void kve_kvcache_keep(struct kve_kvcache *kv, const uint32_t *tokens, uint32_t blocks,
                      const uint32_t *ids);

/* A sequence: its blocks and how many tokens of K and V they hold. */
struct kve_seq {
    uint32_t *blocks;     /* block table, block_count ids, the owner's array */
    uint32_t block_count; /* capacity in blocks */
    uint32_t tokens;      /* KV present for positions 0 .. tokens-1 */
};

#endif
