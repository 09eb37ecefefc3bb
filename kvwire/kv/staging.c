/* SPDX-License-Identifier: Apache-2.0 */
/* Staging slots and the lines that they stand in. */
#include "staging.h"

#include <assert.h>

void kvw_staging_init(struct kvw_stages *g)
{
    for (uint32_t i = 0; i < g->count; ++i)
        g->stages[i] = (struct kvw_staged){.next = i + 1 < g->count ? i + 1 : KVW_STAGE_NONE};
    g->free = 0;
    g->free_count = g->count;
}

struct kvw_staged *kvw_staging_take(struct kvw_stages *g, struct kvw_peer *p)
{
    const uint32_t at = g->free;
    struct kvw_staged *s;

    if (at == KVW_STAGE_NONE)
        return NULL;
    s = &g->stages[at];
    g->free = s->next;
    --g->free_count;
    *s = (struct kvw_staged){.state = KVW_STAGING_QUEUED, .peer = p, .next = KVW_STAGE_NONE};
    if (p->line_head == KVW_STAGE_NONE)
        p->line_head = at;
    else
        g->stages[p->line_tail].next = at;
    p->line_tail = at;
    ++p->queued;
    return s;
}

struct kvw_staged *kvw_staging_lend(struct kvw_stages *g, struct kvw_peer *p)
{
    struct kvw_staged *s;

    if (g->free == KVW_STAGE_NONE)
        return NULL;
    s = &g->stages[g->free];
    g->free = s->next;
    --g->free_count;
    *s = (struct kvw_staged){
        .state = KVW_STAGING_FLIGHT, .batch = true, .peer = p, .next = KVW_STAGE_NONE};
    return s;
}

struct kvw_staged *kvw_staging_first(const struct kvw_stages *g, const struct kvw_peer *p)
{
    return p->line_head == KVW_STAGE_NONE ? NULL : &g->stages[p->line_head];
}

void kvw_staging_pop(struct kvw_stages *g, struct kvw_peer *p)
{
    p->line_head = g->stages[p->line_head].next;
    if (p->line_head == KVW_STAGE_NONE)
        p->line_tail = KVW_STAGE_NONE;
    --p->queued;
}

void kvw_staging_free(struct kvw_stages *g, struct kvw_staged *s)
{
    assert(s->state != KVW_STAGING_FREE);
    s->state = KVW_STAGING_FREE;
    s->flow = NULL;
    s->next = g->free;
    g->free = (uint32_t)(s - g->stages);
    ++g->free_count;
}

/* Take back the flow's jobs that aren't done; unless `all`, only those that haven't begun. */
static void take_jobs_back(struct kvw_core *c, const struct kvw_flow *f, bool all)
{
    for (uint32_t i = 0; i < c->stages.count; ++i) {
        struct kvw_staged *s = &c->stages.stages[i];
        const bool runs = kvw_job_state_of(&s->job) == KVW_JOB_RUNNING;

        if (s->state != KVW_STAGING_QUEUED || s->flow != f || s->jobs == NULL ||
            kvw_job_done(&s->job) || (runs && !all))
            continue;
        s->jobs->ops->drop(s->jobs, &s->job);
    }
}

void kvw_staging_take_back(struct kvw_core *c, const struct kvw_flow *f)
{
    if (c->jobs != NULL || c->device.jobs != NULL) {
        take_jobs_back(c, f, false); /* so that none of them begins while the next pass waits */
        take_jobs_back(c, f, true);
    }
    for (uint32_t i = 0; i < c->stages.count; ++i)
        if (c->stages.stages[i].flow == f)
            c->stages.stages[i].flow = NULL;
}

void kvw_staging_drop_line(struct kvw_core *c, struct kvw_peer *p)
{
    struct kvw_staged *s;

    while ((s = kvw_staging_first(&c->stages, p)) != NULL) {
        assert(s->flow == NULL);
        kvw_staging_pop(&c->stages, p);
        kvw_staging_free(&c->stages, s);
    }
}
