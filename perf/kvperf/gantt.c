/* SPDX-License-Identifier: Apache-2.0 */
/* gantt.c - the layers of one hand-over as lines of characters: when each was computed, and how
 * long it was on its way. */
#include "result.h"

#include <math.h>
#include <string.h>

#define WIDTH    72
#define ROWS_MAX 32u

static int column(double ms, double end_ms)
{
    const int c = (int)floor(ms / end_ms * WIDTH);

    return c < 0 ? 0 : c >= WIDTH ? WIDTH - 1 : c;
}

static void print_layer(FILE *f, const struct kvp_sample *s, uint32_t l, uint32_t layers,
                        double end_ms)
{
    const double ready = s->computed_ms[l], landed = s->landed_ms[l];
    const double begun = l > 0 ? s->computed_ms[l - 1] : 0, prefill_ms = s->computed_ms[layers - 1];
    const int last = column(landed >= 0 ? landed : end_ms, end_ms);
    char line[WIDTH + 1];

    memset(line, ' ', WIDTH);
    line[WIDTH] = '\0';
    for (int c = column(begun, end_ms); c < column(ready, end_ms); ++c)
        line[c] = '.';
    for (int c = column(ready, end_ms); c <= last; ++c)
        line[c] = c < column(prefill_ms, end_ms) ? '=' : '#';
    if (line[column(prefill_ms, end_ms)] == ' ')
        line[column(prefill_ms, end_ms)] = '|';
    fprintf(f, "%5u %s %9.2f %9.2f\n", l, line, ready, landed);
}

void kvp_gantt_print(FILE *f, const struct kvp_row *row, uint32_t layers)
{
    const struct kvp_sample *s = &row->samples[row->typical];
    const uint32_t each = (layers + ROWS_MAX - 1) / ROWS_MAX;
    const double end_ms = fmax(s->total_ms, 1e-6);

    fprintf(f,
            "\n%s %s, the run with the median exposed time: 0 to %.2f ms. . computed  = on its way "
            "beside the prefill  # exposed  | end of prefill\n",
            row->name, row->codec, end_ms);
    fprintf(f, "layer %-*s %9s %9s\n", WIDTH, "", "ready ms", "landed ms");
    for (uint32_t l = 0; l < layers; ++l)
        if (l % each == 0 || l + 1 == layers)
            print_layer(f, s, l, layers, end_ms);
}
