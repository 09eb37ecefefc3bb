/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatch.h - a request's life on a pair of workers, of however many there are: handed out to both
 * under one transfer id, gathered in a report, ended in both. A worker that is lost fails what it
 * had, and nothing else. Any front can use it: it prints nothing, and tells a listener what
 * happens. The command line's (run.c) serves one request after the other and waits here; HTTP's
 * (front.c) has several under way and waits in a loop of its own.
 *
 * threads  one; the listener is called on it, from inside the calls below
 * memory   the caller's, but for the spawned workers and the lists of a report
 * time     kve_dispatch_begin(), _cancel() and _step() don't wait, but for a worker that doesn't
 *          read its control channel (2 s). The others have a deadline: kve_dispatch_wait_ready()
 *          the workers' time to open and 30 s, kve_dispatch_serve() the request's time and 3 s. A
 *          *stop that isn't 0 ends both within 200 ms and those 3 s
 */
#ifndef KVE_DISPATCH_H
#define KVE_DISPATCH_H

#include "../gguf/gguf.h"
#include "../text/tok.h"
#include "../text/utf8.h"
#include "report.h"
#include "request.h"
#include "spawn.h"

struct pollfd;

/* Who hears of the request under way. Any may be NULL. */
struct kve_listener {
    void *arg;
    /* n more bytes of the answer, always whole characters. Other than KVW_OK ends the request. */
    kvw_err (*text)(void *arg, const char *at, size_t n);
    /* So many tokens of its prompt's are prefilled. */
    void (*progress)(void *arg, uint32_t tokens, uint32_t prompt_tokens);
    /* A descriptor of the listener's to wait for beside the workers'. Of the config's only. */
    void (*wait_for)(void *arg, struct pollfd *p);
    /* After each wait. False, with a sentence in why, ends the request: nobody wants its answer. Of
     * the config's only. */
    bool (*step)(void *arg, char why[KVE_WHY_BYTES]);
    /* The last word: the request's ticket and report are the caller's again. */
    void (*ended)(void *arg);
};

/* A request under way: the dispatch's from kve_dispatch_begin() until it has ended. */
struct kve_ticket {
    const struct kve_listener *listener;
    struct kve_report *report;
    struct kve_spawned *prefill, *decode; /* who has it. No prefill: decode does both */
    uint64_t id, until_ns;
    uint64_t end_by_ns;        /* called off: the workers' last words are awaited so long. 0: not */
    bool prefilled, finished;  /* what prefill and decode say last; or they are lost */
    bool lost;                 /* failed since one of them is */
    bool failed, ended;        /* failed: why has the first reason */
    char why[KVE_WHY_BYTES];   /* a sentence that names who gave it */
    struct kve_utf8_hold hold; /* of the answer */
    struct kve_ticket *next;
};

struct kve_dispatch_config {
    struct kve_spawn_config spawn;
    const struct kve_tok *tok; /* of the workers' model */
    struct kve_listener listener;
    const _Atomic int *stop; /* not 0: end, "interrupted" */
};

struct kve_dispatch {
    const struct kve_dispatch_config *cfg;
    struct kve_spawn spawn;
    bool stuck;  /* there is no link any more */
    bool failed; /* a worker, or the wait for them; of kve_dispatch_serve(): the request */
    char why[KVE_WHY_BYTES];    /* the first reason: a sentence that names who gave it */
    struct kve_ticket *tickets; /* under way */
};

/* Start or find the workers; *cfg must outlive *d. On an error nothing is left to be stopped, and
 * d->why says what failed. */
KVW_NODISCARD kvw_err kve_dispatch_start(struct kve_dispatch *d,
                                         const struct kve_dispatch_config *cfg);
void kve_dispatch_stop(struct kve_dispatch *d);

/* Wait until all workers have loaded and found each other. False: d->why. */
bool kve_dispatch_wait_ready(struct kve_dispatch *d);

/*
 * One request to its end on both workers. q->id is chosen here; *rep (zeroed by the caller, who
 * frees it) has what is known also of a request that fails. False: d->why.
 */
bool kve_dispatch_serve(struct kve_dispatch *d, struct kve_request *q, struct kve_report *rep);

/*
 * The same without waiting: begin hands the request out, under an id that it puts into *q; every
 * kve_dispatch_step() takes what the workers said and looks at the time; l->ended (*l must live as
 * long) is called from there, never from begin. q may go after begin.
 */
void kve_dispatch_begin(struct kve_dispatch *d, struct kve_ticket *t, struct kve_request *q,
                        struct kve_report *rep, const struct kve_listener *l);
/* On which: t->prefill (NULL: the other does both parts), t->decode. */
void kve_dispatch_begin_on(struct kve_dispatch *d, struct kve_ticket *t, struct kve_request *q,
                           struct kve_report *rep, const struct kve_listener *l);
/* Take it back from both workers: it fails with "canceled", and ends as any other. */
void kve_dispatch_cancel(struct kve_dispatch *d, struct kve_ticket *t);
/* Everything under way fails, with this reason. */
void kve_dispatch_fail_all(struct kve_dispatch *d, const char *why);
void kve_dispatch_step(struct kve_dispatch *d);
/* When the next step is due even if the workers say nothing. UINT64_MAX: never. */
uint64_t kve_dispatch_due_ns(const struct kve_dispatch *d);
/* Have all workers loaded and found each other? */
bool kve_dispatch_all_ready(const struct kve_dispatch *d);
/* Can a request be served: is there a pair that has? */
bool kve_dispatch_ready(const struct kve_dispatch *d);
/* Is it there, and does it end what it should? */
bool kve_dispatch_alive(const struct kve_spawned *w);
/* Has it loaded, and have the two found each other, as both say? LOCAL: with itself. */
bool kve_dispatch_linked(const struct kve_dispatch *d, uint32_t prefill, uint32_t decode);
/* One that isn't alive is ended, what it had fails; kve_spawn_again() may follow. */
void kve_dispatch_end_worker(struct kve_dispatch *d, struct kve_spawned *w, const char *why);

/* Can another request be served after one that failed? */
bool kve_dispatch_goes_on(const struct kve_dispatch *d);

#endif
