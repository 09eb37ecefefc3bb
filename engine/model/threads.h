/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads.h - a few workers that share the items of one step after another.
 *
 * The caller of kve_pool_run() works too, and never waits for a worker that hasn't taken an item: a
 * worker that sleeps, or whose core another process has, only makes the step slower, never late.
 *
 * threads  one thread at a time calls kve_pool_run() of a pool
 * memory   taken in open
 * time     an idle worker looks for the next step for at most SPIN_NS (and not at all where threads
 *          outnumber the cores the process may use), then sleeps on a futex
 */
#ifndef KVE_THREADS_H
#define KVE_THREADS_H

#include "../../kvwire/err.h"

#include <stdint.h>

#define KVE_THREADS_MAX 256u

struct kve_pool; /* opaque */

/* worker: 0 .. threads-1, 0 being the caller's own thread; for per-thread scratch. */
typedef void (*kve_item_fn)(void *arg, uint32_t item, uint32_t worker);

/* threads: 1 .. KVE_THREADS_MAX, the caller's own included. begin (may be NULL) runs once in each
 * new thread. KVW_E_INVALID, KVW_E_NOMEM (also when no thread can be made); *p untouched. */
KVW_NODISCARD kvw_err kve_pool_open(struct kve_pool **p, uint32_t threads, void (*begin)(void));
void kve_pool_close(struct kve_pool *p); /* takes NULL */
uint32_t kve_pool_threads(const struct kve_pool *p);

/* Call fn(arg, item, worker) once for each item 0 .. items-1, the highest first, in any thread;
 * returns when all have returned. */
void kve_pool_run(struct kve_pool *p, uint32_t items, kve_item_fn fn, void *arg);

#endif
