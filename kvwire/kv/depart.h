/* SPDX-License-Identifier: Apache-2.0 */
/*
 * depart.h - the sender's chunks: cut from what was pushed, given a codec, encoded into a staging
 * slot by the core's encoders or here, and put in the order of cutting (SPEC.md 4.2, 5).
 *
 * threads  one      memory  staging slots of the core      time  the core's now_ns
 */
#ifndef KVW_KV_DEPART_H
#define KVW_KV_DEPART_H

#include "../wire/credit.h"
#include "supply.h"

/* Encode and put for peers that are busy, a chunk each in turn, up to KVW_CHUNKS_A_TURN; true: more
 * could go. */
bool kvw_depart_poll(struct kvw_core *c);
/* A put of ours is over. */
void kvw_depart_put_done(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev);
/* GRANT and RECALL of a receiver. */
void kvw_depart_grant(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_grant *m);
void kvw_depart_recall(struct kvw_core *c, struct kvw_peer *p);
/* A peer is up: which codecs it takes. It is gone: nothing is under way to it any more. */
void kvw_depart_start(struct kvw_core *c, struct kvw_peer *p);
void kvw_depart_stop(struct kvw_core *c, struct kvw_peer *p);

#endif
