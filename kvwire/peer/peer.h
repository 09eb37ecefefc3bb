/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer.h - the peers of a core: made, found by id and by instance, and two that turn out to be the
 * same node made one.
 *
 * threads  one
 * memory   one allocation a peer, from kvw_peer_new() to kvw_peer_free(); a peer is made by the
 *          caller or when a HELLO comes, never on the data path
 * time     none
 */
#ifndef KVW_PEER_PEER_H
#define KVW_PEER_PEER_H

#include "core_state.h"

/* A peer in the list, without a connection. NULL: no memory, or peers_max are known. */
struct kvw_peer *kvw_peer_new(struct kvw_core *c, uint32_t path);
/* It has no link, no flow and is no source of a pending offer. */
void kvw_peer_free(struct kvw_core *c, struct kvw_peer *p);

struct kvw_peer *kvw_peer_of_instance(const struct kvw_core *c, uint64_t instance);
void kvw_peer_set_instance(struct kvw_core *c, struct kvw_peer *p, uint64_t instance);

/* `other`, which the caller added and which has no link and no flow, is the same node as p: p takes
 * its ids, its address and its place in pending offers, and `other` is freed. */
void kvw_peer_absorb(struct kvw_core *c, struct kvw_peer *p, struct kvw_peer *other);

/* Forget the pools that it told. */
void kvw_peer_drop_pools(struct kvw_peer *p);

/* A peer that came by itself, is not connected and is in no use; NULL: none. */
struct kvw_peer *kvw_peer_oldest_idle(const struct kvw_core *c);

#endif
