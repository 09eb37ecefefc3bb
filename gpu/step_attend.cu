/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_attend.cu - attention over pages, a warp a head of a query: a lane a key for the scores, a
 * lane every 32nd value for the output. Prompts have tensor cores where they can (step_tile.cu).
 */
#include "step_parts.h"

#define LANE_VALUES (KVG_DIM_MAX / 32)

struct attend_shared {
    float query[KVG_STEP_WARPS][KVG_DIM_MAX];
    float weights[KVG_STEP_WARPS][32];
};
static_assert(sizeof(struct attend_shared) <= KVG_ATTEND_SHARED, "steps.h");

/* An online softmax: the largest score, the sum of exp(score - max), and of that times V. */
struct attend_part {
    float max, sum, out[LANE_VALUES]; /* out: values lane, lane + 32 .. */
};

template <typename KV>
static __device__ __forceinline__ float dot(const float *query, const KV *key, uint32_t dim)
{
    float sum = 0;

    for (uint32_t d = 0; d < dim; ++d)
        sum += query[d] * kvg_wide(key[d]);
    return sum;
}

/* Bring the part along by the n keys from `key` on, n up to 32. */
template <typename KV>
static __device__ void add_keys(const struct kvg_attend &p, uint32_t head, uint32_t key, uint32_t n,
                                struct attend_part &part)
{
    KVG_SHARED(struct attend_shared, s);
    const uint32_t lane = threadIdx.x % 32, w = threadIdx.x / 32, of = head / p.group;
    const float score =
        lane < n ? dot(s.query[w], kvg_row<KV>(p.kv, p.kv.k, key + lane, of), p.dim) : -INFINITY;
    const float max = fmaxf(part.max, kvg_warp_max(score));
    const float keep = expf(part.max - max), weight = lane < n ? expf(score - max) : 0.0f;

    part.max = max;
    part.sum = part.sum * keep + kvg_warp_sum(weight);
    s.weights[w][lane] = weight;
    __syncwarp();
#pragma unroll
    for (uint32_t j = 0; j < LANE_VALUES; ++j)
        part.out[j] *= keep;
    for (uint32_t i = 0; i < n; ++i) {
        const KV *const v = kvg_row<KV>(p.kv, p.kv.v, key + i, of);

#pragma unroll
        for (uint32_t j = 0; j < LANE_VALUES; ++j) {
            if (lane + 32 * j < p.dim)
                part.out[j] += s.weights[w][i] * kvg_wide(v[lane + 32 * j]);
        }
    }
    __syncwarp(); /* the weights have been read */
}

/* Query `token` and its head against the keys first .. last-1, of which there is one at least. */
template <typename KV>
static __device__ void attend_keys(const struct kvg_attend &p, size_t query, uint32_t first,
                                   uint32_t last, struct attend_part &part)
{
    KVG_SHARED(struct attend_shared, s);
    const uint32_t lane = threadIdx.x % 32, w = threadIdx.x / 32;

    for (uint32_t d = lane; d < p.dim; d += 32)
        s.query[w][d] = kvg_wide(p.q[query * p.dim + d]) * p.scale;
    __syncwarp();
    part.max = -INFINITY;
    part.sum = 0;
#pragma unroll
    for (uint32_t j = 0; j < LANE_VALUES; ++j)
        part.out[j] = 0;
    for (uint32_t key = first; key < last; key += 32)
        add_keys<KV>(p, (uint32_t)(query % p.heads), key, min(last - key, 32u), part);
}

template <typename KV> static __device__ void attend_query(const struct kvg_attend &p)
{
    const uint32_t query = kvg_warp(), lane = threadIdx.x % 32, at = p.first + query / p.heads;
    struct attend_part part;

    if (query >= p.tokens * p.heads)
        return;
    attend_keys<KV>(p, query, kvg_first_seen(p.window, at), at + 1, part);
    part.sum /= p.out_scale;
#pragma unroll
    for (uint32_t j = 0; j < LANE_VALUES; ++j) {
        if (lane + 32 * j < p.dim)
            p.out[(size_t)query * p.dim + lane + 32 * j] = kvg_to_bf16(part.out[j] / part.sum);
    }
}

template <typename KV> static __device__ void attend_segment(const struct kvg_attend &p)
{
    const uint32_t first = kvg_first_seen(p.window, p.first), keys = p.first + 1 - first;
    const uint32_t segment = kvg_warp() / p.heads, head = kvg_warp() - segment * p.heads;
    const uint32_t from = first + segment * KVG_KEY_SEGMENT, lane = threadIdx.x % 32;
    const size_t at = (size_t)segment * p.heads + head;
    struct attend_part part;

    if (segment * KVG_KEY_SEGMENT >= keys)
        return;
    attend_keys<KV>(p, head, from, min(from + KVG_KEY_SEGMENT, p.first + 1), part);
    if (lane == 0) {
        p.part_max[at] = part.max;
        p.part_sum[at] = part.sum;
    }
#pragma unroll
    for (uint32_t j = 0; j < LANE_VALUES; ++j) {
        if (lane + 32 * j < p.dim)
            p.part_out[at * p.dim + lane + 32 * j] = part.out[j];
    }
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend(const struct kvg_attend p)
{
    attend_query<uint16_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_e4m3(const struct kvg_attend p)
{
    attend_query<uint8_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_part(const struct kvg_attend p)
{
    attend_segment<uint16_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_part_e4m3(const struct kvg_attend p)
{
    attend_segment<uint8_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_join(const struct kvg_attend p)
{
    const uint32_t head = kvg_warp(), keys = p.first + 1 - kvg_first_seen(p.window, p.first);
    const uint32_t segments = (keys + KVG_KEY_SEGMENT - 1) / KVG_KEY_SEGMENT;
    float max = -INFINITY, sum = 0;

    if (head >= p.heads)
        return;
    for (uint32_t s = 0; s < segments; ++s)
        max = fmaxf(max, p.part_max[s * p.heads + head]);
    for (uint32_t s = 0; s < segments; ++s)
        sum += p.part_sum[s * p.heads + head] * expf(p.part_max[s * p.heads + head] - max);
    sum /= p.out_scale;
    for (uint32_t d = threadIdx.x % 32; d < p.dim; d += 32) {
        float out = 0;

        for (uint32_t s = 0; s < segments; ++s) {
            const size_t at = (size_t)s * p.heads + head;

            out += p.part_out[at * p.dim + d] * expf(p.part_max[at] - max);
        }
        p.out[head * p.dim + d] = kvg_to_bf16(out / sum);
    }
}
