/* SPDX-License-Identifier: Apache-2.0 */
/* sim.c - events of a cluster, and what the router hears of them. */
#include "sim.h"

#include <math.h>
#include <stdlib.h>

#include "../../engine/route/estimate.h"
#include "events.h"
#include "worker.h"

#define TICK_NS    1000000000ull
#define LATENCY_NS 50000ull /* of a link */

struct sim {
    const struct kcl_setup *s;
    struct kve_route r;
    struct kve_route_links links;
    uint32_t *mbps;
    struct kcl_worker *workers;
    struct kcl_job *jobs;
    struct kcl_events events;
    struct kcl_measure measure;
    struct kcl_result result;
    uint32_t wait_head, wait_tail; /* the router's queue */
    uint32_t ended;
    uint64_t now;
    bool freed; /* something that those who wait may wait for */
    bool ok;
};

void kcl_setup_of(struct kcl_setup *s, const struct kve_route_policy *p)
{
    *s = (struct kcl_setup){.blocks = 10000, .max_tokens = 2048, .piece = 8192, .cross = 1};
    kve_route_config_of(&s->route, p);
    s->route.ttft_ns = 30000000000ull;
    s->route.itl_ns = 100000000ull;
    s->route.link_mbps = 25000;
}

static void need(struct sim *m, bool got)
{
    m->ok = m->ok && got;
}

/* ---- a worker's steps ---- */

static void start_step(struct sim *m, uint32_t who)
{
    struct kcl_worker *w = &m->workers[who];
    const uint32_t most = w->batch_count > 0 ? m->s->route.piece : m->s->piece;
    struct kcl_step step;

    if (w->busy || !kcl_worker_plan(w, m->jobs, most, m->now, &step))
        return;
    w->busy = true;
    w->step_ns = kcl_step_ns(m->s->model, m->s->machine, &step);
    need(m, kcl_events_put(&m->events, m->now + w->step_ns, KCL_STEP, who));
}

static void end_job(struct sim *m, uint32_t job);

/* The first token is there: the sequence decodes from the next step on. */
static void first_token(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];

    j->first_ns = j->last_ns = m->now;
    j->written = 1;
    if (j->written == j->answer) {
        end_job(m, job);
        return;
    }
    need(m, kcl_worker_join(&m->workers[j->d.decode], m->jobs, job));
    start_step(m, j->d.decode);
}

/* Layers went out as they were computed; the last one goes now, or when the wire is free. */
static void send(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];
    struct kcl_worker *from = &m->workers[j->d.prefill], *to = &m->workers[j->d.decode];
    const double layers = m->s->model->layers;
    const uint64_t took = m->now - j->started_ns;
    const uint64_t held =
        (uint64_t)kve_prompts_held_match(&to->prompts, j->q.hashes, j->q.hash_count) *
        KCL_BLOCK_TOKENS;
    const uint32_t lacks = held < j->q.tokens ? j->q.tokens - (uint32_t)held : 1;
    const double wire = kve_route_wire_ns(&m->r, j->d.prefill, j->d.decode, lacks);
    uint64_t start = m->now - (uint64_t)((double)took * (layers - 1) / layers);

    start = start > from->out_ns ? start : from->out_ns;
    start = start > to->in_ns ? start : to->in_ns;
    from->out_ns = to->in_ns = start + (uint64_t)wire;
    m->result.sent += lacks;
    need(m, kcl_events_put(&m->events,
                           LATENCY_NS +
                               (uint64_t)fmax((double)start + wire, (double)m->now + wire / layers),
                           KCL_LANDED, job));
}

static void prompt_done(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];
    struct kcl_worker *w = &m->workers[j->d.prefill];

    w->head = j->next;
    kve_prompts_held_add(&w->prompts, j->q.hashes, j->q.hash_count);
    m->measure.blocks += j->q.hash_count;
    m->measure.hits += j->cached / KCL_BLOCK_TOKENS;
    kve_route_prefilled(&m->r, &j->q, &j->d, &(struct kve_route_done){j->cached, j->took_ns});
    if (j->d.prefill == j->d.decode) {
        ++m->result.local;
        kve_route_landed(&m->r, &j->d);
        first_token(m, job);
    } else {
        send(m, job);
    }
}

static void step_prompts(struct sim *m, uint32_t who)
{
    struct kcl_worker *w = &m->workers[who];
    uint32_t all = 0;

    for (uint32_t i = 0; i < w->piece_count; ++i)
        all += w->pieces[i].tokens;
    for (uint32_t i = 0; i < w->piece_count; ++i) {
        struct kcl_job *j = &m->jobs[w->pieces[i].job];
        const uint32_t n = w->pieces[i].tokens;

        kve_route_progress(&m->r, who, j->d.cost_ns * n / (j->q.tokens - j->cached));
        j->took_ns += w->step_ns * n / all;
        w->computed += n;
        w->work_ns += kve_route_prefill_ns(&m->r.cfg.cost, n, j->done);
        j->done += n;
        if (j->done == j->q.tokens)
            prompt_done(m, w->pieces[i].job);
    }
}

