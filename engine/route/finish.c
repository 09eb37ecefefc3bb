/* SPDX-License-Identifier: Apache-2.0 */
/*
 * finish.c - our policy: decode first, by queue; then the prefill side by the time of the first
 * token, which counts what is queued, what isn't cached, and the link between the two.
 *
 * A worker that holds most of the prompt is taken even where another would be sooner, as long as it
 * keeps the promise well: what isn't computed twice is time for those who come next.
 */
#include <math.h>

#include "pick.h"

#define EVEN 0.1 /* a second of more work counts as so many of waiting */

/* Among those whose queue is nearly the shortest, who holds most of the prompt: less to send. */
static uint32_t finish_decode(const struct kve_route_look *l)
{
    uint32_t shortest = UINT32_MAX, best = KVE_ROUTE_NONE, most = 0;

    for (uint32_t i = 0; i < l->r->count; ++i)
        if (kve_route_may_decode(l, i) && kve_route_load(&l->r->nodes[i]) < shortest)
            shortest = kve_route_load(&l->r->nodes[i]);
    for (uint32_t k = 0; k < l->r->count; ++k) {
        const uint32_t i = kve_route_nth(l->r, k);
        const struct kve_route_node *n = &l->r->nodes[i];

        if (!kve_route_may_decode(l, i) || kve_route_load(n) > shortest + shortest / 8 + 1)
            continue;
        const uint32_t cached = kve_route_cached(l->r, l->q, i);

        if (best == KVE_ROUTE_NONE || cached > most ||
            (cached == most && kve_route_load(n) < kve_route_load(&l->r->nodes[best]))) {
            best = i;
            most = cached;
        }
    }
    return best;
}

struct choice {
    uint32_t node, cached;
    double first_ns, work_ns;
};

static void sooner(struct choice *best, const struct choice *c)
{
    if (best->node == KVE_ROUTE_NONE || c->first_ns < best->first_ns ||
        (c->first_ns == best->first_ns && c->work_ns < best->work_ns))
        *best = *c;
}

static void holds_more(struct choice *best, const struct choice *c)
{
    if (best->node == KVE_ROUTE_NONE || c->cached > best->cached ||
        (c->cached == best->cached && c->first_ns < best->first_ns))
        *best = *c;
}

/* The guard keeps work even between the workers as long as that costs nobody the promise. */
static uint32_t finish_prefill(const struct kve_route_look *l)
{
    struct choice soonest = {.node = KVE_ROUTE_NONE}, even = soonest, holder = soonest;
    const double least_work = kve_route_least_work(l);
    const double waited = (double)(l->now_ns - l->q->arrived_ns);
    const double ttft = (double)l->r->cfg.ttft_ns;
    struct choice lighter;
    double allowed;

    for (uint32_t k = 0; k < l->r->count; ++k) {
        const uint32_t i = kve_route_nth(l->r, k);

        if (!kve_route_may_prefill(l, i))
            continue;
        const struct kve_route_finish f =
            kve_route_estimate(l->r, l->q, i, l->r->cfg.together ? i : l->decode);
        const struct choice c = {i, f.cached, f.first_ns, l->r->nodes[i].work_ns};

        sooner(&soonest, &c);
        if (!kve_route_guarded(l->r, i, least_work))
            continue;
        lighter = c;
        lighter.first_ns += EVEN * (c.work_ns - least_work);
        sooner(&even, &lighter);
        if ((uint64_t)f.cached * 2 >= l->q->tokens)
            holds_more(&holder, &c);
    }
    /* Where all queues are long, a prefix is worth a quarter of the promise, while it is kept. */
    allowed = fmin(0.98 * ttft - waited, soonest.first_ns + ttft / 4);
    allowed = fmax(fmax(allowed, ttft / 2 - waited), soonest.first_ns);
    if (holder.node != KVE_ROUTE_NONE && holder.first_ns <= allowed)
        return holder.node;
    if (even.node != KVE_ROUTE_NONE && even.first_ns <= allowed)
        return even.node;
    return soonest.node;
}

const struct kve_route_policy kve_route_finish_policy = {
    "finish", "decode by queue, prefill by the estimated time of the first token (ours)",
    finish_decode, finish_prefill, true};
