/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lend.h - the receiver's transfers: blocks lent under an epoch, a time to be taken up and a lease;
 * COMMIT, and the moment when everything is there (SPEC.md 4.1, 4.3, 4.4).
 *
 * threads  one      memory  transfer.h's      time  the core's now_ns
 */
#ifndef KVW_KV_LEND_H
#define KVW_KV_LEND_H

#include "transfer.h"

/* ALIVE, COMMIT, ABORT, REFUSE of a peer; about an epoch of ours that isn't open: ABORT is owed. */
void kvw_lend_alive(struct kvw_core *c, struct kvw_peer *p, uint32_t epoch);
void kvw_lend_commit(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_commit *m);
/* The flow has been heard of: its lease begins anew. */
void kvw_lend_heard(struct kvw_core *c, struct kvw_flow *f);
/* End the flow well if everything is there, its transfer badly if it never can be. */
void kvw_lend_settle(struct kvw_core *c, struct kvw_flow *f);
/* A flow's timer has run out. */
void kvw_lend_timer(struct kvw_core *c, struct kvw_flow *f);
/* The peer is up: offers that wait for it may be made or sent now. */
void kvw_lend_peer_up(struct kvw_core *c, struct kvw_peer *p);
/* A pending offer's sources haven't all come in time. */
void kvw_lend_pending_late(struct kvw_core *c, struct kvw_transfer *t);
#endif
