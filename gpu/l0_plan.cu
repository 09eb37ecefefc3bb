/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l0_plan.cu - L0's and L8's windows of exponents, a CTA a chunk: plan takes them from a book or
 * from a sample and writes the stream up to its first block; open reads and checks that.
 */
#include "l0_parts.h"

#define SAMPLE 32u /* tokens */

/* SPEC.md 3.4: by q, how far below the largest exponent the window begins, and the class. */
static __device__ const uint8_t fit_below[18] = {11, 11, 11, 11, 12, 12, 12, 12, 12,
                                                 13, 13, 13, 13, 13, 13, 13, 13, 14};
static __device__ const uint8_t fit_class[18] = {0, 0, 0, 0, 1, 1, 1, 0, 0,
                                                 1, 1, 1, 1, 0, 0, 0, 0, 1};

struct plan_shared {
    uint32_t most, sum, count;
};
static_assert(sizeof(struct plan_shared) <= KVG_L0_PLAN_SHARED, "l0.h");

template <uint32_t D>
static __device__ __forceinline__ uint32_t exponent_at(const struct kvg_chunk &c, uint32_t at)
{
    return l0_dtype<D>::exponent(
        *reinterpret_cast<const typename l0_dtype<D>::value *>(kvg_at(c, at)));
}

static __device__ __forceinline__ void write_head(const struct kvg_chunk &c, uint32_t mode,
                                                  uint32_t byte2, uint64_t id)
{
    *reinterpret_cast<uint4 *>(c.stream) =
        make_uint4(mode | (uint32_t)c.view.dtype << 8 | byte2 << 16 | L0_FORMAT << 24, c.values,
                   (uint32_t)id, (uint32_t)(id >> 32));
}

/* Entries behind the last column go on with the first. Wants a barrier before. */
static __device__ void repeat_table(const struct kvg_chunk &c)
{
    for (uint32_t i = threadIdx.x; i < KVG_TABLE_PAST; i += blockDim.x)
        c.table[c.period + i] = c.table[i % c.period];
}

/* One window: all that a chunk of few tokens or many columns gets. */
template <uint32_t D>
static __device__ void plan_one(const struct kvg_chunk &c, struct plan_shared &s)
{
    const struct kvw_view &v = c.view;
    const uint32_t in_head = v.head_bytes / l0_dtype<D>::bytes;
    const uint32_t n = min(v.tokens, SAMPLE) * in_head;
    uint32_t sum = 0, count = 0;

    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        const uint32_t t = i / in_head;
        const uint32_t e = exponent_at<D>(c, t * c.by_token.by + t % v.heads * v.head_bytes +
                                                 i % in_head * l0_dtype<D>::bytes);

        sum += e < l0_dtype<D>::special ? e : 0;
        count += e < l0_dtype<D>::special;
    }
    atomicAdd(&s.sum, sum);
    atomicAdd(&s.count, count);
    __syncthreads();

    const uint32_t start = ((s.count > 0 ? s.sum / s.count : 0) - 10) & 0xff;

    if (threadIdx.x == 0)
        write_head(c, L0_ONE, start, 0);
    for (uint32_t i = threadIdx.x; i < c.period + KVG_TABLE_PAST; i += blockDim.x)
        c.table[i] = l0_encode_entry(start, 0);
}

/* Of column i: its largest exponent, and << 8 how far the others lie below it, in sum. */
template <uint32_t D>
static __device__ uint32_t sample_column(const struct kvg_chunk &c, uint32_t i)
{
    uint32_t largest = 0, below = 0;

    for (uint32_t k = 0; k < SAMPLE; ++k) {
        const uint32_t token = (uint32_t)((uint64_t)k * c.view.tokens / SAMPLE);
        const uint32_t e = exponent_at<D>(c, token * c.by_token.by + l0_dtype<D>::bytes * i);

        largest = max(largest, e < l0_dtype<D>::special ? e : 0);
    }
    for (uint32_t k = 0; k < SAMPLE; ++k) {
        const uint32_t token = (uint32_t)((uint64_t)k * c.view.tokens / SAMPLE);
        const uint32_t e = exponent_at<D>(c, token * c.by_token.by + l0_dtype<D>::bytes * i);

        below += e < largest ? min(largest - e, 15u) : 0;
    }
    return largest | below << 8;
}

