/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step_tile.cu - attention of a prompt by tensor cores: a CTA has KVG_TILE_ROWS rows, a row being a
 * head of a query, of those heads that share one of K and V; it goes over the keys in tiles, which
 * lie in shared memory, V turned, and keeps an online softmax of each row in registers.
 *
 * A warp has 16 rows. Of an m16n8k16 product lane l has, with g = l / 4 and t = l % 4: of A rows g
 * and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9; of B column g, the same rows; of the sums rows g
 * and g + 8, columns 2t and 2t + 1.
 */
#include "step_parts.h"

static const uint32_t KEYS = KVG_TILE_KEYS, GROUPS = KEYS / 8; /* groups: a product's columns */

template <uint32_t DIM> struct tile_shared { /* padded, so that rows begin in other banks */
    uint16_t k[KEYS][DIM + 8];
    uint16_t v[DIM][KEYS + 8];
};
static_assert(sizeof(struct tile_shared<64>) <= KVG_TILE_SHARED(64), "steps.h");
static_assert(sizeof(struct tile_shared<128>) <= KVG_TILE_SHARED(128), "steps.h");

/* What a lane has of its two rows. */
template <uint32_t DIM> struct tile_rows {
    uint32_t q[DIM / 16][4];
    float out[DIM / 8][4];
    float max[2], sum[2];
    uint32_t at[2], first[2]; /* positions: the query's, and the first it sees; none: first > at */
};

static __device__ __forceinline__ uint32_t pair(uint16_t low, uint16_t high)
{
    return low | (uint32_t)high << 16;
}

static __device__ __forceinline__ uint32_t both(const uint16_t *two)
{
    return pair(two[0], two[1]);
}

/* Row `row` of the CTA's heads, columns d and d + 1. */
static __device__ __forceinline__ uint32_t query(const struct kvg_attend &p, uint32_t row,
                                                 uint32_t kv_head, uint32_t d)
{
    const uint32_t token = row / p.group, head = kv_head * p.group + row % p.group;

    if (token >= p.tokens || d >= p.dim)
        return 0;
    return both(p.q + ((size_t)token * p.heads + head) * p.dim + d);
}

template <uint32_t DIM>
static __device__ void begin_rows(const struct kvg_attend &p, uint32_t row, uint32_t kv_head,
                                  struct tile_rows<DIM> &r)
{
    const uint32_t t = threadIdx.x % 4;

#pragma unroll
    for (uint32_t i = 0; i < DIM / 16; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j)
            r.q[i][j] = query(p, row + j % 2 * 8, kv_head, 16 * i + 2 * t + j / 2 * 8);
    }
#pragma unroll
    for (uint32_t i = 0; i < DIM / 8; ++i)
        r.out[i][0] = r.out[i][1] = r.out[i][2] = r.out[i][3] = 0;
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t token = (row + h * 8) / p.group;

        r.max[h] = -INFINITY;
        r.sum[h] = 0;
        r.at[h] = p.first + token;
        r.first[h] = token < p.tokens ? kvg_first_seen(p.window, r.at[h]) : r.at[h] + 1;
    }
}

/* Eight values of a row, in bf16. */
static __device__ __forceinline__ void eight_of(const uint16_t *from, uint16_t (&to)[8])
{
    const uint4 q = *reinterpret_cast<const uint4 *>(from);

    memcpy(to, &q, sizeof(q));
}
static __device__ __forceinline__ void eight_of(const uint8_t *from, uint16_t (&to)[8])
{
    const uint2 q = *reinterpret_cast<const uint2 *>(from);

#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) /* bf16 has every e4m3 */
        to[j] = __float_as_uint(kvg_wide((uint8_t)((j < 4 ? q.x : q.y) >> 8 * (j % 4)))) >> 16;
}

/* Keys key .. key + KEYS - 1 to shared memory; zeros behind the last and past the width. */
template <uint32_t DIM, typename KV>
static __device__ void load_tile(const struct kvg_attend &p, uint32_t kv_head, uint32_t key,
                                 uint32_t last)
{
    KVG_SHARED(struct tile_shared<DIM>, s);

    __syncthreads(); /* the tile of before has been read */
    for (uint32_t i = threadIdx.x; i < KEYS * DIM / 8; i += KVG_STEP_THREADS) {
        const uint32_t at = i % KEYS, d = i / KEYS * 8;
        const bool is = key + at < last && d < p.dim;
        uint16_t k[8] = {0}, v[8] = {0};

        if (is) {
            eight_of(kvg_row<KV>(p.kv, p.kv.k, key + at, kv_head) + d, k);
            eight_of(kvg_row<KV>(p.kv, p.kv.v, key + at, kv_head) + d, v);
        }
        memcpy(__builtin_assume_aligned((void *)&s.k[at][d], sizeof(k)), k, sizeof(k));
#pragma unroll
        for (uint32_t j = 0; j < 8; ++j)
            s.v[d + j][at] = v[j];
    }
    __syncthreads();
}

/* Scores of a tile; what a row doesn't see is -infinity. */
template <uint32_t DIM>
static __device__ void score(const struct kvg_attend &p, const struct tile_rows<DIM> &r,
                             uint32_t key, float (&scores)[GROUPS][4])
{
    KVG_SHARED(struct tile_shared<DIM>, s);
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
    for (uint32_t n = 0; n < GROUPS; ++n) {
        scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0;
#pragma unroll
        for (uint32_t i = 0; i < DIM / 16; ++i) {
            const uint16_t *const k = &s.k[8 * n + g][16 * i + 2 * t];
            const uint32_t b[2] = {both(k), both(k + 8)};

            kvg_mma(scores[n], r.q[i], b);
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t at = key + 8 * n + 2 * t + j % 2;
            const bool seen = at >= r.first[j / 2] && at <= r.at[j / 2];

            scores[n][j] = seen ? scores[n][j] * p.scale : -INFINITY;
        }
    }
}

