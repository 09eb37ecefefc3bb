/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs.h - chunks coded by a GPU, as a queue of kvwire/job.h. What was submitted since the last
 * flush becomes one launch of each codec, dtype and direction, on a stream of the queue's own that
 * no other work waits for unless it is told to (before). A kernel's record in pinned memory says
 * that a job is done; no host function is called back.
 *
 * A job's view lies in VRAM or pinned memory, its stream in either, at a multiple of 16. Its block
 * table may lie anywhere: the part that it needs is copied in submit.
 *
 * threads  as kvwire/job.h
 * memory   VRAM and pinned memory are taken in open, given back in close
 * time     submit copies a block table; flush costs a few microseconds a launch; done() reads one
 *          word, and asks the driver where the job isn't done
 */
#ifndef KVG_JOBS_H
#define KVG_JOBS_H

#include "../kvwire/job.h"
#include "mem.h"

struct kvg_jobs_config {
    const void *image;     /* the kernels: a fatbin; read in open only */
    uint32_t jobs_max;     /* 1 .. KVG_JOBS_MAX, submitted and not yet done */
    uint32_t chunk_bytes;  /* raw bytes of a job's chunk, at most: 1 .. KVG_BYTES_MAX */
    uint32_t columns;      /* values in a token of a job's chunk, at most */
    uint32_t table_blocks; /* entries of a block table that a job may need */
    uint32_t ctas;         /* of a launch, at most; 0: as many as fill the GPU */
};

#define KVG_JOBS_MAX 4096u

/*
 * A queue on this device; its context is current in this thread afterwards. On an error nothing is
 * held, and text has the reason in one sentence.
 *
 *   KVW_E_INVALID      a field of cfg is out of its range; text names it
 *   KVW_E_UNSUPPORTED  the image has no kernels for this GPU
 *   KVW_E_NOMEM        no VRAM, no pinned memory, no memory
 *   KVW_E_DEVICE       the driver failed otherwise
 */
KVW_NODISCARD kvw_err kvg_jobs_open(struct kvw_jobs **q, const struct kvg_device *dev,
                                    const struct kvg_jobs_config *cfg, char *text,
                                    size_t text_bytes);
/* Launches that were made so far, for tests and statistics. */
uint64_t kvg_jobs_launches(const struct kvw_jobs *q);
#endif
