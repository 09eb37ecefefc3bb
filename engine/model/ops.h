/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.h - rotary positions, and K and V into the paged cache.
 *
 * threads  pure functions on the caller's memory    memory  none    time  none
 */
#ifndef KVE_OPS_H
#define KVE_OPS_H

#include "../../kvwire/mem.h"
#include "../kernels/kernels.h"

/* cos and sin of position * speed[i] into turn[2i], turn[2i+1]; pairs of them. */
void kve_rope_turn(float *turn, const double *speed, uint32_t pairs, uint32_t position);
/* Turn each head's adjacent pairs (2i, 2i+1), i < pairs; the rest of a head stays. */
void kve_rope_neighbours(float *heads, uint32_t count, uint32_t head_dim, const float *turn,
                         uint32_t pairs);
/* The same for pairs (i, i + pairs). */
void kve_rope_halves(float *heads, uint32_t count, uint32_t head_dim, const float *turn,
                     uint32_t pairs);

/* Where (layer, kv, block, slot) begins: head 0, dim 0. */
static inline unsigned char *kve_pool_at(const struct kvw_pool *p, uint32_t layer, uint32_t kv,
                                         uint32_t block, uint32_t slot)
{
    return (unsigned char *)p->mem.base + layer * p->layer_stride + kv * p->kv_stride +
           block * p->block_stride + slot * p->token_stride;
}

/* One token's values of all heads, [kv_heads][head_dim], to the pool's type at (layer, kv, block,
 * slot). */
void kve_pool_store(const struct kvw_pool *p, const struct kve_kernels *k, unsigned char *at,
                    const float *values);

#endif
