/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planes_body.h - the planes by 64 lanes at a time with BMI2, for the files that have defined
 *
 *   uint64_t test_bit(const uint8_t *codes, uint32_t bit)     that bit of 64 code bytes
 *   void add_planes(const uint64_t *planes, uint32_t stride, const uint8_t *weights, uint32_t
 *                   count, uint32_t words, uint8_t *ranks)    ranks = sums of weights
 *
 * A plane's bits are picked out of, or spread over, the lanes that are in it by pext and pdep.
 * Which lanes are in the next one follows by boolean algebra alone, so that the only chain through
 * a block is the position in the stream. Back, each group works on its own lanes only, 64 to a
 * word, and adds up ranks as four words of bits; bytes are made of them once, at the end.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "../planes.h"

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

/* All lanes are in this plane, of group 0: its words are the stream's, in pairs. */
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
    if (words % 2 != 0)
        store64(to + 8 * words, 0);
    next[words - 1] &= tail_mask(n);
    return to + kvc_first_plane(n);
}

/* Lanes on their way through a group: those that are in it, and those that were ones so far. */
struct going {
    const uint64_t *alive;
    uint64_t *next;
    uint32_t words;
};

/* Only the lanes in g->alive are in this plane, the first of its group or a later one. */
static inline uint8_t *write_some(const uint8_t *codes, uint32_t bit, bool first,
                                  const struct going *g, uint8_t *to)
{
    const uint64_t *const alive = g->alive;
    uint64_t *const next = g->next;
    const uint32_t words = g->words;
    uint64_t part = 0;
    uint32_t fill = 0;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t lanes = alive[w], m = test_bit(codes + 64 * w, bit);
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
        next[w] = (first ? lanes : next[w]) & m;
    }
    store64(to, part);
    return to + (fill + 7) / 8;
}

static inline __attribute__((always_inline)) uint32_t
encode_shape(const struct kvc_shape shape, const uint8_t *codes, uint32_t n, uint8_t *to,
             uint64_t escapes[KVC_BLOCK_WORDS])
{
    const uint32_t words = (n + 63) / 64;
    uint64_t other[KVC_BLOCK_WORDS], *alive = other, *next = escapes;
    uint8_t *p = to;
    uint32_t bit = 0;

    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape.bits[g] > 0; ++g) {
        for (uint32_t b = 0; b < shape.bits[g]; ++b, ++bit) {
            if (g == 0)
                p = write_all(codes, bit, b == 0, n, p, next);
            else
                p = write_some(codes, bit, b == 0, &(struct going){alive, next, words}, p);
        }
        uint64_t *was = alive;

        alive = next;
        next = was;
    }
    if (alive != escapes)
        memcpy(escapes, alive, words * 8);
    return (uint32_t)(p - to);
}

/* A rank in bits, each a word of 64 lanes: RANK_BITS streams as long as a group has lanes. */
#define RANK_BITS 4
typedef uint64_t rank_bits[RANK_BITS][KVC_BLOCK_WORDS + 2];

/* The planes of one group. */
struct part {
    const uint8_t *planes[3];
    uint32_t n;
};

/* 64 bits from bit at on. */
static inline uint64_t get(const uint8_t *from, uint32_t at)
{
    const uint8_t *p = from + at / 8;

    return load64(p) >> at % 8 | (uint64_t)p[8] << 1 << (63 - at % 8);
}

static inline uint64_t lanes_of(uint32_t n, uint32_t w)
{
    return n - 64 * w >= 64 ? ~0ull : tail_mask(n);
}

/* Whether what pads a plane of n bits to `bytes` is zero. */
static inline bool padded(const uint8_t *plane, uint32_t n, uint32_t bytes)
{
    return (n % 8 == 0 || plane[n / 8] >> n % 8 == 0) &&
           kvc_is_zero(plane + (n + 7) / 8, bytes - (n + 7) / 8);
}

