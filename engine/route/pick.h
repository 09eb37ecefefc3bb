/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pick.h - who may be picked, and what all policies of policy.c share; for policy.c, finish.c,
 * route.c.
 *
 * threads  reads only      memory  none      time  O(nodes)
 */
#ifndef KVE_ROUTE_PICK_H
#define KVE_ROUTE_PICK_H

#include "estimate.h"

/* Free blocks are a filter: a node without them can't be picked by any policy. Where every worker
 * does both, who may prefill must be able to decode, too. */
bool kve_route_may_decode(const struct kve_route_look *l, uint32_t node);
bool kve_route_may_prefill(const struct kve_route_look *l, uint32_t node);
/* Requests that it has. */
uint32_t kve_route_load(const struct kve_route_node *n);

/* The i-th node in this turn's order: equal ones take turns. */
uint32_t kve_route_nth(const struct kve_route *r, uint32_t i);
/* The least work that one who may prefill was given. INFINITY: none may. */
double kve_route_least_work(const struct kve_route_look *l);
/* Not much more than that. */
bool kve_route_guarded(const struct kve_route *r, uint32_t node, double least);

/* finish.c: ours */
extern const struct kve_route_policy kve_route_finish_policy;

#endif
