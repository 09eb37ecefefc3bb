/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e_plan.cu - E8's and E4's channels, a CTA a chunk: plan takes them from a sample and writes the
 * stream up to its exact tokens, or finds that the chunk is stored; open reads and checks that.
 * Each float is rounded as compress/e_plan.c has it, operation after operation.
 */
#include "e_parts.h"

#define SAMPLES  64u
#define STEP_MIN 0x1p-60f
#define LOW_FROM 3.5f

struct plan_shared {
    uint32_t token[SAMPLES]; /* the sampled ones, among those coded */
    float lane[E_LANES];
    uint32_t group[E_GROUPS];
    float step; /* 0: none */
    uint32_t follows;
};
static_assert(sizeof(struct plan_shared) <= KVG_E_PLAN_SHARED, "e.h");

/* step: its bits; 0: stored. */
static __device__ void write_head(const struct kvg_chunk &c, const struct e_cut &k, uint32_t step)
{
    uint4 *head = reinterpret_cast<uint4 *>(c.stream);
    const bool coded = step != 0;

    head[0] = make_uint4((coded ? E_CODED : E_STORED) | (uint32_t)c.view.dtype << 8 | step,
                         coded ? c.columns : 0, coded ? c.view.tokens : 0, coded ? k.first : 0);
    head[1] = make_uint4(coded ? k.last : 0, coded ? k.blocks : 0, E_FORMAT, 0);
}

template <uint32_t D>
static __device__ __forceinline__ float value_at(const struct kvg_chunk &c, uint32_t token,
                                                 uint32_t channel)
{
    const uint32_t bits =
        *reinterpret_cast<const uint16_t *>(kvg_at(c, token * c.by_token.by + 2 * channel));

    return e_dtype<D>::is_huge(bits) ? 0 : e_dtype<D>::value(bits);
}

/* Sums of a channel's sampled values, of their squares, of their products with the token before. */
static __device__ __forceinline__ void put_sums(const struct kvg_chunk &c, uint32_t i, float sum,
                                                float square, float cross)
{
    c.spread[i] = __float_as_uint(sum);
    c.spread[c.columns + i] = __float_as_uint(square);
    c.spread[2 * c.columns + i] = __float_as_uint(cross);
}
static __device__ __forceinline__ float sum_of(const struct kvg_chunk &c, uint32_t which,
                                               uint32_t i)
{
    return __uint_as_float(c.spread[which * c.columns + i]);
}

template <uint32_t D>
static __device__ void sample(const struct kvg_chunk &c, const struct plan_shared &s,
                              const struct e_cut &k)
{
    const uint32_t n = min(k.coded, SAMPLES);

    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x) {
        float sum = 0, square = 0, cross = 0;

        for (uint32_t j = 0; j < n; ++j) {
            const uint32_t t = s.token[j];
            const float v = value_at<D>(c, k.first + t, i);

            sum = __fadd_rn(sum, v);
            square = __fadd_rn(square, __fmul_rn(v, v));
            if (c.foretells != 0 && t > 0)
                cross = __fadd_rn(cross, __fmul_rn(v, value_at<D>(c, k.first + t - 1, i)));
        }
        put_sums(c, i, sum, square, cross);
    }
}

/* Channel after channel to lane 0 .. 63, then halves added until one is left: by the first warp,
 * whose lane 0 returns the sum. */
static __device__ float energy_of(const struct kvg_chunk &c, struct plan_shared &s)
{
    float sum;

    for (uint32_t j = threadIdx.x; j < E_LANES; j += 32) {
        sum = 0;
        for (uint32_t i = j; i < c.columns; i += E_LANES)
            sum = __fadd_rn(sum, sum_of(c, 1, i));
        s.lane[j] = sum;
    }
    sum = __fadd_rn(s.lane[threadIdx.x], s.lane[threadIdx.x + 32]);
    for (int half = 16; half > 0; half /= 2)
        sum = __fadd_rn(sum, __shfl_down_sync(KVG_ALL, sum, half));
    return sum;
}

/* bf16, so that products with whole numbers are exact. */
static __device__ float step_of(const struct kvg_chunk &c, const struct e_cut &k, float energy)
{
    const uint32_t sampled = min(k.coded, SAMPLES) * c.columns;
    const float rms = __fsqrt_rn(__fdiv_rn(energy, __int2float_rn((int)sampled)));
    const float step = __uint_as_float(__float_as_uint(__fmul_rn(rms, c.noise)) & 0xffff0000u);

    return step >= STEP_MIN ? step : 0;
}

