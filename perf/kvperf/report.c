/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c - kvperf report: one result, or two beside each other, as a page without anything from
 * elsewhere. What comes out of the files is escaped: they may be a stranger's.
 */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define FILE_MAX (64u << 20)
#define SAMPLES  4096

static const char *text_of(const cJSON *o, const char *field)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, field));

    return text != NULL ? text : "";
}

/* --- significance ----------------------------------------------------------------------------- */

struct ranked {
    double value;
    int of_a;
};

static int by_value(const void *a, const void *b)
{
    const double x = ((const struct ranked *)a)->value, y = ((const struct ranked *)b)->value;

    return (x > y) - (x < y);
}

double kvp_same_likely(const double *a, int an, const double *b, int bn)
{
    const int n = an + bn;
    struct ranked *all = n > 0 ? calloc((size_t)n, sizeof(*all)) : NULL;
    double ranks = 0, ties = 0;

    if (all == NULL || an < 3 || bn < 3) {
        free(all);
        return 1;
    }
    for (int i = 0; i < n; ++i)
        all[i] = (struct ranked){i < an ? a[i] : b[i - an], i < an};
    qsort(all, (size_t)n, sizeof(all[0]), by_value);
    for (int i = 0, k; i < n; i = k) {
        for (k = i; k < n && all[k].value == all[i].value; ++k)
            ;
        const double tied = k - i, rank = (i + 1 + k) / 2.0;

        for (int j = i; j < k; ++j)
            ranks += all[j].of_a ? rank : 0;
        ties += tied * tied * tied - tied;
    }
    free(all);
    const double x = an, y = bn, u = ranks - x * (x + 1) / 2;
    const double var = x * y / 12 * (n + 1 - ties / ((double)n * (n - 1)));

    if (!(var > 0))
        return 1;
    return erfc(fmax(0, fabs(u - x * y / 2) - 0.5) / sqrt(2 * var));
}

static int samples_of(const cJSON *row, double *to)
{
    const cJSON *v;
    int n = 0;

    cJSON_ArrayForEach(v, cJSON_GetObjectItemCaseSensitive(row, "samples_exposed_ms"))
    {
        if (n < SAMPLES && cJSON_IsNumber(v))
            to[n++] = v->valuedouble;
    }
    return n;
}

/* --- the page --------------------------------------------------------------------------------- */

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;"
    "color:#222}h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:"
    "collapse;margin:1em 0}td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child,td.l{text-align:left}svg{width:100%;background:#fafafa;border:"
    "1px solid #e5e5e5}svg text{font:10px sans-serif;fill:#444}.compute{fill:#c8ccd0}.way{fill:"
    "#1b6ca8}.shade{fill:#f6dcd7}.end{stroke:#c8553d;stroke-width:1.5}.grid{stroke:#e8e8e8}"
    ".note{color:#666;font-size:.9em}code{background:#f3f3f3;padding:.1em .3em;overflow-wrap:"
    "anywhere}.bad{color:#b00;font-weight:bold}";

static void put_rows(FILE *f, const cJSON *rows)
{
    const cJSON *row;

    fprintf(f, "<table><tr><th>row</th><th>codec</th><th>tokens</th><th>exposed p50</th><th>p99"
               "</th><th>max</th><th>overlap</th><th>floor</th><th>of floor</th><th>GB/s</th><th>"
               "raw/wire</th><th>CPU-s/GiB</th><th>data</th></tr>\n");
    cJSON_ArrayForEach(row, rows)
    {
        const cJSON *data = cJSON_GetObjectItemCaseSensitive(row, "data");
        const char *verdict = text_of(data, "verdict");

        if (!(kvp_row_number(row, "rounds") > 0))
            continue;
        fprintf(f, "<tr><td>");
        kvp_html_text(f, text_of(row, "name"));
        fprintf(f, "</td><td class=\"l\">");
        kvp_html_text(f, text_of(row, "codec"));
        fprintf(f,
                "</td><td>%.0f x %.0f</td><td>%.3f ms</td><td>%.3f</td><td>%.3f</td><td>%.1f %%"
                "</td><td>%.3f ms</td><td>%.1f %%</td><td>%.3f</td><td>%.3f</td><td>%.2f + %.2f"
                "</td><td class=\"%s\">",
                kvp_row_number(row, "requests"), kvp_row_number(row, "tokens"),
                kvp_row_number(row, "exposed_ms.p50"), kvp_row_number(row, "exposed_ms.p99"),
                kvp_row_number(row, "exposed_ms.max"), kvp_row_number(row, "overlap_percent"),
                kvp_row_number(row, "floor_ms"), kvp_row_number(row, "percent_of_floor"),
                kvp_row_number(row, "gb_per_s"), kvp_row_number(row, "ratio"),
                kvp_row_number(row, "cpu_s_per_gib_sender"),
                kvp_row_number(row, "cpu_s_per_gib_receiver"),
                strcmp(verdict, "wrong") == 0 ? "bad" : "l");
        kvp_html_text(f, verdict);
        fprintf(f, "</td></tr>\n");
    }
    fprintf(f, "</table>\n");
}

