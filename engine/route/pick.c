/* SPDX-License-Identifier: Apache-2.0 */
/* pick.c - filters that hold for every policy. */
#include "pick.h"

#include <math.h>

static bool has_blocks(const struct kve_route_look *l, uint32_t node)
{
    const struct kve_route_node *n = &l->r->nodes[node];

    return n->blocks >= n->blocks_used && n->blocks - n->blocks_used >= l->need;
}

bool kve_route_may_decode(const struct kve_route_look *l, uint32_t node)
{
    const struct kve_route_node *n = &l->r->nodes[node];

    if (!n->up || !has_blocks(l, node) ||
        (!l->r->cfg.together && kve_route_does(n) != KVE_ROUTE_DECODE))
        return false;
    return !l->r->cfg.admit ||
           kve_route_steady(l->r, n, kve_route_grown(l->q), l->r->cfg.together ? l->q->tokens : 0);
}

bool kve_route_may_prefill(const struct kve_route_look *l, uint32_t node)
{
    const struct kve_route_node *n = &l->r->nodes[node];

    if (l->r->cfg.together)
        return kve_route_may_decode(l, node);
    return n->up && kve_route_does(n) == KVE_ROUTE_PREFILL;
}

uint32_t kve_route_load(const struct kve_route_node *n)
{
    return n->prefills + n->sequences;
}

uint32_t kve_route_nth(const struct kve_route *r, uint32_t i)
{
    return (uint32_t)((r->turn + i) % r->count);
}

double kve_route_least_work(const struct kve_route_look *l)
{
    double least = INFINITY;

    for (uint32_t i = 0; i < l->r->count; ++i)
        if (kve_route_may_prefill(l, i))
            least = fmin(least, l->r->nodes[i].work_ns);
    return least;
}

bool kve_route_guarded(const struct kve_route *r, uint32_t node, double least)
{
    return r->nodes[node].work_ns <=
           least * (1 + r->cfg.guard) + r->cfg.guard_ttft * (double)r->cfg.ttft_ns;
}
