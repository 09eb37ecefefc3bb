/* SPDX-License-Identifier: Apache-2.0 */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

#define GUARD 4096u

uint64_t t_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint32_t t_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(t_random(state) >> 33) % n;
}

struct kvw_pool t_kv_pool(const struct t_kv_shape *q)
{
    const uint64_t head = (uint64_t)q->head_dim * kvw_dtype_bytes(q->dtype);
    const uint64_t plane = q->block_tokens * q->heads * head; /* K or V of one block */
    const bool hnd = q->layout == T_KV_HND_SPLIT || q->layout == T_KV_HND_PACKED;
    struct kvw_pool p = {.layers = q->layers,
                         .blocks = q->blocks,
                         .block_tokens = q->block_tokens,
                         .kv_heads = q->heads,
                         .head_dim = q->head_dim,
                         .dtype = q->dtype,
                         .token_stride = hnd ? head : q->heads * head,
                         .head_stride = hnd ? q->block_tokens * head : head};
    unsigned char *base;

    if (q->layout == T_KV_NHD_SPLIT || q->layout == T_KV_HND_SPLIT) {
        p.block_stride = plane;
        p.kv_stride = q->blocks * plane;
        p.layer_stride = 2 * q->blocks * plane;
    } else if (q->layout == T_KV_BLOCK_MAJOR) {
        p.kv_stride = plane;
        p.layer_stride = 2 * plane;
        p.block_stride = q->layers * 2 * plane;
    } else {
        p.kv_stride = plane;
        p.block_stride = 2 * plane;
        p.layer_stride = q->blocks * 2 * plane;
    }
    p.mem = (struct kvw_mem){
        .bytes = q->layers * 2 * q->blocks * plane, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    base = calloc(1, p.mem.bytes + 2 * GUARD);
    if (base == NULL)
        abort();
    memset(base, 0xa5, GUARD);
    memset(base + GUARD + p.mem.bytes, 0xa5, GUARD);
    p.mem.base = base + GUARD;
    return p;
}

void t_kv_free(struct kvw_pool *pool)
{
    unsigned char *base = (unsigned char *)pool->mem.base - GUARD;

    for (uint32_t i = 0; i < GUARD; ++i)
        if (base[i] != 0xa5 || base[GUARD + pool->mem.bytes + i] != 0xa5)
            abort();
    free(base);
}

static unsigned char *element(const struct kvw_pool *p, const uint32_t *blocks, uint32_t layer,
                              uint32_t kv, uint32_t token, uint32_t head)
{
    return (unsigned char *)p->mem.base + layer * p->layer_stride + kv * p->kv_stride +
           blocks[token / p->block_tokens] * p->block_stride +
           token % p->block_tokens * p->token_stride + head * p->head_stride;
}

/* The bytes of one head's run depend on all that it is. */
static void run_bytes(unsigned char *to, uint32_t n, uint64_t what, const uint32_t at[4])
{
    uint64_t state = what;

    for (int i = 0; i < 4; ++i)
        state = state * 0x100000001b3ull + at[i] + 1;
    for (uint32_t i = 0; i < n; i += 8) {
        const uint64_t r = t_random(&state);

        memcpy(to + i, &r, n - i < 8 ? n - i : 8);
    }
}

void t_kv_fill(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t tokens, uint64_t what)
{
    unsigned char value[KVW_DTYPE_F8_E5M2 * 4096];
    const uint32_t n = pool->head_dim * kvw_dtype_bytes(pool->dtype);

    for (uint32_t l = 0; l < pool->layers; ++l)
        for (uint32_t kv = 0; kv < 2; ++kv)
            for (uint32_t t = 0; t < tokens; ++t)
                for (uint32_t h = 0; h < pool->kv_heads; ++h) {
                    const uint32_t at[4] = {l, kv, t, h};

                    run_bytes(value, n, what, at);
                    memcpy(element(pool, blocks, l, kv, t, h), value, n);
                }
}

static bool block_each(const struct kvw_pool *p, uint32_t block, bool write)
{
    const uint32_t n = p->head_dim * kvw_dtype_bytes(p->dtype);

    for (uint32_t l = 0; l < p->layers; ++l)
        for (uint32_t kv = 0; kv < 2; ++kv)
            for (uint32_t t = 0; t < p->block_tokens; ++t)
                for (uint32_t h = 0; h < p->kv_heads; ++h) {
                    unsigned char *to = element(p, &block, l, kv, t, h);

                    if (write)
                        memset(to, 0, n);
                    for (uint32_t i = 0; i < n; ++i)
                        if (to[i] != 0)
                            return false;
                }
    return true;
}

bool t_kv_block_is_zero(const struct kvw_pool *pool, uint32_t block)
{
    return block_each(pool, block, false);
}

void t_kv_block_zero(const struct kvw_pool *pool, uint32_t block)
{
    block_each(pool, block, true);
}
