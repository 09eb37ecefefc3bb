/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move.h - chunks of batches: gathered from pieces, put into the peer's landing slots, checked
 * there, scattered into pieces (SPEC.md 5.1).
 *
 * A chunk is read from pieces and written to pieces inside these calls only, and only while its
 * flight is open.
 *
 * threads  one      memory  staging and landing slots of the core      time  the core's now_ns
 */
#ifndef KVW_BATCH_MOVE_H
#define KVW_BATCH_MOVE_H

#include "batch_state.h"

/* Gather and put for peers that have batches to send, a chunk each in turn, up to
 * KVW_CHUNKS_A_TURN; true: more could go. */
bool kvw_batch_send(struct kvw_core *c);
/* Take up to KVW_CHUNKS_A_TURN chunks that have landed; true: more have. */
bool kvw_batch_arrive(struct kvw_core *c);

#endif
