/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk's digest depends on its bytes only, never on the pieces they were fed in. */
#include <criterion/criterion.h>

#include "../../kvwire/digest.h"

Test(digest, pieces_do_not_matter)
{
    unsigned char bytes[3000];
    struct kvw_digest whole, pieces;

    for (size_t i = 0; i < sizeof(bytes); ++i)
        bytes[i] = (unsigned char)(i * 31 + i / 7);
    cr_assert_eq(kvw_digest_begin(&whole, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_assert_eq(kvw_digest_begin(&pieces, KVW_DIGEST_XXH3_64), KVW_OK);
    kvw_digest_update(&whole, bytes, sizeof(bytes));
    for (size_t i = 0, n; i < sizeof(bytes); i += n) {
        n = 1 + i % 97;
        if (n > sizeof(bytes) - i)
            n = sizeof(bytes) - i;
        kvw_digest_update(&pieces, bytes + i, n);
    }
    cr_expect_eq(kvw_digest_value(&whole), kvw_digest_value(&pieces));
}

/* XXH3-64, seed 0, of nothing and of "kvwire": fixed for ever (SPEC.md 6). */
Test(digest, known_values)
{
    struct kvw_digest d;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_expect_eq(kvw_digest_value(&d), 0x2d06800538d394c2ull);
    cr_expect_eq(kvw_digest_begin(&d, (kvw_digest_id)77), KVW_E_UNSUPPORTED);
}