static void put_host(FILE *f, const char *what, const cJSON *host)
{
    fprintf(f, "<tr><td>%s</td><td class=\"l\">", what);
    kvp_html_text(f, text_of(host, "name"));
    fprintf(f, ": ");
    kvp_html_text(f, text_of(host, "cpu"));
    fprintf(f, ", %.0f CPUs, ", kvp_row_number(host, "cpus"));
    kvp_html_text(f, text_of(host, "kernel"));
    fprintf(f, ", %s MTU %.0f, load %.1f</td></tr>\n", "interface", kvp_row_number(host, "mtu"),
            kvp_row_number(host, "load"));
}

static void put_result(FILE *f, const cJSON *result, const char *path)
{
    const cJSON *start = cJSON_GetObjectItemCaseSensitive(result, "start");
    const cJSON *config = cJSON_GetObjectItemCaseSensitive(result, "config");
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(result, "rows"), *row;
    const cJSON *end = cJSON_GetObjectItemCaseSensitive(result, "end");

    fprintf(f, "<h2>");
    kvp_html_text(f, text_of(start, "title")[0] != '\0' ? text_of(start, "title") : path);
    fprintf(f, "</h2>\n<p><code>");
    kvp_html_text(f, text_of(start, "command"));
    fprintf(f, "</code><br>");
    kvp_html_text(f, text_of(start, "time"));
    fprintf(f, "</p>\n");
    if (text_of(end, "error")[0] != '\0') {
        fprintf(f, "<p class=\"bad\">");
        kvp_html_text(f, text_of(end, "error"));
        fprintf(f, "</p>\n");
    }
    fprintf(f, "<p>");
    kvp_html_text(f, text_of(cJSON_GetObjectItemCaseSensitive(config, "geometry"), "name"));
    fprintf(f, ": %.0f tokens, %.4g MB of KV, prefill %.1f ms (", kvp_row_number(config, "tokens"),
            kvp_row_number(config, "bytes") / 1e6, kvp_row_number(config, "prefill_ms"));
    kvp_html_text(f, text_of(config, "prefill_clock"));
    fprintf(f, "), blocks of %.0f tokens, ", kvp_row_number(config, "block_tokens_sender"));
    kvp_html_text(f, text_of(config, "order"));
    fprintf(f, "</p>\n<table>");
    put_host(f, "sender", cJSON_GetObjectItemCaseSensitive(start, "client"));
    put_host(f, "receiver", cJSON_GetObjectItemCaseSensitive(start, "server"));
    fprintf(f, "</table>\n");
    put_rows(f, rows);
    kvp_svg_spread(f, rows);
    cJSON_ArrayForEach(row, rows)
    {
        if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "streamed")) ||
            !(kvp_row_number(row, "rounds") > 0))
            continue;
        fprintf(f, "<h3>streamed ");
        kvp_html_text(f, text_of(row, "codec"));
        fprintf(f, ", %.0f tokens</h3>\n", kvp_row_number(row, "tokens"));
        kvp_svg_gantt(f, row);
    }
}

/* The row of another result that measured the same; NULL: none. */
static const cJSON *counterpart(const cJSON *rows, const cJSON *like)
{
    const cJSON *row;

    cJSON_ArrayForEach(row, rows)
    {
        if (strcmp(text_of(row, "name"), text_of(like, "name")) == 0 &&
            strcmp(text_of(row, "codec"), text_of(like, "codec")) == 0 &&
            strcmp(text_of(row, "order"), text_of(like, "order")) == 0 &&
            kvp_row_number(row, "tokens") == kvp_row_number(like, "tokens") &&
            kvp_row_number(row, "requests") == kvp_row_number(like, "requests"))
            return row;
    }
    return NULL;
}

