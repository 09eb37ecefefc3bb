/* SPDX-License-Identifier: Apache-2.0 */
/*
 * take.h - messages of a peer about regions and batches: checked, and made state.
 *
 * threads  one      memory  a BATCH's list of runs is allocated      time  the core's now_ns
 */
#ifndef KVW_BATCH_TAKE_H
#define KVW_BATCH_TAKE_H

#include "batch_state.h"

/* A message of type REGION, GONE, BATCH, BATCH_DONE or NOTIFY of a peer that is up. There is room
 * for two events. False: malformed or out of place. */
bool kvw_batch_take(struct kvw_core *c, struct kvw_peer *p, const uint8_t *msg, uint32_t bytes);

#endif