template <uint32_t D>
static __device__ void plan_columns(const struct kvg_chunk &c, struct plan_shared &s)
{
    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x) {
        const uint32_t column = sample_column<D>(c, i);

        c.spread[i] = column;
        atomicMax(&s.most, column & 0xff);
    }
    __syncthreads();

    const uint32_t most = s.most, origin = most == 0 ? 0 : (most - 74) & 0xff;

    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x) {
        const uint32_t largest = c.spread[i] & 0xff, q = (c.spread[i] >> 8) * 4 / SAMPLE;
        const uint32_t f = min(q, 17u);
        const int place = (int)largest - fit_below[f] - ((int)most - 11) + 63;
        const uint32_t byte =
            largest == 0 ? 0 : (uint32_t)fit_class[f] << 6 | (uint32_t)max(place, 1);

        c.stream[KVG_L0_HEAD + i] = (unsigned char)byte;
        c.table[i] = l0_encode_entry(l0_start(byte, origin), byte >> 6);
    }
    for (uint32_t i = c.columns + threadIdx.x; i < kvg_aligned(c.columns); i += blockDim.x)
        c.stream[KVG_L0_HEAD + i] = 0;
    __syncthreads();
    repeat_table(c);
    if (threadIdx.x == 0)
        write_head(c, L0_COLUMNS, origin, 0);
}

static __device__ void plan_book(const struct kvg_chunk &c)
{
    for (uint32_t i = threadIdx.x; i < c.columns; i += blockDim.x)
        c.table[i] = l0_encode_entry(l0_start(c.book[1 + i], c.book[0]), c.book[1 + i] >> 6);
    __syncthreads();
    repeat_table(c);
    if (threadIdx.x == 0)
        write_head(c, L0_BOOK, 0, c.book_id);
}

template <uint32_t D>
static __device__ void plan_chunk(struct plan_shared &s, const struct kvg_chunk &c)
{
    const uint32_t mode = c.book != NULL ? L0_BOOK : l0_has_one_window(c) ? L0_ONE : L0_COLUMNS;

    if (threadIdx.x == 0)
        s.most = s.sum = s.count = 0;
    __syncthreads();
    if (mode == L0_BOOK)
        plan_book(c);
    else if (mode == L0_ONE)
        plan_one<D>(c, s);
    else
        plan_columns<D>(c, s);
    for (uint32_t i = 4 * c.blocks + threadIdx.x; i < kvg_aligned(4 * c.blocks); i += blockDim.x)
        c.stream[l0_ends_at(c, mode) + i] = 0;
    __syncthreads(); /* before the next chunk */
}

#define PLAN(name, dtype)                                                                          \
    KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_l0_plan_##name(const struct kvg_batch b)    \
    {                                                                                              \
        KVG_SHARED(struct plan_shared, s);                                                         \
                                                                                                   \
        for (uint32_t i = blockIdx.x; i < b.count; i += gridDim.x)                                 \
            plan_chunk<dtype>(s, b.chunks[i]);                                                     \
    }
L0_DTYPES(PLAN)
#undef PLAN

/* ---- the way back ---------------------------------------------------------------------------- */

struct open_shared {
    uint32_t bad, places;
};
static_assert(sizeof(struct open_shared) <= KVG_L0_OPEN_SHARED, "l0.h");

/* What a stream of that mode says before its columns, by one thread. */
static __device__ bool head_is_sound(const struct kvg_chunk &c)
{
    const unsigned char *h = c.stream;
    const uint32_t raw = c.values * c.value_bytes;
    uint64_t id = 0;

    if (c.stream_bytes < KVG_L0_HEAD || h[1] != (uint32_t)c.view.dtype || h[3] != L0_FORMAT)
        return false;
    if ((h[4] | h[5] << 8 | h[6] << 16 | (uint32_t)h[7] << 24) != c.values)
        return false;
    for (int i = 0; i < 8; ++i)
        id |= (uint64_t)h[8 + i] << 8 * i;
    if (h[0] == L0_STORED)
        return h[2] == 0 && id == 0 && c.stream_bytes == KVG_L0_HEAD + raw;
    if (h[0] > L0_BOOK || c.stream_bytes >= KVG_L0_HEAD + raw)
        return false;
    if (h[0] == L0_BOOK)
        return h[2] == 0 && c.book != NULL && id == c.book_id &&
               c.stream_bytes >= l0_first_at(c, L0_BOOK);
    return id == 0 && l0_has_one_window(c) == (h[0] == L0_ONE) &&
           c.stream_bytes >= l0_first_at(c, h[0]);
}

