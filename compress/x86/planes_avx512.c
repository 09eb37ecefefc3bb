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

#include "../kernels_impl.h"
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

/* Where a group's planes and what goes on from it are written. */
struct written {
    uint8_t *planes, *next;
    uint32_t next_n;
};

/*
 * One group of `bits` bits from bit `shift` of n codes: its planes, of `plane` bytes each, and the
 * codes that go on, packed. planes and next_n move on.
 */
static inline __attribute__((always_inline)) void encode_group(uint32_t bits, uint32_t shift,
                                                               const uint8_t *codes, uint32_t n,
                                                               uint32_t plane, struct written *to)
{
    const uint32_t words = (n + 63) / 64;
    uint8_t *const planes = to->planes, *const next = to->next;
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

            if (w + 1 < words)
                store64(planes + b * plane + 8 * w, m);
            last[b] = m;
            on &= m;
        }
        _mm512_storeu_si512(next + at, compress(on, v));
        at += (uint32_t)__builtin_popcountll(on);
    }
    for (uint32_t b = 0; b < bits; ++b) {
        const uint64_t tail[2] = {last[b], 0}; /* of group 0, a pair of words */

        memcpy(planes + b * plane + 8 * (words - 1), tail, plane - 8 * (words - 1));
    }
    to->planes += bits * plane;
    to->next_n = at;
}

/* The same with what is constant known to the compiler, which unrolls by it. */
static void encode_any(uint32_t bits, uint32_t shift, const uint8_t *codes, uint32_t n,
                       uint32_t plane, struct written *to)
{
    switch (bits) {
    case 1:
        encode_group(1, shift, codes, n, plane, to);
        break;
    case 2:
        encode_group(2, shift, codes, n, plane, to);
        break;
    default:
        encode_group(3, shift, codes, n, plane, to);
    }
}

/* The planes of all groups from g on, whose codes begin at bit `shift`. next and after have room
 * for what goes on. Returns the end. */
static uint8_t *encode_from(const struct kvc_shape *shape, uint32_t g, const uint8_t *codes,
                            uint32_t n, uint8_t *to, packed buffers[2])
{
    struct written w = {to, buffers[g % 2], n};
    uint32_t shift = 0;

    for (uint32_t before = 0; before < g; ++before)
        shift += shape->bits[before];
    for (; g < KVC_GROUPS_MAX && shape->bits[g] > 0 && w.next_n > 0; ++g) {
        const uint32_t left = w.next_n;

        w.next = buffers[g % 2];
        encode_any(shape->bits[g], shift, codes, left,
                   g == 0 ? kvc_first_plane(left) : (left + 7) / 8, &w);
        shift += shape->bits[g];
        codes = w.next;
    }
    return w.planes;
}

static uint32_t encode(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n, uint8_t *to,
                       uint64_t escapes[KVC_BLOCK_WORDS])
{
    packed buffers[2];

    for (uint32_t w = 0; w < (n + 63) / 64; ++w)
        escapes[w] =
            _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(codes + 64 * w), _mm512_set1_epi8(-1));
    escapes[(n - 1) / 64] &= tail_mask(n);
    return (uint32_t)(encode_from(shape, 0, codes, n, to, buffers) - to);
}

/* Where the planes of a group lie in the stream. */
struct group {
    const uint8_t *planes[3];
    uint32_t n;
};

/* Whether what pads a plane of n bits to `bytes` is zero. */
static inline bool padded(const uint8_t *plane, uint32_t n, uint32_t bytes)
{
    return (n % 8 == 0 || plane[n / 8] >> n % 8 == 0) &&
           kvc_is_zero(plane + (n + 7) / 8, bytes - (n + 7) / 8);
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

/* Ranks of a group's lanes from those of the next group's. */
static inline __attribute__((always_inline)) void
join_group(const struct group *g, uint32_t bits, const uint8_t *next, bool last, uint8_t *ranks)
{
    const uint32_t words = (g->n + 63) / 64;
    uint32_t at = 0;

    for (uint32_t w = 0; w < words; ++w) {
        uint64_t on = w + 1 < words ? ~0ull : tail_mask(g->n);
        __m512i sum = _mm512_setzero_si512();

        for (uint32_t b = 0; b < bits; ++b) {
            const uint64_t m = load64(g->planes[b] + 8 * w);

            sum = _mm512_mask_add_epi8(sum, m, sum, _mm512_set1_epi8((char)(1u << b)));
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

static void join_any(const struct group *g, uint32_t bits, const uint8_t *next, bool last,
                     uint8_t *ranks)
{
    switch (bits + (last ? 4 : 0)) {
    case 1:
        join_group(g, 1, next, false, ranks);
        break;
    case 2:
        join_group(g, 2, next, false, ranks);
        break;
    case 3:
        join_group(g, 3, next, false, ranks);
        break;
    case 4 + 1:
        join_group(g, 1, next, true, ranks);
        break;
    case 4 + 2:
        join_group(g, 2, next, true, ranks);
        break;
    default:
        join_group(g, 3, next, true, ranks);
    }
}

/* Where all groups lie; 0 if they don't fit, else their bytes. */
static uint32_t find_groups(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                            uint32_t n, struct group groups[KVC_GROUPS_MAX])
{
    uint32_t at = 0, left = n;

    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        const uint32_t plane = g == 0 ? kvc_first_plane(left) : (left + 7) / 8;

        groups[g].n = left;
        for (uint32_t b = 0; b < shape->bits[g]; ++b, at += plane) {
            groups[g].planes[b] = from + at;
            if (plane > bytes - at || !padded(from + at, left, plane))
                return 0;
        }
        if (left > 0)
            left = count_any(&groups[g], shape->bits[g]);
    }
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
        join_any(&groups[g], shape->bits[g], next, next == NULL, now);
        next = now;
    }
    return next;
}

static uint32_t decode(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       uint32_t n, uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS])
{
    struct group groups[KVC_GROUPS_MAX];
    packed a, b;
    const uint32_t taken = find_groups(shape, from, bytes, n, groups);

    if (taken == 0)
        return 0;
    join_any(&groups[0], shape->bits[0], join_deeper(shape, groups, a, b), shape->bits[1] == 0,
             ranks);
    for (uint32_t w = 0; w < (n + 63) / 64; ++w) {
        const __m512i v = _mm512_loadu_si512(ranks + 64 * w);

        escapes[w] = _mm512_movepi8_mask(v) & (w + 1 < (n + 63) / 64 ? ~0ull : tail_mask(n));
        _mm512_storeu_si512(ranks + 64 * w, _mm512_and_si512(v, _mm512_set1_epi8(0x0f)));
    }
    return taken;
}

uint8_t *kvc_avx512_close(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n,
                          uint8_t *to)
{
    packed buffers[2];

    return encode_from(shape, 1, codes, n, to, buffers);
}

const struct kvc_planes kvc_planes_avx512 = {encode, decode};