static void step_answers(struct sim *m, uint32_t who)
{
    struct kcl_worker *w = &m->workers[who];
    uint32_t kept = 0;

    /* Those that joined meanwhile stand behind the ones of this step. */
    for (uint32_t i = 0; i < w->batch_count; ++i) {
        const uint32_t job = w->batch[i];
        struct kcl_job *j = &m->jobs[job];

        if (i < w->stepping) {
            kcl_measure_gap(&m->measure, m->now - j->last_ns);
            j->last_ns = m->now;
            ++j->written;
            ++w->cached;
        }
        if (j->written < j->answer) {
            w->batch[kept++] = job;
            continue;
        }
        w->cached -= j->q.tokens + j->written;
        end_job(m, job);
    }
    w->batch_count = kept;
}

static void end_step(struct sim *m, uint32_t who)
{
    m->workers[who].busy = false;
    step_answers(m, who);
    m->workers[who].busy = true; /* who joins now doesn't begin a step of its own */
    step_prompts(m, who);
    m->workers[who].busy = false;
    start_step(m, who);
}

/* ---- the router ---- */

static void good(struct sim *m, const struct kcl_job *j)
{
    ++m->result.good;
    m->result.good_tokens += j->q.tokens;
}

static void judge(struct sim *m, const struct kcl_job *j)
{
    const double ttft = (double)(j->first_ns - j->q.arrived_ns);

    m->measure.ttft[m->measure.count++] = ttft;
    if (ttft > (double)m->s->route.ttft_ns)
        ++m->result.late;
    else if (j->answer > 1 &&
             (double)(j->last_ns - j->first_ns) / (j->answer - 1) > (double)m->s->route.itl_ns)
        ++m->result.slow;
    else
        good(m, j);
}

static void give(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];

    kve_route_given(&m->r, &j->q, &j->d);
    kcl_worker_reserve(&m->workers[j->d.decode], j->d.blocks);
    kcl_worker_queue(&m->workers[j->d.prefill], m->jobs, job);
    start_step(m, j->d.prefill);
}

/* Those that wait, in order, until one has to go on waiting. */
static void serve_waiting(struct sim *m)
{
    while (m->wait_head != KVE_ROUTE_NONE) {
        const uint32_t job = m->wait_head;
        struct kcl_job *j = &m->jobs[job];

        j->q.waited = true;
        j->d = kve_route_decide(&m->r, &j->q, m->now);
        if (j->d.verdict == KVE_ROUTE_WAIT)
            return;
        m->wait_head = j->next;
        --m->r.waiting;
        if (j->d.verdict == KVE_ROUTE_GO) {
            give(m, job);
        } else {
            ++m->result.rejected;
            ++m->ended;
        }
    }
}

static void end_job(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];

    judge(m, j);
    ++m->ended;
    m->freed = true;
    kve_route_finished(&m->r, &j->q, &j->d);
    kcl_worker_release(&m->workers[j->d.decode], j->d.blocks);
}

static void arrive(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];

    j->d = kve_route_decide(&m->r, &j->q, m->now);
    if (j->d.verdict == KVE_ROUTE_GO) {
        give(m, job);
    } else if (j->d.verdict == KVE_ROUTE_SHED) {
        ++m->result.rejected;
        ++m->ended;
    } else {
        j->next = KVE_ROUTE_NONE;
        if (m->wait_head == KVE_ROUTE_NONE)
            m->wait_head = job;
        else
            m->jobs[m->wait_tail].next = job;
        m->wait_tail = job;
        ++m->r.waiting;
    }
}

static void landed(struct sim *m, uint32_t job)
{
    struct kcl_job *j = &m->jobs[job];

    kve_route_landed(&m->r, &j->d);
    kve_prompts_held_add(&m->workers[j->d.decode].prompts, j->q.hashes, j->q.hash_count);
    first_token(m, job);
}

static void tick(struct sim *m)
{
    const struct kve_route_turn t = kve_route_lend(&m->r, m->now);

    kve_route_turned(&m->r, &t, m->now);
    m->freed = true;
    m->result.turns += t.node != KVE_ROUTE_NONE;
    m->result.overloaded_s += t.state == KVE_ROUTE_OVERLOADED;
    if (m->ended < m->s->trace->count)
        need(m, kcl_events_put(&m->events, m->now + TICK_NS, KCL_TICK, 0));
}

/* ---- begin, run, end ---- */

static void fill_links(struct sim *m)
{
    const uint32_t n = m->r.count;

    for (uint32_t a = 0; a < n; ++a)
        for (uint32_t b = 0; b < n; ++b) {
            const bool same = m->s->racks == 0 || a % m->s->racks == b % m->s->racks;

            m->mbps[(uint64_t)a * n + b] =
                (uint32_t)fmax(1, m->s->route.link_mbps * (same ? 1 : m->s->cross));
        }
    m->links = (struct kve_route_links){m->mbps, n};
    m->r.links = &m->links;
}

