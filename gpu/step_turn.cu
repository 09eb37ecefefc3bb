/* SPDX-License-Identifier: Apache-2.0 */
/* step_turn.cu - Q, K and V as they leave their product: biases, norms of heads, rotation; Q to its
 * buffer, K and V to their pages. */
#include "step_parts.h"

struct turn_shared {
    float row[KVG_STEP_WARPS][KVG_DIM_MAX];
};
static_assert(sizeof(struct turn_shared) <= KVG_TURN_SHARED, "steps.h");

/* Of a warp: the head's values with their bias and norm, in row. */
static __device__ void take_head(const struct kvg_turn &p, const float *from, const float *bias,
                                 const float *norm, float *row)
{
    const uint32_t lane = threadIdx.x % 32;
    float sum = 0;

    for (uint32_t d = lane; d < p.dim; d += 32) {
        const float v = from[d] + (bias != NULL ? bias[d] : 0.0f);

        row[d] = v;
        sum += v * v;
    }
    if (norm != NULL) {
        const float scale = 1.0f / sqrtf(kvg_warp_sum(sum) / (float)p.dim + p.eps);

        for (uint32_t d = lane; d < p.dim; d += 32)
            row[d] *= scale * norm[d];
    }
    __syncwarp();
}

/* Value d of the head, turned. */
static __device__ float turned(const struct kvg_turn &p, const float *turn, const float *row,
                               uint32_t d)
{
    const uint32_t pair = p.halves ? (d < p.pairs ? d : d - p.pairs) : d / 2;
    const bool second = p.halves ? d >= p.pairs : d % 2 != 0;

    if (d >= 2 * p.pairs)
        return row[d];

    const uint32_t other = p.halves ? (second ? d - p.pairs : d + p.pairs) : d ^ 1u;
    const float c = turn[2 * pair], s = turn[2 * pair + 1];

    return row[d] * c + (second ? row[other] : -row[other]) * s;
}

template <typename KV> static __device__ void turn_head(const struct kvg_turn &p)
{
    KVG_SHARED(struct turn_shared, s);
    const uint32_t all = p.heads + 2 * p.kv_heads, warp = kvg_warp();
    const uint32_t token = warp / all, head = warp - token * all, at = p.first + token;
    const bool is_q = head < p.heads, is_k = !is_q && head < p.heads + p.kv_heads;
    float *const row = s.row[threadIdx.x / 32];

    if (token >= p.tokens)
        return;
    take_head(p, p.qkv + (size_t)warp * p.dim, p.bias != NULL ? p.bias + head * p.dim : NULL,
              is_q   ? p.norm_q
              : is_k ? p.norm_k
                     : NULL,
              row);

    const float *const turn = p.turn + (size_t)at * 2 * p.pairs;

    uint16_t *const q = p.q + ((size_t)token * p.heads + head) * p.dim;
    KV *to = NULL;

    if (is_k)
        to = kvg_row<KV>(p.kv, p.kv.k, at, head - p.heads);
    else if (!is_q)
        to = kvg_row<KV>(p.kv, p.kv.v, at, head - p.heads - p.kv_heads);
    for (uint32_t d = threadIdx.x % 32; d < p.dim; d += 32) {
        const float v = is_q || is_k ? turned(p, turn, row, d) : row[d];

        if (is_q)
            q[d] = kvg_to_bf16(v);
        else
            kvg_put(&to[d], v, is_k ? p.k_scale : p.v_scale);
    }
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_turn(const struct kvg_turn p)
{
    turn_head<uint16_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_turn_e4m3(const struct kvg_turn p)
{
    turn_head<uint8_t>(p);
}
