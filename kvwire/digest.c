/* SPDX-License-Identifier: Apache-2.0 */
#include "digest.h"

#include <string.h>

#include "cpu.h"
#include "wire/le.h"

#define XXH_STATIC_LINKING_ONLY /* the state's size, so that it can live in the caller's memory */
#include <xxhash.h>
#ifdef KVW_XXH_X86_DISPATCH
#include <xxh_x86dispatch.h> /* renames what is called below; same values, several times faster */
#endif

#define ROW_BYTES (4 * KVW_DIGEST_LANE_COUNT)
#define GOLDEN    0x9e3779b97f4a7c15ull

/* KVW_DIGEST_LANES between updates. */
struct lanes {
    uint32_t lane[KVW_DIGEST_LANE_COUNT];
    uint8_t row[ROW_BYTES]; /* bytes of a row that isn't whole yet */
    uint32_t in_row;
    uint32_t in_piece; /* with those in row */
    uint64_t pieces;   /* whole ones */
    uint64_t sum;
};

_Static_assert(sizeof(XXH3_state_t) <= sizeof(((struct kvw_digest *)0)->state),
               "kvw_digest.state holds XXH3's state");
_Static_assert(sizeof(struct lanes) <= sizeof(((struct kvw_digest *)0)->state),
               "kvw_digest.state holds the lanes");

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return v ^ v >> 31;
}

void kvw_digest_lanes_begin(uint32_t lanes[KVW_DIGEST_LANE_COUNT])
{
    for (uint32_t j = 0; j < KVW_DIGEST_LANE_COUNT; ++j)
        lanes[j] = (j + 1) * KVW_DIGEST_LANE_FIRST;
}

static inline uint32_t turned(uint32_t lane, uint32_t word)
{
    lane = lane << KVW_DIGEST_LANE_TURN | lane >> (32 - KVW_DIGEST_LANE_TURN);
    return (lane ^ word) * KVW_DIGEST_LANE_FACTOR;
}

static KVW_FOR_EACH_CPU void run_rows(uint32_t *restrict lanes, const uint8_t *restrict rows,
                                      uint64_t count)
{
    uint32_t lane[KVW_DIGEST_LANE_COUNT];

    memcpy(lane, lanes, sizeof(lane));
    for (; count > 0; --count, rows += ROW_BYTES)
        for (uint32_t j = 0; j < KVW_DIGEST_LANE_COUNT; ++j)
            lane[j] = turned(lane[j], kvw_load_le32(rows + 4 * j));
    memcpy(lanes, lane, sizeof(lane));
}

static uint64_t piece_value(const uint32_t lanes[KVW_DIGEST_LANE_COUNT], uint32_t bytes)
{
    uint64_t sum = bytes;

    for (uint32_t j = 0; j < KVW_DIGEST_LANE_COUNT / 2; ++j)
        sum += mix((lanes[2 * j] | (uint64_t)lanes[2 * j + 1] << 32) + (j + 1) * GOLDEN);
    return mix(sum);
}

static void add_piece(struct lanes *l, const uint32_t lanes[KVW_DIGEST_LANE_COUNT], uint32_t bytes)
{
    l->sum += mix(piece_value(lanes, bytes) + ++l->pieces * GOLDEN);
}

void kvw_digest_piece(struct kvw_digest *d, const uint32_t lanes[KVW_DIGEST_LANE_COUNT],
                      uint32_t bytes)
{
    uint32_t filled[KVW_DIGEST_LANE_COUNT];

    memcpy(filled, lanes, sizeof(filled));
    for (uint32_t at = bytes % ROW_BYTES; at % ROW_BYTES != 0; at += 4)
        filled[at / 4] = turned(filled[at / 4], 0);
    add_piece((struct lanes *)(void *)d->state, filled, bytes);
}

