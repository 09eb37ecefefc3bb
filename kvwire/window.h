/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h - the receiver's landing slots and the credit they are (SPEC.md 4.2).
 *
 * A connection's puts are numbered 0, 1, 2 ...; put `seq` lands in slot seq % slots. The receiver
 * grants an absolute limit: the sender may use every seq < limit. With `lowest` the lowest seq not
 * yet processed, limit = lowest + slots, so that two puts that may be under way never share a slot:
 *
 *      0 ... lowest ............ limit = lowest + slots
 *            |-- each GRANTED, LANDED or PROCESSED --|
 *
 * threads  one      memory  states and queue are the caller's, `slots` long      time  none
 */
#ifndef KVW_WINDOW_H
#define KVW_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "err.h"

enum kvw_slot_state {
    KVW_SLOT_GRANTED = 0, /* the sender may put here; LANDED when it has */
    KVW_SLOT_LANDED,      /* in the queue; PROCESSED when its chunk was taken or dropped */
    KVW_SLOT_PROCESSED,   /* waits for every lower seq; GRANTED again for seq + slots */
};

struct kvw_window {
    uint8_t *state;  /* enum kvw_slot_state, by slot */
    uint16_t *queue; /* landed slots in order of landing */
    uint32_t slots;
    uint32_t slot_bytes;
    uint64_t lowest; /* lowest seq not PROCESSED */
    uint64_t told;   /* limit of the last GRANT sent */
    uint32_t queue_head, queue_count;
    uint32_t *bytes; /* landed bytes, by slot */
};

/* A new connection: nothing has landed, nothing is granted. */
void kvw_window_reset(struct kvw_window *w);

static inline uint64_t kvw_window_limit(const struct kvw_window *w)
{
    return w->lowest + w->slots;
}

/* Whether a put of `bytes` at `offset` with this imm is one that was granted and hasn't landed. */
bool kvw_window_allows(const struct kvw_window *w, uint64_t offset, uint32_t bytes, uint32_t imm);

/* Such a put has landed: queue it. KVW_E_PROTOCOL: it was not allowed. */
KVW_NODISCARD kvw_err kvw_window_land(struct kvw_window *w, uint64_t offset, uint32_t bytes,
                                      uint32_t imm);

/* Oldest landed slot; false: none. */
bool kvw_window_peek(const struct kvw_window *w, uint32_t *slot);
/* Its seq, while it is LANDED. */
uint64_t kvw_window_seq(const struct kvw_window *w, uint32_t slot);
/* The slot that peek gave is free again. */
void kvw_window_pop(struct kvw_window *w);

#endif
