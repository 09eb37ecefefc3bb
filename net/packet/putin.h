/* SPDX-License-Identifier: Apache-2.0 */
/*
 * putin.h - puts arriving from the peer: each slice is checked, placed once, and the put reported
 * once when it is whole; how much the peer may send, and what to ask it for again. SPEC.md 5, 8.
 *
 * threads  one
 * memory   the slots are the caller's, KVN_PUTS_FIRST of them, all zero at the start. Where a
 *          sender is further ahead there are mapped ones in their place, KVN_PUTS_MAX at most.
 *          Slices are written into the regions, which is the only copy
 * time     none
 */
#ifndef KVN_PACKET_PUTIN_H
#define KVN_PACKET_PUTIN_H

#include "frame.h"
#include "regions.h"

enum kvn_put_in_state {
    KVN_PUT_IN_AHEAD = 0, /* nothing came yet; the first slice leads to OPEN */
    KVN_PUT_IN_OPEN,      /* the last slice leads to LANDED */
    KVN_PUT_IN_LANDED,    /* kvn_puts_in_next_landed() leads to TAKEN */
    KVN_PUT_IN_TAKEN,     /* leads to AHEAD, of another number, once all before it are TAKEN */
};

struct kvn_put_in {
    struct kvn_data data;
    uint32_t slices;
    uint32_t got;
    uint32_t after; /* next in the list of LANDED puts */
    enum kvn_put_in_state state;
    uint64_t map[KVN_SLICES_MAX / 64];
};

/* Numbers run modulo 2^32. Every put before first is over, every put at or after end is AHEAD. */
struct kvn_puts_in {
    struct kvn_put_in *slot; /* by number, masked */
    struct kvn_put_in *own;  /* what slot is at first */
    uint32_t mask;
    uint32_t first;
    uint32_t end;
    uint32_t landed_head; /* by slot; UINT32_MAX: empty */
    uint32_t landed_tail;
    uint32_t open;   /* puts that are OPEN */
    uint64_t taken;  /* bytes placed, all puts; a put that begins again gives its bytes back */
    uint64_t credit; /* what the peer was told: so many bytes it may send */
};

void kvn_puts_in_begin(struct kvn_puts_in *p, struct kvn_put_in *slots, uint64_t credit);
/* Give the slots back, all AHEAD; kvn_puts_in_begin() is next. */
void kvn_puts_in_end(struct kvn_puts_in *p);

/*
 * A slice from the peer, for conn (the gate asks). *fresh: bytes placed, 0 when it had come before.
 *   KVW_E_AGAIN     its put is too far ahead to be tracked, or it is beyond the credit: not placed,
 *                   must not be acknowledged
 *   KVW_E_PROTOCOL  no such region, out of it, refused by its gate, or at odds with the put's other
 *                   slices: nothing was placed
 */
KVW_NODISCARD kvw_err kvn_puts_in_take(struct kvn_puts_in *p, const struct kvn_frame *f,
                                       const struct kvn_regions *regions, kvw_conn_id conn,
                                       uint32_t *fresh);

/* The credit to tell the peer, who should have window bytes on its way at most; remembered as told.
 * Never falls. */
uint64_t kvn_puts_in_credit(struct kvn_puts_in *p, uint64_t window);

/* Up to max stretches of slices that OPEN puts wait for, lowest first. Returns how many. */
uint32_t kvn_puts_in_missing(const struct kvn_puts_in *p, struct kvn_missing *out, uint32_t max);

/* Take the oldest LANDED put; valid until the next call here. NULL: none. */
const struct kvn_data *kvn_puts_in_next_landed(struct kvn_puts_in *p);

#endif
