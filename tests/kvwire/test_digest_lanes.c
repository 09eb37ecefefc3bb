/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVW_DIGEST_LANES is the formula in digest.h, however the bytes are cut into updates; and every
 * single flipped bit, swapped piece and changed length changes it.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/digest.h"
#include "kv.h"

#define BYTES (3 * KVW_DIGEST_PIECE_BYTES + 777)

static unsigned char bytes[BYTES];

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return v ^ v >> 31;
}

/* As the header says it, a word at a time. */
static uint64_t plainly(const unsigned char *at, size_t n, size_t piece_bytes)
{
    uint64_t sum = 0;

    for (uint64_t piece = 0; piece * piece_bytes < n; ++piece) {
        const unsigned char *p = at + piece * piece_bytes;
        const size_t left = n - piece * piece_bytes;
        const size_t count = left < piece_bytes ? left : piece_bytes;
        uint64_t value = count;

        for (uint64_t j = 0; j < 64; j += 2) {
            uint64_t pair = 0;

            for (uint64_t k = 0; k < 2; ++k) {
                uint32_t lane = (uint32_t)(j + k + 1) * 0x9e3779b1u;

                for (size_t row = 0; row < count; row += 256) {
                    uint32_t word = 0;

                    for (size_t b = 0; b < 4; ++b)
                        if (row + 4 * (j + k) + b < count)
                            word |= (uint32_t)p[row + 4 * (j + k) + b] << 8 * b;
                    lane = ((lane << 13 | lane >> 19) ^ word) * 0x85ebca77u;
                }
                pair |= (uint64_t)lane << 32 * k;
            }
            value += mix(pair + (j / 2 + 1) * 0x9e3779b97f4a7c15ull);
        }
        sum += mix(mix(value) + (piece + 1) * 0x9e3779b97f4a7c15ull);
    }
    return sum;
}

static uint64_t whole(const void *at, size_t n)
{
    struct kvw_digest d;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_LANES), KVW_OK);
    kvw_digest_update(&d, at, n);
    return kvw_digest_value(&d);
}

Test(digest_lanes, is_the_formula_in_any_pieces)
{
    uint64_t random = 1;

    for (size_t i = 0; i < BYTES; ++i)
        bytes[i] = (unsigned char)t_random(&random);
    for (uint32_t round = 0; round < 400; ++round) {
        const size_t n = round < 300 ? round : t_below(&random, BYTES + 1);
        struct kvw_digest d;

        cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_LANES), KVW_OK);
        for (size_t at = 0, part; at < n; at += part) {
            part = 1 + t_below(&random, round % 2 == 0 ? 300 : 20000);
            part = part < n - at ? part : n - at;
            kvw_digest_update(&d, bytes + at, part);
            if (round % 3 == 0)
                kvw_digest_value(&d); /* disturbs nothing */
        }
        cr_assert_eq(kvw_digest_value(&d), plainly(bytes, n, 16384), "%zu bytes", n);
    }
    cr_expect_eq(whole(bytes, 0), 0);
}