static void put_difference(FILE *f, const cJSON *a, const cJSON *b)
{
    static double of_a[SAMPLES], of_b[SAMPLES];
    const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(b, "rows"), *row;
    int rows = 0;

    fprintf(f, "<h2>A beside B</h2>\n<table><tr><th>row</th><th>codec</th><th>A</th><th>B</th><th>"
               "B / A</th><th>is it more than chance?</th></tr>\n");
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(a, "rows"))
    {
        const cJSON *other = counterpart(theirs, row);
        const double x = kvp_row_number(row, "exposed_ms.p50");
        const double y = kvp_row_number(other, "exposed_ms.p50");

        if (!(x > 0) || !(y > 0))
            continue;
        ++rows;
        const int an = samples_of(row, of_a), bn = samples_of(other, of_b);
        const double p = kvp_same_likely(of_a, an, of_b, bn);

        fprintf(f, "<tr><td>");
        kvp_html_text(f, text_of(row, "name"));
        fprintf(f, "</td><td class=\"l\">");
        kvp_html_text(f, text_of(row, "codec"));
        fprintf(f, "</td><td>%.3f ms</td><td>%.3f ms</td><td>%.3f</td><td class=\"l\">", x, y,
                y / x);
        if (an < 3 || bn < 3)
            fprintf(f, "too few runs (%d, %d)", an, bn);
        else
            fprintf(f, "%s (p = %.2g, %d and %d runs)", p < 0.01 ? "yes" : "not shown", p, an, bn);
        fprintf(f, "</td></tr>\n");
    }
    if (rows == 0)
        fprintf(f, "<tr><td colspan=\"6\" class=\"l\">no row of A measured what one of B did</td>"
                   "</tr>");
    fprintf(f, "</table>\n<p class=\"note\">Medians of the exposed time; Mann and Whitney's test, "
               "two-sided. Runs on different days differ for reasons that no test knows.</p>\n");
}

static void put_page(FILE *f, cJSON *const results[2], char *const paths[2])
{
    fprintf(f,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>kvperf</title>"
            "<style>%s</style></head><body>\n<h1>kvperf: how long the hand-over of a KV cache "
            "shows</h1>\n",
            style);
    if (results[1] != NULL)
        put_difference(f, results[0], results[1]);
    for (int i = 0; i < 2 && results[i] != NULL; ++i)
        put_result(f, results[i], paths[i]);
    fprintf(f, "</body></html>\n");
}

/* --- files ------------------------------------------------------------------------------------ */

static cJSON *load(const char *path)
{
    FILE *f = fopen(path, "r");
    char *text = f != NULL ? malloc(FILE_MAX + 1) : NULL;
    cJSON *json = NULL;

    if (text == NULL) {
        fprintf(stderr, "kvperf: %s: %s\n", path, strerror(errno));
    } else {
        text[fread(text, 1, FILE_MAX, f)] = '\0';
        json = cJSON_Parse(text);
        if (strcmp(text_of(json, "tool"), "kvperf") != 0 || kvp_row_number(json, "schema") != 1 ||
            !cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(json, "rows"))) {
            fprintf(stderr, "kvperf: %s: not a result of kvperf with schema 1 and rows\n", path);
            cJSON_Delete(json);
            json = NULL;
        }
    }
    free(text);
    if (f != NULL)
        fclose(f);
    return json;
}

static int write_page(const char *output, cJSON *const results[2], char *const paths[2])
{
    FILE *f = output != NULL ? fopen(output, "w") : stdout;
    bool ok = f != NULL;

    if (ok) {
        put_page(f, results, paths);
        ok = fflush(f) == 0 && !ferror(f);
    }
    if (!ok)
        fprintf(stderr, "kvperf: %s: %s\n", output != NULL ? output : "standard output",
                strerror(errno));
    if (f != NULL && f != stdout)
        fclose(f);
    return ok ? KVP_EXIT_OK : KVP_EXIT_FAILED;
}

int kvp_report_main(int argc, char **argv)
{
    const char *output = NULL;
    cJSON *results[2] = {NULL, NULL};
    char *paths[2] = {NULL, NULL};
    int n = 0, status = KVP_EXIT_OK;

    for (int i = 2; i < argc && status == KVP_EXIT_OK; ++i) {
        if (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0)
            output = i + 1 < argc ? argv[++i] : "";
        else if (argv[i][0] == '-' || n == 2)
            status = KVP_EXIT_USAGE;
        else
            paths[n++] = argv[i];
    }
    if (status != KVP_EXIT_OK || n == 0 || (output != NULL && output[0] == '\0')) {
        fprintf(stderr, "kvperf: it is: kvperf report A.json [B.json] [-o PAGE.html]\n");
        return KVP_EXIT_USAGE;
    }
    for (int i = 0; i < n && status == KVP_EXIT_OK; ++i)
        if ((results[i] = load(paths[i])) == NULL)
            status = KVP_EXIT_FAILED;
    if (status == KVP_EXIT_OK)
        status = write_page(output, results, paths);
    cJSON_Delete(results[0]);
    cJSON_Delete(results[1]);
    return status;
}
