/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.c - between the workers of a service and engine/route: who is there, what their work costs,
 * what was given to them and what of it is done.
 */
#include "place.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"

/* Guesses, until something was measured: operations and bytes a nanosecond, MB/s. */
#define GUESS_FLOPS  100.0
#define GUESS_MEMORY 10.0
#define GUESS_MBPS   1000u

#define LATE_NS   (3600 * KVE_S) /* a promise that isn't made */
#define SCORE_TTF (2 * KVE_S)    /* what policies weigh by where nothing is promised */
#define SCORE_ITL (KVE_S / 5)
#define LEARN     0.2 /* of the last answer's step */
#define FEW       16u /* tokens tell nothing about the cost of many */

/* ---- what route knows ---- */

void kve_place_open(struct kve_place *p, struct kve_dispatch *d, const struct kve_place_config *cfg)
{
    struct kve_route_config *c = &p->route.cfg;

    memset(p, 0, sizeof(*p));
    p->d = d;
    kve_route_config_of(c, cfg->policy != NULL ? cfg->policy : kve_route_policies[0]);
    c->admit = cfg->ttft_ns > 0 || cfg->itl_ns > 0;
    c->ttft_ns = cfg->ttft_ns > 0 ? cfg->ttft_ns : c->admit ? LATE_NS : SCORE_TTF;
    c->itl_ns = cfg->itl_ns > 0 ? cfg->itl_ns : c->admit ? LATE_NS : SCORE_ITL;
    c->local = c->local && cfg->local_tokens > 0;
    c->local_tokens = cfg->local_tokens;
    c->lend = c->lend && cfg->lend_ns > 0;
    c->hold_ns = cfg->lend_ns;
    c->piece = KVE_PIECE_TOKENS;
    c->queue_max = cfg->queue_max;
    c->link_mbps = GUESS_MBPS;
    c->cost = (struct kve_route_cost){.block_tokens = 1};
    p->route.nodes = p->nodes;
    p->links = (struct kve_route_links){.mbps = p->mbps, .count = KVE_WORKERS_MAX};
    p->route.links = &p->links;
    for (uint32_t i = 0; i < KVE_WORKERS_MAX * KVE_WORKERS_MAX; ++i)
        p->mbps[i] = GUESS_MBPS;
}

void kve_place_close(struct kve_place *p)
{
    for (uint32_t i = 0; i < KVE_WORKERS_MAX; ++i)
        kve_prompts_held_free(&p->nodes[i].prompts);
}

/* What the model is made of, from the first worker that says it. */
static void guess_cost(struct kve_place *p, const struct kve_spawned *w)
{
    const uint32_t threads = p->d->cfg->spawn.worker.threads;
    const double flops = GUESS_FLOPS * (threads > 0 ? threads : 1);
    struct kve_route_cost *c = &p->route.cfg.cost;

    c->block_tokens = w->block_tokens > 0 ? (uint32_t)w->block_tokens : 1;
    if (c->token_ns > 0)
        return;
    c->token_ns = (double)w->weight_bytes * 2 / flops;
    c->pair_ns = (double)w->pair_flops / flops;
    c->step_ns = (double)w->weight_bytes / GUESS_MEMORY;
    c->step_token_ns = (double)w->token_bytes / GUESS_MEMORY;
    c->token_bytes = (double)w->token_bytes;
    c->layers = (double)w->layers;
}

static uint32_t blocks_of(const struct kve_spawned *w)
{
    return w->block_tokens > 0 ? (uint32_t)w->kv_blocks
                               : UINT32_MAX / 2; /* it doesn't count them */
}

static bool there(const struct kve_spawned *w)
{
    return w->loaded && kve_dispatch_alive(w);
}

/* Must they be linked, so that any pair can be picked? */
static bool meet(const struct kve_place *p, uint32_t a, uint32_t b)
{
    const struct kve_spawn *s = &p->d->spawn;

    return a != b && (p->d->cfg->spawn.mesh || (a < s->prefills) != (b < s->prefills));
}

/* Is it linked with all that take part and that it must meet? */
static bool fits(const struct kve_place *p, uint32_t node)
{
    const struct kve_spawn *s = &p->d->spawn;
    bool ok = s->prefills > 0 || kve_dispatch_linked(p->d, node, node);

    for (uint32_t i = 0; i < s->count && ok; ++i)
        if (p->nodes[i].up && meet(p, node, i))
            ok = kve_dispatch_linked(p->d, node, i);
    return ok;
}

static void join(struct kve_place *p, uint32_t node)
{
    const struct kve_spawned *w = &p->d->spawn.at[node];
    struct kve_route_node *n = &p->nodes[node];

    n->role = w->role == KVE_WORKER_PREFILL ? KVE_ROUTE_PREFILL : KVE_ROUTE_DECODE;
    guess_cost(p, w);
    if (p->lives[node] == w->lost + 1) {
        n->up = true; /* it was but unlinked: what it has goes on */
        return;
    }
    kve_route_join(&p->route, node);
    p->lives[node] = w->lost + 1;
}

