/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planes for AVX-512 VBMI2: codes of the lanes that go on to the next group are packed together
 * (vpcompressb), so that each group works on its own lanes only and its planes are plain bits;
 * back, the ranks of the last group are spread (vpexpandb) over the lanes of the one before it, and
 * so on up. A packed value's place follows from population counts alone.
 */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "kernels_impl.h"
#include "lanes_avx512.h"

/* Codes, or ranks, of the lanes of one group. */
typedef uint8_t packed[KVC_AVX512_PACKED];

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

static inline __mmask64 test_bit(__m512i codes, uint32_t bit)
{
    return _mm512_test_epi8_mask(codes, _mm512_set1_epi8((char)(1u << bit)));
}

/* Bits that come in pieces of up to 64, to a stream of words. */
struct bit_writer {
    uint8_t *to;
    uint64_t part;
    uint32_t fill;
};

static inline void put(struct bit_writer *b, uint64_t bits, uint32_t count)
{
    const uint64_t rest = bits >> 1 >> (63 - b->fill); /* what this word has no room for */
    uint32_t full;

    b->part |= bits << b->fill;
    store64(b->to, b->part);
    b->fill += count;
    full = b->fill >> 6;
    b->part = full ? rest : b->part;
    b->to += full * 8;
    b->fill &= 63;
}

static inline uint8_t *put_end(struct bit_writer *b)
{
    store64(b->to, b->part);
    return b->to + (b->fill + 7) / 8;
}

/*
 * One group of `bits` bits from bit `shift` of n codes. Its planes to to; the codes that go on,
 * packed, to next, their number to *next_n. Returns the end of the planes.
 */
static inline __attribute__((always_inline)) uint8_t *
encode_group(uint32_t bits, uint32_t shift, const uint8_t *codes, const uint64_t *narrow,
             uint32_t n, uint8_t *to, uint8_t *next, uint32_t *next_n)
{
    const uint32_t words = (n + 63) / 64, plane = (n + 7) / 8;
    const uint32_t top = bits - 1;
    struct bit_writer some = {to + top * plane, 0, 0}; /* the top plane, if lanes are left out */
    /* Planes are written side by side, and each may write up to 7 bytes into the next; so the last
     * words, which would be overwritten by whole ones, come last. */
    uint64_t last[3] = {0};
    uint32_t at = 0;

    for (uint32_t w = 0; w < words; ++w) {
        const __m512i v = _mm512_loadu_si512(codes + 64 * w);
        const uint64_t lanes = w + 1 < words ? ~0ull : tail_mask(n);
        uint64_t on = lanes;

        for (uint32_t b = 0; b < bits; ++b) {
            const uint64_t m = test_bit(v, shift + b) & lanes;

            if (narrow != NULL && b == top) {
                const uint64_t wide = ~narrow[w] & lanes;

                put(&some, _pext_u64(m, wide), (uint32_t)__builtin_popcountll(wide));
                on &= m | narrow[w];
            } else {
                if (w + 1 < words)
                    store64(to + b * plane + 8 * w, m);
                last[b] = m;
                on &= m;
            }
        }
        _mm512_storeu_si512(next + at, compress(on, v));
        at += (uint32_t)__builtin_popcountll(on);
    }
    for (uint32_t b = 0; b < bits; ++b)
        if (narrow == NULL || b != top)
            memcpy(to + b * plane + 8 * (words - 1), &last[b], plane - 8 * (words - 1));
    *next_n = at;
    return narrow != NULL ? put_end(&some) : to + bits * plane;
}

/* The same with what is constant known to the compiler, which unrolls by it. */
static uint8_t *encode_any(uint32_t bits, uint32_t shift, const uint8_t *codes,
                           const uint64_t *narrow, uint32_t n, uint8_t *to, uint8_t *next,
                           uint32_t *next_n)
{
    switch (bits + (narrow != NULL ? 4 : 0)) {
    case 1:
        return encode_group(1, shift, codes, NULL, n, to, next, next_n);
    case 2:
        return encode_group(2, shift, codes, NULL, n, to, next, next_n);
    case 3:
        return encode_group(3, shift, codes, NULL, n, to, next, next_n);
    case 4 + 2:
        return encode_group(2, shift, codes, narrow, n, to, next, next_n);
    default:
        return encode_group(3, shift, codes, narrow, n, to, next, next_n);
    }
}