static void open_workers(struct sim *m)
{
    for (uint32_t i = 0; i < m->r.count; ++i) {
        kcl_worker_open(&m->workers[i], m->s->blocks);
        m->r.nodes[i].role = i < m->s->prefills ? KVE_ROUTE_PREFILL : KVE_ROUTE_DECODE;
        m->r.nodes[i].blocks = m->s->blocks;
        kve_route_join(&m->r, i);
    }
}

static void fill_jobs(struct sim *m)
{
    const struct kcl_trace *t = m->s->trace;

    for (uint32_t i = 0; i < t->count; ++i) {
        const struct kcl_arrival *a = &t->each[i];

        m->jobs[i].answer = a->answer;
        m->jobs[i].q = (struct kve_route_request){
            .hashes = t->hash + a->hash,
            .hash_count = a->hashes,
            .tokens = a->tokens,
            .max_tokens = a->answer > m->s->max_tokens ? a->answer : m->s->max_tokens,
            .arrived_ns = a->at_ns + 1,
        };
    }
}

static void open_sim(struct sim *m, const struct kcl_setup *s)
{
    const uint32_t n = s->prefills + s->decodes, jobs = s->trace->count;

    *m = (struct sim){.s = s, .wait_head = KVE_ROUTE_NONE, .r = {.cfg = s->route, .count = n}};
    m->r.cfg.cost = kcl_cost(s->model, s->machine);
    m->r.nodes = calloc(n, sizeof(*m->r.nodes));
    m->workers = calloc(n, sizeof(*m->workers));
    m->jobs = calloc((size_t)jobs + 1, sizeof(*m->jobs));
    m->mbps = calloc((size_t)n * n + 1, sizeof(*m->mbps));
    m->ok = kcl_measure_open(&m->measure, jobs) && m->r.nodes != NULL && m->workers != NULL &&
            m->jobs != NULL && m->mbps != NULL;
    if (!m->ok)
        return;
    fill_links(m);
    open_workers(m);
    fill_jobs(m);
    need(m, kcl_events_put(&m->events, TICK_NS, KCL_TICK, 0));
}

static void sum_up(struct sim *m)
{
    const struct kcl_trace *t = m->s->trace;
    const uint32_t n = m->s->route.together ? m->r.count : m->s->prefills;
    struct kcl_result *r = &m->result;
    double most = 0, all = 0, tokens = 0;

    for (uint32_t i = 0; i < m->r.count; ++i) {
        r->computed += m->workers[i].computed;
        if (i >= n)
            continue;
        all += m->workers[i].work_ns;
        most = fmax(most, m->workers[i].work_ns);
    }
    r->imbalance = all > 0 ? most * n / all : 1;
    r->requests = t->count;
    r->span_s = t->count > 0 ? (double)(t->each[t->count - 1].at_ns - t->each[0].at_ns) / 1e9 : 0;
    r->goodput = r->span_s > 0 ? r->good / r->span_s : 0;
    for (uint32_t i = 0; i < t->count; ++i)
        tokens += t->each[i].tokens;
    r->good_tokens = tokens > 0 ? r->good_tokens / tokens : 0;
    kcl_measure_sum(&m->measure, r);
}

static void close_sim(struct sim *m)
{
    for (uint32_t i = 0; i < m->r.count && m->workers != NULL; ++i)
        kcl_worker_free(&m->workers[i]);
    for (uint32_t i = 0; i < m->r.count && m->r.nodes != NULL; ++i)
        kve_prompts_held_free(&m->r.nodes[i].prompts);
    free(m->r.nodes);
    free(m->workers);
    free(m->jobs);
    free(m->mbps);
    kcl_events_free(&m->events);
    kcl_measure_close(&m->measure);
}

static void happen(struct sim *m, const struct kcl_event *e)
{
    m->now = e->at_ns;
    switch (e->kind) {
    case KCL_STEP:
        end_step(m, e->who);
        break;
    case KCL_LANDED:
        landed(m, e->who);
        break;
    case KCL_TICK:
        tick(m);
        break;
    }
    if (m->freed)
        serve_waiting(m);
    m->freed = false;
}

struct kcl_result kcl_run(const struct kcl_setup *s)
{
    struct sim m;
    uint32_t next = 0;

    open_sim(&m, s);
    while (m.ok && m.ended < s->trace->count) {
        if (next < s->trace->count &&
            (m.events.count == 0 || m.jobs[next].q.arrived_ns <= m.events.heap[0].at_ns)) {
            m.now = m.jobs[next].q.arrived_ns;
            arrive(&m, next++);
        } else {
            const struct kcl_event e = kcl_events_take(&m.events);

            happen(&m, &e);
        }
    }
    if (m.ok)
        sum_up(&m);
    m.result.ok = m.ok;
    close_sim(&m);
    return m.result;
}
