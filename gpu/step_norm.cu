/* SPDX-License-Identifier: Apache-2.0 */
/* step_norm.cu - the embedding of tokens; residual and RMS norm in one step. */
#include "step_parts.h"

struct norm_shared {
    float sums[KVG_STEP_WARPS];
};
static_assert(sizeof(struct norm_shared) <= KVG_NORM_SHARED, "steps.h");

/* Over the CTA; all threads return the same. */
static __device__ float norm_sum(struct norm_shared &s, float v)
{
    v = kvg_warp_sum(v);
    __syncthreads(); /* whoever still reads the sums of before */
    if (threadIdx.x % 32 == 0)
        s.sums[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (uint32_t w = 0; w < KVG_STEP_WARPS; ++w)
        v += s.sums[w];
    return v;
}

/* What a row is multiplied by. */
static __device__ float norm_scale(struct norm_shared &s, const struct kvg_norm &p,
                                   const float *row)
{
    float sum = 0;

    for (uint32_t i = threadIdx.x; i < p.width; i += KVG_STEP_THREADS)
        sum += row[i] * row[i];
    return 1.0f / sqrtf(norm_sum(s, sum) / (float)p.width + p.eps);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_norm(const struct kvg_norm p)
{
    KVG_SHARED(struct norm_shared, s);
    const size_t at = (size_t)blockIdx.x * p.width;
    float *const x = p.x + at;

    if (p.add != NULL) {
        const float *const add = p.add + at;
        const float scale = p.add_norm != NULL ? norm_scale(s, p, add) : 1.0f;

        for (uint32_t i = threadIdx.x; i < p.width; i += KVG_STEP_THREADS)
            x[i] += add[i] * scale * (p.add_norm != NULL ? p.add_norm[i] : 1.0f);
    }
    if (p.y == NULL)
        return;

    const float scale = norm_scale(s, p, x); /* each thread reads what it wrote */

    for (uint32_t i = threadIdx.x; i < p.width; i += KVG_STEP_THREADS)
        p.y[at + i] = kvg_to_bf16(x[i] * scale * p.norm[i]);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_embed(const struct kvg_embed p)
{
    const uint16_t *const row = p.table + (size_t)p.tokens[blockIdx.x] * p.width;

    for (uint32_t i = threadIdx.x; i < p.width; i += KVG_STEP_THREADS)
        p.x[(size_t)blockIdx.x * p.width + i] = kvg_wide(row[i]) * p.scale;
}