/* The table from column bytes of the stream or of a book. Returns what this thread finds wrong. A
 * warp has a word of classes. */
static __device__ uint32_t open_columns(const struct kvg_chunk &c, struct open_shared &s,
                                        const uint8_t *of, uint32_t origin)
{
    const uint32_t past = c.period + KVG_TABLE_PAST;
    uint32_t places = 0, bad = 0;

    for (uint32_t i = threadIdx.x; i / 32 * 32 < past; i += blockDim.x) {
        const uint32_t byte = of[i % c.period];
        const uint32_t classes = __ballot_sync(KVG_ALL, byte >> 6 & 1);

        places |= byte & 63;
        bad |= byte >> 7 | ((byte & 63) == 0 && byte != 0);
        if (i < past)
            l0_starts(c)[i] = (unsigned char)l0_start(byte, origin);
        if (i % 32 == 0)
            l0_classes(c)[i / 32] = classes;
    }
    atomicOr(&s.places, places);
    __syncthreads();
    return bad | (s.places == 0 && origin != 0);
}

static __device__ void open_one(const struct kvg_chunk &c, uint32_t start)
{
    const uint32_t past = c.period + KVG_TABLE_PAST;

    for (uint32_t i = threadIdx.x; i < past; i += blockDim.x) {
        l0_starts(c)[i] = (unsigned char)start;
        if (i % 32 == 0)
            l0_classes(c)[i / 32] = 0;
    }
}

/* This thread's share of [from, to) of the stream is zero: 0. */
static __device__ uint32_t not_zero(const struct kvg_chunk &c, uint32_t from, uint32_t to)
{
    uint32_t any = 0;

    for (uint32_t i = from + threadIdx.x; i < to; i += blockDim.x)
        any |= c.stream[i];
    return any;
}

static __device__ uint32_t open_mode(const struct kvg_chunk &c, struct open_shared &s,
                                     uint32_t mode)
{
    const unsigned char *h = c.stream;
    const uint32_t ends = l0_ends_at(c, mode);
    uint32_t bad = not_zero(c, ends + 4 * c.blocks, l0_first_at(c, mode));

    if (mode == L0_ONE)
        open_one(c, h[2]);
    else if (mode == L0_COLUMNS)
        bad |=
            open_columns(c, s, h + KVG_L0_HEAD, h[2]) | not_zero(c, KVG_L0_HEAD + c.columns, ends);
    else
        bad |= open_columns(c, s, c.book + 1, c.book[0]);
    return bad;
}

static __device__ void open_chunk(struct open_shared &s, const struct kvg_chunk &c)
{
    if (threadIdx.x == 0) {
        s.bad = !head_is_sound(c);
        s.places = 0;
    }
    __syncthreads();

    const bool goes_on = s.bad == 0 && c.stream[0] != L0_STORED;

    __syncthreads(); /* all have read s.bad before anybody changes it */
    if (goes_on)
        atomicOr(&s.bad, open_mode(c, s, c.stream[0]));
    __syncthreads();
    if (threadIdx.x == 0 && s.bad != 0)
        c.state->faults = 1;
    __syncthreads(); /* before the next chunk */
}

/* A head is the same for all dtypes. */
KVG_KERNEL void __launch_bounds__(KVG_THREADS) kvg_l0_open(const struct kvg_batch b)
{
    KVG_SHARED(struct open_shared, s);

    for (uint32_t i = blockIdx.x; i < b.count; i += gridDim.x)
        open_chunk(s, b.chunks[i]);
}
