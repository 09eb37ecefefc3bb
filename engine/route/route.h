/* SPDX-License-Identifier: Apache-2.0 */
/*
 * route.h - which workers serve a request, or whether it waits or is refused. The router's whole
 * judgement, without I/O and without a clock: that of kvserve (serve/place.c) and of the cluster
 * simulator (perf/cluster).
 *
 * The caller keeps a struct kve_route up to date by reporting what happens (given, progress,
 * landed, finished), asks kve_route_decide() for every request, and kve_route_lend() once in a
 * while.
 *
 * threads  one at a time
 * memory   nodes and links are the caller's; each node's prompts.h grows
 * time     handed in, ns of any clock that doesn't go back; kve_route_decide() reads only and is
 *          O(nodes * blocks of the prompt)
 */
#ifndef KVE_ROUTE_H
#define KVE_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "prompts.h"

#define KVE_ROUTE_NONE UINT32_MAX

enum kve_route_role { KVE_ROUTE_PREFILL = 1, KVE_ROUTE_DECODE = 2 };

/* How long work takes on a worker, measured. Attention's part grows by pairs of tokens. */
struct kve_route_cost {
    double token_ns;      /* of prefill, for each token */
    double pair_ns;       /* of prefill, for each token and each one before it */
    double step_ns;       /* of decode: one step with an empty context */
    double step_token_ns; /* for each token in the cache of the step's sequences */
    double token_bytes;   /* of K and V */
    double layers;        /* they cross the network one by one */
    uint32_t block_tokens;
};

/* A worker. Zeroed but for what the caller knows; kve_route_join() when it is there. */
struct kve_route_node {
    enum kve_route_role role; /* as it was started */
    bool up;                  /* takes requests; false: leaving, or gone */
    bool lent;                /* does the other role's work now */
    uint64_t turned_ns;       /* when lent changed last */
    double pace;              /* measured over estimated time of its prefills */
    double backlog_ns;        /* of prefill: given and not done, as estimated */
    double wire_ns;           /* of K and V: given and not landed, as estimated */
    double work_ns;           /* of prefill, ever given */
    uint32_t prefills;        /* given and not done */
    uint32_t sequences;       /* of decode: given and not finished */
    uint64_t sequence_tokens; /* in their caches, half of each answer being there */
    uint32_t blocks, blocks_used;
    struct kve_prompts_held prompts;
};

/* MB/s between two workers as measured; NULL in struct kve_route: link_mbps for all. */
struct kve_route_links {
    const uint32_t *mbps; /* [from * count + to] */
    uint32_t count;
};

struct kve_route_config {
    const struct kve_route_policy *policy;
    struct kve_route_cost cost;
    uint64_t ttft_ns, itl_ns; /* what is promised */
    double link_mbps;
    bool together;         /* every worker does both, and a request stays on one */
    bool admit;            /* refuse at once what would be late */
    bool local;            /* short or badly linked prompts are computed where they are decoded */
    bool lend;             /* workers change sides under load */
    uint32_t local_tokens; /* that a decode worker computes itself, at most */
    uint32_t piece;        /* tokens of prompts in a step of decoding, at most */
    uint32_t queue_max;    /* requests that may wait */
    /* A worker has this part more work than the least worked one, at most, and this part of
     * ttft_ns; else its prompts aren't looked at. */
    double guard, guard_ttft;
    uint64_t hold_ns; /* a worker keeps its side so long */
    uint64_t seed;
};

enum kve_route_state { KVE_ROUTE_NORMAL, KVE_ROUTE_IMBALANCED, KVE_ROUTE_OVERLOADED };

struct kve_route {
    struct kve_route_config cfg;
    struct kve_route_node *nodes;
    const struct kve_route_links *links;
    uint32_t count;
    uint32_t waiting; /* requests, the caller's queue */
    uint64_t turn;    /* decisions that were carried out */
    enum kve_route_state state;
};

