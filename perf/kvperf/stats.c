/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - percentiles, overlap, floor. */
#include "stats.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double rank(const double *sorted, uint32_t n, double share)
{
    const double at = ceil(share * n);

    return sorted[at < 1 ? 0 : (uint32_t)at - 1];
}

struct kvp_spread kvp_spread_of(double *values, uint32_t n)
{
    struct kvp_spread s = {.n = n};
    double sum = 0;

    if (n == 0)
        return s;
    qsort(values, n, sizeof(values[0]), by_value);
    for (uint32_t i = 0; i < n; ++i)
        sum += values[i];
    s.p50 = rank(values, n, 0.5);
    s.p90 = rank(values, n, 0.9);
    s.p99 = rank(values, n, 0.99);
    s.p999 = rank(values, n, 0.999);
    s.max = values[n - 1];
    s.min = values[0];
    s.mean = sum / n;
    return s;
}

double kvp_floor_ms(const double *computed_ms, const double *bytes, uint32_t layers,
                    double bytes_per_ms)
{
    double at = 0;

    if (layers == 0 || !(bytes_per_ms > 0))
        return 0;
    for (uint32_t l = 0; l < layers; ++l)
        at = fmax(at, computed_ms[l]) + bytes[l] / bytes_per_ms;
    return at - computed_ms[layers - 1];
}

double kvp_hidden_ms(const double *computed_ms, const double *landed_ms, uint32_t layers,
                     double end_ms)
{
    double hidden = 0, covered = 0; /* all before covered has been counted */

    for (uint32_t l = 0; l < layers; ++l) { /* computed_ms ascends */
        const double from = fmax(computed_ms[l], covered), to = fmin(landed_ms[l], end_ms);

        if (to > from) {
            hidden += to - from;
            covered = to;
        }
    }
    return hidden;
}
