/* SPDX-License-Identifier: Apache-2.0 */
/* report_svg.c - the pictures of a report: layers as bars, exposed times as a distribution. */
#include "report.h"

#include <math.h>
#include <stdlib.h>

#define WIDTH  900.0
#define LEFT   60.0
#define BAR    9.0
#define HEIGHT 220.0

static const char *const colours[] = {"#1b6ca8", "#c8553d", "#2e8b57",
                                      "#8e5ea2", "#b8860b", "#555"};

#define COLOURS (sizeof(colours) / sizeof(colours[0]))

/* A round step so that about six of them span max. */
static double step_of(double max)
{
    const double raw = max / 6, power = pow(10, floor(log10(raw > 0 ? raw : 1)));

    return raw / power < 1.5   ? power
           : raw / power < 3.5 ? 2 * power
           : raw / power < 7.5 ? 5 * power
                               : 10 * power;
}

static void axis(FILE *f, double max, double height)
{
    const double step = step_of(max);

    for (double at = 0; at <= max; at += step) {
        const double x = LEFT + at / max * (WIDTH - LEFT - 10);

        fprintf(f,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%.1f\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g ms</text>\n",
                x, x, height, x, height + 14, at);
    }
}

void kvp_svg_gantt(FILE *f, const cJSON *row)
{
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(row, "layers");
    const int n = cJSON_GetArraySize(layers);
    const cJSON *last = cJSON_GetArrayItem(layers, n - 1), *layer;
    const double end = kvp_row_number(last, "computed_ms");
    double max = end, begun = 0;
    int i = 0;

    cJSON_ArrayForEach(layer, layers) max = fmax(max, kvp_row_number(layer, "landed_ms"));
    if (n == 0 || !(max > 0))
        return;
    const double scale = (WIDTH - LEFT - 10) / max;

    fprintf(f, "<svg class=\"gantt\" viewBox=\"0 0 %g %g\">\n", WIDTH, n * BAR + 20);
    axis(f, max, n * BAR);
    fprintf(f, "<rect class=\"shade\" x=\"%.1f\" y=\"0\" width=\"%.1f\" height=\"%.1f\"/>\n",
            LEFT + end * scale, (max - end) * scale, n * BAR);
    cJSON_ArrayForEach(layer, layers)
    {
        const double ready = kvp_row_number(layer, "computed_ms");
        const double landed = kvp_row_number(layer, "landed_ms"), y = i * BAR;

        fprintf(f,
                "<rect class=\"compute\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>"
                "<rect class=\"way\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">"
                "<title>layer %d: ready %.3f ms, landed %.3f ms</title></rect>\n",
                LEFT + begun * scale, y + 1, (ready - begun) * scale, BAR - 2, LEFT + ready * scale,
                y + 1, fmax(0.5, (landed - ready) * scale), BAR - 2, i, ready, landed);
        if (i % 8 == 0)
            fprintf(f, "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">layer %d</text>\n", LEFT - 6,
                    y + BAR - 1, i);
        begun = ready;
        ++i;
    }
    fprintf(
        f,
        "<line class=\"end\" x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%.1f\"/></svg>\n"
        "<p class=\"note\">grey: computed; blue: on its way; red line: end of the prefill; what "
        "is right of it is exposed. The run with the median exposed time.</p>\n",
        LEFT + end * scale, LEFT + end * scale, n * BAR);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The samples of a row, ascending; the caller frees. */
static double *sorted(const cJSON *row, int *n)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(row, "samples_exposed_ms"), *v;
    double *values;
    int i = 0;

    *n = cJSON_GetArraySize(list);
    values = calloc((size_t)*n + 1, sizeof(*values));
    if (values == NULL)
        *n = 0;
    else
        cJSON_ArrayForEach(v, list) values[i++] = v->valuedouble;
    if (*n > 0)
        qsort(values, (size_t)*n, sizeof(values[0]), by_value);
    return values;
}

void kvp_svg_spread(FILE *f, const cJSON *rows)
{
    const cJSON *row;
    double max = 0;
    unsigned colour = 0;

    cJSON_ArrayForEach(row, rows) max = fmax(max, kvp_row_number(row, "exposed_ms.max"));
    if (!(max > 0))
        return;
    fprintf(f, "<svg class=\"cdf\" viewBox=\"0 0 %g %g\">\n", WIDTH, HEIGHT + 20);
    axis(f, max, HEIGHT);
    cJSON_ArrayForEach(row, rows)
    {
        int n;
        double *values = sorted(row, &n);

        if (n > 0) {
            fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"%g,%g",
                    colours[colour % COLOURS], LEFT, HEIGHT);
            for (int i = 0; i < n; ++i) {
                const double x = LEFT + values[i] / max * (WIDTH - LEFT - 10);

                fprintf(f, " %.1f,%.1f %.1f,%.1f", x, HEIGHT - HEIGHT * i / n, x,
                        HEIGHT - HEIGHT * (i + 1) / n);
            }
            fprintf(f, "\"/>\n<text x=\"%g\" y=\"%u\" style=\"fill:%s\">", LEFT + 8,
                    14 + 14 * colour, colours[colour % COLOURS]);
            kvp_html_text(f, cJSON_GetStringValue(cJSON_GetObjectItem(row, "name")));
            fprintf(f, " ");
            kvp_html_text(f, cJSON_GetStringValue(cJSON_GetObjectItem(row, "codec")));
            fprintf(f, "</text>\n");
            ++colour;
        }
        free(values);
    }
    fprintf(f, "</svg>\n<p class=\"note\">share of runs whose exposed time was at most so "
               "long</p>\n");
}
