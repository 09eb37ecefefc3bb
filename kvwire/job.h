/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - one chunk's codec as work that somebody else does meanwhile: kvwire's threads
 * (kv/encode.h) or a GPU (gpu/jobs.h). Whoever has jobs knows only this table.
 *
 * A job is filled in, submitted, and begins at the latest with the next flush: a GPU makes one
 * launch of all that was submitted in between. Then the owner asks now and then whether it is done.
 *
 * threads  one calls all functions of a queue, but done(): that may be asked in any, of a job
 *          whose submit it has seen
 * memory   a job, its view, its block table and its stream are the queue's from submit() until
 *          done() or drop(); a GPU must reach the view and the stream, not the block table
 * time     submit, flush, done, after and before don't wait. drop and close wait for what has
 *          begun: a chunk a thread, or what a GPU's stream has
 */
#ifndef KVW_JOB_H
#define KVW_JOB_H

#include "codec.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvw_job_kind {
    KVW_JOB_ENCODE = 0, /* from the view to `to`, which has room for to_bytes */
    KVW_JOB_DECODE = 1, /* from `from`, stream_bytes long, to the view */
};

enum kvw_job_state {
    KVW_JOB_IDLE = 0, /* submit() -> QUEUED; kvw_job_run() -> DONE */
    KVW_JOB_QUEUED,   /* begun -> RUNNING; drop() -> IDLE */
    KVW_JOB_RUNNING,  /* -> DONE */
    KVW_JOB_DONE,     /* the results are there */
};

struct kvw_job {
    /* to be filled in */
    const struct kvw_codec_ops *codec;
    struct kvw_codec_args args; /* of decode the book alone */
    struct kvw_view view;
    void *to;
    uint64_t to_bytes;
    kvw_digest_id digest;
    enum kvw_job_kind kind;
    const void *from;
    /* results; stream_bytes of decode is to be filled in */
    kvw_err err; /* the codec's; KVW_E_DEVICE: a GPU failed */
    uint64_t stream_bytes;
    uint64_t digest_value; /* of the raw bytes, or as they come back; decode: for the owner to
                              compare */
    uint64_t ns;           /* that it took; 0 without a clock */

    uint32_t state; /* enum kvw_job_state, by the functions below */
    uint32_t slot;  /* the queue's */
};

struct kvw_jobs; /* a queue; its maker's structure begins with it */

struct kvw_jobs_ops {
    /*
     * Take a job. On an error it stays the caller's.
     *   KVW_E_AGAIN        the queue is full
     *   KVW_E_UNSUPPORTED  not by this queue: another codec, dtype, digest, book or memory
     *   KVW_E_INVALID      a view or a stream that no codec takes
     */
    KVW_NODISCARD kvw_err (*submit)(struct kvw_jobs *q, struct kvw_job *j);
    /* Begin all that was submitted. An error of the device is that of each job. */
    void (*flush)(struct kvw_jobs *q);
    /* Whether the results are there: once true, always true, and the job is the owner's again. */
    bool (*done)(struct kvw_jobs *q, struct kvw_job *j);
    /* Take a job back, whatever it is at: afterwards nothing reads or writes what it names. */
    void (*drop)(struct kvw_jobs *q, struct kvw_job *j);
    /*
     * Of a GPU, else NULL. stream: a CUstream of the same context.
     *   after   jobs that are flushed from now on begin when what is on the stream now has ended:
     *           the layer that a model has computed there
     *   before  what is put on the stream from now on begins when the jobs flushed so far have
     *           ended: a layer's attention, whose chunks are being decoded
     *   KVW_E_DEVICE  the driver failed
     */
    KVW_NODISCARD kvw_err (*after)(struct kvw_jobs *q, void *stream);
    KVW_NODISCARD kvw_err (*before)(struct kvw_jobs *q, void *stream);
    /* Waits for what has begun; what hasn't is forgotten. */
    void (*close)(struct kvw_jobs *q);
};

struct kvw_jobs {
    const struct kvw_jobs_ops *ops;
};

/* By builtins: this header is C++, too. */
static inline enum kvw_job_state kvw_job_state_of(const struct kvw_job *j)
{
    return (enum kvw_job_state)__atomic_load_n(&j->state, __ATOMIC_ACQUIRE);
}
static inline void kvw_job_set(struct kvw_job *j, enum kvw_job_state state)
{
    __atomic_store_n(&j->state, (uint32_t)state, __ATOMIC_RELEASE);
}
static inline bool kvw_job_done(const struct kvw_job *j)
{
    return kvw_job_state_of(j) == KVW_JOB_DONE;
}

#ifdef __cplusplus
}
#endif

#endif
