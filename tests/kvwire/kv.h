/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv.h - KV pools for tests: any of the layouts that engines use, filled with bytes that say where
 * they belong.
 */
#ifndef T_KV_H
#define T_KV_H

#include "../../kvwire/mem.h"

#include <stdbool.h>

enum t_kv_layout {
    T_KV_NHD_SPLIT = 0, /* layer, K|V, block, token, head: vLLM's flash layout */
    T_KV_HND_SPLIT,     /* layer, K|V, block, head, token */
    T_KV_NHD_PACKED,    /* layer, block, K|V, token, head */
    T_KV_HND_PACKED,    /* layer, block, K|V, head, token */
    T_KV_BLOCK_MAJOR,   /* block, layer, K|V, token, head */
    T_KV_LAYOUTS,
};

struct t_kv_shape {
    uint32_t layers, blocks, block_tokens, heads, head_dim;
    kvw_dtype dtype;
    enum t_kv_layout layout;
};

/* calloc'ed; t_kv_free. guard bytes around it are checked by t_kv_free. */
struct kvw_pool t_kv_pool(const struct t_kv_shape *shape);
void t_kv_free(struct kvw_pool *pool);

/* Bytes of (layer, kv, token, head) of a sequence whose bytes derive from `what`. */
void t_kv_fill(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t tokens, uint64_t what);
/* Whether every byte of a block, all layers, is zero. */
bool t_kv_block_is_zero(const struct kvw_pool *pool, uint32_t block);
void t_kv_block_zero(const struct kvw_pool *pool, uint32_t block);

/* A generator that is the same everywhere (splitmix64). */
uint64_t t_random(uint64_t *state);
/* 0 .. n-1 */
uint32_t t_below(uint64_t *state, uint32_t n);

#endif
