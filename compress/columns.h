/* SPDX-License-Identifier: Apache-2.0 */
/*
 * columns.h - where each channel of a chunk puts its window of exponents (SPEC.md 3.2), taken from
 * the stream, from a book, or from a sample of the chunk.
 *
 * threads  pure functions
 * memory   the caller's
 * time     none
 */
#ifndef KVC_COLUMNS_H
#define KVC_COLUMNS_H

#include <stdbool.h>

#include "../kvwire/mem.h"
#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVC_COLUMNS_MAX   KVC_BLOCK_VALUES /* channels that may each have their own window */
#define KVC_SAMPLE_TOKENS 32u /* a chunk of fewer has one window for all its channels */
#define KVC_CLASS_SHIFT   6   /* a column's byte: class << 6 | place of its start */
#define KVC_COLUMN_PLACES 63  /* starts origin + 1 .. origin + 63; 0 stands for ZERO_START */
#define KVC_ZERO_START    245 /* puts exponent 0 at the commonest place */

struct kvc_columns {
    uint32_t count;
    /* Aligned, so that no load of 64 columns straddles a cache line where they begin at one. */
    _Alignas(64) uint8_t start[KVC_COLUMNS_MAX + KVC_TILE_PAST];
    _Alignas(64) uint8_t class_row[KVC_COLUMNS_MAX + KVC_TILE_PAST];
};

/* What a stream says of its columns. */
struct kvc_column_bytes {
    uint8_t origin;
    uint8_t of[KVC_COLUMNS_MAX];
};

/* One window for every value, of class 0. */
void kvc_columns_one(struct kvc_columns *c, uint8_t start);

/* false: a byte names a class that there isn't, or one without a place; or no column has a place
 * and origin isn't 0. */
bool kvc_columns_read(struct kvc_columns *c, uint8_t origin, const uint8_t *of, uint32_t count);

/* From at most KVC_SAMPLE_TOKENS tokens of the view. rows: KVC_SAMPLE_TOKENS * columns bytes. */
void kvc_columns_sample(struct kvc_column_bytes *to, const struct kvw_view *v, uint32_t columns,
                        const struct kvc_lanes *lanes, uint8_t *rows);

/* The same for one window: its start; the class is always 0. */
uint8_t kvc_columns_sample_one(const struct kvw_view *v, const struct kvc_lanes *lanes,
                               uint8_t *row);

#ifdef __cplusplus
}
#endif
#endif
