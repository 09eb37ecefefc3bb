/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - a simulated worker: what its next step has, and what that step did. For sim.c.
 *
 * threads  one      memory  grows; free gives it back      time  virtual
 */
#ifndef KCL_WORKER_H
#define KCL_WORKER_H

#include "../../engine/route/route.h"
#include "machine.h"

#define KCL_PIECES 16 /* prompts in one step */

struct kcl_job {
    struct kve_route_request q;
    struct kve_route_decision d;
    uint32_t answer, written;
    uint32_t cached, done; /* tokens of the prompt: found in the worker's cache; there by now */
    uint64_t started_ns, took_ns; /* of its prefill: the worker's steps, its part of them */
    uint64_t first_ns, last_ns;
    uint32_t next; /* in the worker's queue, in the router's */
};

struct kcl_worker {
    uint32_t head, tail; /* prompts, KVE_ROUTE_NONE: none */
    uint32_t *batch;     /* sequences that decode */
    uint32_t batch_count, batch_room;
    uint64_t cached; /* tokens in their caches */
    struct kcl_piece {
        uint32_t job, tokens;
    } pieces[KCL_PIECES];           /* of the step under way */
    uint32_t piece_count, stepping; /* sequences in it */
    bool busy;
    uint64_t step_ns;
    struct kve_prompts_held prompts; /* what its cache holds in truth */
    uint32_t blocks, blocks_used;
    uint64_t out_ns, in_ns; /* its link is free from then on */
    uint64_t computed;      /* tokens of prompts */
    double work_ns;         /* what they take alone */
};

void kcl_worker_open(struct kcl_worker *w, uint32_t blocks);
void kcl_worker_free(struct kcl_worker *w);
void kcl_worker_queue(struct kcl_worker *w, struct kcl_job *jobs, uint32_t job);
/* False: no memory. */
bool kcl_worker_join(struct kcl_worker *w, const struct kcl_job *jobs, uint32_t job);
/* Blocks for a sequence, or back. */
void kcl_worker_reserve(struct kcl_worker *w, uint32_t blocks);
void kcl_worker_release(struct kcl_worker *w, uint32_t blocks);
/* What the next step has, at most so many tokens of prompts. False: there is nothing to do. */
bool kcl_worker_plan(struct kcl_worker *w, struct kcl_job *jobs, uint32_t piece_most,
                     uint64_t now_ns, struct kcl_step *s);

#endif
