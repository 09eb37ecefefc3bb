/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy.c - the table of policies: ours (finish.c), and those that it is compared with. A policy
 * only picks; blocks, queue and promises are route.c's for all of them.
 */
#include <math.h>
#include <string.h>

#include "pick.h"

typedef bool may_fn(const struct kve_route_look *l, uint32_t node);

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* A number for this decision, salt by salt. */
static uint64_t draw(const struct kve_route_look *l, uint64_t salt)
{
    return mix(mix(l->r->cfg.seed + salt) + l->r->turn);
}

static uint32_t count_of(const struct kve_route_look *l, may_fn *may)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < l->r->count; ++i)
        n += may(l, i);
    return n;
}

/* The k-th of those who may. */
static uint32_t at(const struct kve_route_look *l, may_fn *may, uint64_t k)
{
    for (uint32_t i = 0; i < l->r->count; ++i)
        if (may(l, i) && k-- == 0)
            return i;
    return KVE_ROUTE_NONE;
}

/* ---- round-robin ---- */

static uint32_t robin_decode(const struct kve_route_look *l)
{
    const uint32_t n = count_of(l, kve_route_may_decode);

    return n > 0 ? at(l, kve_route_may_decode, l->r->turn % n) : KVE_ROUTE_NONE;
}

/* In step with decode; when both are back where they began, one further: else the same few pairs
 * would have everything. */
static uint32_t robin_prefill(const struct kve_route_look *l)
{
    const uint32_t n = count_of(l, kve_route_may_prefill);
    const uint32_t other = l->r->cfg.together ? 0 : count_of(l, kve_route_may_decode);
    uint64_t round = other;

    if (n == 0)
        return KVE_ROUTE_NONE;
    while (round % n != 0)
        round += other;
    return at(l, kve_route_may_prefill, (l->r->turn + (round > 0 ? l->r->turn / round : 0)) % n);
}

/* ---- random ---- */

static uint32_t random_of(const struct kve_route_look *l, may_fn *may, uint64_t salt)
{
    const uint32_t n = count_of(l, may);

    return n > 0 ? at(l, may, draw(l, salt) % n) : KVE_ROUTE_NONE;
}

static uint32_t random_decode(const struct kve_route_look *l)
{
    return random_of(l, kve_route_may_decode, 1);
}

static uint32_t random_prefill(const struct kve_route_look *l)
{
    return random_of(l, kve_route_may_prefill, 2);
}

/* ---- power of two ---- */

/* Of two different ones, drawn, the less loaded. */
static uint32_t two_of(const struct kve_route_look *l, may_fn *may, uint64_t salt)
{
    const uint32_t n = count_of(l, may);
    uint64_t a, b;

    if (n < 2)
        return n == 1 ? at(l, may, 0) : KVE_ROUTE_NONE;
    a = draw(l, salt) % n;
    b = (a + 1 + draw(l, salt + 8) % (n - 1)) % n;
    a = at(l, may, a);
    b = at(l, may, b);
    return kve_route_load(&l->r->nodes[a]) <= kve_route_load(&l->r->nodes[b]) ? (uint32_t)a
                                                                              : (uint32_t)b;
}

static uint32_t two_decode(const struct kve_route_look *l)
{
    return two_of(l, kve_route_may_decode, 3);
}

static uint32_t two_prefill(const struct kve_route_look *l)
{
    return two_of(l, kve_route_may_prefill, 4);
}

/* ---- least loaded ---- */

static uint32_t least(const struct kve_route_look *l, may_fn *may)
{
    uint32_t best = KVE_ROUTE_NONE;

    for (uint32_t k = 0; k < l->r->count; ++k) {
        const uint32_t i = kve_route_nth(l->r, k);

        if (may(l, i) && (best == KVE_ROUTE_NONE ||
                          kve_route_load(&l->r->nodes[i]) < kve_route_load(&l->r->nodes[best])))
            best = i;
    }
    return best;
}

static uint32_t least_decode(const struct kve_route_look *l)
{
    return least(l, kve_route_may_decode);
}

static uint32_t least_prefill(const struct kve_route_look *l)
{
    return least(l, kve_route_may_prefill);
}

/* ---- prefix match guarded by load ---- */

/* Half of the prompt or more, on a node that hasn't worked much more than the others; else the node
 * that has worked least. Any match would do no good: all prompts share their first block, and the
 * first node to have it would get them all. */
static uint32_t prefix_prefill(const struct kve_route_look *l)
{
    const double least_work = kve_route_least_work(l);
    uint32_t best = KVE_ROUTE_NONE, idle = KVE_ROUTE_NONE, most = 0;

    for (uint32_t i = 0; i < l->r->count; ++i) {
        if (!kve_route_may_prefill(l, i) || !kve_route_guarded(l->r, i, least_work))
            continue;
        const uint32_t cached = kve_route_cached(l->r, l->q, i);

        if (cached > most && (uint64_t)cached * 2 >= l->q->tokens) {
            most = cached;
            best = i;
        }
        if (idle == KVE_ROUTE_NONE || l->r->nodes[i].work_ns < l->r->nodes[idle].work_ns)
            idle = i;
    }
    return best != KVE_ROUTE_NONE ? best : idle;
}

/* ---- the table ---- */

static const struct kve_route_policy round_robin = {"round-robin", "each worker in its turn",
                                                    robin_decode, robin_prefill, false};
static const struct kve_route_policy random_policy = {"random", "any worker", random_decode,
                                                      random_prefill, false};
static const struct kve_route_policy least_loaded = {"least-loaded", "who has the fewest requests",
                                                     least_decode, least_prefill, false};
static const struct kve_route_policy power_of_two = {
    "power-of-two", "the less loaded of two that are drawn", two_decode, two_prefill, false};
static const struct kve_route_policy prefix = {
    "prefix", "who holds half of the prompt, if it hasn't worked much more; else who worked least",
    least_decode, prefix_prefill, false};

const struct kve_route_policy *const kve_route_policies[] = {
    &kve_route_finish_policy, &prefix, &least_loaded, &power_of_two, &round_robin,
    &random_policy,           NULL,
};

const struct kve_route_policy *kve_route_policy_of(const char *name)
{
    for (uint32_t i = 0; kve_route_policies[i] != NULL; ++i)
        if (strcmp(kve_route_policies[i]->name, name) == 0)
            return kve_route_policies[i];
    return NULL;
}
