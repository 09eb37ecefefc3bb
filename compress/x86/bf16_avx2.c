/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block of bf16 from its planes in one pass for AVX2. A lane's code is a number of four bits,
 * each a word for 64 lanes that boolean algebra and pdep make; no sum has a carry:
 *
 *   0, 1, 2    it ends in group 0 with that value          11        in group 1
 *   8, 9, 10   in group 2 with 0, 1, 2                     12 .. 14  in group 3 with 0, 1, 2
 *   15         it escapes
 *
 * Numbers become bytes once, where they are looked up.
 */
#include <immintrin.h>

#include "../../kvwire/wire/le.h"
#include "bf16_open.h"
#include "../kernels_impl.h"
#include "lanes_avx2.h"

#define NUMBER_BITS 4

/* The rank of each number (planes.h). */
static const uint8_t rank_of[16] = {0, 1, 2, 0, 0, 0, 0, 0, 4, 5, 6, 3, 7, 8, 9, 0};

/* Bits of the numbers of a group's lanes, a stream each; one word more is read than there is. */
typedef uint64_t numbers[3][KVC_BLOCK_WORDS + 2];

static inline uint64_t later(const uint64_t *bits, uint64_t at, uint64_t on)
{
    return _pdep_u64(get((const uint8_t *)bits, at), on);
}

/* Group 2 with what follows of group 3: 0 to 2, or 4 to 7. */
static inline void join_third(const struct opened *o, numbers to)
{
    uint64_t at = 0;

    for (size_t w = 0; w < (o->n[1] + 63) / 64; ++w) {
        const uint64_t low = load64(o->pair[0][0] + 8 * w), high = load64(o->pair[0][1] + 8 * w);
        const uint64_t on = low & high;

        to[0][w] = (low ^ on) | _pdep_u64(get(o->pair[1][0], at), on);
        to[1][w] = (high ^ on) | _pdep_u64(get(o->pair[1][1], at), on);
        to[2][w] = on;
        at += (uint64_t)__builtin_popcountll(on);
    }
}

/* Group 1 with that: 3 where a lane ends in it. */
static inline void join_second(const struct opened *o, numbers from, numbers to)
{
    uint64_t at = 0;

    for (size_t w = 0; w < (o->n[0] + 63) / 64; ++w) {
        const uint64_t on = load64(o->plane + 8 * w);

        to[0][w] = ~on | later(from[0], at, on);
        to[1][w] = ~on | later(from[1], at, on);
        to[2][w] = later(from[2], at, on);
        at += (uint64_t)__builtin_popcountll(on);
    }
}

static inline __m256i bytes_of(const uint64_t words[NUMBER_BITS], uint32_t shift)
{
    __m256i sum = spread((uint32_t)(words[0] >> shift), _mm256_set1_epi8(1));

    for (uint32_t i = 1; i < NUMBER_BITS; ++i)
        sum = _mm256_or_si256(
            sum, spread((uint32_t)(words[i] >> shift), _mm256_set1_epi8((char)(1 << i))));
    return sum;
}

static inline struct tables places_of_numbers(void)
{
    struct tables t = tables_of(kvc_exponent_codes.place);

    for (uint32_t i = 0; i < KVC_CLASSES; ++i)
        t.of[i] = _mm256_shuffle_epi8(
            t.of[i], _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)rank_of)));
    return t;
}

/* Where exponents escape they are put in afterwards: their bytes are in memory by then, and the
 * branches that foresee badly are in a loop that has nothing else to do. */
static void put_escapes(const uint64_t *escapes, uint32_t words, const uint8_t *escaped,
                        uint8_t *const *rows)
{
    for (uint32_t w = 0; w < words; ++w)
        for (uint64_t m = escapes[w]; m != 0; m &= m - 1) {
            uint8_t *value = rows[w] + 2 * __builtin_ctzll(m);

            kvw_store_le16(value, (uint16_t)((kvw_load_le16(value) & 0x807f) | *escaped++ << 7));
        }
}

static inline void join_values(const struct kvc_block *block, const uint8_t *from,
                               const struct opened *o, numbers next, uint8_t *const *rows,
                               uint64_t *escapes)
{
    const struct kvc_block own = *block, *const b = &own;
    const struct tables t = places_of_numbers();
    struct walk k = walk_of(b);
    uint64_t at = 0;

    for (size_t w = 0; w < (b->n + 63) / 64; ++w, walk_on(&k)) {
        const uint64_t low = load64(o->first[0] + 8 * w), high = load64(o->first[1] + 8 * w);
        const uint64_t on = low & high;
        const uint64_t number[NUMBER_BITS] = {(low ^ on) | later(next[0], at, on),
                                              (high ^ on) | later(next[1], at, on),
                                              later(next[2], at, on), on};

        at += (uint64_t)__builtin_popcountll(on);
        escapes[w] = number[0] & number[1] & number[2] & on;
        for (uint32_t i = 0; i < 2; ++i) {
            __m256i v, u;

            zip32(load(from + 64 * w + 32 * i),
                  exponents_of(b, k.column + 32 * i, bytes_of(number, 32 * i), &t), &v, &u);
            store(rows[w] + 64 * i, rotate_right(v));
            store(rows[w] + 64 * i + 32, rotate_right(u));
        }
    }
}

static bool decode(const struct kvc_block *b, const uint8_t *from, uint32_t bytes,
                   uint8_t *const *rows, uint32_t *digest)
{
    const uint32_t words = (b->n + 63) / 64;
    uint64_t escapes[KVC_BLOCK_WORDS];
    numbers third, second;
    struct opened o;

    if (!open_block(from, bytes, b->n, &o))
        return false;
    join_third(&o, third);
    join_second(&o, third, second);
    join_values(b, from, &o, second, rows, escapes);
    put_escapes(escapes, words, o.escaped, rows);
    if (digest != NULL)
        digest_rows((const uint8_t *const *)rows, b->n / 64, digest);
    return true;
}

const struct kvc_bf16 kvc_bf16_avx2 = {NULL, decode};
