/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staging.h - the sender's staging slots: shared by all peers, in each peer's line in the order in
 * which their puts are numbered.
 *
 * A slot is FREE, QUEUED (in a line: being encoded, or encoded and waiting), or in FLIGHT (the
 * transport's until PUT_DONE). Only a QUEUED slot's job reads a transfer's blocks.
 *
 * threads  one (jobs run on the encoders')      memory  the core's arena      time  none
 */
#ifndef KVW_KV_STAGING_H
#define KVW_KV_STAGING_H

#include "../peer/core_state.h"

void kvw_staging_init(struct kvw_stages *g);
/* Take a free slot, NULL: none; append it to the peer's line. */
struct kvw_staged *kvw_staging_take(struct kvw_stages *g, struct kvw_peer *p);
/* Take a free slot for a batch's chunk, outside the line; NULL: none. It is in FLIGHT. */
struct kvw_staged *kvw_staging_lend(struct kvw_stages *g, struct kvw_peer *p);
/* The first of a peer's line, NULL: empty. */
struct kvw_staged *kvw_staging_first(const struct kvw_stages *g, const struct kvw_peer *p);
/* Take the first out of the line; it stays taken. */
void kvw_staging_pop(struct kvw_stages *g, struct kvw_peer *p);
void kvw_staging_free(struct kvw_stages *g, struct kvw_staged *s);

static inline unsigned char *kvw_staging_mem(const struct kvw_stages *g, const struct kvw_staged *s)
{
    return g->mem + (size_t)(s - g->stages) * g->slot_bytes;
}

/*
 * A flow ends: when this returns, no job reads its blocks any more and none of its slots names it.
 * Slots in its peer's line stay there, without a flow, until the line gets to them.
 */
void kvw_staging_take_back(struct kvw_core *c, const struct kvw_flow *f);
/* The peer is gone: its line is emptied. Its flows have been taken back before. */
void kvw_staging_drop_line(struct kvw_core *c, struct kvw_peer *p);

#endif
