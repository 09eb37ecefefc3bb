/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.c - three states (FlowKV's): normal; imbalanced, where a worker of the idle side does the
 * other side's work; overloaded, where new requests that can't be served at once are refused.
 */
#include <math.h>

#include "estimate.h"

#define BUSY 0.5  /* of the promise: help is wanted */
#define IDLE 0.25 /* of it: help can go home */
#define EDGE 0.8  /* the helping side stays below this part of the helped side's load */

struct side {
    double load;            /* mean */
    uint32_t count, guests; /* workers; those of them that are lent */
};

static struct side look(const struct kve_route *r, enum kve_route_role role)
{
    struct side s = {0};

    for (uint32_t i = 0; i < r->count; ++i) {
        const struct kve_route_node *n = &r->nodes[i];

        if (!n->up || kve_route_does(n) != role)
            continue;
        ++s.count;
        s.guests += n->lent;
        if (role == KVE_ROUTE_PREFILL)
            s.load += n->backlog_ns * n->pace / (double)r->cfg.ttft_ns;
        else if (n->sequences > 0 && n->blocks > 0)
            s.load += fmax((double)n->blocks_used / n->blocks,
                           kve_route_step_ns(r, n, 0) / (double)r->cfg.itl_ns);
    }
    s.load = s.count > 0 ? s.load / s.count : 1;
    if (role == KVE_ROUTE_DECODE && r->waiting > 0)
        s.load = fmax(s.load, 1); /* they wait for its blocks */
    return s;
}

static double load_of(const struct kve_route_node *n)
{
    return n->backlog_ns + (double)n->sequence_tokens;
}

/* The least loaded of those who do that work and may turn now; guests, who would go home, alone if
 * there are any. */
static uint32_t who_turns(const struct kve_route *r, enum kve_route_role from, bool guests,
                          uint64_t now_ns)
{
    uint32_t best = KVE_ROUTE_NONE;

    for (uint32_t i = 0; i < r->count; ++i) {
        const struct kve_route_node *n = &r->nodes[i];

        if (!n->up || kve_route_does(n) != from || n->lent != guests ||
            (n->turned_ns > 0 && now_ns - n->turned_ns < r->cfg.hold_ns))
            continue;
        if (best == KVE_ROUTE_NONE || load_of(n) < load_of(&r->nodes[best]))
            best = i;
    }
    return best;
}

/* Can it spare one, and would it still be the less loaded side? */
static bool can_help(const struct side *s, const struct side *busy)
{
    return s->count > 1 && s->load * s->count / (s->count - 1) < EDGE * busy->load;
}

struct kve_route_turn kve_route_lend(const struct kve_route *r, uint64_t now_ns)
{
    const struct side p = look(r, KVE_ROUTE_PREFILL), d = look(r, KVE_ROUTE_DECODE);
    const bool prefill_busy = p.load > d.load;
    const struct side *busy = prefill_busy ? &p : &d, *idle = prefill_busy ? &d : &p;
    const enum kve_route_role helper = prefill_busy ? KVE_ROUTE_DECODE : KVE_ROUTE_PREFILL;
    struct kve_route_turn t = {
        .state = KVE_ROUTE_NORMAL, .prefill = p.load, .decode = d.load, .node = KVE_ROUTE_NONE};

    if (!r->cfg.together && busy->load >= BUSY && can_help(idle, busy)) {
        t.state = KVE_ROUTE_IMBALANCED;
        if (r->cfg.lend)
            t.node = who_turns(r, helper, idle->guests > 0, now_ns);
    } else if (busy->load >= 1) {
        t.state = KVE_ROUTE_OVERLOADED;
    } else if (r->cfg.lend && p.guests > 0 && p.load < IDLE) {
        t.node = who_turns(r, KVE_ROUTE_PREFILL, true, now_ns);
    } else if (r->cfg.lend && d.guests > 0 && d.load < IDLE) {
        t.node = who_turns(r, KVE_ROUTE_DECODE, true, now_ns);
    }
    return t;
}
