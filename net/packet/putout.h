/* SPDX-License-Identifier: Apache-2.0 */
/*
 * putout.h - puts on their way to the peer: which slices were never sent, which must be sent again,
 * which have arrived. SPEC.md 5.
 *
 * threads  one
 * memory   the slots are the caller's, KVN_PUTS_FIRST of them, all KVN_PUT_OUT_FREE at the start
 *          and again after the last kvn_puts_out_next_done(), or mapped, after
 *          kvn_puts_out_grow(); the iov memory is borrowed until then
 * time     none
 */
#ifndef KVN_PACKET_PUTOUT_H
#define KVN_PACKET_PUTOUT_H

#include "../../kvwire/transport.h"
#include "frame.h"

#define KVN_SLICE_WORDS (KVN_SLICES_MAX / 64)

enum kvn_put_out_state {
    KVN_PUT_OUT_FREE,   /* push leads to ACTIVE */
    KVN_PUT_OUT_ACTIVE, /* the last slice's arrival, or the connection's end, leads to DONE */
    KVN_PUT_OUT_DONE,   /* kvn_puts_out_next_done() leads to FREE */
};

struct kvn_put_out {
    struct kvw_iov iov[KVW_PUT_IOV_MAX];
    uint64_t offset;
    uint64_t cookie;
    uint32_t iov_count;
    uint32_t region;
    uint32_t bytes;
    uint32_t imm;
    uint32_t slice;  /* bytes of each but the last */
    uint32_t slices; /* 0 until the first is taken: a put may be queued before the slice is known */
    uint32_t fresh;  /* first slice never sent */
    uint32_t lost_count;
    uint32_t arrived_count;
    uint32_t after; /* next in the list of DONE puts */
    kvw_err err;
    enum kvn_put_out_state state;
    uint64_t lost[KVN_SLICE_WORDS];
    uint64_t arrived[KVN_SLICE_WORDS];
};

/* Numbers run modulo 2^32: first .. next - 1 aren't FREE yet, or wait for one before them. */
struct kvn_puts_out {
    struct kvn_put_out *slot; /* by number, masked */
    struct kvn_put_out *own;  /* what slot is at first */
    uint32_t mask;
    uint32_t first;
    uint32_t next;
    uint32_t fresh;      /* first put with slices never sent */
    uint32_t lost_count; /* slices, of all */
    uint32_t done_head;  /* list of DONE puts in their order, by slot; UINT32_MAX: empty */
    uint32_t done_tail;
    uint32_t window; /* puts the peer tracks */
    uint32_t slice;  /* bytes, of puts that begin now; 0: not agreed yet */
    uint64_t sent;   /* bytes, first copies */
    uint64_t credit; /* sent stays at or below it */
};

/* One slice to send. */
struct kvn_slice {
    const struct kvn_put_out *of; /* valid until the put is over */
    uint32_t put;
    uint32_t number;
    uint32_t bytes;
    bool again;
};

void kvn_puts_out_begin(struct kvn_puts_out *p, struct kvn_put_out *slots);
/* Gives back what was mapped: kvn_puts_out_begin() is next. */
void kvn_puts_out_end(struct kvn_puts_out *p);
/* Twice as many slots; pointers to the old ones are void. False: there are KVN_PUTS_MAX, or there
 * is no memory, and nothing has changed. */
bool kvn_puts_out_grow(struct kvn_puts_out *p);
/* The handshake has told the slice and what the peer can take: puts, and bytes. */
void kvn_puts_out_agreed(struct kvn_puts_out *p, uint32_t slice, uint32_t window, uint64_t credit);
/* slice is what fits the path now. Puts that were cut into longer slices begin again, from their
 * first byte; the peer notices. */
void kvn_puts_out_recut(struct kvn_puts_out *p, uint32_t slice);
/* The put is in range. KVW_E_AGAIN: all slots are taken. */
KVW_NODISCARD kvw_err kvn_puts_out_push(struct kvn_puts_out *p, const struct kvw_put *put,
                                        uint32_t bytes);
/* There is a new slice, of a put that the peer can track. */
static inline bool kvn_puts_out_fresh(const struct kvn_puts_out *p)
{
    return p->slice != 0 && p->fresh != p->next && p->fresh - p->first < p->window;
}
/* Whether there is a slice to send: a lost one, or a new one within the credit. */
static inline bool kvn_puts_out_ready(const struct kvn_puts_out *p)
{
    return p->lost_count > 0 || (kvn_puts_out_fresh(p) && p->sent + p->slice <= p->credit);
}
/* There is a new slice, but the credit holds it back. */
static inline bool kvn_puts_out_blocked(const struct kvn_puts_out *p)
{
    return kvn_puts_out_fresh(p) && p->sent + p->slice > p->credit;
}
/* The next slice to send; it counts as sent. Only when ready. */
struct kvn_slice kvn_puts_out_take(struct kvn_puts_out *p);
/* Where a slice's bytes lie: up to KVW_PUT_IOV_MAX pieces. Returns how many. */
uint32_t kvn_puts_out_pieces(const struct kvn_slice *s, struct kvw_iov piece[KVW_PUT_IOV_MAX]);
/* The ACTIVE put of this number; NULL: it is over. */
struct kvn_put_out *kvn_puts_out_find(const struct kvn_puts_out *p, uint32_t put);
/* What became of a slice of cut * KVN_SLICE_ALIGN bytes; nothing, if its put was cut
 * again since. */
void kvn_puts_out_arrived(struct kvn_puts_out *p, uint32_t put, uint32_t slice, uint32_t cut);
void kvn_puts_out_lost(struct kvn_puts_out *p, uint32_t put, uint32_t slice, uint32_t cut);
/* Every ACTIVE put becomes DONE with err. */
void kvn_puts_out_fail(struct kvn_puts_out *p, kvw_err err);
/* Take the oldest DONE put. */
bool kvn_puts_out_next_done(struct kvn_puts_out *p, uint64_t *cookie, kvw_err *err);

#endif