/* Two that take part and have lost each other: one of them leaves, not the last one of its side if
 * that can be. */
static void part(struct kve_place *p)
{
    const struct kve_spawn *s = &p->d->spawn;
    uint32_t up[2] = {0, 0}; /* prefills, decodes */

    for (uint32_t i = 0; i < s->count; ++i)
        up[i >= s->prefills] += p->nodes[i].up;
    for (uint32_t i = 0; i < s->count; ++i)
        for (uint32_t k = i + 1; k < s->count; ++k) {
            if (!p->nodes[i].up || !p->nodes[k].up || !meet(p, i, k) ||
                kve_dispatch_linked(p->d, i, k))
                continue;
            const uint32_t who = up[k >= s->prefills] > 1 ? k : i;
            kve_route_leave(&p->route, who);
            --up[who >= s->prefills];
        }
}

bool kve_place_any(const struct kve_place *p)
{
    bool prefill = p->route.cfg.together, decode = false;

    for (uint32_t i = 0; i < p->route.count; ++i) {
        prefill |= p->nodes[i].up && p->nodes[i].role == KVE_ROUTE_PREFILL;
        decode |= p->nodes[i].up && p->nodes[i].role == KVE_ROUTE_DECODE;
    }
    return prefill && decode;
}

static void turn(struct kve_place *p, uint64_t now_ns)
{
    if (now_ns - p->lend_ns < KVE_S || !kve_place_any(p))
        return;
    p->lend_ns = now_ns;
    const struct kve_route_turn t = kve_route_lend(&p->route, now_ns);
    kve_route_turned(&p->route, &t, now_ns);
    p->turns += t.node != KVE_ROUTE_NONE;
}

void kve_place_look(struct kve_place *p, uint64_t now_ns)
{
    const struct kve_spawn *s = &p->d->spawn;

    p->route.count = s->count;
    p->route.cfg.together = s->prefills == 0;
    for (uint32_t i = 0; i < s->count; ++i) {
        p->nodes[i].blocks = blocks_of(&s->at[i]);
        if (p->nodes[i].up && !there(&s->at[i]))
            kve_route_leave(&p->route, i);
    }
    part(p);
    for (uint32_t i = 0; i < s->count; ++i)
        if (!p->nodes[i].up && there(&s->at[i]) && fits(p, i))
            join(p, i);
    if (s->count > 0 && s->at[s->count - 1].block_tokens > 0)
        p->route.cfg.cost.block_tokens = (uint32_t)s->at[s->count - 1].block_tokens;
    turn(p, now_ns);
}

bool kve_place_takes(const struct kve_place *p, uint32_t worker)
{
    return p->nodes[worker].up;
}

/* ---- a request ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

/* Of the prompt's whole blocks, each with those before it. */
static uint64_t *hash_blocks(const struct kve_request *q, uint32_t each, uint32_t *count)
{
    const uint32_t n = q->count / each;
    uint64_t *hashes = malloc((n + 1) * sizeof(*hashes)), at = 1;

    for (uint32_t i = 0; hashes != NULL && i < n; ++i) {
        for (uint32_t k = 0; k < each; ++k)
            at = mix(at + q->tokens[i * each + k] + 1);
        hashes[i] = at;
    }
    *count = n;
    return hashes;
}

kvw_err kve_place_ask(struct kve_place *p, struct kve_placed *at, const struct kve_request *q,
                      uint64_t arrived_ns)
{
    uint32_t count = 0;

    kve_place_forget(at);
    if (q->reuse && (at->hashes = hash_blocks(q, p->route.cfg.cost.block_tokens, &count)) == NULL)
        return KVW_E_NOMEM;
    at->q = (struct kve_route_request){.hashes = at->hashes,
                                       .hash_count = count,
                                       .tokens = q->count,
                                       .max_tokens = q->max_tokens,
                                       .arrived_ns = arrived_ns};
    return KVW_OK;
}

void kve_place_forget(struct kve_placed *at)
{
    free(at->hashes);
    *at = (struct kve_placed){0};
}

enum kve_route_verdict kve_place_decide(struct kve_place *p, struct kve_placed *at, bool waited,
                                        uint64_t now_ns)
{
    at->q.waited = waited;
    at->d = kve_route_decide(&p->route, &at->q, now_ns);
    if (at->d.verdict != KVE_ROUTE_GO)
        return at->d.verdict;
    kve_route_given(&p->route, &at->q, &at->d);
    at->given = true;
    at->prefilled = false;
    at->lives[0] = p->lives[at->d.prefill];
    at->lives[1] = p->lives[at->d.decode];
    at->tokens = at->d.cached;
    at->told_ns = 0;
    at->prompt_blocks = 0;
    ++p->requests[at->d.prefill * KVE_WORKERS_MAX + at->d.decode];
    return KVE_ROUTE_GO;
}

