/* SPDX-License-Identifier: Apache-2.0 */
/* The text ends before the first stop string that is whole, however it was cut into pieces, and
 * nothing of one is ever shown. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/serve/stop.h"

static const struct {
    const char *stops[4];
    const char *text, *shown;
} rows[] = {
    {{NULL}, "abc", "abc"},          {{"b"}, "abc", "a"},
    {{"abc"}, "ababcab", "ab"},      {{"abc", "b"}, "zabc", "za"}, /* the one that ends first */
    {{"bc", "abc"}, "zabc", "z"}, /* of two that end together the longer */
    {{"aab"}, "aaab", "a"},          {{"abab"}, "abaabab", "aba"},
    {{"xyz"}, "abxy", "abxy"}, /* held back, then shown */
    {{"\n\n"}, "a\nb\n\nc", "a\nb"}, {{"\xc3\xa9"}, "a\xc3\xa8\xc3\xa9z", "a\xc3\xa8"},
};

/* Pieces of the text by the bits of cuts: a cut behind byte i where bit i is set. */
static void play(size_t row, unsigned cuts)
{
    const char *text = rows[row].text;
    const size_t n = strlen(text);
    char shown[64] = "";
    uint32_t count = 0;
    struct kve_stop s;
    size_t from = 0, ready;

    while (rows[row].stops[count] != NULL)
        ++count;
    cr_assert_eq(kve_stop_open(&s, rows[row].stops, count), KVW_OK);
    for (size_t i = 0; i < n; ++i) {
        if (i + 1 < n && (cuts & 1u << i) == 0)
            continue;
        cr_assert_eq(kve_stop_push(&s, text + from, i + 1 - from, &ready), KVW_OK);
        strncat(shown, s.held, ready);
        kve_stop_shown(&s, ready);
        from = i + 1;
    }
    strncat(shown, s.held, kve_stop_rest(&s));
    cr_expect_str_eq(shown, rows[row].shown, "row %zu, cuts %x: %s", row, cuts, shown);
    cr_expect_eq(s.hit, strcmp(shown, text) != 0, "row %zu", row);
    kve_stop_close(&s);
}

Test(stop, every_cut_of_every_text)
{
    for (size_t row = 0; row < sizeof(rows) / sizeof(rows[0]); ++row)
        for (unsigned cuts = 0; cuts < 1u << (strlen(rows[row].text) - 1); ++cuts)
            play(row, cuts);
}

/* What can't become a stop string any more isn't held back. */
Test(stop, holds_back_no_more_than_it_must)
{
    static const char *const stops[] = {"abcd"};
    struct kve_stop s;
    size_t ready;

    cr_assert_eq(kve_stop_open(&s, stops, 1), KVW_OK);
    cr_assert_eq(kve_stop_push(&s, "xab", 3, &ready), KVW_OK);
    cr_expect_eq(ready, 1);
    kve_stop_shown(&s, ready);
    cr_assert_eq(kve_stop_push(&s, "x", 1, &ready), KVW_OK);
    cr_expect_eq(ready, 3);
    kve_stop_close(&s);
}
