/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - run a driver call that may block for ever, but not for ever: in a thread, with a
 * deadline, after which it is helped to fail, and in the end left behind.
 *
 * threads  fn runs in a thread of its own with all signals blocked
 * memory   a small object and a thread per run
 * time     returns at until_ns + KVN_DPDK_BREAK_NS at the latest
 */
#ifndef KVN_DPDK_JOB_H
#define KVN_DPDK_JOB_H

#include <stdbool.h>
#include <stdint.h>

/* How long a call is given to fail after it was broken. A broken one fails within 1 ms. */
#define KVN_DPDK_BREAK_NS 1000000000ull

typedef enum kvn_dpdk_job_end {
    KVN_DPDK_JOB_DONE = 0,  /* fn returned by itself */
    KVN_DPDK_JOB_BROKEN,    /* fn returned after it was broken */
    KVN_DPDK_JOB_ABANDONED, /* fn still runs: arg, and all that it uses, must stay for ever */
    KVN_DPDK_JOB_NO_THREAD, /* fn never ran */
} kvn_dpdk_job_end;

/* Run fn(arg). From until_ns (CLOCK_MONOTONIC) on, break_path's sockets are shut down
 * (kvn_dpdk_sock_break) every few milliseconds. */
kvn_dpdk_job_end kvn_dpdk_job_run(void (*fn)(void *arg), void *arg, uint64_t until_ns,
                                  const char *break_path);

/* CLOCK_MONOTONIC. */
uint64_t kvn_dpdk_now_ns(void);

#endif
