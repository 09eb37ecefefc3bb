/* SPDX-License-Identifier: Apache-2.0 */
/* search.c - the bracket, the grid, and where medians times the tail cross the bound. */
#include "search.h"

#include <math.h>
#include <stdlib.h>

#include "stats.h"

#define TAIL_MAX 20000u /* rounds whose tail is looked at */

uint32_t kvp_search_next(const struct kvp_search *s)
{
    uint32_t next;

    if (s->fails == 0)
        next = s->passes == 0 ? s->first : 2 * s->passes;
    else
        next = s->passes == 0 ? s->fails / 2 : 0;
    return next > s->most ? 0 : next;
}

void kvp_search_add(struct kvp_search *s, uint32_t tokens, double *exposed_ms, uint32_t n)
{
    if (kvp_spread_of(exposed_ms, n).p90 <= s->bound_ms)
        s->passes = tokens;
    else
        s->fails = tokens;
}

uint32_t kvp_search_grid(const struct kvp_search *s, uint32_t tokens[KVP_GRID])
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < KVP_GRID && s->passes > 0; ++i) {
        const double at = s->passes * exp2((double)i / 4 - 1);
        const uint32_t length = (uint32_t)(at + 0.5);

        if (length > 0 && length <= s->most && (n == 0 || length > tokens[n - 1]))
            tokens[n++] = length;
    }
    return n;
}

/* The 99th of 100 of all rounds over their length's median. */
static double tail_of(const struct kvp_grid_point *grid, const double *median, uint32_t points,
                      uint32_t *rounds)
{
    double *share = malloc(TAIL_MAX * sizeof(*share)), tail = 1;
    uint32_t n = 0;

    for (uint32_t i = 0; i < points && share != NULL; ++i)
        for (uint32_t k = 0; k < grid[i].n && n < TAIL_MAX && median[i] > 0; ++k)
            share[n++] = grid[i].exposed_ms[k] / median[i];
    if (n > 0)
        tail = kvp_spread_of(share, n).p99;
    free(share);
    *rounds = n;
    return tail;
}

/* Neighbours that descend become their mean, until none do. */
static void make_ascend(double *y, uint32_t n)
{
    uint32_t weight[KVP_GRID], at = 0;
    double level[KVP_GRID];

    for (uint32_t i = 0; i < n; ++i) {
        level[at] = y[i];
        weight[at++] = 1;
        for (; at > 1 && level[at - 2] > level[at - 1]; --at) {
            level[at - 2] = (level[at - 2] * weight[at - 2] + level[at - 1] * weight[at - 1]) /
                            (weight[at - 2] + weight[at - 1]);
            weight[at - 2] += weight[at - 1];
        }
    }
    for (uint32_t i = 0, b = 0; b < at; ++b)
        for (uint32_t k = 0; k < weight[b]; ++k)
            y[i++] = level[b];
}

struct kvp_found kvp_search_answer(const struct kvp_search *s, struct kvp_grid_point *grid,
                                   uint32_t points)
{
    struct kvp_found f = {.tail = 1};
    double y[KVP_GRID];
    uint32_t last = points;

    for (uint32_t i = 0; i < points; ++i)
        y[i] = kvp_spread_of(grid[i].exposed_ms, grid[i].n).p50;
    f.tail = tail_of(grid, y, points, &f.rounds);
    make_ascend(y, points);
    for (uint32_t i = 0; i < points; ++i)
        if (y[i] * f.tail <= s->bound_ms)
            last = i;
    if (last == points)
        return f;
    f.tokens = grid[last].tokens;
    f.p99_ms = y[last] * f.tail;
    if (last + 1 < points) {
        const double part = (s->bound_ms / f.tail - y[last]) / (y[last + 1] - y[last]);

        f.tokens += (uint32_t)(part * (grid[last + 1].tokens - grid[last].tokens));
        f.p99_ms = s->bound_ms;
    }
    return f;
}