static uint32_t encode(const struct kvc_shape *shape, const uint8_t *codes, const uint64_t *narrow,
                       uint32_t n, uint8_t *to, uint64_t escapes[KVC_BLOCK_WORDS])
{
    packed a, b;
    uint8_t *p = to, *next = a, *after = b;
    const uint8_t *now = codes;
    uint32_t left = n, shift = 0;

    for (uint32_t w = 0; w < (n + 63) / 64; ++w)
        escapes[w] =
            _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(codes + 64 * w), _mm512_set1_epi8(-1));
    escapes[(n - 1) / 64] &= tail_mask(n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        uint32_t next_n = 0;
        uint8_t *was;

        if (left > 0)
            p = encode_any(shape->bits[g], shift, now, g == 0 ? narrow : NULL, left, p, next,
                           &next_n);
        shift += shape->bits[g];
        left = next_n;
        now = next;
        was = next;
        next = after;
        after = was;
    }
    return (uint32_t)(p - to);
}

/* Where the planes of a group lie in the stream. */
struct group {
    const uint8_t *planes[3];
    uint32_t n;
};

static inline uint64_t get(const uint8_t *from, uint32_t at)
{
    return load64(from + at / 8) >> at % 8 | (uint64_t)from[at / 8 + 8] << 1 << (63 - at % 8);
}

static inline bool padded(const uint8_t *plane, uint32_t n)
{
    return n % 8 == 0 || plane[n / 8] >> n % 8 == 0;
}

/* How many lanes go on. Lanes past n count for nothing: the callers mask them. */
static inline __attribute__((always_inline)) uint32_t count_on(const struct group *g, uint32_t bits)
{
    const uint32_t words = (g->n + 63) / 64;
    uint32_t count = 0;

    for (uint32_t w = 0; w < words; ++w) {
        uint64_t on = w + 1 < words ? ~0ull : tail_mask(g->n);

        for (uint32_t b = 0; b < bits; ++b)
            on &= load64(g->planes[b] + 8 * w);
        count += (uint32_t)__builtin_popcountll(on);
    }
    return count;
}

/* Ranks of a group's lanes from those of the next group's. top: the words of the top plane with a
 * one in each narrow lane, which is how such a lane goes on. */
static inline __attribute__((always_inline)) void
join_group(const struct group *g, uint32_t bits, const uint64_t *top, const uint64_t *narrow,
           const uint8_t *next, bool last, uint8_t *ranks)
{
    const uint32_t words = (g->n + 63) / 64;
    uint32_t at = 0;

    for (uint32_t w = 0; w < words; ++w) {
        uint64_t on = w + 1 < words ? ~0ull : tail_mask(g->n);
        __m512i sum = _mm512_setzero_si512();

        for (uint32_t b = 0; b < bits; ++b) {
            const bool chosen = top != NULL && b + 1 == bits;
            const uint64_t m = chosen ? top[w] : load64(g->planes[b] + 8 * w);

            sum = _mm512_mask_add_epi8(sum, chosen ? m & ~narrow[w] : m, sum,
                                       _mm512_set1_epi8((char)(1u << b)));
            on &= m;
        }
        if (last) /* an escape: marked in the top bit */
            sum = _mm512_mask_add_epi8(sum, on, sum, _mm512_set1_epi8((char)0x80));
        else
            sum = _mm512_add_epi8(sum, expand(on, _mm512_loadu_si512(next + at)));
        _mm512_storeu_si512(ranks + 64 * w, sum);
        at += (uint32_t)__builtin_popcountll(on);
    }
}

static uint32_t count_any(const struct group *g, uint32_t bits)
{
    return bits == 1 ? count_on(g, 1) : bits == 2 ? count_on(g, 2) : count_on(g, 3);
}

static void join_any(const struct group *g, uint32_t bits, const uint64_t *top,
                     const uint64_t *narrow, const uint8_t *next, bool last, uint8_t *ranks)
{
    switch (bits + (top != NULL ? 4 : 0) + (last ? 8 : 0)) {
    case 1:
        join_group(g, 1, NULL, NULL, next, false, ranks);
        break;
    case 2:
        join_group(g, 2, NULL, NULL, next, false, ranks);
        break;
    case 3:
        join_group(g, 3, NULL, NULL, next, false, ranks);
        break;
    case 4 + 2:
        join_group(g, 2, top, narrow, next, false, ranks);
        break;
    case 4 + 3:
        join_group(g, 3, top, narrow, next, false, ranks);
        break;
    case 8 + 1:
        join_group(g, 1, NULL, NULL, next, true, ranks);
        break;
    case 8 + 2:
        join_group(g, 2, NULL, NULL, next, true, ranks);
        break;
    case 8 + 3:
        join_group(g, 3, NULL, NULL, next, true, ranks);
        break;
    default:
        join_group(g, bits, top, narrow, next, true, ranks);
    }
}

/* The top plane of group 0 where narrow lanes have no bit in it, count bits from `from`, as words:
 * one in each narrow lane, which is how such a lane goes on. Returns how many lanes do. */
