/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tell.h - what is owed to a peer about regions and batches, as messages made from state.
 *
 * threads  one      memory  the core's message buffer      time  the core's now_ns
 */
#ifndef KVW_BATCH_TELL_H
#define KVW_BATCH_TELL_H

#include "batch_state.h"

/*
 * Send what is owed: regions that went and came, ends, notifications, BATCHes. True: all of it that
 * the limits allow has gone. False: the transport is full; core.retry_ns says when to try again.
 */
bool kvw_batch_flush(struct kvw_core *c, struct kvw_peer *p);

#endif
