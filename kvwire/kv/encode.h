/* SPDX-License-Identifier: Apache-2.0 */
/*
 * encode.h - encoding one chunk, here or on threads of its own, so that whoever polls the session
 * isn't held up by a codec.
 *
 * threads  a job belongs to the session's thread until kvw_encoders_submit() and again once
 *          kvw_job_done() has said so or kvw_encoders_drop() has returned
 * memory   the pool and each thread's scratch are taken in open, given back in close
 * time     read from the clock that the caller brings; only drop and close wait, for at most the
 *          one chunk a thread is busy with
 */
#ifndef KVW_ENCODE_H
#define KVW_ENCODE_H

#include <stdatomic.h>

#include "codec.h"
#include "kvwire.h"

enum kvw_job_state {
    KVW_JOB_IDLE = 0, /* submit() -> QUEUED; kvw_job_run() -> DONE */
    KVW_JOB_QUEUED,   /* a thread takes it -> RUNNING; drop() -> IDLE */
    KVW_JOB_RUNNING,  /* -> DONE */
    KVW_JOB_DONE,     /* the results are there */
};

struct kvw_job {
    /* to be filled in */
    const struct kvw_codec_ops *codec;
    struct kvw_codec_args args;
    struct kvw_view view;
    void *to;
    uint64_t to_bytes;
    kvw_digest_id digest;
    /* results */
    kvw_err err;
    uint64_t stream_bytes;
    uint64_t digest_value;
    uint64_t ns; /* that it took; 0 without a clock */

    _Atomic uint32_t state; /* enum kvw_job_state */
};

/* Encode now, on this thread. */
void kvw_job_run(struct kvw_job *j, void *scratch, const struct kvw_clock *clock);

static inline bool kvw_job_done(const struct kvw_job *j)
{
    return atomic_load_explicit(&j->state, memory_order_acquire) == KVW_JOB_DONE;
}

struct kvw_encoders; /* opaque */

#define KVW_ENCODERS_MAX 16u

/*
 * Start `threads` (1 .. KVW_ENCODERS_MAX) of them behind a queue of queue_max jobs. wake (may be
 * NULL) is called from them after each job.
 *   KVW_E_NOMEM  no memory or no thread; nothing is kept
 */
KVW_NODISCARD kvw_err kvw_encoders_open(struct kvw_encoders **e, uint32_t threads,
                                        uint32_t queue_max, uint64_t scratch_bytes,
                                        const struct kvw_clock *clock, void (*wake)(void *arg),
                                        void *wake_arg);
/* What is queued is forgotten. Takes NULL. */
void kvw_encoders_close(struct kvw_encoders *e);

/* KVW_E_AGAIN: the queue is full, the job is still the caller's. */
KVW_NODISCARD kvw_err kvw_encoders_submit(struct kvw_encoders *e, struct kvw_job *j);
/* Take a job back, whatever it is at; afterwards nothing reads its view or writes its buffer. */
void kvw_encoders_drop(struct kvw_encoders *e, struct kvw_job *j);

#endif
