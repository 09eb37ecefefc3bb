/* SPDX-License-Identifier: Apache-2.0 */
/*
 * search.h - which lengths find measures, and what it makes of them. It measures nothing itself.
 *
 * A machine that others use delays one round in some dozens by what it likes, so the 99th
 * percentile of 20 rounds of one length is their worst, and no two searches that trust it meet.
 * So it is taken apart: the median of each length, which repeats, and the tail, how much longer
 * than its length's median the 99th of 100 rounds takes, of all rounds of all lengths together.
 *
 *   bracket  from the first length on doubled, or halved, until 9 of 10 rounds show the bound on
 *            one side of [low, 2 low] and not on the other
 *   grid     KVP_GRID lengths from low / 2 to 2 low, equal steps in proportion, measured in turns,
 *            so that what the machine does meanwhile happens to all
 *   answer   where the grid's medians, made to ascend, times the tail cross the bound
 *
 * threads  plain data      memory  the caller's      time  none
 */
#ifndef KVP_SEARCH_H
#define KVP_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#define KVP_GRID 9u

struct kvp_search {
    double bound_ms;
    uint32_t first, most;   /* tokens: where it begins, and what fits the memory */
    uint32_t passes, fails; /* longest that did, shortest that didn't; 0: none yet */
};

/* The next length of the bracket; 0: it is there, or there is none. */
uint32_t kvp_search_next(const struct kvp_search *s);
/* What the rounds of that length showed. Sorts them. */
void kvp_search_add(struct kvp_search *s, uint32_t tokens, double *exposed_ms, uint32_t n);

/* Lengths of the grid, ascending; returns how many, 0: no length passes. */
uint32_t kvp_search_grid(const struct kvp_search *s, uint32_t tokens[KVP_GRID]);

struct kvp_found {
    uint32_t tokens; /* 0: none of the grid */
    double p99_ms;   /* of it: the bound, or less where the grid ends */
    double tail;     /* 99th of 100 rounds over the median */
    uint32_t rounds; /* of which that is */
};

/* Of a length, its rounds; counts may differ. Sorts each. */
struct kvp_grid_point {
    uint32_t tokens;
    double *exposed_ms;
    uint32_t n;
};
struct kvp_found kvp_search_answer(const struct kvp_search *s, struct kvp_grid_point *grid,
                                   uint32_t points);

#endif
