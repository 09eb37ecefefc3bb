/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"

#include <math.h>

void kve_rope_turn(float *turn, const double *speed, uint32_t pairs, uint32_t position)
{
    for (uint32_t i = 0; i < pairs; ++i) {
        const double angle = position * speed[i];

        turn[2 * i] = (float)cos(angle);
        turn[2 * i + 1] = (float)sin(angle);
    }
}

void kve_rope_apply(float *heads, uint32_t count, uint32_t head_dim, const float *turn,
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

void kve_pool_store(const struct kvw_pool *p, const struct kve_kernels *k, unsigned char *at,
                    const float *values)
{
    if (p->head_stride == p->head_dim * sizeof(uint16_t)) { /* heads side by side: all at once */
        k->to_bf16((uint16_t *)(void *)at, values, (size_t)p->kv_heads * p->head_dim);
        return;
    }
    for (uint32_t h = 0; h < p->kv_heads; ++h)
        k->to_bf16((uint16_t *)(void *)(at + h * p->head_stride), values + h * p->head_dim,
                   p->head_dim);
}
