/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.h - what goes to standard output: kept until the reader takes it, so that a reader that
 * stands still holds up nobody, and checked, so that what can't be written is no success.
 *
 * threads  one
 * memory   what the reader hasn't taken yet
 * time     kve_output_step() never waits; kve_output_finish() takes a deadline
 */
#ifndef KVE_OUTPUT_H
#define KVE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kvwire/err.h"

struct kve_output {
    int fd; /* borrowed */
    char *at;
    size_t used, room, sent; /* [sent, used) waits */
    int error;               /* errno of the write that failed; for good. 0: none */
    bool late;               /* kve_output_finish's time ran out; for good */
};

/* One that isn't open for writing has failed already. */
void kve_output_open(struct kve_output *o, int fd);
void kve_output_close(struct kve_output *o);

/* KVW_E_NOMEM */
kvw_err kve_output_add(struct kve_output *o, const void *text, size_t n);
bool kve_output_waiting(const struct kve_output *o);
/* Write what the reader takes at once, and look whether it is still there. False: it failed. */
bool kve_output_step(struct kve_output *o);
/* Write all of it. False: it failed, or until_ns or *stop (may be NULL) came first. */
bool kve_output_finish(struct kve_output *o, uint64_t until_ns, const _Atomic int *stop);
/* A sentence (KVE_WHY_BYTES) on why one of them returned false. */
void kve_output_why(const struct kve_output *o, char *why);

#endif
