/* SPDX-License-Identifier: Apache-2.0 */
/*
 * search.h - how much a cluster serves within its promises, and which split of its workers serves
 * most.
 *
 * threads  one      memory  that of one run at a time      time  ten runs a search
 */
#ifndef KCL_SEARCH_H
#define KCL_SEARCH_H

#include "sim.h"

#define KCL_GOOD 0.9 /* of all requests, rejected ones included */

/* The speed at which the trace (unbent; speed 1 is its own) is still served so well, within 3 %,
 * and the run at that speed. 0: at none from 1/64 on. A speed
 * at which all requests would have come within ten first tokens' promises isn't tried. */
double kcl_find_speed(const struct kcl_setup *s, const struct kcl_trace *trace,
                      const struct kcl_bend *b, struct kcl_result *at);

/* Prefill workers, of so many, that serve most; workers: all do both. Ties: the fewest. */
struct kcl_place {
    uint32_t prefills;
    double speed;
};
/* each[workers]: what each split reached, each[0] being all together, with
 * the best of three sizes of pieces beside decoding. */
struct kcl_place kcl_find_place(const struct kcl_setup *s, const struct kcl_trace *trace,
                                const struct kcl_bend *b, uint32_t workers, double *each);

#endif
