/* SPDX-License-Identifier: Apache-2.0 */
/* report_text.c - what the page and its pictures both need: numbers of a row, escaped text. */
#include <string.h>

#include "report.h"

void kvp_html_text(FILE *f, const char *text)
{
    for (; text != NULL && *text != '\0'; ++text)
        if (*text == '<')
            fputs("&lt;", f);
        else if (*text == '>')
            fputs("&gt;", f);
        else if (*text == '&')
            fputs("&amp;", f);
        else if (*text == '"')
            fputs("&quot;", f);
        else
            fputc(*text, f);
}

double kvp_row_number(const cJSON *row, const char *path)
{
    const char *dot = strchr(path, '.');
    char name[40];

    snprintf(name, sizeof(name), "%.*s", dot != NULL ? (int)(dot - path) : 39, path);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, name);

    if (dot != NULL)
        return kvp_row_number(v, dot + 1);
    return cJSON_IsNumber(v) ? v->valuedouble : 0;
}
