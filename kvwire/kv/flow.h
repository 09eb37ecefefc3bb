/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow.h - one transfer's part with one peer: made of an offer's spans, found by its epoch, given
 * back when nobody needs it any more.
 *
 * threads  one
 * memory   one allocation a flow, taken in kvw_flow_new(), given back in kvw_flow_free()
 * time     the core's now_ns
 */
#ifndef KVW_KV_FLOW_H
#define KVW_KV_FLOW_H

#include "../peer/core_state.h"

/*
 * A flow of these spans, in no list yet. layout is the receiver's, in which the spans have been
 * found to make sense (kvw_map_check(), or made by kvw_map_share()).
 *   KVW_E_NOMEM
 *   KVW_E_UNSUPPORTED  a span has more rows than can be counted in 32 bits; why says so
 */
KVW_NODISCARD kvw_err kvw_flow_new(struct kvw_flow **out, const struct kvw_layout *layout,
                                   const struct kvw_wire_span *spans, uint32_t span_count,
                                   uint32_t tokens, bool receiver, char *why, size_t why_bytes);

/* Put it into its peer's list and the index of epochs. Its peer, epoch and key are set. */
void kvw_flow_join(struct kvw_core *c, struct kvw_flow *f);

/* Out of all lists; its memory goes. */
void kvw_flow_free(struct kvw_core *c, struct kvw_flow *f);

/* Receiver: the flow of that epoch of ours, with that peer; sender: of that peer's. NULL: none. */
struct kvw_flow *kvw_flow_find(const struct kvw_core *c, const struct kvw_peer *p, uint32_t epoch,
                               bool receiver);

/* Index of the layer in the span, or KVW_LAYERS_MAX. */
uint32_t kvw_flow_layer(const struct kvw_flow_span *s, uint32_t layer);

/* The first open or waiting sender's flow of that key and peer, NULL: none. */
struct kvw_flow *kvw_flow_of_key(const struct kvw_peer *p, const kvw_key *key, bool receiver);

#endif