/* A row that isn't whole, with zeros behind it. */
static void run_rest(const struct lanes *l, uint32_t *lanes)
{
    uint8_t row[ROW_BYTES] = {0};

    if (l->in_row == 0)
        return;
    memcpy(row, l->row, l->in_row);
    run_rows(lanes, row, 1);
}

/* Up to the end of the piece, which is `left` bytes away. Returns what was taken. */
static size_t lanes_take(struct lanes *l, uint32_t left, const uint8_t *bytes, size_t n)
{
    size_t taken = 0;

    n = n < left ? n : left;
    if (l->in_row > 0) {
        taken = n < ROW_BYTES - l->in_row ? n : ROW_BYTES - l->in_row;
        memcpy(l->row + l->in_row, bytes, taken);
        l->in_row += (uint32_t)taken;
        if (l->in_row == ROW_BYTES) {
            run_rows(l->lane, l->row, 1);
            l->in_row = 0;
        }
    }
    if (l->in_row == 0) {
        const size_t rows = (n - taken) / ROW_BYTES;

        run_rows(l->lane, bytes + taken, rows);
        taken += rows * ROW_BYTES;
        memcpy(l->row, bytes + taken, n - taken);
        l->in_row = (uint32_t)(n - taken);
    }
    l->in_piece += (uint32_t)n;
    return n;
}

static void lanes_update(struct kvw_digest *d, const uint8_t *bytes, size_t n)
{
    struct lanes *l = (struct lanes *)(void *)d->state;

    while (n > 0) {
        const size_t taken = lanes_take(l, d->piece_bytes - l->in_piece, bytes, n);

        bytes += taken;
        n -= taken;
        if (l->in_piece == d->piece_bytes) {
            run_rest(l, l->lane);
            add_piece(l, l->lane, d->piece_bytes);
            kvw_digest_lanes_begin(l->lane);
            l->in_row = l->in_piece = 0;
        }
    }
}

static uint64_t lanes_value(const struct kvw_digest *d)
{
    const struct lanes *l = (const struct lanes *)(const void *)d->state;
    uint32_t lane[KVW_DIGEST_LANE_COUNT];

    if (l->in_piece == 0)
        return l->sum;
    memcpy(lane, l->lane, sizeof(lane));
    run_rest(l, lane);
    return l->sum + mix(piece_value(lane, l->in_piece) + (l->pieces + 1) * GOLDEN);
}

kvw_err kvw_digest_begin(struct kvw_digest *d, kvw_digest_id id)
{
    struct lanes *l = (struct lanes *)(void *)d->state;

    if (id != KVW_DIGEST_XXH3_64 && id != KVW_DIGEST_LANES)
        return KVW_E_UNSUPPORTED;
    d->id = id;
    d->piece_bytes = KVW_DIGEST_PIECE_BYTES;
    if (id == KVW_DIGEST_XXH3_64) {
        XXH3_64bits_reset((XXH3_state_t *)(void *)d->state);
        return KVW_OK;
    }
    kvw_digest_lanes_begin(l->lane);
    l->in_row = l->in_piece = 0;
    l->pieces = l->sum = 0;
    return KVW_OK;
}

kvw_err kvw_digest_begin_chunk(struct kvw_digest *d, kvw_digest_id id, const struct kvw_view *v)
{
    /* What isn't numbers (pool.h) has values of a byte. */
    const uint32_t known = kvw_dtype_bytes(v->dtype), value_bytes = known != 0 ? known : 1;
    const kvw_err err = kvw_digest_begin(d, id);

    if (err == KVW_OK)
        d->piece_bytes = kvw_unit_values(v->heads * (v->head_bytes / value_bytes)) * value_bytes;
    return err;
}

void kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n)
{
    if (d->id == KVW_DIGEST_LANES)
        lanes_update(d, bytes, n);
    else
        XXH3_64bits_update((XXH3_state_t *)(void *)d->state, bytes, n);
}

uint64_t kvw_digest_value(const struct kvw_digest *d)
{
    if (d->id == KVW_DIGEST_LANES)
        return lanes_value(d);
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)d->state);
}
