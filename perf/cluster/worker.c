/* SPDX-License-Identifier: Apache-2.0 */
/* worker.c - queue, batch and cache of a simulated worker. */
#include "worker.h"

#include <stdlib.h>

#include "trace.h"

void kcl_worker_open(struct kcl_worker *w, uint32_t blocks)
{
    *w = (struct kcl_worker){.head = KVE_ROUTE_NONE, .tail = KVE_ROUTE_NONE, .blocks = blocks};
    kve_prompts_held_limit(&w->prompts, blocks);
}

void kcl_worker_free(struct kcl_worker *w)
{
    free(w->batch);
    kve_prompts_held_free(&w->prompts);
}

void kcl_worker_queue(struct kcl_worker *w, struct kcl_job *jobs, uint32_t job)
{
    jobs[job].next = KVE_ROUTE_NONE;
    if (w->head == KVE_ROUTE_NONE)
        w->head = job;
    else
        jobs[w->tail].next = job;
    w->tail = job;
}

bool kcl_worker_join(struct kcl_worker *w, const struct kcl_job *jobs, uint32_t job)
{
    if (w->batch_count == w->batch_room) {
        const uint32_t room = w->batch_room == 0 ? 64 : w->batch_room * 2;
        uint32_t *batch = realloc(w->batch, room * sizeof(*batch));

        if (batch == NULL)
            return false;
        w->batch = batch;
        w->batch_room = room;
    }
    w->batch[w->batch_count++] = job;
    w->cached += jobs[job].q.tokens + 1;
    return true;
}

void kcl_worker_reserve(struct kcl_worker *w, uint32_t blocks)
{
    w->blocks_used += blocks;
    kve_prompts_held_limit(&w->prompts,
                           w->blocks > w->blocks_used ? w->blocks - w->blocks_used : 0);
}

void kcl_worker_release(struct kcl_worker *w, uint32_t blocks)
{
    w->blocks_used -= blocks;
    kve_prompts_held_limit(&w->prompts,
                           w->blocks > w->blocks_used ? w->blocks - w->blocks_used : 0);
}

/* The cache is looked at when the prompt's turn comes. */
static void begin(const struct kcl_worker *w, struct kcl_job *j, uint64_t now_ns)
{
    const uint64_t held =
        (uint64_t)kve_prompts_held_match(&w->prompts, j->q.hashes, j->q.hash_count) *
        KCL_BLOCK_TOKENS;

    j->cached = held < j->q.tokens ? (uint32_t)held : j->q.tokens - 1;
    j->done = j->cached;
    j->started_ns = now_ns;
}

bool kcl_worker_plan(struct kcl_worker *w, struct kcl_job *jobs, uint32_t piece_most,
                     uint64_t now_ns, struct kcl_step *s)
{
    uint32_t room = piece_most;

    *s = (struct kcl_step){.tokens = w->batch_count, .cached = w->cached};
    w->stepping = w->batch_count;
    w->piece_count = 0;
    for (uint32_t i = w->head; i != KVE_ROUTE_NONE && room > 0 && w->piece_count < KCL_PIECES;
         i = jobs[i].next) {
        struct kcl_job *j = &jobs[i];

        if (j->started_ns == 0)
            begin(w, j, now_ns);
        const uint32_t left = j->q.tokens - j->done, n = left < room ? left : room;

        w->pieces[w->piece_count++] = (struct kcl_piece){i, n};
        s->tokens += n;
        s->pairs += n * (j->done + n / 2.0);
        room -= n;
    }
    return s->tokens > 0;
}
