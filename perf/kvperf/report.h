/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - mode report: results of kv as one self-contained HTML page. */
#ifndef KVP_REPORT_H
#define KVP_REPORT_H

#include <cjson/cJSON.h>
#include <stdio.h>

/* kvperf report A.json [B.json] [-o FILE]: the page, on standard output without -o. Returns the
 * exit status. */
int kvp_report_main(int argc, char **argv);

/* Pictures of a result's rows (report_svg.c). */
void kvp_svg_gantt(FILE *f, const cJSON *row);
void kvp_svg_spread(FILE *f, const cJSON *rows);

/* Both in report_text.c. Text with what HTML would take for its own replaced. */
void kvp_html_text(FILE *f, const char *text);

/* A number in a row, as "exposed_ms.p50"; 0: none there. */
double kvp_row_number(const cJSON *row, const char *path);

/*
 * Mann and Whitney's test: how likely samples as different as these are if both come from the same
 * distribution (two-sided, normal approximation with ties). 1: too few to tell.
 */
double kvp_same_likely(const double *a, int an, const double *b, int bn);

#endif
