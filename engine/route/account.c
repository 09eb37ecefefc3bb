/* SPDX-License-Identifier: Apache-2.0 */
/* account.c - what happened, in counters: who was given what, and what of it is done. */
#include <math.h>
#include <stddef.h>

#include "estimate.h"

#define PACE_WEIGHT 0.1 /* of the last prefill */

/* Counters of estimates never go below nothing. */
static void take_off(double *from, double what)
{
    *from = fmax(0, *from - what);
}

static void fit_prompts(struct kve_route_node *n)
{
    kve_prompts_held_limit(&n->prompts,
                           n->blocks > n->blocks_used ? n->blocks - n->blocks_used : 0);
}

/* Who joins has done as much as the others on average: it would get everything at first. */
void kve_route_join(struct kve_route *r, uint32_t node)
{
    struct kve_route_node *n = &r->nodes[node];
    double work = 0;
    uint32_t others = 0;

    for (uint32_t i = 0; i < r->count; ++i)
        if (i != node && r->nodes[i].up && kve_route_does(&r->nodes[i]) == n->role) {
            work += r->nodes[i].work_ns;
            ++others;
        }
    *n = (struct kve_route_node){.role = n->role,
                                 .blocks = n->blocks,
                                 .prompts = n->prompts,
                                 .up = true,
                                 .pace = 1,
                                 .work_ns = others > 0 ? work / others : 0};
    kve_prompts_held_free(&n->prompts);
    fit_prompts(n);
}

void kve_route_leave(struct kve_route *r, uint32_t node)
{
    r->nodes[node].up = false;
    kve_prompts_held_free(&r->nodes[node].prompts);
}

void kve_route_given(struct kve_route *r, const struct kve_route_request *q,
                     const struct kve_route_decision *d)
{
    struct kve_route_node *p = &r->nodes[d->prefill], *to = &r->nodes[d->decode];

    p->backlog_ns += d->cost_ns;
    p->work_ns += d->cost_ns;
    p->wire_ns += d->wire_ns;
    ++p->prefills;
    ++to->sequences;
    to->sequence_tokens += kve_route_grown(q);
    to->blocks_used += d->blocks;
    fit_prompts(to);
    kve_prompts_held_add(&p->prompts, q->hashes, q->hash_count);
    if (p != to)
        kve_prompts_held_add(&to->prompts, q->hashes, q->hash_count);
    ++r->turn;
}

void kve_route_progress(struct kve_route *r, uint32_t node, double cost_ns)
{
    take_off(&r->nodes[node].backlog_ns, cost_ns);
}

void kve_route_prefilled(struct kve_route *r, const struct kve_route_request *q,
                         const struct kve_route_decision *d, const struct kve_route_done *done)
{
    struct kve_route_node *p = &r->nodes[d->prefill];
    double cost;

    if (p->prefills > 0)
        --p->prefills;
    if (p->prefills == 0)
        p->backlog_ns = 0; /* what rounding left */
    if (done == NULL || done->cached >= q->tokens)
        return;
    cost = kve_route_prefill_ns(&r->cfg.cost, q->tokens - done->cached, done->cached);
    p->work_ns = fmax(0, p->work_ns + cost - d->cost_ns);
    p->pace += PACE_WEIGHT * (fmin(fmax((double)done->took_ns / cost, 0.1), 10) - p->pace);
}

void kve_route_landed(struct kve_route *r, const struct kve_route_decision *d)
{
    take_off(&r->nodes[d->prefill].wire_ns, d->wire_ns);
}

void kve_route_finished(struct kve_route *r, const struct kve_route_request *q,
                        const struct kve_route_decision *d)
{
    struct kve_route_node *n = &r->nodes[d->decode];
    const uint32_t grown = kve_route_grown(q);

    if (n->sequences == 0)
        return; /* it left and joined anew meanwhile */
    --n->sequences;
    n->sequence_tokens -= n->sequence_tokens > grown ? grown : n->sequence_tokens;
    n->blocks_used -= n->blocks_used > d->blocks ? d->blocks : n->blocks_used;
    fit_prompts(n);
}

void kve_route_turned(struct kve_route *r, const struct kve_route_turn *t, uint64_t now_ns)
{
    r->state = t->state;
    if (t->node == KVE_ROUTE_NONE)
        return;
    r->nodes[t->node].lent = !r->nodes[t->node].lent;
    r->nodes[t->node].turned_ns = now_ns;
}
