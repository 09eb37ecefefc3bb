/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.h - a core's queue of events, which can't overflow: one place belongs to each transfer for
 * its XFER_DONE; all others share the rest, and whoever is about to do a step asks kvw_core_room()
 * first and leaves the step for later when there is none.
 *
 * threads  one      memory  the core's arena      time  none
 */
#ifndef KVW_PEER_EVENTS_H
#define KVW_PEER_EVENTS_H

#include "core_state.h"

/* The most events, XFER_DONE aside, that one step can make: DONE reports every layer as sent, a
 * lost and a new peer make two. */
#define KVW_STEP_EVENTS  (KVW_LAYERS_MAX + 8u)
#define KVW_OTHER_EVENTS (2u * KVW_STEP_EVENTS + 32u)

/* Append an event that isn't XFER_DONE; text may be NULL. */
struct kvw_core_rec *kvw_core_emit(struct kvw_core *c, uint32_t kind, const struct kvw_peer *peer,
                                   kvw_err err, const char *text);
/* PEER_UP or PEER_LOST of a peer: one for each id that names it. */
void kvw_core_emit_peer(struct kvw_core *c, uint32_t kind, const struct kvw_peer *peer, kvw_err err,
                        const char *text);
/* A layer of a transfer: LAYER_SENT, LAYER_CAME or LAYER_READY; of none: COMMITTED. */
void kvw_core_emit_layer(struct kvw_core *c, uint32_t kind, const struct kvw_transfer *t,
                         uint32_t layer);
/* The one XFER_DONE of a transfer; of one that serves a pull the trace alone. */
void kvw_core_emit_done(struct kvw_core *c, struct kvw_transfer *t);
/* A peer's notification, whose memory is the queue's from now on: one for its first id. */
void kvw_core_emit_note(struct kvw_core *c, const struct kvw_peer *peer, uint8_t *note,
                        uint32_t note_bytes);
/* Take the oldest; NULL: none. Give it back with kvw_core_rec_free(). */
struct kvw_core_rec *kvw_core_rec_take(struct kvw_core *c);
void kvw_core_rec_free(struct kvw_core *c, struct kvw_core_rec *rec);

#endif
