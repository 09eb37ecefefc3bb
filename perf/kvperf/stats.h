/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - the arithmetic of a result: percentiles, overlap, and the physical floor.
 *
 * threads  any      memory  none is taken      time  milliseconds, none is read
 */
#ifndef KVP_STATS_H
#define KVP_STATS_H

#include <stdint.h>

struct kvp_spread {
    uint32_t n;
    double p50, p90, p99, p999, max, min, mean;
};

/* Of n values, which are sorted in place. Nearest rank: a percentile is a measured value. */
struct kvp_spread kvp_spread_of(double *values, uint32_t n);

/*
 * How long a transfer shows after the last layer was computed, if the link carries bytes_per_ms and
 * nothing else takes time. Each layer is sent when it is computed and the one before has gone:
 *
 *     a[l] = max(a[l-1], computed[l]) + bytes[l] / bytes_per_ms
 *     floor = a[last] - computed[last]
 *
 * computed ascends.
 */
double kvp_floor_ms(const double *computed_ms, const double *bytes, uint32_t layers,
                    double bytes_per_ms);

/* The time before end_ms in which at least one layer was on its way, computed[l] .. landed[l]. */
double kvp_hidden_ms(const double *computed_ms, const double *landed_ms, uint32_t layers,
                     double end_ms);

#endif