/* A chunk's pieces are its units: whole tokens, as many as 8192 values hold. */
Test(digest_lanes, pieces_of_a_chunk_are_its_units)
{
    static const struct {
        uint32_t heads, dim, unit; /* values */
        kvw_dtype dtype;
    } shapes[] = {{3, 64, 42 * 192, KVW_DTYPE_BF16},  {8, 128, 8192, KVW_DTYPE_BF16},
                  {5, 64, 25 * 320, KVW_DTYPE_F16},   {1, 8191, 8191, KVW_DTYPE_F8_E4M3},
                  {64, 129, 8192, KVW_DTYPE_BF16},    {1, 4097, 4097, KVW_DTYPE_F32},
                  {1, 8192, 8192, KVW_DTYPE_F8_E5M2}, {1, 1, 8192, KVW_DTYPE_F8_E5M2},
                  {3, 33, 82 * 99, KVW_DTYPE_F8_E4M3}};
    uint64_t random = 3;

    for (size_t i = 0; i < BYTES; ++i)
        bytes[i] = (unsigned char)t_random(&random);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
        const uint32_t value = kvw_dtype_bytes(shapes[i].dtype);
        const struct kvw_view v = {.heads = shapes[i].heads,
                                   .head_bytes = shapes[i].dim * value,
                                   .dtype = shapes[i].dtype};
        struct kvw_digest d, lanes;

        cr_assert_eq(kvw_digest_begin_chunk(&d, KVW_DIGEST_LANES, &v), KVW_OK);
        cr_expect_eq(d.piece_bytes, shapes[i].unit * value);
        lanes = d;
        for (size_t at = 0, part; at < BYTES; at += part) {
            part = 1 + t_below(&random, 20000);
            part = part < BYTES - at ? part : BYTES - at;
            kvw_digest_update(&d, bytes + at, part);
        }
        cr_expect_eq(kvw_digest_value(&d), plainly(bytes, BYTES, d.piece_bytes), "shape %zu", i);
        if (d.piece_bytes % 128 != 0)
            continue;
        for (size_t at = 0, n; at < BYTES / 128 * 128; at += n) { /* lanes run by the caller */
            uint32_t lane[KVW_DIGEST_LANE_COUNT];

            n = BYTES / 128 * 128 - at < d.piece_bytes ? BYTES / 128 * 128 - at : d.piece_bytes;
            kvw_digest_lanes_begin(lane);
            for (size_t word = 0; word < n / 4; ++word) {
                uint32_t *l = &lane[word % 64], w;

                memcpy(&w, bytes + at + 4 * word, 4);
                *l = ((*l << 13 | *l >> 19) ^ w) * 0x85ebca77u;
            }
            kvw_digest_piece(&lanes, lane, (uint32_t)n);
        }
        cr_expect_eq(kvw_digest_value(&lanes), plainly(bytes, BYTES / 128 * 128, d.piece_bytes),
                     "shape %zu", i);
    }
    cr_expect_eq(kvw_digest_begin_chunk(
                     &(struct kvw_digest){0}, (kvw_digest_id)9,
                     &(struct kvw_view){.heads = 1, .head_bytes = 2, .dtype = KVW_DTYPE_BF16}),
                 KVW_E_UNSUPPORTED);
}

Test(digest_lanes, tells_damage)
{
    uint64_t random = 2, was;

    for (size_t i = 0; i < BYTES; ++i)
        bytes[i] = (unsigned char)t_random(&random);
    was = whole(bytes, BYTES);
    for (size_t bit = 0; bit < 8 * BYTES; bit += 1 + t_below(&random, 400)) {
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        cr_assert_neq(whole(bytes, BYTES), was, "bit %zu", bit);
        bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    /* The highest bit of two words of one lane: a plain multiply-xor would let it pass. */
    for (size_t row = 1; row < 60; ++row) {
        bytes[3] ^= 0x80;
        bytes[256 * row + 3] ^= 0x80;
        cr_assert_neq(whole(bytes, BYTES), was, "row %zu", row);
        bytes[3] ^= 0x80;
        bytes[256 * row + 3] ^= 0x80;
    }
    for (size_t n = BYTES - 300; n < BYTES; ++n)
        cr_assert_neq(whole(bytes, n), was);
    memset(bytes, 0, sizeof(bytes));
    cr_expect_neq(whole(bytes, 100), whole(bytes, 101), "zeros of another length");
    memset(bytes, 1, KVW_DIGEST_PIECE_BYTES);
    was = whole(bytes, 2 * KVW_DIGEST_PIECE_BYTES);
    memset(bytes, 0, KVW_DIGEST_PIECE_BYTES);
    memset(bytes + KVW_DIGEST_PIECE_BYTES, 1, KVW_DIGEST_PIECE_BYTES);
    cr_expect_neq(whole(bytes, 2 * KVW_DIGEST_PIECE_BYTES), was, "two pieces swapped");
}
