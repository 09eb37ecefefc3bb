/* SPDX-License-Identifier: Apache-2.0 */
/* option_value.c - the value of an option as a number or a word; a refusal names all three: the
 * option, its value and what it may be. */
#include "option_value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool kvp_refuse(const char *name, const char *text, const char *must)
{
    fprintf(stderr, "kvperf: --%s %s: %s\n", name, text, must);
    return false;
}

bool kvp_number(const char *name, const char *text, double min, double max, double *to)
{
    char *end;

    errno = 0;
    const double v = strtod(text, &end);

    if (errno != 0 || end == text || *end != '\0' || !(v >= min && v <= max)) {
        fprintf(stderr, "kvperf: --%s %s: not a number from %.15g to %.15g\n", name, text, min,
                max);
        return false;
    }
    *to = v;
    return true;
}

/* A whole number; k and m stand for 1,024 and its square. */
bool kvp_whole(const char *name, const char *text, double min, double max, uint32_t *to)
{
    char *end;

    errno = 0;
    double v = strtod(text, &end);

    if (end != text && (*end == 'k' || *end == 'K' || *end == 'm' || *end == 'M'))
        v *= *end == 'k' || *end == 'K' ? 1024 : 1048576, ++end;
    if (errno != 0 || end == text || *end != '\0' || !(v >= min && v <= max) || v != floor(v)) {
        fprintf(stderr, "kvperf: --%s %s: not a whole number from %.15g to %.15g\n", name, text,
                min, max);
        return false;
    }
    *to = (uint32_t)v;
    return true;
}

/* Which of the words text is, or -1, and it says so. */
int kvp_one_of(const char *name, const char *text, const char *const *words)
{
    char must[80] = "it is";

    for (int i = 0; words[i] != NULL; ++i) {
        if (strcmp(text, words[i]) == 0)
            return i;
        snprintf(must + strlen(must), sizeof(must) - strlen(must), "%s %s", i > 0 ? " or" : "",
                 words[i]);
    }
    (void)kvp_refuse(name, text, must);
    return -1;
}

/* strtok_r() would pass over it. */
bool kvp_has_gap(const char *text)
{
    const size_t n = strlen(text);

    return text[0] == ',' || strstr(text, ",,") != NULL || (n > 0 && text[n - 1] == ',');
}
