/* SPDX-License-Identifier: Apache-2.0 */
/*
 * encode.h - a chunk's codec here or on threads of its own, so that whoever polls the core isn't
 * held up by it: a queue of job.h whose jobs begin as soon as a thread is free.
 *
 * threads  a job belongs to the core's thread until kvw_encoders_submit() and again once
 *          kvw_job_done() has said so or kvw_encoders_drop() has returned
 * memory   the pool and each thread's scratch are taken in open, given back in close
 * time     read from the clock that the caller brings; only drop and close wait, for at most the
 *          one chunk a thread is busy with
 */
#ifndef KVW_ENCODE_H
#define KVW_ENCODE_H

#include "../job.h"

/* Monotonic nanoseconds. Called from the core's thread and from its encoders'. */
struct kvw_clock {
    uint64_t (*now_ns)(void *arg); /* NULL: durations can't be measured, codecs count as free */
    void *arg;
};

/* Now, on this thread. */
void kvw_job_run(struct kvw_job *j, void *scratch, const struct kvw_clock *clock);

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

/* The same threads by the table of job.h; kvw_encoders_close() is its close(). */
struct kvw_jobs *kvw_encoders_jobs(struct kvw_encoders *e);

#endif
