/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flight.h - flights: one post at one end of a connection; how each begins and ends.
 *
 * threads  one
 * memory   one allocation a flight, and what it lists
 * time     the core's now_ns
 */
#ifndef KVW_BATCH_FLIGHT_H
#define KVW_BATCH_FLIGHT_H

#include "batch_state.h"

/* Whether the peer is up and knows batches. */
static inline bool kvw_batch_knows(const struct kvw_peer *p)
{
    return p->link != NULL && p->batches != NULL;
}

/* A flight in the peer's list, TELLING; NULL: no memory. */
struct kvw_flight *kvw_flight_new(struct kvw_peer *p, bool ours, uint8_t op, uint64_t bytes,
                                  uint32_t chunk_bytes);
/* Ours or theirs of that epoch, not OVER; NULL: none. */
struct kvw_flight *kvw_flight_of_epoch(const struct kvw_peer *p, bool ours, uint64_t epoch);

/* Bytes sent, or in place. */
static inline uint64_t kvw_flight_moved(const struct kvw_flight *f)
{
    const uint64_t bytes = (uint64_t)f->moved * f->chunk_bytes;

    return bytes < f->bytes ? bytes : f->bytes;
}

/* Whether one more of that size fits the limits; counted by kvw_flight_count(). */
bool kvw_flight_fits(const struct kvw_batch_open *open, uint32_t runs, uint32_t chunks);
void kvw_flight_count(struct kvw_flight *f);

/* Its chunks may move: those that this side receives need slots, the others are sent from now on.
 * KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_flight_begin(struct kvw_core *c, struct kvw_flight *f);

/*
 * The one place where a flight ends. Ours: its batch's post ends with err and text. `tell`: the
 * peer doesn't know yet, so a BATCH_DONE is owed; else the flight is gone when this returns. After
 * this nothing of its pieces is touched.
 */
void kvw_flight_end(struct kvw_core *c, struct kvw_flight *f, kvw_err err, bool tell,
                    const char *text);
/* A BATCH_DONE has gone, or will never go. */
void kvw_flight_free(struct kvw_core *c, struct kvw_flight *f);

/* A peer is up, or no more. kvw_flight_peer_up: KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_flight_peer_up(struct kvw_core *c, struct kvw_peer *p);
void kvw_flight_peer_lost(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text);

/* Posts whose deadline has passed end; the next one is looked for. */
void kvw_flight_deadlines(struct kvw_core *c);

#endif