struct kve_route_request {
    const uint64_t *hashes; /* of the prompt's whole blocks; each stands for those before it, too */
    uint32_t hash_count;
    uint32_t tokens, max_tokens; /* of the prompt; of the answer, at most */
    uint64_t arrived_ns;
    bool waited; /* it is the caller's queue's first: ask as if nobody waited */
};

enum kve_route_verdict { KVE_ROUTE_GO, KVE_ROUTE_WAIT, KVE_ROUTE_SHED };

struct kve_route_decision {
    enum kve_route_verdict verdict;
    uint32_t prefill, decode; /* GO: one and the same: no transfer */
    uint32_t cached, lacks;   /* tokens that prefill needn't compute; that decode hasn't */
    uint32_t blocks;          /* of decode's */
    double cost_ns, wire_ns;  /* of the prefill and of the transfer, as estimated */
    double first_ns;          /* until the first token, from now on, as estimated */
    uint64_t retry_ns;        /* SHED: come again after that */
    const char *why;          /* WAIT, SHED: a sentence */
};

/* ---- the table of policies ---- */

/* What a policy's functions see. */
struct kve_route_look {
    const struct kve_route *r;
    const struct kve_route_request *q;
    uint64_t now_ns;
    uint32_t decode; /* chosen already, when prefill is; else KVE_ROUTE_NONE */
    uint32_t need;   /* blocks of decode's */
};

struct kve_route_policy {
    const char *name, *what;
    /* Of the nodes that may (kve_route_may_*); KVE_ROUTE_NONE: none may. */
    uint32_t (*decode)(const struct kve_route_look *l);
    uint32_t (*prefill)(const struct kve_route_look *l);
    bool whole; /* ours: admission, local prefill and lending belong to it */
};

/* NULL-terminated; the first is the default. */
extern const struct kve_route_policy *const kve_route_policies[];
const struct kve_route_policy *kve_route_policy_of(const char *name);

/* The sane values of a policy: cost, promises and links are still the caller's. */
void kve_route_config_of(struct kve_route_config *c, const struct kve_route_policy *p);

/* ---- deciding: reads only ---- */

struct kve_route_decision kve_route_decide(const struct kve_route *r,
                                           const struct kve_route_request *q, uint64_t now_ns);

/* A change of sides that is due, and the state that it follows from. */
struct kve_route_turn {
    enum kve_route_state state;
    double prefill, decode; /* load; at 1 the promise breaks */
    uint32_t node;          /* who turns, or KVE_ROUTE_NONE */
};
struct kve_route_turn kve_route_lend(const struct kve_route *r, uint64_t now_ns);

/* ---- what happened: writes ---- */

/* It takes requests from now on, and counts as having worked as much as the others. */
void kve_route_join(struct kve_route *r, uint32_t node);
/* It is gone: what it held is forgotten. What was given to it ends as any other, or was lost. */
void kve_route_leave(struct kve_route *r, uint32_t node);
/* A GO was carried out. */
void kve_route_given(struct kve_route *r, const struct kve_route_request *q,
                     const struct kve_route_decision *d);
/* So much of its prefill is done (as estimated in cost_ns; all parts add up to it). */
void kve_route_progress(struct kve_route *r, uint32_t node, double cost_ns);
/* Its prefill ended. done: what the worker says; NULL: it was called off, nothing is learnt. */
struct kve_route_done {
    uint32_t cached; /* tokens that it needn't compute */
    uint64_t took_ns;
};
void kve_route_prefilled(struct kve_route *r, const struct kve_route_request *q,
                         const struct kve_route_decision *d, const struct kve_route_done *done);
/* K and V are at the decode side, or won't come. */
void kve_route_landed(struct kve_route *r, const struct kve_route_decision *d);
/* The answer ended. */
void kve_route_finished(struct kve_route *r, const struct kve_route_request *q,
                        const struct kve_route_decision *d);
void kve_route_turned(struct kve_route *r, const struct kve_route_turn *t, uint64_t now_ns);

#endif
