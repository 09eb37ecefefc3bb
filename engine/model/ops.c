/* SPDX-License-Identifier: Apache-2.0 */
/* ops.c - rotates queries and keys, and stores rows of K and V in the pool. */
#include "ops.h"

#include <math.h>
#include <string.h>

void kve_rope_turn(float *turn, const double *speed, uint32_t pairs, uint32_t position)
{
    for (uint32_t i = 0; i < pairs; ++i) {
        const double angle = position * speed[i];

        turn[2 * i] = (float)cos(angle);
        turn[2 * i + 1] = (float)sin(angle);
    }
}

void kve_rope_neighbours(float *heads, uint32_t count, uint32_t head_dim, const float *turn,
                         uint32_t pairs)
{
    for (uint32_t h = 0; h < count; ++h, heads += head_dim) {
        for (uint32_t i = 0; i < pairs; ++i) {
            const float a = heads[2 * i], b = heads[2 * i + 1];

            heads[2 * i] = a * turn[2 * i] - b * turn[2 * i + 1];
            heads[2 * i + 1] = a * turn[2 * i + 1] + b * turn[2 * i];
        }
    }
}

void kve_rope_halves(float *heads, uint32_t count, uint32_t head_dim, const float *turn,
                     uint32_t pairs)
{
    for (uint32_t h = 0; h < count; ++h, heads += head_dim) {
        for (uint32_t i = 0; i < pairs; ++i) {
            const float a = heads[i], b = heads[i + pairs];

            heads[i] = a * turn[2 * i] - b * turn[2 * i + 1];
            heads[i + pairs] = a * turn[2 * i + 1] + b * turn[2 * i];
        }
    }
}

void kve_pool_store(const struct kvw_pool *p, const struct kve_kernels *k, unsigned char *at,
                    const float *values)
{
    const size_t width = p->dtype == KVW_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    const bool together = p->head_stride == p->head_dim * width; /* heads side by side */
    const uint32_t runs = together ? 1 : p->kv_heads;
    const size_t n = (size_t)p->head_dim * (together ? p->kv_heads : 1);

    for (uint32_t i = 0; i < runs; ++i, at += p->head_stride, values += n) {
        if (p->dtype == KVW_DTYPE_F32)
            memcpy(at, values, n * sizeof(*values));
        else
            k->to_bf16((uint16_t *)(void *)at, values, n);
    }
}
