/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place.h - which workers a request goes to: the judgement of engine/route, with what it needs to
 * know of this service's workers. A worker takes part (joins) while it is linked with all of the
 * other side (in a mesh: all) that do, so that any pair can be picked. What work costs is first
 * guessed from the model's size and then taken from what the first prefill took; each worker's
 * pace, a decode step and each link's rate are measured as requests end. One worker may be picked
 * for both parts of a request: its prompt is then computed where the answer is written.
 *
 * threads  one
 * memory   plain data, but for the prompts that route believes to be held: kve_place_close()
 * time     O(workers * blocks of the prompt) for a decision
 */
#ifndef KVE_PLACE_H
#define KVE_PLACE_H

#include "../route/route.h"
#include "dispatch.h"

struct kve_place_config {
    const struct kve_route_policy *policy; /* NULL: the first of the table */
    uint64_t ttft_ns, itl_ns; /* what is promised: what would break it is refused. 0, 0: nothing is;
                                 one of them 0: the other alone */
    uint64_t lend_ns; /* a worker that does the other side's work does so for so long at least; 0:
                         none does. They must be a mesh (spawn.h) */
    uint32_t queue_max;
    uint32_t local_tokens; /* prompts that lack so many, or a slow link's, may be computed where
                              they are decoded; 0: none is */
};

struct kve_place {
    struct kve_dispatch *d;
    struct kve_route route;
    struct kve_route_node nodes[KVE_WORKERS_MAX];
    struct kve_route_links links;
    uint32_t mbps[KVE_WORKERS_MAX * KVE_WORKERS_MAX];
    uint32_t lives[KVE_WORKERS_MAX]; /* 1 + how often it was lost before it joined; 0: it didn't */
    uint64_t requests[KVE_WORKERS_MAX * KVE_WORKERS_MAX]; /* ever begun, by pair; the diagonal: both
                                                             parts */
    bool measured;                                        /* the cost is no guess any more */
    uint64_t lend_ns; /* when route was asked for its state last */
    uint64_t turns;   /* how often a worker changed sides */
};

/* A request's place: its owner zeroes it. */
struct kve_placed {
    struct kve_route_request q;
    struct kve_route_decision d;
    uint64_t *hashes;
    uint32_t lives[2]; /* of its workers, when it was given to them */
    bool given, prefilled;
    uint32_t prompt_blocks; /* that it has on the prefill, from its start until that is over */
    uint32_t tokens;        /* of the prompt, done */
    double told_ns;         /* of its cost, to route */
};

void kve_place_open(struct kve_place *p, struct kve_dispatch *d,
                    const struct kve_place_config *cfg);
void kve_place_close(struct kve_place *p);

/* Who is there now; the state, once a second. */
void kve_place_look(struct kve_place *p, uint64_t now_ns);
/* Is there anybody to decide for? */
bool kve_place_any(const struct kve_place *p);
/* Do they take requests? */
bool kve_place_takes(const struct kve_place *p, uint32_t worker);

/* Prompt, answer and time of arrival, as route sees them. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_place_ask(struct kve_place *p, struct kve_placed *at,
                                    const struct kve_request *q, uint64_t arrived_ns);
void kve_place_forget(struct kve_placed *at);
/* at->d; GO: it is given to those workers. waited: it is who waits for longest. */
enum kve_route_verdict kve_place_decide(struct kve_place *p, struct kve_placed *at, bool waited,
                                        uint64_t now_ns);
/* Are there blocks for its prompt on its prefill, which may have answers, too? */
bool kve_place_room(const struct kve_place *p, const struct kve_placed *at);
/* Its workers hear of it now. */
void kve_place_started(struct kve_place *p, struct kve_placed *at);
/* So many tokens of its prompt are done. */
void kve_place_progress(struct kve_place *p, struct kve_placed *at, uint32_t tokens);
/* Its prefill and its transfer are over. rep: what the worker said; NULL: called off. */
void kve_place_prefilled(struct kve_place *p, struct kve_placed *at, const struct kve_report *rep);
/* It has ended, or goes back to those that wait. rep: of an answer that is whole, else NULL. */
void kve_place_ended(struct kve_place *p, struct kve_placed *at, const struct kve_report *rep);

#endif
