/* SPDX-License-Identifier: Apache-2.0 */
/*
 * route.c - a decision from end to end: decode first, prefill for it, at home if that is better,
 * refused if it would be late; and the counters behind it.
 */
#include "route.h"

#include <math.h>

#include "estimate.h"
#include "pick.h"

#define SECOND_NS 1000000000ull
/* A prefill beside decode steps takes longer than its own time, and makes them longer. */
#define BESIDE_DECODE 2.0

void kve_route_config_of(struct kve_route_config *c, const struct kve_route_policy *p)
{
    *c = (struct kve_route_config){
        .policy = p,
        .admit = p->whole,
        .local = p->whole,
        .lend = p->whole,
        .local_tokens = 512,
        .piece = 512,
        .queue_max = 1024,
        .guard = 0.05,
        .guard_ttft = 0.6,
        .hold_ns = 10 * SECOND_NS,
        .seed = 1,
    };
}

static struct kve_route_decision shed(const char *why, uint64_t retry_ns)
{
    return (struct kve_route_decision){.verdict = KVE_ROUTE_SHED,
                                       .prefill = KVE_ROUTE_NONE,
                                       .decode = KVE_ROUTE_NONE,
                                       .retry_ns = retry_ns,
                                       .why = why};
}

/* It can't be served now. Later, unless that would be too late, or too many wait. */
static struct kve_route_decision later(const struct kve_route_look *l, const char *why)
{
    const struct kve_route *r = l->r;
    const uint64_t waited = l->now_ns - l->q->arrived_ns;

    if (r->cfg.admit && waited >= r->cfg.ttft_ns)
        return shed("it has waited longer than a first token may take", r->cfg.ttft_ns);
    if (!l->q->waited && r->cfg.admit && r->state == KVE_ROUTE_OVERLOADED)
        return shed("all workers are at their limit", r->cfg.ttft_ns);
    if (!l->q->waited && r->waiting >= r->cfg.queue_max)
        return shed("the queue is full", r->cfg.ttft_ns);
    return (struct kve_route_decision){
        .verdict = KVE_ROUTE_WAIT, .prefill = KVE_ROUTE_NONE, .decode = KVE_ROUTE_NONE, .why = why};
}

/* Could a worker hold it if it had nothing else? */
static bool fits_anywhere(const struct kve_route_look *l)
{
    for (uint32_t i = 0; i < l->r->count; ++i)
        if (l->r->nodes[i].up && l->r->nodes[i].blocks >= l->need)
            return true;
    return false;
}

/* Is the prompt better computed where it is decoded? What is short there, if it is sooner;
 * anything, if the link takes longer than computing it anew. */
static bool better_at_home(const struct kve_route *r, const struct kve_route_request *q,
                           const struct kve_route_finish *away, const struct kve_route_finish *home)
{
    if (home->first_ns > away->first_ns || !home->steady)
        return false;
    return q->tokens - home->cached <= r->cfg.local_tokens || away->wire_ns > home->cost_ns;
}

static struct kve_route_finish at_home(const struct kve_route *r, const struct kve_route_request *q,
                                       uint32_t decode)
{
    struct kve_route_finish f = kve_route_estimate(r, q, decode, decode);

    f.steady = !r->cfg.admit ||
               kve_route_steady(r, &r->nodes[decode], kve_route_grown(q), q->tokens - f.cached);
    if (r->nodes[decode].sequences > 0)
        f.first_ns += f.cost_ns * (BESIDE_DECODE - 1);
    return f;
}

/* Who prefills for l->decode. */
static uint32_t choose_prefill(const struct kve_route_look *l, struct kve_route_finish *f)
{
    const struct kve_route *r = l->r;
    uint32_t node = r->cfg.policy->prefill(l);

    if (node != KVE_ROUTE_NONE)
        *f = kve_route_estimate(r, l->q, node, r->cfg.together ? node : l->decode);
    if (r->cfg.local && !r->cfg.together) {
        const struct kve_route_finish home = at_home(r, l->q, l->decode);

        if ((node == KVE_ROUTE_NONE && home.steady) || better_at_home(r, l->q, f, &home)) {
            *f = home;
            node = l->decode;
        }
    }
    return node;
}

static struct kve_route_decision go(const struct kve_route_look *l, uint32_t node,
                                    const struct kve_route_finish *f)
{
    const double waited = (double)(l->now_ns - l->q->arrived_ns);
    const double late = waited + f->first_ns - (double)l->r->cfg.ttft_ns;

    if (l->r->cfg.admit && late > 0) {
        const double seconds = fmin(ceil(late / (double)SECOND_NS), 3600);

        return shed("its first token would be late", (uint64_t)seconds * SECOND_NS);
    }
    return (struct kve_route_decision){.verdict = KVE_ROUTE_GO,
                                       .prefill = node,
                                       .decode = l->r->cfg.together ? node : l->decode,
                                       .cached = f->cached,
                                       .lacks = f->lacks,
                                       .blocks = l->need,
                                       .cost_ns = f->cost_ns,
                                       .wire_ns = f->wire_ns,
                                       .first_ns = f->first_ns};
}

struct kve_route_decision kve_route_decide(const struct kve_route *r,
                                           const struct kve_route_request *q, uint64_t now_ns)
{
    struct kve_route_look l = {
        .r = r, .q = q, .now_ns = now_ns, .decode = KVE_ROUTE_NONE, .need = kve_route_need(r, q)};
    struct kve_route_finish f = {0};
    uint32_t node;

    if (!fits_anywhere(&l))
        return shed("no worker could ever hold it", 0);
    if (!q->waited && r->waiting > 0)
        return later(&l, "others wait");
    if (!r->cfg.together) {
        l.decode = r->cfg.policy->decode(&l);
        if (l.decode == KVE_ROUTE_NONE)
            return later(&l, "no decode worker has room");
    }
    node = choose_prefill(&l, &f);
    if (node == KVE_ROUTE_NONE)
        return later(&l, "no prefill worker");
    return go(&l, node, &f);
}
