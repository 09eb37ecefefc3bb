/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_session.h - `kvserve run --save FILE`, `--restore FILE`: what its workers are told between
 * requests.
 *
 * threads  one
 * memory   none is kept
 * time     a worker has 60 s to read or write a file; *stop ends the wait within 200 ms
 */
#ifndef KVE_RUN_SESSION_H
#define KVE_RUN_SESSION_H

#include "dispatch.h"

/* What a worker said. */
struct kve_session_said {
    uint32_t tokens; /* that were saved or restored */
    uint32_t unit;   /* so many at a time */
    uint64_t kv_bytes, file_bytes;
};

/* All workers take the file's K and V into their caches. False: why; then none of what a failing
 * one read is used. No request is under way. */
bool kve_session_ask_restore(struct kve_dispatch *d, const char *path, kvw_budget budget,
                             struct kve_session_said *said, char why[KVE_WHY_BYTES]);
/* The worker that prefilled q's prompt (with reuse) saves it. */
bool kve_session_ask_save(struct kve_dispatch *d, const char *path, const struct kve_request *q,
                          struct kve_session_said *said, char why[KVE_WHY_BYTES]);
/* Has the prompt so much in common with the file that something needn't be computed? False: why
 * says where they part. */
bool kve_session_begins(const char *path, const struct kve_request *q, uint32_t unit,
                        char why[KVE_WHY_BYTES]);

#endif
