/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arrive.h - the receiver's chunks: from landing slot, checked, into the offered blocks (SPEC.md
 * 5).
 *
 * A chunk is decoded only while its flow is open: inside kvw_core_poll(), or by a queue of jobs
 * (decode.h), which has it from the poll after it landed until it is done. When XFER_DONE is out
 * nothing here holds a pointer into its blocks. That is why late data can't land in a block that
 * has a new owner. Chunks are taken, and their slots freed, in the order in which they landed.
 *
 * threads  one      memory  none of its own      time  the core's now_ns
 */
#ifndef KVW_KV_ARRIVE_H
#define KVW_KV_ARRIVE_H

#include "lend.h"

/* Take up to KVW_CHUNKS_A_TURN chunks; true: more could be taken. */
bool kvw_arrive_poll(struct kvw_core *c);

/* After slots of a peer were taken or given back: a breach if it can't have kept to the order. */
void kvw_arrive_check_gaps(struct kvw_core *c, struct kvw_peer *p);

#endif
