/* SPDX-License-Identifier: Apache-2.0 */
/* What is shown is always well-formed UTF-8: every ill-formed sequence becomes U+FFFD, one for each
 * maximal subpart (Unicode 15, table 3-7 and figures 3-8 to 3-11); utf8.py tries all of them. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../engine/text/utf8.h"

#define R "\xef\xbf\xbd"

Test(utf8, ill_formed_sequences_are_replaced_by_maximal_subparts)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xed\xa0\x80", R R R}, /* a surrogate */
        {"\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"},
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"}, /* overlong */
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"}, /* cut off */
        {"\xe1\x80", R},
        {"\xf0\x90\x80", R},
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
        {"\xf4\x90\x80\x80", R R R R}, /* past U+10FFFF */
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct kve_utf8_hold hold;
        char out[64];
        size_t n = 0;

        kve_utf8_reset(&hold);
        for (const char *c = rows[i].in; *c != '\0'; ++c)
            n += kve_utf8_push(&hold, (unsigned char)*c, out + n);
        n += kve_utf8_flush(&hold, out + n);
        cr_expect(n == strlen(rows[i].out) && memcmp(out, rows[i].out, n) == 0, "row %zu: %.*s", i,
                  (int)n, out);
    }
}

/* A byte is held only while the character may still become whole. */
Test(utf8, a_character_comes_with_its_last_byte)
{
    struct kve_utf8_hold hold;
    char out[KVE_UTF8_HOLD_BYTES];

    kve_utf8_reset(&hold);
    cr_expect_eq(kve_utf8_push(&hold, 0xf0, out), 0);
    cr_expect_eq(kve_utf8_push(&hold, 0x9f, out), 0);
    cr_expect_eq(kve_utf8_push(&hold, 0x98, out), 0);
    cr_expect_eq(kve_utf8_push(&hold, 0x80, out), 4);
    cr_expect_eq(kve_utf8_flush(&hold, out), 0);
    cr_expect_eq(kve_utf8_push(&hold, 0xed, out), 0);
    cr_expect_eq(kve_utf8_push(&hold, 0xa0, out), 6, "known to be none at its second byte");
    cr_expect_eq(kve_utf8_flush(&hold, out), 0);
}