static uint32_t spread_top(const uint8_t *from, const struct group *g, uint32_t bits,
                           const uint64_t *narrow, uint64_t top[KVC_BLOCK_WORDS])
{
    const uint32_t words = (g->n + 63) / 64;
    uint32_t bit = 0, count = 0;

    for (uint32_t w = 0; w < words; ++w) {
        const uint64_t lanes = w + 1 < words ? ~0ull : tail_mask(g->n);
        const uint64_t wide = ~narrow[w] & lanes;
        uint64_t on = _pdep_u64(get(from, bit), wide) | (narrow[w] & lanes);

        top[w] = on;
        for (uint32_t b = 0; b + 1 < bits; ++b)
            on &= load64(g->planes[b] + 8 * w);
        bit += (uint32_t)__builtin_popcountll(wide);
        count += (uint32_t)__builtin_popcountll(on);
    }
    return count;
}

static uint32_t count_wide(const uint64_t *narrow, uint32_t n)
{
    const uint32_t words = (n + 63) / 64;
    uint32_t count = (uint32_t)__builtin_popcountll(~narrow[words - 1] & tail_mask(n));

    for (uint32_t w = 0; w + 1 < words; ++w)
        count += (uint32_t)__builtin_popcountll(~narrow[w]);
    return count;
}

/* Where all groups lie and how many lanes escape; 0 if they don't fit, else their bytes. */
static uint32_t find_groups(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                            const uint64_t *narrow, uint32_t n, struct group groups[KVC_GROUPS_MAX],
                            uint64_t top[KVC_BLOCK_WORDS], uint32_t *escapes)
{
    uint32_t at = 0, left = n;

    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        const uint32_t bits = shape->bits[g];
        const bool chosen = g == 0 && narrow != NULL;

        groups[g].n = left;
        for (uint32_t b = 0; b < bits; ++b) {
            const uint32_t count = chosen && b + 1 == bits ? count_wide(narrow, n) : left;

            groups[g].planes[b] = from + at;
            if ((count + 7) / 8 > bytes - at || !padded(from + at, count))
                return 0;
            at += (count + 7) / 8;
        }
        if (left == 0)
            continue;
        if (chosen)
            left = bits == 2 ? spread_top(groups[0].planes[1], &groups[0], 2, narrow, top)
                             : spread_top(groups[0].planes[2], &groups[0], 3, narrow, top);
        else
            left = count_any(&groups[g], bits);
    }
    *escapes = left;
    return at;
}

/* The ranks that groups after the first add, packed, to one of two buffers: its address; NULL if
 * there are no such groups. */
static const uint8_t *join_deeper(const struct kvc_shape *shape, const struct group *groups,
                                  uint8_t *a, uint8_t *b)
{
    const uint8_t *next = NULL;

    for (uint32_t g = KVC_GROUPS_MAX; g-- > 1;) {
        uint8_t *now = next == a ? b : a;

        if (shape->bits[g] == 0)
            continue;
        join_any(&groups[g], shape->bits[g], NULL, NULL, next, next == NULL, now);
        next = now;
    }
    return next;
}

static uint32_t decode(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       const uint64_t *narrow, uint32_t n, uint8_t *ranks,
                       uint64_t escapes[KVC_BLOCK_WORDS])
{
    struct group groups[KVC_GROUPS_MAX];
    uint64_t top[KVC_BLOCK_WORDS];
    packed a, b;
    uint32_t count;
    const uint32_t taken = find_groups(shape, from, bytes, narrow, n, groups, top, &count);

    if (taken == 0)
        return 0;
    join_any(&groups[0], shape->bits[0], narrow != NULL ? top : NULL, narrow,
             join_deeper(shape, groups, a, b), shape->bits[1] == 0, ranks);
    for (uint32_t w = 0; w < (n + 63) / 64; ++w) {
        const __m512i v = _mm512_loadu_si512(ranks + 64 * w);

        escapes[w] = _mm512_movepi8_mask(v) & (w + 1 < (n + 63) / 64 ? ~0ull : tail_mask(n));
        _mm512_storeu_si512(ranks + 64 * w, _mm512_and_si512(v, _mm512_set1_epi8(0x0f)));
    }
    return taken;
}

uint8_t *kvc_avx512_close(const struct kvc_shape *shape, uint8_t *codes, uint32_t n, uint8_t *to)
{
    packed other;
    uint8_t *now = codes, *next = other;
    uint32_t shift = shape->bits[0];

    for (uint32_t g = 1; g < KVC_GROUPS_MAX && shape->bits[g] > 0 && n > 0; ++g) {
        uint8_t *was = now;

        to = encode_any(shape->bits[g], shift, now, NULL, n, to, next, &n);
        shift += shape->bits[g];
        now = next;
        next = was;
    }
    return to;
}

const struct kvc_planes kvc_planes_avx512 = {encode, decode};
