/* SPDX-License-Identifier: Apache-2.0 */
/* The planes, one bit at a time: what SPEC.md 2 says, and what every faster level is held to. */
#include "planes.h"

#include <string.h>

/* The first lane of the set at or above lane; KVC_BLOCK_VALUES: none. */
static uint32_t lane_from(const uint64_t *set, uint32_t lane)
{
    while (lane < KVC_BLOCK_VALUES) {
        const uint64_t rest = set[lane / 64] >> lane % 64;

        if (rest != 0)
            return lane + (uint32_t)__builtin_ctzll(rest);
        lane = (lane / 64 + 1) * 64;
    }
    return lane;
}

static void all_lanes(uint64_t words[KVC_BLOCK_WORDS], uint32_t n)
{
    memset(words, 0, sizeof(uint64_t) * KVC_BLOCK_WORDS);
    for (uint32_t lane = 0; lane < n; ++lane)
        words[lane / 64] |= 1ull << (lane % 64);
}

/* Bytes of a plane of group g that holds `used` bits. */
static uint32_t plane_bytes(uint32_t g, uint32_t used)
{
    return g == 0 ? kvc_first_plane(used) : (used + 7) / 8;
}

static uint32_t count(const uint64_t *set)
{
    uint32_t lanes = 0;

    for (uint32_t i = 0; i < KVC_BLOCK_WORDS; ++i)
        for (uint64_t word = set[i]; word != 0; word &= word - 1)
            ++lanes;
    return lanes;
}

static uint32_t encode(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n, uint8_t *to,
                       uint64_t escapes[KVC_BLOCK_WORDS])
{
    uint64_t *alive = escapes; /* those still alive after the last group are the escapes */
    uint32_t at = 0, shift = 0;

    all_lanes(alive, n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        const unsigned ones = (1u << shape->bits[g]) - 1;
        const uint32_t bytes = plane_bytes(g, count(alive));

        memset(to + at, 0, bytes * shape->bits[g]);
        for (uint32_t bit = 0; bit < shape->bits[g]; ++bit, at += bytes) {
            uint32_t used = 0;

            for (uint32_t lane = lane_from(alive, 0); lane < n; lane = lane_from(alive, lane + 1)) {
                to[at + used / 8] |= (uint8_t)((codes[lane] >> (shift + bit) & 1) << used % 8);
                ++used;
            }
        }
        for (uint32_t lane = lane_from(alive, 0); lane < n; lane = lane_from(alive, lane + 1))
            if ((codes[lane] >> shift & ones) != ones)
                alive[lane / 64] &= ~(1ull << (lane % 64));
        shift += shape->bits[g];
    }
    return at;
}

/* Whether what pads a plane of `used` bits to bytes is zero. */
static bool padded(const uint8_t *plane, uint32_t used, uint32_t bytes)
{
    return (used % 8 == 0 || plane[used / 8] >> used % 8 == 0) &&
           kvc_is_zero(plane + (used + 7) / 8, bytes - (used + 7) / 8);
}

static uint32_t decode(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       uint32_t n, uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS])
{
    uint64_t *alive = escapes;
    uint32_t at = 0;

    all_lanes(alive, n);
    memset(ranks, 0, n);
    for (uint32_t g = 0; g < KVC_GROUPS_MAX && shape->bits[g] > 0; ++g) {
        const uint32_t used = count(alive), plane = plane_bytes(g, used);
        const unsigned ones = (1u << shape->bits[g]) - 1;
        uint8_t group[KVC_BLOCK_VALUES] = {0};

        for (uint32_t bit = 0; bit < shape->bits[g]; ++bit, at += plane) {
            uint32_t next = 0;

            if (plane > bytes - at || !padded(from + at, used, plane))
                return 0;
            for (uint32_t lane = lane_from(alive, 0); lane < n; lane = lane_from(alive, lane + 1)) {
                group[lane] |= (uint8_t)((from[at + next / 8] >> next % 8 & 1) << bit);
                ++next;
            }
        }
        for (uint32_t lane = lane_from(alive, 0); lane < n; lane = lane_from(alive, lane + 1)) {
            ranks[lane] = (uint8_t)(ranks[lane] + group[lane]);
            if (group[lane] != ones)
                alive[lane / 64] &= ~(1ull << (lane % 64));
        }
    }
    return at;
}

const struct kvc_planes kvc_planes_scalar = {encode, decode};
