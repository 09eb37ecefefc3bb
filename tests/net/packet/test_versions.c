/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends use the highest version that both speak and that wasn't tried, and never a number that
 * is no version. */
#include <criterion/criterion.h>

#include "../../../net/packet/versions.h"

#define V(n) (1u << (n))

Test(versions, the_highest_common_one)
{
    cr_expect_eq(kvn_versions_choose(V(1) | V(2), V(1) | V(2) | V(3), 0), 2);
    cr_expect_eq(kvn_versions_choose(V(1) | V(2), V(1) | V(2), V(2)), 1);
    cr_expect_eq(kvn_versions_choose(V(1) | V(2), V(1) | V(2), V(1) | V(2)), 0);
    cr_expect_eq(kvn_versions_choose(V(1), V(2), 0), 0);
    cr_expect_eq(kvn_versions_choose(UINT16_MAX, UINT16_MAX, 0), 15);
    cr_expect_eq(kvn_versions_choose(UINT16_MAX, V(0) | V(5) | V(10), 0), 0);
    for (uint8_t v = 1; v < 16; ++v)
        cr_expect_eq(kvn_versions_choose(V(v), UINT16_MAX, 0), v == 5 || v == 10 ? 0 : v);
}

Test(versions, grease_is_one_of_two)
{
    cr_expect_eq(kvn_versions_grease(V(2), 1), V(2) | V(5));
    cr_expect_eq(kvn_versions_grease(V(2), 2), V(2) | V(10));
}

Test(versions, words)
{
    static const struct {
        uint16_t set;
        const char *text;
    } t[] = {{0, "none"},        {V(5) | V(10), "none"},     {V(2), "2"},
             {V(2) | V(5), "2"}, {V(1) | V(15), "1 and 15"}, {V(1) | V(2) | V(7), "1, 2 and 7"},
             {V(0) | V(3), "3"}};
    char text[64], small[6];

    for (uint32_t i = 0; i < sizeof(t) / sizeof(t[0]); ++i) {
        kvn_versions_format(t[i].set, text, sizeof(text));
        cr_expect_str_eq(text, t[i].text);
    }
    kvn_versions_format(V(1) | V(2) | V(7), small, sizeof(small));
    cr_expect_str_eq(small, "1, 2 ");
}