/* To nearest, ties to even, for |f| <= 2047: the lowest bits of a float whose unit is 1. */
static __device__ __forceinline__ int nearest(float f)
{
    return (int16_t)(__float_as_uint(__fadd_rn(f, 0x1.8p23f)) - 0x4b400000u);
}

/* A channel's numbers to the stream. part: 1 / tokens sampled. */
static __device__ void calibrate(const struct kvg_chunk &c, uint32_t i, float step, float part)
{
    const float most = E_Q_MAX, mean = __fmul_rn(sum_of(c, 0, i), part),
                square = __fmul_rn(mean, mean);
    const float var = __fsub_rn(__fmul_rn(sum_of(c, 1, i), part), square);
    const float cov = __fsub_rn(__fmul_rn(sum_of(c, 2, i), part), square);
    const float cov8 = __fmul_rn(8, cov);
    int follow = 0, low = 0;

    if (c.foretells != 0)
        follow = (cov8 > var) + (cov8 > __fmul_rn(3, var)) + (cov8 > __fmul_rn(5, var)) +
                 (cov8 > __fmul_rn(7, var));

    const float a = __int2float_rn(follow);
    const float rest =
        __fsub_rn(__fadd_rn(var, __fmul_rn(__fmul_rn(__fmul_rn(a, a), 0.0625f), var)),
                  __fmul_rn(__fmul_rn(a, 0.5f), cov));
    float limit = __fmul_rn(__fmul_rn(step, step), LOW_FROM);

    for (uint32_t p = 0; p < E_LOW_MAX; ++p, limit = __fmul_rn(limit, 4))
        low += rest > limit;

    float centre =
        __fadd_rn(__fmul_rn(mean, __fdiv_rn(1, step)), follow == 0 && low > 0 ? 0.5f : 0.0f);

    centre = centre > most ? most : centre < -most ? -most : centre;
    *reinterpret_cast<int16_t *>(c.stream + KVG_E_HEAD + 2 * i) = (int16_t)nearest(centre);
    c.stream[e_bits_at(c) + i] = (unsigned char)(low | follow << 4);
}

static __device__ void zero(const struct kvg_chunk &c, uint32_t from, uint32_t to)
{
    for (uint32_t i = from + threadIdx.x; i < to; i += blockDim.x)
        c.stream[i] = 0;
}

/* Whether the chunk can be coded at all, and is shorter before its first block. */
static __device__ __forceinline__ bool is_codable(const struct kvg_chunk &c, const struct e_cut &k)
{
    return c.columns <= KVG_UNIT_MAX && k.coded > 0 && e_first_at(c, k) < c.values * c.value_bytes;
}

static __device__ void write_front(const struct kvg_chunk &c, struct plan_shared &s,
                                   const struct e_cut &k)
{
    const float part = __fdiv_rn(1, __int2float_rn((int)min(k.coded, SAMPLES)));

    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x)
        calibrate(c, i, s.step, part);
    zero(c, KVG_E_HEAD + 2 * c.columns, e_bits_at(c));
    zero(c, e_bits_at(c) + c.columns, e_entries_at(c));
    zero(c, e_entries_at(c) + 8 * k.blocks, e_exact_at(c, k));
    zero(c, e_exact_at(c, k) + (k.first + k.last) * e_row_bytes(c), e_first_at(c, k));
    __syncthreads();
    e_write_table(c, s.group, &s.follows);
}

template <uint32_t D>
static __device__ void plan_chunk(struct plan_shared &s, const struct kvg_chunk &c)
{
    const struct e_cut k = e_cut_of(c, c.exact_first, c.exact_last);
    const uint32_t t = threadIdx.x, n = min(k.coded, SAMPLES);
    const bool codable = is_codable(c, k);

    if (t < n)
        s.token[t] = (uint32_t)((uint64_t)t * k.coded / n);
    if (t == 0) {
        s.step = 0;
        s.follows = 0;
    }
    __syncthreads();
    if (codable)
        sample<D>(c, s, k);
    __syncthreads();
    if (codable && t < 32) {
        const float energy = energy_of(c, s);

        if (t == 0)
            s.step = step_of(c, k, energy);
    }
    __syncthreads();
    if (t == 0)
        write_head(c, k, __float_as_uint(s.step));
    if (s.step != 0)
        write_front(c, s, k);
    __syncthreads(); /* before the next chunk */
}

