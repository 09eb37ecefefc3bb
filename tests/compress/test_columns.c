/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md's table of 3.4 is what the encoder does, for every q that there can be: the text is read,
 * and compared with the columns of chunks that were made to have that q. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/columns.h"

#define COLUMNS 4u
#define BELOW   15u /* SPEC.md 3.4: no value counts as further below */
#define Q_END   (4 * BELOW * (KVC_SAMPLE_TOKENS - 1) / KVC_SAMPLE_TOKENS + 1)

struct fit {
    uint32_t below, class;
};

/* The line "- (below, class) by q: 0-3 (11, 0); ... from 17 on (14, 1);" of the file, by q. */
static void read_table(struct fit *table)
{
    char line[1024] = "", *at = NULL;
    FILE *f = fopen(SPEC, "r");
    uint32_t next = 0;

    cr_assert_not_null(f, "%s", SPEC);
    while (at == NULL && fgets(line, sizeof(line), f) != NULL)
        at = strstr(line, "(below, class) by q:");
    fclose(f);
    cr_assert_not_null(at, "the table is gone");
    for (at = strtok(strchr(at, ':') + 1, ";\n"); at != NULL; at = strtok(NULL, ";\n")) {
        uint32_t first, last = Q_END - 1;
        struct fit fit;

        if (sscanf(at, " %u-%u (%u, %u)", &first, &last, &fit.below, &fit.class) != 4)
            cr_assert_eq(sscanf(at, " from %u on (%u, %u)", &first, &fit.below, &fit.class), 3,
                         "%s", at);
        cr_assert_eq(first, next, "q %u to %u: %s", next, first, at);
        for (; next <= last && next < Q_END; ++next)
            table[next] = fit;
    }
    cr_assert_eq(next, Q_END, "the table ends at %u", next);
}

/* bf16 tokens of COLUMNS values whose exponents lie `sum` below the largest one, all together. */
static void make(uint16_t *values, uint32_t sum)
{
    const uint32_t largest = 120;

    for (uint32_t t = 0; t < KVC_SAMPLE_TOKENS; ++t) {
        const uint32_t d = t == 0 ? 0 : sum < BELOW ? sum : BELOW;

        sum -= d;
        for (uint32_t c = 0; c < COLUMNS; ++c)
            values[t * COLUMNS + c] = (uint16_t)(largest - d) << 7;
    }
    cr_assert_eq(sum, 0);
}

Test(columns, the_text_says_what_the_encoder_does)
{
    static uint16_t values[KVC_SAMPLE_TOKENS * COLUMNS];
    static uint8_t rows[KVC_SAMPLE_TOKENS * KVC_COLUMNS_MAX];
    static struct kvc_column_bytes got;
    static struct fit table[Q_END];
    const uint32_t block = 0;
    const struct kvw_view view = {.base = (unsigned char *)values,
                                  .blocks = &block,
                                  .block_tokens = KVC_SAMPLE_TOKENS,
                                  .tokens = KVC_SAMPLE_TOKENS,
                                  .heads = 1,
                                  .head_bytes = COLUMNS * 2,
                                  .dtype = KVW_DTYPE_BF16,
                                  .block_stride = sizeof(values),
                                  .token_stride = COLUMNS * 2,
                                  .head_stride = COLUMNS * 2};

    read_table(table);
    for (uint32_t sum = 0; sum <= BELOW * (KVC_SAMPLE_TOKENS - 1); ++sum) {
        const uint32_t q = 4 * sum / KVC_SAMPLE_TOKENS;

        make(values, sum);
        kvc_columns_sample(&got, &view, COLUMNS, kvc_kernels()->lanes, rows);
        cr_expect_eq(got.origin, 120 - 74);
        for (uint32_t c = 0; c < COLUMNS; ++c) { /* L is M here: place = 74 - below */
            cr_expect_eq(got.of[c] >> KVC_CLASS_SHIFT, table[q].class, "class of q %u", q);
            cr_expect_eq(got.of[c] & KVC_COLUMN_PLACES, 74 - table[q].below, "below of q %u", q);
        }
    }
}
