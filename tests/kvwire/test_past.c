/* SPDX-License-Identifier: Apache-2.0 */
/* A copy past the caches brings every byte to its place and touches none beside it, whatever the
 * addresses and the length. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "../../kvwire/past.h"

#define AROUND  80u /* bytes on both sides that must stay */
#define LONGEST 4161u

static unsigned char from[LONGEST + 64], to[LONGEST + 64 + 2 * AROUND], want[sizeof(to)];

/* Whether `to` is as it was but for the copy, byte after byte. */
static bool right(uint32_t at, uint32_t in, uint32_t bytes)
{
    memset(want, 0xa5, sizeof(want));
    for (uint32_t i = 0; i < bytes; ++i)
        want[AROUND + at + i] = from[in + i];
    return memcmp(to, want, sizeof(to)) == 0;
}

static void copy(uint32_t at, uint32_t in, uint32_t bytes)
{
    memset(to, 0xa5, sizeof(to));
    kvw_past_copy(to + AROUND + at, from + in, bytes);
    kvw_past_done();
}

Test(past, every_byte_and_none_beside_it)
{
    static const uint32_t lengths[] = {0,   1,   63,  64,   65,   127,  255,  256,     257,
                                       300, 319, 320, 1000, 1024, 4095, 4096, LONGEST, 383};
    static const uint32_t starts[] = {0, 1, 15, 16, 31, 63};

    for (uint32_t i = 0; i < sizeof(from); ++i)
        from[i] = (unsigned char)(1 + i * 7 % 160); /* never 0xa5, never one of its neighbours */
    for (uint32_t at = 0; at < 64; ++at)
        for (uint32_t s = 0; s < sizeof(starts) / sizeof(starts[0]); ++s)
            for (uint32_t n = 0; n < sizeof(lengths) / sizeof(lengths[0]); ++n) {
                copy(at, starts[s], lengths[n]);
                cr_assert(right(at, starts[s], lengths[n]), "to %u from %u, %u bytes", at,
                          starts[s], lengths[n]);
            }
}

/* The control: one byte short, one too many, or one of another place, is seen. */
Test(past, a_wrong_byte_is_seen)
{
    for (uint32_t i = 0; i < sizeof(from); ++i)
        from[i] = (unsigned char)(1 + i * 7 % 160);
    copy(5, 3, 1000);
    cr_expect(right(5, 3, 1000));
    cr_expect_not(right(5, 3, 999));
    cr_expect_not(right(5, 3, 1001));
    cr_expect_not(right(5, 4, 1000));
    cr_expect_not(right(6, 3, 1000));
    to[AROUND + 5 + 999] ^= 1;
    cr_expect_not(right(5, 3, 1000));
}
