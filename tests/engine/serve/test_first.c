/* SPDX-License-Identifier: Apache-2.0 */
/* A first token and its logprobs come out of a note as they went in; a note of another length, or
 * of ids that are none, is no note. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "../../../engine/serve/first.h"

Test(first, comes_back_as_it_went)
{
    struct kve_first f = {.token = 0x01020304}, g;
    uint8_t note[KVE_FIRST_BYTES_MAX];

    for (uint32_t count = 0; count <= 1 + KVE_LOGPROBS_MAX; ++count) {
        f.count = count;
        for (uint32_t i = 0; i < count; ++i)
            f.logprobs[i] = (struct kve_logprob){i * 1000 + 7, -0.25f * (float)i};
        const size_t n = kve_first_put(note, &f);
        cr_assert_eq(n, 4 + 8 * count);
        cr_expect(note[0] == 4 && note[1] == 3 && note[2] == 2 && note[3] == 1);
        cr_assert_eq(kve_first_get(&g, note, n, count, 0x01020305), KVW_OK);
        cr_expect(g.token == f.token && g.count == count);
        cr_expect_arr_eq(g.logprobs, f.logprobs, count * sizeof(f.logprobs[0]));
    }
}

Test(first, what_is_none_is_refused)
{
    const struct kve_first f = {
        .token = 9, .count = 2, .logprobs = {{9, -1}, {KVE_LOGPROB_NO_ID, KVE_LOGPROB_LEAST}}};
    uint8_t note[KVE_FIRST_BYTES_MAX];
    const size_t n = kve_first_put(note, &f);
    const float nan = NAN;
    struct kve_first g;

    cr_expect_eq(kve_first_get(&g, note, n, 2, 10), KVW_OK);
    cr_expect_eq(kve_first_get(&g, note, n, 2, 9), KVW_E_PROTOCOL, "a token past the vocabulary");
    cr_expect_eq(kve_first_get(&g, note, n, 1, 10), KVW_E_PROTOCOL, "one logprob too many");
    cr_expect_eq(kve_first_get(&g, note, n - 1, 2, 10), KVW_E_PROTOCOL, "a byte is missing");
    cr_expect_eq(kve_first_get(&g, note, 0, 0, 10), KVW_E_PROTOCOL, "nothing");
    note[4] = 10;
    cr_expect_eq(kve_first_get(&g, note, n, 2, 10), KVW_E_PROTOCOL, "an id past the vocabulary");
    note[4] = 9;
    memcpy(note + 8, &nan, sizeof(nan));
    cr_expect_eq(kve_first_get(&g, note, n, 2, 10), KVW_E_PROTOCOL, "no number");
}