static inline __attribute__((always_inline)) uint32_t count_on(const struct part *p, uint32_t bits)
{
    uint32_t count = 0;

    for (uint32_t w = 0; w < (p->n + 63) / 64; ++w) {
        uint64_t on = lanes_of(p->n, w);

        for (uint32_t b = 0; b < bits; ++b)
            on &= load64(p->planes[b] + 8 * w);
        count += (uint32_t)__builtin_popcountll(on);
    }
    return count;
}

/* Bits that a number up to most takes. */
static inline uint32_t width(uint32_t most)
{
    return most == 0 ? 0 : 32 - (uint32_t)__builtin_clz(most);
}

/* Ranks of a group's lanes: its own bits, and for those that go on what the later groups add, which
 * is most for an escape and less for all others. */
static inline __attribute__((always_inline)) void add_part(const struct part *p, uint32_t bits,
                                                           rank_bits later, uint32_t most,
                                                           rank_bits ranks, uint64_t *escapes)
{
    uint32_t at = 0;

    for (uint32_t w = 0; w < (p->n + 63) / 64; ++w) {
        uint64_t on = lanes_of(p->n, w), own[RANK_BITS] = {0}, carry = 0, out;

        for (uint32_t b = 0; b < bits; ++b) {
            own[b] = load64(p->planes[b] + 8 * w);
            on &= own[b];
        }
        out = on;
        for (uint32_t b = 0; b < RANK_BITS; ++b) {
            uint64_t add = 0;

            if (b < width(most)) {
                add = _pdep_u64(get((const uint8_t *)later[b], at), on);
                out &= most >> b & 1 ? add : ~0ull;
            }
            ranks[b][w] = own[b] ^ add ^ carry;
            carry = (own[b] & add) | (carry & (own[b] ^ add));
        }
        if (escapes != NULL)
            escapes[w] = out;
        at += (uint32_t)__builtin_popcountll(on);
    }
}

/* Where the groups lie. Returns their bytes; 0: they don't fit, or padding isn't zero. */
static inline __attribute__((always_inline)) uint32_t find_parts(const struct kvc_shape shape,
                                                                 const uint8_t *from,
                                                                 uint32_t bytes, uint32_t n,
                                                                 struct part parts[KVC_GROUPS_MAX])
{
    uint32_t at = 0, left = n;

    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape.bits[g] > 0; ++g) {
        const uint32_t plane = g == 0 ? kvc_first_plane(left) : (left + 7) / 8;

        parts[g].n = left;
        for (uint32_t b = 0; b < shape.bits[g]; ++b, at += plane) {
            parts[g].planes[b] = from + at;
            if (plane > bytes - at || !padded(from + at, left, plane))
                return 0;
        }
        left = count_on(&parts[g], shape.bits[g]);
    }
    return at;
}

static inline __attribute__((always_inline)) uint32_t
decode_shape(const struct kvc_shape shape, const uint8_t *from, uint32_t bytes, uint32_t n,
             uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS])
{
    static const uint8_t weights[RANK_BITS] = {1, 2, 4, 8};
    rank_bits a, b;
    struct part parts[KVC_GROUPS_MAX];
    const uint32_t taken = find_parts(shape, from, bytes, n, parts);
    uint32_t most = 0;

    if (taken == 0)
        return 0;
    /* From the last group up: 3 into a, 2 into b, 1 into a, 0 into b. */
    for (uint32_t g = KVC_GROUPS_MAX; g-- > 1;) {
        if (shape.bits[g] == 0)
            continue;
        add_part(&parts[g], shape.bits[g], g % 2 == 0 ? a : b, most, g % 2 == 0 ? b : a, NULL);
        most += (1u << shape.bits[g]) - 1;
    }
    add_part(&parts[0], shape.bits[0], a, most, b, escapes);
    add_planes((const uint64_t *)b, KVC_BLOCK_WORDS + 2, weights, RANK_BITS, (n + 63) / 64, ranks);
    return taken;
}

#include "../planes_shapes.h"