/* Scores to weights; what there is of the sums is brought along. */
template <uint32_t DIM>
static __device__ void weigh(struct tile_rows<DIM> &r, float (&scores)[GROUPS][4])
{
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        float max = r.max[h], keep;

#pragma unroll
        for (uint32_t n = 0; n < GROUPS; ++n)
            max = fmaxf(max, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
        max = fmaxf(max, __shfl_xor_sync(KVG_ALL_LANES, max, 1));
        max = fmaxf(max, __shfl_xor_sync(KVG_ALL_LANES, max, 2));
        keep = max == -INFINITY ? 1.0f : expf(r.max[h] - max);
        r.max[h] = max;
        r.sum[h] *= keep;
#pragma unroll
        for (uint32_t i = 0; i < DIM / 8; ++i) {
            r.out[i][2 * h] *= keep;
            r.out[i][2 * h + 1] *= keep;
        }
#pragma unroll
        for (uint32_t n = 0; n < GROUPS; ++n) {
#pragma unroll
            for (uint32_t j = 2 * h; j < 2 * h + 2; ++j) {
                const float weight = max == -INFINITY ? 0.0f : expf(scores[n][j] - max);

                scores[n][j] = kvg_wide(kvg_to_bf16(weight)); /* as the product reads it */
                r.sum[h] += scores[n][j];
            }
        }
    }
}

/* The weights times V. */
template <uint32_t DIM>
static __device__ void add_values(struct tile_rows<DIM> &r, const float (&weights)[GROUPS][4])
{
    KVG_SHARED(struct tile_shared<DIM>, s);
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
    for (uint32_t i = 0; i < GROUPS / 2; ++i) {
        const float(&low)[4] = weights[2 * i], (&high)[4] = weights[2 * i + 1];
        const uint32_t a[4] = {pair(kvg_to_bf16(low[0]), kvg_to_bf16(low[1])),
                               pair(kvg_to_bf16(low[2]), kvg_to_bf16(low[3])),
                               pair(kvg_to_bf16(high[0]), kvg_to_bf16(high[1])),
                               pair(kvg_to_bf16(high[2]), kvg_to_bf16(high[3]))};

#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; ++n) {
            const uint16_t *const v = &s.v[8 * n + g][16 * i + 2 * t];
            const uint32_t b[2] = {both(v), both(v + 8)};

            kvg_mma(r.out[n], a, b);
        }
    }
}

template <uint32_t DIM>
static __device__ void end_rows(const struct kvg_attend &p, uint32_t row, uint32_t kv_head,
                                struct tile_rows<DIM> &r)
{
    const uint32_t t = threadIdx.x % 4;

#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t token = (row + h * 8) / p.group;
        const uint32_t head = kv_head * p.group + (row + h * 8) % p.group;
        uint16_t *const out = p.out + ((size_t)token * p.heads + head) * p.dim;
        float sum = r.sum[h];

        sum += __shfl_xor_sync(KVG_ALL_LANES, sum, 1);
        sum += __shfl_xor_sync(KVG_ALL_LANES, sum, 2);
        sum /= p.out_scale;
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; ++n) {
#pragma unroll
            for (uint32_t j = 0; j < 2; ++j) {
                if (token < p.tokens && 8 * n + 2 * t + j < p.dim)
                    out[8 * n + 2 * t + j] = kvg_to_bf16(r.out[n][2 * h + j] / sum);
            }
        }
    }
}

template <uint32_t DIM, typename KV> static __device__ void attend_tile(const struct kvg_attend &p)
{
    const uint32_t kv_heads = p.heads / p.group;
    const uint32_t tile = blockIdx.x / kv_heads, kv_head = blockIdx.x - tile * kv_heads;
    const uint32_t row = tile * KVG_TILE_ROWS + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const uint32_t first = tile * KVG_TILE_ROWS / p.group; /* tokens of the CTA's rows */
    const uint32_t last = min(((tile + 1) * KVG_TILE_ROWS - 1) / p.group, p.tokens - 1);
    const uint32_t end = p.first + last + 1;
    struct tile_rows<DIM> r;

    begin_rows(p, row, kv_head, r);
    for (uint32_t key = kvg_first_seen(p.window, p.first + first) / KEYS * KEYS; key < end;
         key += KEYS) {
        float scores[GROUPS][4];

        load_tile<DIM, KV>(p, kv_head, key, end);
        score(p, r, key, scores);
        weigh(r, scores);
        add_values(r, scores);
    }
    end_rows(p, row, kv_head, r);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_64(const struct kvg_attend p)
{
    attend_tile<64, uint16_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS) kvg_attend_64_e4m3(const struct kvg_attend p)
{
    attend_tile<64, uint8_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS, 2) kvg_attend_128(const struct kvg_attend p)
{
    attend_tile<128, uint16_t>(p);
}

KVG_KERNEL void __launch_bounds__(KVG_STEP_THREADS, 2)
    kvg_attend_128_e4m3(const struct kvg_attend p)
{
    attend_tile<128, uint8_t>(p);
}
