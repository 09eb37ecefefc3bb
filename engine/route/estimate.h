/* SPDX-License-Identifier: Apache-2.0 */
/*
 * estimate.h - what work would take where, from what the router knows; for route.c, policy.c and
 * lend.c.
 *
 * threads  reads only      memory  none      time  O(blocks of the prompt) for a match
 */
#ifndef KVE_ROUTE_ESTIMATE_H
#define KVE_ROUTE_ESTIMATE_H

#include "route.h"

/* What a node does now: its own role, or the other one while it is lent. */
enum kve_route_role kve_route_does(const struct kve_route_node *n);

/* ns of prefill for tokens behind so many that are there. */
double kve_route_prefill_ns(const struct kve_route_cost *c, uint32_t tokens, uint32_t before);
/* Tokens of the prompt that the node needn't compute; the last one is always computed. */
uint32_t kve_route_cached(const struct kve_route *r, const struct kve_route_request *q,
                          uint32_t node);
/* ns that the cache of the request takes on the wire. */
double kve_route_wire_ns(const struct kve_route *r, uint32_t from, uint32_t to, uint32_t tokens);
/* ns of a decode step, with so many tokens more in the cache. */
double kve_route_step_ns(const struct kve_route *r, const struct kve_route_node *n,
                         uint32_t tokens);
/* Would the steps of its sequences stay within the promise, with so many tokens more in the cache
 * and such a prompt computed beside them? A worker without sequences has nobody to disturb. */
bool kve_route_steady(const struct kve_route *r, const struct kve_route_node *n, uint32_t tokens,
                      uint32_t beside);
/* Tokens in its cache when half of the longest answer is written. */
uint32_t kve_route_grown(const struct kve_route_request *q);
/* Blocks of the decode side for all of it. */
uint32_t kve_route_need(const struct kve_route *r, const struct kve_route_request *q);

struct kve_route_finish {
    double cost_ns;  /* of the prefill itself */
    double wire_ns;  /* of the transfer itself */
    double shown_ns; /* of it, behind the prefill */
    double first_ns; /* all, from now until the first token */
    uint32_t cached, lacks;
    bool steady; /* at home: those who decode there keep their promise */
};
/* As if node prefilled and decode decoded (the same: without a transfer). */
struct kve_route_finish kve_route_estimate(const struct kve_route *r,
                                           const struct kve_route_request *q, uint32_t node,
                                           uint32_t decode);

#endif
