/* SPDX-License-Identifier: Apache-2.0 */
/* estimate.c - times and places of work, from counters and measured costs. */
#include "estimate.h"

#include <math.h>
#include <stddef.h>

enum kve_route_role kve_route_does(const struct kve_route_node *n)
{
    return n->lent ? KVE_ROUTE_PREFILL + KVE_ROUTE_DECODE - n->role : n->role;
}

double kve_route_prefill_ns(const struct kve_route_cost *c, uint32_t tokens, uint32_t before)
{
    return tokens * (c->token_ns + c->pair_ns * (before + tokens / 2.0));
}

uint32_t kve_route_cached(const struct kve_route *r, const struct kve_route_request *q,
                          uint32_t node)
{
    const uint64_t held =
        (uint64_t)kve_prompts_held_match(&r->nodes[node].prompts, q->hashes, q->hash_count) *
        r->cfg.cost.block_tokens;

    return held < q->tokens ? (uint32_t)held : q->tokens - 1;
}

double kve_route_wire_ns(const struct kve_route *r, uint32_t from, uint32_t to, uint32_t tokens)
{
    double mbps = r->cfg.link_mbps;

    if (from == to)
        return 0;
    if (r->links != NULL)
        mbps = r->links->mbps[(uint64_t)from * r->links->count + to];
    return mbps > 0 ? tokens * r->cfg.cost.token_bytes / mbps * 1e3 : INFINITY;
}

double kve_route_step_ns(const struct kve_route *r, const struct kve_route_node *n, uint32_t tokens)
{
    const struct kve_route_cost *c = &r->cfg.cost;

    /* Weights are read once for all; with many sequences the arithmetic takes longer than that. */
    return fmax(c->step_ns, (n->sequences + 1) * c->token_ns) +
           c->step_token_ns * (double)(n->sequence_tokens + tokens);
}

bool kve_route_steady(const struct kve_route *r, const struct kve_route_node *n, uint32_t tokens,
                      uint32_t beside)
{
    const uint32_t piece = beside < r->cfg.piece ? beside : r->cfg.piece;

    return n->sequences == 0 ||
           kve_route_step_ns(r, n, tokens) + piece * r->cfg.cost.token_ns <= (double)r->cfg.itl_ns;
}

uint32_t kve_route_grown(const struct kve_route_request *q)
{
    return q->tokens + q->max_tokens / 2;
}

uint32_t kve_route_need(const struct kve_route *r, const struct kve_route_request *q)
{
    const uint32_t each = r->cfg.cost.block_tokens;

    return (uint32_t)(((uint64_t)q->tokens + q->max_tokens + each - 1) / each);
}

/* Layers leave as they are computed: what shows is the last one, or what the wire lags behind. */
static double shown(const struct kve_route_cost *c, double compute_ns, double wire_ns)
{
    const double layers = c->layers >= 1 ? c->layers : 1;

    return fmax(wire_ns / layers, wire_ns - compute_ns * (layers - 1) / layers);
}

struct kve_route_finish kve_route_estimate(const struct kve_route *r,
                                           const struct kve_route_request *q, uint32_t node,
                                           uint32_t decode)
{
    const struct kve_route_node *n = &r->nodes[node];
    struct kve_route_finish f = {.cached = kve_route_cached(r, q, node)};
    double compute;

    f.cost_ns = kve_route_prefill_ns(&r->cfg.cost, q->tokens - f.cached, f.cached);
    compute = f.cost_ns * n->pace;
    if (node != decode) {
        f.lacks = q->tokens - kve_route_cached(r, q, decode);
        f.wire_ns = kve_route_wire_ns(r, node, decode, f.lacks);
        f.shown_ns = shown(&r->cfg.cost, compute, f.wire_ns);
    }
    /* The wire of those before it works while they and this one are computed. */
    f.first_ns = n->backlog_ns * n->pace + compute + f.shown_ns +
                 fmax(0, node != decode ? n->wire_ns - n->backlog_ns * n->pace - compute : 0);
    return f;
}
