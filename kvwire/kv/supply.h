/* SPDX-License-Identifier: Apache-2.0 */
/*
 * supply.h - the sender's transfers: a stream and the offers of its key meet in either order;
 * pushes, ready marks, COMMIT, DONE (SPEC.md 4.1, 4.3).
 *
 * threads  one      memory  transfer.h's; an OFFER takes a flow      time  the core's now_ns
 */
#ifndef KVW_KV_SUPPLY_H
#define KVW_KV_SUPPLY_H

#include "transfer.h"

/* OFFER of a stream's, DONE of a peer. */
void kvw_supply_offer(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m);
void kvw_supply_done(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_done *m);
/* An OFFER's flow, in core.waiting until its take-by; NULL: it was refused, or the peer is to be
 * hung up on. */
struct kvw_flow *kvw_supply_keep(struct kvw_core *c, struct kvw_peer *p,
                                 const struct kvw_wire_offer *m);
/* A waiting offer and an open transfer that is to fill it. False: they don't fit, and the transfer
 * has ended. */
bool kvw_supply_join(struct kvw_core *c, struct kvw_transfer *t, struct kvw_flow *f);
/* A sender's transfer of the caller's begins: what each layer has to move is known. */
void kvw_supply_begin(struct kvw_core *c, struct kvw_transfer *t);
/* REFUSE of a receiver: it will not offer this key. */
void kvw_supply_refused(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_abort *m);
/* A layer's chunk is in the peer's memory: LAYER_SENT, if that is so for all now. */
void kvw_supply_layer_sent(struct kvw_core *c, struct kvw_transfer *t, uint32_t layer);
/* Ask the pending ready marks of all streams. */
void kvw_supply_marks(struct kvw_core *c);
/* A waiting offer's time to be taken up is over. */
void kvw_supply_timer(struct kvw_core *c, struct kvw_flow *f);
/* Entries of a span's layer that are computed, of those from entry_first on. */
uint32_t kvw_supply_ready(const struct kvw_core *c, const struct kvw_flow *f,
                          const struct kvw_flow_span *s, uint32_t layer_at);

#endif
