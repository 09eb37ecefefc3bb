/* SPDX-License-Identifier: Apache-2.0 */
/* cpus.c - reads a list of CPUs. */
#include "cpus.h"

#include <ctype.h>
#include <stdlib.h>

/* A whole number; *text moves behind it. Negative: there is none. */
static long number(const char **text)
{
    char *end;
    long n;

    if (!isdigit((unsigned char)**text))
        return -1;
    n = strtol(*text, &end, 10);
    *text = end;
    return n < CPU_SETSIZE ? n : -1;
}

bool kve_cpus_parse(cpu_set_t *set, const char *text)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    for (;; ++text) {
        const long first = number(&text);
        long last = first;

        if (*text == '-') {
            ++text;
            last = number(&text);
        }
        if (first < 0 || last < first)
            return false;
        for (long c = first; c <= last; ++c)
            CPU_SET((size_t)c, &cpus);
        if (*text == '\0')
            break;
        if (*text != ',')
            return false;
    }
    *set = cpus;
    return true;
}
