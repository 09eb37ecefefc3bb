/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bf16_open.h - where the planes of a coded block lie (SPEC.md 2, shape 2-1-2-2), which has to be
 * known before its values can be put together. For the files that are compiled with BMI2.
 *
 * threads  pure functions      memory  the caller's      time  none
 */
#ifndef KVC_BF16_OPEN_H
#define KVC_BF16_OPEN_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "../lanes.h"

struct opened {
    const uint8_t *first[2];   /* the planes of group 0: the low one, the high one */
    uint32_t n[3];             /* lanes in groups 1, 2 and 3 */
    const uint8_t *plane;      /* of group 1 */
    const uint8_t *pair[2][2]; /* of groups 2 and 3: as of group 0 */
    const uint8_t *escaped;    /* the exponents of all escapes, in order */
};

/* Planes of a stream, one after the other. */
struct cursor {
    const uint8_t *at, *end;
};

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static inline uint64_t lanes_left(uint32_t n)
{
    return n >= 64 ? ~0ull : (1ull << n) - 1;
}

/* 64 bits from bit at on. Shifts are modulo 64, as the CPU's are. */
static inline uint64_t get(const uint8_t *from, uint64_t at)
{
    const uint8_t *p = from + at / 64 * 8;

    return load64(p) >> (at & 63) | load64(p + 8) << 1 << (~at & 63);
}

/* A plane of `bits` bits, padded to `bytes`. NULL: there is no room, or padding isn't zero. */
static inline const uint8_t *take_padded(struct cursor *c, uint32_t bits, uint32_t bytes)
{
    const uint8_t *plane = c->at;
    const uint32_t used = (bits + 7) / 8;

    if (bytes > (uint64_t)(c->end - plane) || (bits % 8 != 0 && plane[used - 1] >> bits % 8 != 0) ||
        !kvc_is_zero(plane + used, bytes - used))
        return NULL;
    c->at += bytes;
    return plane;
}

static inline const uint8_t *take(struct cursor *c, uint32_t bits)
{
    return take_padded(c, bits, (bits + 7) / 8);
}

static inline bool take_pair(struct cursor *c, uint32_t bits, const uint8_t *pair[2])
{
    return (pair[0] = take(c, bits)) != NULL && (pair[1] = take(c, bits)) != NULL;
}

/* How many of n lanes have a one in both planes. */
static inline uint32_t count_ones(const uint8_t *a, const uint8_t *b, uint32_t n)
{
    uint32_t count = 0;

    for (uint32_t at = 0; at < n; at += 64)
        count += (uint32_t)__builtin_popcountll(load64(a + at / 8) & load64(b + at / 8) &
                                                lanes_left(n - at));
    return count;
}

/* A block's bytes as kvc_bf16.decode takes them. false: the planes and escapes aren't what there is
 * room for, or a padding bit is set. */
static inline bool open_block(const uint8_t *from, uint32_t bytes, uint32_t n, struct opened *o)
{
    const uint32_t first = kvc_first_plane(n);
    struct cursor c = {from + kvc_aligned(n), from + bytes};

    if ((o->first[0] = take_padded(&c, n, first)) == NULL ||
        (o->first[1] = take_padded(&c, n, first)) == NULL)
        return false;
    o->n[0] = count_ones(o->first[0], o->first[1], n);
    if ((o->plane = take(&c, o->n[0])) == NULL)
        return false;
    o->n[1] = count_ones(o->plane, o->plane, o->n[0]);
    if (!take_pair(&c, o->n[1], o->pair[0]))
        return false;
    o->n[2] = count_ones(o->pair[0][0], o->pair[0][1], o->n[1]);
    if (!take_pair(&c, o->n[2], o->pair[1]))
        return false;
    o->escaped = c.at;
    return count_ones(o->pair[1][0], o->pair[1][1], o->n[2]) == c.end - c.at;
}

#endif
