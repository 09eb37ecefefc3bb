/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.h - a core's table of batches: what open, close, events and figures need of it.
 *
 * threads  one
 * memory   a batch, its runs and its notes are allocated by make and post, a flight by post
 * time     the core's now_ns
 */
#ifndef KVW_BATCH_BATCH_H
#define KVW_BATCH_BATCH_H

#include "batch_state.h"

KVW_NODISCARD kvw_err kvw_batch_open(struct kvw_core *c); /* KVW_E_NOMEM */
/* All peers are gone. Frees what is left, events' notes too. */
void kvw_batch_close(struct kvw_core *c);

/* A batch in the table, IDLE; NULL: no memory, or KVW_BATCHES_MAX are there. */
struct kvw_batch *kvw_batch_new(struct kvw_core *c);
struct kvw_batch *kvw_batch_of_id(const struct kvw_core *c, kvw_batch_id id);
/* It has no flight: gone, and its event, too. */
void kvw_batch_free(struct kvw_core *c, struct kvw_batch *x);

void kvw_batch_fill_event(struct kvw_core_event *ev, const struct kvw_batch *x);
void kvw_batch_stats(const struct kvw_core *c, struct kvw_core_stats *s);
uint64_t kvw_batch_deadline_ns(const struct kvw_core *c);
/* Posts that have ended, so far: it has grown when somebody who waits may go on. */
uint64_t kvw_batch_ended(const struct kvw_core *c);

#endif
