/* SPDX-License-Identifier: Apache-2.0 */
/* The planes, one bit at a time: what SPEC.md 2 says, and what every faster level is held to. */
#include "planes.h"

#include <string.h>

static unsigned lane_bit(const uint64_t *words, uint32_t lane)
{
    return words != NULL ? (unsigned)(words[lane / 64] >> (lane % 64) & 1) : 0;
}

/* Bits of group g in this lane. */
static unsigned group_bits(const struct kvc_shape *s, uint32_t g, const uint64_t *narrow,
                           uint32_t lane)
{
    return s->bits[g] - (g == 0 ? lane_bit(narrow, lane) : 0);
}

static void all_lanes(uint64_t words[KVC_BLOCK_WORDS], uint32_t n)
{
    memset(words, 0, sizeof(uint64_t) * KVC_BLOCK_WORDS);
    for (uint32_t lane = 0; lane < n; ++lane)
        words[lane / 64] |= 1ull << (lane % 64);
}

static uint32_t encode(const struct kvc_shape *shape, const uint8_t *codes, const uint64_t *narrow,
                       uint32_t n, uint8_t *to, uint64_t escapes[KVC_BLOCK_WORDS])
{
    uint64_t *alive = escapes; /* those still alive after the last group are the escapes */
    uint32_t at = 0, shift = 0;

    all_lanes(alive, n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        for (uint32_t bit = 0; bit < shape->bits[g]; ++bit) {
            uint32_t used = 0;

            for (uint32_t lane = 0; lane < n; ++lane) {
                if (!lane_bit(alive, lane) || bit >= group_bits(shape, g, narrow, lane))
                    continue;
                if (used % 8 == 0)
                    to[at + used / 8] = 0;
                to[at + used / 8] |= (uint8_t)((codes[lane] >> (shift + bit) & 1) << used % 8);
                ++used;
            }
            at += (used + 7) / 8;
        }
        for (uint32_t lane = 0; lane < n; ++lane) {
            const unsigned ones = (1u << group_bits(shape, g, narrow, lane)) - 1;

            if ((codes[lane] >> shift & ones) != ones)
                alive[lane / 64] &= ~(1ull << (lane % 64));
        }
        shift += shape->bits[g];
    }
    return at;
}

static uint32_t decode(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       const uint64_t *narrow, uint32_t n, uint8_t *ranks,
                       uint64_t escapes[KVC_BLOCK_WORDS])
{
    uint64_t *alive = escapes;
    uint32_t at = 0;

    all_lanes(alive, n);
    memset(ranks, 0, n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        uint8_t group[KVC_BLOCK_VALUES] = {0};

        for (uint32_t bit = 0; bit < shape->bits[g]; ++bit) {
            uint32_t used = 0;

            for (uint32_t lane = 0; lane < n; ++lane) {
                if (!lane_bit(alive, lane) || bit >= group_bits(shape, g, narrow, lane))
                    continue;
                if (at + used / 8 >= bytes)
                    return 0;
                group[lane] |= (uint8_t)((from[at + used / 8] >> used % 8 & 1) << bit);
                ++used;
            }
            if (used % 8 != 0 && from[at + used / 8] >> used % 8 != 0)
                return 0;
            at += (used + 7) / 8;
        }
        for (uint32_t lane = 0; lane < n; ++lane) {
            const unsigned ones = (1u << group_bits(shape, g, narrow, lane)) - 1;

            ranks[lane] = (uint8_t)(ranks[lane] + group[lane]);
            if (group[lane] != ones)
                alive[lane / 64] &= ~(1ull << (lane % 64));
        }
    }
    return at;
}

const struct kvc_planes kvc_planes_scalar = {encode, decode};