#define PLAN(name, dtype)                                                                          \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_e_plan_##name(const struct kvg_batch b)     \
    {                                                                                              \
        KVG_SHARED(struct plan_shared, s);                                                         \
                                                                                                   \
        for (uint32_t i = blockIdx.x; i < b.count; i += gridDim.x)                                 \
            plan_chunk<dtype>(s, b.chunks[i]);                                                     \
    }
E_DTYPES(PLAN)
#undef PLAN

/* ---- the way back ---------------------------------------------------------------------------- */

struct open_shared {
    uint32_t group[E_GROUPS];
    uint32_t bad, follows;
};
static_assert(sizeof(struct open_shared) <= KVG_E_OPEN_SHARED, "e.h");

/* What a stream says before its channels, by one thread. */
static __device__ bool head_is_sound(const struct kvg_chunk &c)
{
    const uint32_t raw = c.values * c.value_bytes;

    if (c.stream_bytes < KVG_E_HEAD)
        return false;

    const uint4 *head = reinterpret_cast<const uint4 *>(c.stream);
    const uint4 a = head[0], b = head[1];
    const float step = __uint_as_float(a.x & 0xffff0000u);

    if ((a.x >> 8 & 0xff) != (uint32_t)c.view.dtype || b.z != E_FORMAT || b.w != 0)
        return false;
    if ((a.x & 0xff) == E_STORED)
        return (a.x >> 16 | a.y | a.z | a.w | b.x | b.y) == 0 && c.stream_bytes == KVG_E_HEAD + raw;
    if ((a.x & 0xff) != E_CODED || c.columns > KVG_UNIT_MAX || a.y != c.columns ||
        a.z != c.view.tokens || a.w > c.view.tokens || b.x > c.view.tokens - a.w ||
        !(step >= STEP_MIN && step <= 0x1p50f) || c.stream_bytes >= raw)
        return false;

    const struct e_cut k = e_cut_of(c, a.w, b.x);

    return k.coded > 0 && b.y == k.blocks && e_first_at(c, k) <= c.stream_bytes;
}

/* This thread's share of [from, to) of the stream is zero: 0. */
static __device__ uint32_t not_zero(const struct kvg_chunk &c, uint32_t from, uint32_t to)
{
    uint32_t any = 0;

    for (uint32_t i = from + threadIdx.x; i < to; i += blockDim.x)
        any |= c.stream[i];
    return any;
}

/* What this thread finds wrong with channels and padding. */
static __device__ uint32_t front_is_bad(const struct kvg_chunk &c)
{
    const uint32_t *head = reinterpret_cast<const uint32_t *>(c.stream);
    const struct e_cut k = e_cut_of(c, head[3], head[4]);
    uint32_t bad =
        not_zero(c, KVG_E_HEAD + 2 * c.columns, e_bits_at(c)) |
        not_zero(c, e_bits_at(c) + c.columns, e_entries_at(c)) |
        not_zero(c, e_entries_at(c) + 8 * k.blocks, e_exact_at(c, k)) |
        not_zero(c, e_exact_at(c, k) + (k.first + k.last) * e_row_bytes(c), e_first_at(c, k));

    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x) {
        const int base = *reinterpret_cast<const int16_t *>(c.stream + KVG_E_HEAD + 2 * i);
        const uint32_t bits = c.stream[e_bits_at(c) + i];

        bad |= base > E_Q_MAX || base < -E_Q_MAX || (bits & 15) > E_LOW_MAX || bits >> 4 > 4;
    }
    return bad;
}

static __device__ void open_chunk(struct open_shared &s, const struct kvg_chunk &c)
{
    if (threadIdx.x == 0) {
        s.bad = !head_is_sound(c);
        s.follows = 0;
    }
    __syncthreads();

    const bool goes_on = s.bad == 0 && c.stream[0] != E_STORED;

    __syncthreads(); /* all have read s.bad before anybody changes it */
    if (goes_on) {
        atomicOr(&s.bad, front_is_bad(c));
        e_write_table(c, s.group, &s.follows); /* with a barrier in it */
    }
    if (threadIdx.x == 0 && s.bad != 0)
        c.state->faults = 1;
}

/* A front is the same for both dtypes. */
KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_e_open(const struct kvg_batch b)
{
    KVG_SHARED(struct open_shared, s);

    for (uint32_t i = blockIdx.x; i < b.count; i += gridDim.x)
        open_chunk(s, b.chunks[i]);
}
