/* SPDX-License-Identifier: Apache-2.0 */
/*
 * owed.h - what is owed to a peer that is up, as messages. Nothing is queued: each message is made
 * from state ("this offer hasn't been sent", "this end hasn't been told"), so a full transport
 * delays but loses nothing, and there is no queue to bound.
 *
 * threads  one      memory  the core's message buffer      time  the core's now_ns
 */
#ifndef KVW_PEER_OWED_H
#define KVW_PEER_OWED_H

#include "core_state.h"

/*
 * Send what is owed, in an order in which nothing overtakes the end of an earlier use of the same
 * key: pools, ends, refusals, slots, offers, COMMIT, ALIVE. True: all of it has gone. False: the
 * transport is full; core.retry_ns says when to try again.
 */
bool kvw_owed_flush(struct kvw_core *c, struct kvw_peer *p);

/* One message; false: the transport is full, core.retry_ns is set. A connection that is gone takes
 * everything: CONN_DOWN comes. */
bool kvw_owed_send(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes);

/* Slots that nobody uses are asked back, if another peer waits for some or the time has come. */
void kvw_owed_idle_slots(struct kvw_core *c, struct kvw_peer *p);

#endif
