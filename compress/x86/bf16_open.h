/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bf16_open.h - where the planes of a coded block lie (SPEC.md 2, shape 2-1-2-2), and which lanes
 * go on from group 0: what has to be known before its values can be put together. For the files
 * that are compiled with BMI2.
 *
 * threads  pure functions      memory  the caller's      time  none
 */
#ifndef KVC_BF16_OPEN_H
#define KVC_BF16_OPEN_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "lanes.h"

struct opened {
    uint64_t on[KVC_BLOCK_WORDS];  /* lanes that go on from group 0 */
    uint64_t top[KVC_BLOCK_WORDS]; /* its top plane, spread over the lanes that have it */
    const uint8_t *low;            /* its other plane */
    uint32_t n[3];                 /* lanes in groups 1, 2 and 3 */
    const uint8_t *plane;          /* of group 1 */
    const uint8_t *pair[2][2];     /* of groups 2 and 3: the low one, the high one */
    const uint8_t *escaped;        /* the exponents of all escapes, in order */
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

/* NULL: there is no room, or padding isn't zero. */
static inline const uint8_t *take(struct cursor *c, uint32_t bits)
{
    const uint8_t *plane = c->at;
    const uint32_t bytes = (bits + 7) / 8;

    if (bytes > (uint64_t)(c->end - plane) || (bits % 8 != 0 && plane[bytes - 1] >> bits % 8 != 0))
        return NULL;
    c->at += bytes;
    return plane;
}

static inline bool take_pair(struct cursor *c, uint32_t bits, const uint8_t *pair[2])
{
    return (pair[0] = take(c, bits)) != NULL && (pair[1] = take(c, bits)) != NULL;
}

static inline uint32_t count_wide(const uint64_t *narrow, uint32_t n)
{
    uint64_t narrows = 0;

    for (uint32_t w = 0; w < n / 64; ++w)
        narrows += (uint64_t)__builtin_popcountll(narrow[w]);
    if (n % 64 != 0)
        narrows += (uint64_t)__builtin_popcountll(narrow[n / 64] & lanes_left(n % 64));
    return n - (uint32_t)narrows;
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

/* Word w of group 0. Returns how many lanes go on; *bit moves past the word's in the top plane. */
static inline uint32_t open_word(const uint8_t *top, uint64_t narrow, uint64_t lanes, size_t w,
                                 uint64_t *bit, struct opened *o)
{
    const uint64_t wide = ~narrow & lanes;

    o->top[w] = _pdep_u64(get(top, *bit), wide);
    o->on[w] = load64(o->low + 8 * w) & (o->top[w] | narrow) & lanes;
    *bit += (uint64_t)__builtin_popcountll(wide);
    return (uint32_t)__builtin_popcountll(o->on[w]);
}

static inline uint32_t open_first(const uint8_t *top, const uint64_t *narrow, uint32_t n,
                                  struct opened *o)
{
    const size_t words = n / 64;
    uint64_t bit = 0;
    uint32_t count = 0;

    for (size_t w = 0; w < words; ++w)
        count += open_word(top, narrow[w], ~0ull, w, &bit, o);
    if (n % 64 != 0)
        count += open_word(top, narrow[words], lanes_left(n % 64), words, &bit, o);
    return count;
}

/* A block's bytes as kvc_bf16.decode takes them. false: the planes and escapes aren't what there is
 * room for, or a padding bit is set. */
static inline bool open_block(const uint8_t *from, uint32_t bytes, const uint64_t *narrow,
                              uint32_t n, struct opened *o)
{
    struct cursor c = {from + n, from + bytes};
    const uint8_t *top;

    if (bytes <= n || (o->low = take(&c, n)) == NULL ||
        (top = take(&c, count_wide(narrow, n))) == NULL)
        return false;
    o->n[0] = open_first(top, narrow, n, o);
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
