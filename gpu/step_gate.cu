/* SPDX-License-Identifier: Apache-2.0 */
/* step_gate.cu - the gated activation; logits capped and the largest of them. */
#include "step_parts.h"

/* (1 + tanh(u)) / 2 is 1 / (1 + e^(-2u)), with u = sqrt(2/pi) (g + 0.044715 g^3). */
#define GELU_LINEAR -1.5957691216057308f
#define GELU_CUBIC  (GELU_LINEAR * 0.044715f)

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_gate(const struct kvg_gate p)
{
    const size_t i = (size_t)blockIdx.x * KVG_STEP_THREADS + threadIdx.x, row = i / p.width;
    const size_t at = i + row * p.width;

    if (row >= p.tokens)
        return;

    const float g = p.in[at], up = p.in[at + p.width];
    const float e = p.gelu ? g * (GELU_LINEAR + GELU_CUBIC * g * g) : -g;

    p.y[i] = kvg_to_bf16(g / (1.0f + expf(e)) * up);
}

struct pick_shared {
    float best[KVG_STEP_WARPS];
    uint32_t at[KVG_STEP_WARPS];
};
static_assert(sizeof(struct pick_shared) <= KVG_PICK_SHARED, "steps.h");

/* The better of two: the larger, or the earlier of equals. */
static __device__ __forceinline__ void better(float &v, uint32_t &at, float other,
                                              uint32_t other_at)
{
    if (other > v || (other == v && other_at < at)) {
        v = other;
        at = other_at;
    }
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_pick(const struct kvg_pick p)
{
    KVG_SHARED(struct pick_shared, s);
    float *const logits = p.logits + (size_t)blockIdx.x * p.count;
    float best = -INFINITY;
    uint32_t at = 0xffffffffu;

    for (uint32_t i = threadIdx.x; i < p.count; i += KVG_STEP_THREADS) {
        const float v = p.cap != 0 ? p.cap * tanhf(logits[i] / p.cap) : logits[i];

        logits[i] = v;
        better(best, at, v, i);
    }
    for (int d = 16; d > 0; d /= 2) {
        const float v = __shfl_xor_sync(KVG_ALL_LANES, best, d);

        better(best, at, v, __shfl_xor_sync(KVG_ALL_LANES, at, d));
    }
    if (threadIdx.x % 32 == 0) {
        s.best[threadIdx.x / 32] = best;
        s.at[threadIdx.x / 32] = at;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (uint32_t w = 1; w < KVG_STEP_WARPS; ++w)
        better(best, at, s.best[w], s.at[w]);
    p.token[blockIdx.x] = at;
}
