/* SPDX-License-Identifier: Apache-2.0 */
#include "columns.h"

#include <string.h>

#include "../kvwire/cpu.h"

/* c + count too, as far as lanes are read past the last column, however few columns there are. */
static void tile(struct kvc_columns *c)
{
    for (uint32_t i = 0; i < KVC_TILE_PAST; ++i) {
        c->start[c->count + i] = c->start[i];
        c->class_row[c->count + i] = c->class_row[i];
    }
}

void kvc_columns_one(struct kvc_columns *c, uint8_t start)
{
    c->count = 1;
    c->start[0] = start;
    c->class_row[0] = 0;
    tile(c);
}

bool kvc_columns_read(struct kvc_columns *c, uint8_t origin, const uint8_t *of, uint32_t count)
{
    uint8_t largest = 0, places = 0;
    bool sound = true;

    c->count = count;
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t place = of[i] & KVC_COLUMN_PLACES;

        largest = of[i] > largest ? of[i] : largest;
        places |= place;
        sound &= place != 0 || of[i] == 0;
        c->start[i] = (uint8_t)(place == 0 ? KVC_ZERO_START : origin + place);
        c->class_row[i] = (uint8_t)((of[i] >> KVC_CLASS_SHIFT) * KVC_WINDOW);
    }
    tile(c);
    return sound && largest >> KVC_CLASS_SHIFT < KVC_CLASSES && (places != 0 || origin == 0);
}

static uint32_t token_values(const struct kvw_view *v)
{
    return v->heads * (v->head_bytes / kvw_dtype_bytes(v->dtype));
}

static void token_exponents(const struct kvw_view *v, const struct kvc_lanes *lanes, uint32_t token,
                            uint8_t *row)
{
    const uint32_t n = v->head_bytes / kvw_dtype_bytes(v->dtype);

    if (v->head_stride == v->head_bytes) {
        lanes->exponents(v->dtype, kvw_view_at(v, token, 0), token_values(v), row);
        return;
    }
    for (uint32_t h = 0; h < v->heads; ++h)
        lanes->exponents(v->dtype, kvw_view_at(v, token, h), n, row + h * n);
}

/*
 * How far below its largest exponent a channel's sample lies on average, in quarters, says how its
 * values are spread and so where the window goes and which class fits. Fitted like the classes.
 */
static const struct {
    uint8_t below; /* the window starts so far below the largest exponent */
    uint8_t class;
} fits[] = {
    {11, 0}, {11, 0}, {11, 0}, {11, 0}, {12, 1}, {12, 1}, {12, 1}, {12, 0}, {12, 0},
    {13, 1}, {13, 1}, {13, 1}, {13, 1}, {13, 0}, {13, 0}, {13, 0}, {13, 0}, {14, 1},
};
#define FITS            (sizeof(fits) / sizeof(fits[0]))
#define BELOW_MOST      15 /* one zero in a sample mustn't outweigh all else */
#define QUARTERS        4
#define MEAN_PLACE      10
#define COLUMNS_AT_ONCE 1024

/* The exponent of NaN and infinity, which say nothing of where a column's values lie; 256: e4m3
 * has none but in one NaN, whose exponent is that of ordinary values. */
static uint32_t special_of(kvw_dtype dtype)
{
    switch (dtype) {
    case KVW_DTYPE_BF16:
        return 255;
    case KVW_DTYPE_F8_E4M3:
        return 256;
    default:
        return 31;
    }
}

static KVW_FOR_EACH_CPU void raise_to(uint8_t *restrict largest, const uint8_t *restrict row,
                                      uint32_t n, uint32_t special)
{
    const uint8_t most = (uint8_t)(special - 1);

    for (uint32_t c = 0; c < n; ++c) {
        const uint8_t e = row[c] <= most ? row[c] : 0;

        largest[c] = e > largest[c] ? e : largest[c];
    }
}

/* What lies above the largest is special, and counts as 0. */
static KVW_FOR_EACH_CPU void add_below(uint16_t *restrict below, const uint8_t *restrict largest,
                                       const uint8_t *restrict row, uint32_t n)
{
    for (uint32_t i = 0; i < n; ++i) {
        const uint8_t d = (uint8_t)(largest[i] > row[i] ? largest[i] - row[i] : 0);

        below[i] = (uint16_t)(below[i] + (d < BELOW_MOST ? d : BELOW_MOST));
    }
}

void kvc_columns_sample(struct kvc_column_bytes *to, const struct kvw_view *v, uint32_t columns,
                        const struct kvc_lanes *lanes, uint8_t *rows)
{
    const uint32_t n = v->tokens < KVC_SAMPLE_TOKENS ? v->tokens : KVC_SAMPLE_TOKENS;
    uint8_t *largest = to->of, most = 0;

    memset(largest, 0, columns);
    for (uint32_t s = 0; s < n; ++s) {
        uint8_t *row = rows + (size_t)s * columns;

        token_exponents(v, lanes, (uint32_t)((uint64_t)s * v->tokens / n), row);
        raise_to(largest, row, columns, special_of(v->dtype));
    }
    for (uint32_t c = 0; c < columns; ++c)
        most = largest[c] > most ? largest[c] : most;

    /* Starts lie 11 to 14 below the largest exponent, and at most 63 below the highest start. */
    to->origin = (uint8_t)(most == 0 ? 0 : most - fits[0].below - KVC_COLUMN_PLACES);
    for (uint32_t c = 0; c < columns; c += COLUMNS_AT_ONCE) {
        const uint32_t part = columns - c < COLUMNS_AT_ONCE ? columns - c : COLUMNS_AT_ONCE;
        uint16_t below[COLUMNS_AT_ONCE] = {0};

        for (uint32_t s = 0; s < n; ++s)
            add_below(below, largest + c, rows + (size_t)s * columns + c, part);
        for (uint32_t i = 0; i < part; ++i) {
            const uint32_t quarters = below[i] * QUARTERS / n;
            const uint32_t f = quarters < FITS ? quarters : FITS - 1;
            const int place =
                largest[c + i] - fits[f].below - (most - fits[0].below) + KVC_COLUMN_PLACES;

            to->of[c + i] = (uint8_t)(largest[c + i] == 0 ? 0
                                                          : fits[f].class << KVC_CLASS_SHIFT |
                                                                (place > 1 ? place : 1));
        }
    }
}

uint8_t kvc_columns_sample_one(const struct kvw_view *v, const struct kvc_lanes *lanes,
                               uint8_t *row)
{
    const uint32_t special = special_of(v->dtype);
    uint64_t sum = 0, count = 0;

    for (uint32_t s = 0; s < v->tokens && s < KVC_SAMPLE_TOKENS; ++s) {
        const uint32_t values = v->head_bytes / kvw_dtype_bytes(v->dtype);

        lanes->exponents(v->dtype, kvw_view_at(v, s, s % v->heads), values, row);
        for (uint32_t i = 0; i < values; ++i) {
            sum += row[i] < special ? row[i] : 0;
            count += row[i] < special;
        }
    }
    return (uint8_t)((count > 0 ? sum / count : 0) - MEAN_PLACE);
}
