/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planes_body.h - the planes by 64 lanes at a time with BMI2, for the files that have defined
 *
 *   uint64_t test_bit(const uint8_t *codes, uint32_t bit)     that bit of 64 code bytes
 *   void add_planes(const uint64_t planes[][KVC_BLOCK_WORDS], const uint8_t *weights, uint32_t
 *                   count, uint32_t words, uint8_t *ranks)    ranks = sums of weights
 *
 * A plane's bits are picked out of, or spread over, the lanes that are in it by pext and pdep.
 * Which lanes are in the next one follows by boolean algebra alone, so that the only chain through
 * a block is the position in the stream.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "planes.h"

#define PLANES_MAX 8

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, 8);
    return v;
}

static inline void store64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static inline uint64_t tail_mask(uint32_t n)
{
    return n % 64 == 0 ? ~0ull : (1ull << n % 64) - 1;
}

/* All lanes are in this plane: its words are the stream's. */
static inline uint8_t *write_all(const uint8_t *codes, uint32_t bit, bool first, uint32_t n,
                                 uint8_t *to, uint64_t *next)
{
    const uint32_t words = (n + 63) / 64;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t m = test_bit(codes + 64 * w, bit);

        store64(to + 8 * w, m);
        next[w] = first ? m : next[w] & m;
    }
    store64(to + 8 * (words - 1), load64(to + 8 * (words - 1)) & tail_mask(n));
    next[words - 1] &= tail_mask(n);
    return to + (n + 7) / 8;
}

/* Only the lanes in alive, without those in narrow (NULL: none), are in this plane. */
static inline uint8_t *write_some(const uint8_t *codes, uint32_t bit, bool first,
                                  const uint64_t *alive, const uint64_t *narrow, uint32_t words,
                                  uint8_t *to, uint64_t *next)
{
    uint64_t part = 0;
    uint32_t fill = 0;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t lanes = narrow != NULL ? alive[w] & ~narrow[w] : alive[w];
        const uint64_t m = test_bit(codes + 64 * w, bit);
        const uint64_t x = _pext_u64(m, lanes);
        const uint64_t rest = x >> 1 >> (63 - fill); /* of x, what this word has no room for */
        uint32_t full;

        part |= x << fill;
        store64(to, part);
        fill += (uint32_t)__builtin_popcountll(lanes);
        full = fill >> 6;
        part = full ? rest : part;
        to += full * 8;
        fill &= 63;
        next[w] = (first ? alive[w] : next[w]) & (m | ~lanes);
    }
    store64(to, part);
    return to + (fill + 7) / 8;
}

static inline __attribute__((always_inline)) uint32_t
encode_shape(const struct kvc_shape shape, const uint8_t *codes, const uint64_t *narrow, uint32_t n,
             uint8_t *to, uint64_t escapes[KVC_BLOCK_WORDS])
{
    const uint32_t words = (n + 63) / 64;
    uint64_t other[KVC_BLOCK_WORDS], *alive = other, *next = escapes;
    uint8_t *p = to;
    uint32_t bit = 0;

    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape.bits[g] > 0; ++g) {
        for (uint32_t b = 0; b < shape.bits[g]; ++b, ++bit) {
            const bool top = g == 0 && narrow != NULL && b + 1u == shape.bits[g];

            if (g == 0 && b == 0)
                for (uint32_t w = 0; w < words; ++w)
                    alive[w] = w + 1 < words ? ~0ull : tail_mask(n);
            if (g == 0 && !top)
                p = write_all(codes, bit, b == 0, n, p, next);
            else
                p = write_some(codes, bit, b == 0, alive, top ? narrow : NULL, words, p, next);
        }
        uint64_t *was = alive;

        alive = next;
        next = was;
    }
    if (alive != escapes)
        memcpy(escapes, alive, words * 8);
    return (uint32_t)(p - to);
}

static inline uint32_t count_lanes(const uint64_t *alive, const uint64_t *narrow, uint32_t words)
{
    uint32_t count = 0;

    for (uint32_t w = 0; w < words; ++w)
        count += (uint32_t)__builtin_popcountll(narrow != NULL ? alive[w] & ~narrow[w] : alive[w]);
    return count;
}

static inline void read_all(const uint8_t *from, uint32_t n, bool first, uint64_t *plane,
                            uint64_t *next)
{
    const uint32_t words = (n + 63) / 64;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t m = load64(from + 8 * w) & (w + 1 < words ? ~0ull : tail_mask(n));

        plane[w] = m;
        next[w] = first ? m : next[w] & m;
    }
}

static inline void read_some(const uint8_t *from, bool first, const uint64_t *alive,
                             const uint64_t *narrow, uint32_t words, uint64_t *plane,
                             uint64_t *next)
{
    uint32_t at = 0;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t lanes = narrow != NULL ? alive[w] & ~narrow[w] : alive[w];
        const uint8_t *p = from + at / 8;
        const uint64_t x = load64(p) >> at % 8 | (uint64_t)p[8]
                                                     << 1 << (63 - at % 8); /* 64 bits from there */
        const uint64_t m = _pdep_u64(x, lanes);

        plane[w] = m;
        next[w] = (first ? alive[w] : next[w]) & (m | ~lanes);
        at += (uint32_t)__builtin_popcountll(lanes);
    }
}

static inline __attribute__((always_inline)) uint32_t
decode_shape(const struct kvc_shape shape, const uint8_t *from, uint32_t bytes,
             const uint64_t *narrow, uint32_t n, uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS])
{
    const uint32_t words = (n + 63) / 64;
    uint64_t planes[PLANES_MAX][KVC_BLOCK_WORDS];
    uint64_t other[KVC_BLOCK_WORDS], *alive = other, *next = escapes;
    uint8_t weights[PLANES_MAX];
    uint32_t count = 0, at = 0;

    for (uint32_t w = 0; w < words; ++w)
        alive[w] = w + 1 < words ? ~0ull : tail_mask(n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape.bits[g] > 0; ++g) {
        for (uint32_t b = 0; b < shape.bits[g]; ++b, ++count) {
            const bool top = g == 0 && narrow != NULL && b + 1u == shape.bits[g];
            const bool all = g == 0 && !top;
            const uint32_t bits = all ? n : count_lanes(alive, top ? narrow : NULL, words);

            if ((bits + 7) / 8 > bytes - at ||
                (bits % 8 != 0 && from[at + bits / 8] >> bits % 8 != 0))
                return 0;
            if (all)
                read_all(from + at, n, b == 0, planes[count], next);
            else
                read_some(from + at, b == 0, alive, top ? narrow : NULL, words, planes[count],
                          next);
            at += (bits + 7) / 8;
            weights[count] = (uint8_t)(1u << b);
        }
        uint64_t *was = alive;

        alive = next;
        next = was;
    }
    add_planes((const uint64_t(*)[KVC_BLOCK_WORDS])planes, weights, count, words, ranks);
    if (alive != escapes)
        memcpy(escapes, alive, words * 8);
    return at;
}

#include "planes_shapes.h"
