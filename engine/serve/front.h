/* SPDX-License-Identifier: Apache-2.0 */
/*
 * front.h - many clients' requests on a service's workers: who waits, who is next, who is refused.
 *
 * A request is given a prefill and a decode as soon as there are blocks for all of it (place.h),
 * and waits in a bounded queue until its decode has a free place and its prefill is idle; so no
 * worker ever has to refuse one. Next is the oldest request of the client that was served longest
 * ago: one who asks for a hundred answers doesn't keep another from the second. One that a lost
 * worker had goes back to the queue, once, if none of its answer was told.
 *
 * threads  one
 * memory   jobs are the caller's
 * time     no call waits, but for what kve_dispatch_begin() does
 */
#ifndef KVE_FRONT_H
#define KVE_FRONT_H

#include "dispatch.h"
#include "place.h"

#define KVE_FRONT_CLIENTS 64u /* whose turns are remembered */

enum kve_job_state { KVE_JOB_NEW, KVE_JOB_QUEUED, KVE_JOB_RUNNING, KVE_JOB_ENDED };

/* One answer to one prompt. Zeroed, with q and the calls filled, before kve_front_submit(). */
struct kve_job {
    void *owner;
    uint64_t client; /* whose it is: any number */
    struct kve_request q;
    /* n more bytes, whole characters; as a listener's. */
    kvw_err (*text)(struct kve_job *j, const char *at, size_t n);
    /* The last word. failed: ticket.why; retry_s: it was refused. The job is the caller's again. */
    void (*ended)(struct kve_job *j);

    enum kve_job_state state;
    bool failed;
    struct kve_report rep;
    struct kve_ticket ticket;
    struct kve_listener hook;
    struct kve_front *front;
    uint64_t queued_ns, until_ns;
    uint64_t first_us; /* some of the answer was there */
    struct kve_placed placed;
    bool again;       /* a worker that had it was lost */
    uint32_t retry_s; /* refused: come again then. 0: it wasn't */
    struct kve_job *next;
};

struct kve_front {
    struct kve_dispatch *d;
    struct kve_place place;
    uint32_t slots, queue_max; /* of a decode: answers at once; requests that wait */
    struct kve_job *queue;     /* oldest first */
    struct kve_job *running;
    uint32_t queued, active;
    uint64_t refused, restarted; /* requests: what would have been late; of lost workers */
    struct {
        uint64_t client, turn;
    } turns[KVE_FRONT_CLIENTS];
    uint64_t turn;
};

struct kve_front_config {
    struct kve_dispatch *d;
    uint32_t slots, queue_max;
    struct kve_place_config place; /* queue_max is the front's */
};
void kve_front_open(struct kve_front *f, const struct kve_front_config *cfg);
void kve_front_close(struct kve_front *f);

/*
 * Put it into the queue; kve_front_step() starts it.
 *   KVW_E_AGAIN     the queue is full; or, with a sentence in why and j->retry_s, it would be late
 *   KVW_E_NOBLOCKS  it needs more blocks than a worker has; a sentence in why
 *   KVW_E_NOMEM
 * On an error the job stays the caller's. why: KVE_WHY_BYTES.
 */
KVW_NODISCARD kvw_err kve_front_submit(struct kve_front *f, struct kve_job *j, char *why);
/* Nobody wants it any more. It ends, now (if it waits) or at one of the next steps. */
void kve_front_cancel(struct kve_front *f, struct kve_job *j);
/* Take what the workers said, start what can start. */
void kve_front_step(struct kve_front *f);
/* No workers any more: what waits ends now, what runs at the next steps. */
void kve_front_fail_all(struct kve_front *f, const char *why);
/* When the next step is due even if nothing happens. UINT64_MAX: never. */
uint64_t kve_front_due_ns(const struct kve_front *f);

#endif
