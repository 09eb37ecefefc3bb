/* SPDX-License-Identifier: Apache-2.0 */
/* Every weight type dequantises to what GGUF's formula says, at every level to the same bits. */
#include <criterion/criterion.h>

#include "../../../engine/kernels/half.h"
#include "../../../engine/kernels/kernels.h"
#include "block_values.h"

enum {
    VALUES = 1024,
};

static const char *const levels[] = {"scalar", "avx2", "avx512"};

Test(quant, formulas)
{
    static uint8_t row[VALUES * 4 + 1];
    static float got[VALUES];
    uint32_t state = 1;

    for (size_t t = 0; t < BV_TYPES; ++t) {
        for (int round = 0; round < 20; ++round) {
            uint8_t *at = row + round % 2; /* rows may lie at any address */

            bv_fill(bv_types[t], at, VALUES, &state);
            kve_dequantise(bv_types[t], at, got, VALUES);
            for (size_t i = 0; i < VALUES; ++i) {
                const double want = bv_value(bv_types[t], at, i);
                cr_assert_eq(got[i], (float)want, "%s, value %zu: %a, %a wanted",
                             kve_type_info(bv_types[t])->name, i, (double)got[i], want);
            }
        }
    }
}

Test(quant, every_level_gives_the_same_bits)
{
    static uint8_t row[VALUES * 4 + 1];
    static float want[VALUES], got[VALUES];
    uint32_t state = 2;

    for (size_t l = 0; l < sizeof(levels) / sizeof(levels[0]); ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (size_t t = 0; k != NULL && t < BV_TYPES; ++t) {
            for (size_t n = 256; n <= VALUES; n += 256) {
                bv_fill(bv_types[t], row + 1, n, &state);
                kve_dequantise(bv_types[t], row + 1, want, n);
                k->dequantise(bv_types[t], row + 1, got, n);
                cr_assert_eq(memcmp(got, want, n * sizeof(*got)), 0, "%s %s", k->name,
                             kve_type_info(bv_types[t])->name);
            }
        }
    }
}

/* Bytes and values worked out by hand from the tables of ggml-common.h, to hold the two readings of
 * the formulas above to the format itself. d = 1 (00 3c), m or dmin = 2 (00 40) or 0.5 (00 38). */
struct golden {
    kve_type type;
    struct {
        uint16_t at;
        uint8_t byte;
    } bytes[12]; /* the others are 0 */
    struct {
        uint16_t at;
        float value;
    } values[6];
};

static const struct golden goldens[] = {
    {KVE_TYPE_F16, {{1, 0xc0}}, {{0, -2.0f}}},
    {KVE_TYPE_BF16, {{0, 0x20}, {1, 0x41}}, {{0, 10.0f}}},
    {KVE_TYPE_Q4_0, {{1, 0x3c}, {2, 0xf1}, {17, 0x09}}, {{0, -7}, {16, 7}, {15, 1}, {31, -8}}},
    {KVE_TYPE_Q4_1,
     {{1, 0x3c}, {3, 0x40}, {4, 0xf1}, {19, 0x09}},
     {{0, 3}, {16, 17}, {15, 11}, {31, 2}}},
    /* bits 0 and 31 of the fifth ones */
    {KVE_TYPE_Q5_0,
     {{1, 0x3c}, {2, 0x01}, {5, 0x80}, {6, 0xf1}, {21, 0x29}},
     {{0, 1}, {16, -1}, {15, -7}, {31, 2}}},
    {KVE_TYPE_Q5_1,
     {{1, 0x3c}, {3, 0x40}, {4, 0x01}, {7, 0x80}, {8, 0xf1}, {23, 0x29}},
     {{0, 19}, {16, 17}, {15, 11}, {31, 20}}},
    {KVE_TYPE_Q8_0, {{1, 0x38}, {2, 0x80}, {33, 0x7f}}, {{0, -64}, {31, 63.5f}, {1, 0}}},
    /* scale 0 = 3, min 0 = 5; scale 5 = 2 | 3 << 4 = 50 (low bits in byte 9, high on byte 1), min 5
     * = 1 | 2 << 4 = 33 (high on byte 5) */
    {KVE_TYPE_Q4_K,
     {{1, 0x3c},
      {3, 0x40},
      {4, 3},
      {8, 5},
      {5, 0xc0},
      {9, 0x80},
      {13, 0x12},
      {16, 0x07},
      {80, 0x40}},
     {{0, 11}, {1, -10}, {160, 134}, {161, -66}}},
    /* as Q4_K, with the fifth bit of values 0 (bit 0 of qh[0]) and 160 (bit 5) */
    {KVE_TYPE_Q5_K,
     {{1, 0x3c},
      {3, 0x40},
      {4, 3},
      {8, 5},
      {5, 0xc0},
      {9, 0x80},
      {13, 0x12},
      {16, 0x21},
      {48, 0x07},
      {112, 0x40}},
     {{0, 59}, {1, -10}, {160, 934}, {161, -66}}},
    /* value 0: low 5, high 2 -> 37 - 32; value 255: low nibble of ql[127] is value 191's, high is
     * 255's; its high bits are the top two of qh[63] */
    {KVE_TYPE_Q6_K,
     {{209, 0x3c}, {192, 2}, {207, 0xff}, {0, 5}, {128, 2}, {127, 0x70}, {191, 0xc0}},
     {{0, 10}, {1, -64}, {255, -23}, {254, 32}}},
};

Test(quant, golden_bytes)
{
    for (size_t g = 0; g < sizeof(goldens) / sizeof(goldens[0]); ++g) {
        const struct kve_type_info *t = kve_type_info(goldens[g].type);
        uint8_t block[256] = {0};
        float got[256];

        for (size_t i = 0; i < 12; ++i)
            block[goldens[g].bytes[i].at] |= goldens[g].bytes[i].byte;
        kve_dequantise(goldens[g].type, block, got, t->block_values);
        for (size_t i = 0; i < 6; ++i) {
            if (i > 0 && goldens[g].values[i].at == 0)
                break; /* the list's end */
            cr_expect_eq(got[goldens[g].values[i].at], goldens[g].values[i].value,
                         "%s, value %u: %g, %g wanted", t->name, goldens[g].values[i].at,
                         (double)got[goldens[g].values[i].at], (double)goldens[g].values[i].value);
        }
    }
}

Test(quant, halves_of_every_pattern)
{
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const uint8_t le[2] = {(uint8_t)bits, (uint8_t)(bits >> 8)};
        const float got = kve_f16_to_f32((uint16_t)bits);
        const double want = bv_half(le);

        cr_assert(isnan(want) ? isnan(got) : (double)got == want, "0x%04x: %a", bits, (double)got);
        cr_assert_eq(signbit(got) != 0, bits >> 15, "0x%04x", bits);
    }
}