static uint32_t prompt_blocks(const struct kve_place *p, const struct kve_placed *at)
{
    const uint32_t each = p->route.cfg.cost.block_tokens;

    return at->d.prefill != at->d.decode ? (at->q.tokens + each - 1) / each : 0;
}

bool kve_place_room(const struct kve_place *p, const struct kve_placed *at)
{
    const struct kve_route_node *n = &p->nodes[at->d.prefill];

    return n->blocks_used == 0 || (uint64_t)n->blocks_used + prompt_blocks(p, at) <= n->blocks;
}

void kve_place_started(struct kve_place *p, struct kve_placed *at)
{
    at->prompt_blocks = prompt_blocks(p, at);
    p->nodes[at->d.prefill].blocks_used += at->prompt_blocks;
}

/* Whether the worker is the one that it was given to: one that came in its place has no counters of
 * it. */
static bool same(const struct kve_place *p, const struct kve_placed *at, bool decode)
{
    return p->lives[decode ? at->d.decode : at->d.prefill] == at->lives[decode];
}

static void tell_cost(struct kve_place *p, struct kve_placed *at, double cost_ns)
{
    if (same(p, at, false))
        kve_route_progress(&p->route, at->d.prefill, cost_ns);
    at->told_ns += cost_ns;
}

void kve_place_progress(struct kve_place *p, struct kve_placed *at, uint32_t tokens)
{
    if (!at->given || at->prefilled || tokens <= at->tokens || tokens > at->q.tokens)
        return;
    tell_cost(p, at, at->d.cost_ns * (tokens - at->tokens) / (at->q.tokens - at->d.cached));
    at->tokens = tokens;
}

/* The first prefill that says something about the cost says it for all; not one that was computed
 * between the steps of answers. */
static void measure(struct kve_place *p, const struct kve_placed *at,
                    const struct kve_route_done *done)
{
    struct kve_route_cost *c = &p->route.cfg.cost;

    if (p->measured || done->took_ns == 0 || done->cached + FEW > at->q.tokens ||
        p->nodes[at->d.prefill].sequences > (at->d.prefill == at->d.decode))
        return;
    const double n = at->q.tokens - done->cached;
    const double guessed = n * (c->token_ns + c->pair_ns * (done->cached + n / 2));
    if (guessed <= 0) {
        c->token_ns = (double)done->took_ns / n;
    } else {
        c->token_ns *= (double)done->took_ns / guessed;
        c->pair_ns *= (double)done->took_ns / guessed;
    }
    p->measured = true;
}

void kve_place_prefilled(struct kve_place *p, struct kve_placed *at, const struct kve_report *rep)
{
    struct kve_route_done done;

    if (!at->given || at->prefilled)
        return;
    tell_cost(p, at, at->d.cost_ns - at->told_ns);
    at->prefilled = true;
    if (rep != NULL) {
        done = (struct kve_route_done){.cached = rep->cached_tokens,
                                       .took_ns = (rep->prefill_end_us - rep->start_us) * 1000};
        measure(p, at, &done);
        if (rep->link_mbps > 0)
            p->mbps[at->d.prefill * KVE_WORKERS_MAX + at->d.decode] = rep->link_mbps;
    }
    if (!same(p, at, false))
        return;
    p->nodes[at->d.prefill].blocks_used -= at->prompt_blocks;
    kve_route_prefilled(&p->route, &at->q, &at->d,
                        rep != NULL && p->route.cfg.cost.token_ns > 0 ? &done : NULL);
    kve_route_landed(&p->route, &at->d);
}

/* A step of decode, as answers that were alone have it. */
static void measure_step(struct kve_place *p, const struct kve_placed *at,
                         const struct kve_report *rep)
{
    struct kve_route_cost *c = &p->route.cfg.cost;

    if (rep->id_count < 4 || rep->end_us <= rep->first_us || p->nodes[at->d.decode].sequences > 0)
        return;
    const double gap = (double)(rep->end_us - rep->first_us) * 1e3 / (rep->id_count - 1);
    c->step_ns += LEARN * (gap - c->step_ns);
}

void kve_place_ended(struct kve_place *p, struct kve_placed *at, const struct kve_report *rep)
{
    if (!at->given)
        return;
    kve_place_prefilled(p, at, NULL);
    if (same(p, at, true)) {
        kve_route_finished(&p->route, &at->q, &at->d);
        if (rep != NULL)
            measure_step(p, at, rep);
    }
    at->given = false;
}
