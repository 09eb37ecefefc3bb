/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inflight.h - what was sent, by packet number, until its fate is known. Everything that is sent
 * again goes through here: a record says what the packet carried, and the owner is told once that
 * it arrived or once that it is taken for lost.
 *
 * threads  one
 * memory   the ring is the caller's, KVN_SENT_FIRST records; never cleared, as only records in
 *          [base, next) are read. Where more are in flight it is replaced by a mapped one
 * time     send times as given
 */
#ifndef KVN_PACKET_INFLIGHT_H
#define KVN_PACKET_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "ranges.h"

enum kvn_sent_state {
    KVN_SENT_QUIET,   /* asks for no ACK (an ACK itself); never leaves this state */
    KVN_SENT_FLYING,  /* an ACK leads to ARRIVED, the detector to LOST */
    KVN_SENT_ARRIVED, /* last */
    KVN_SENT_LOST,    /* a late ACK leads to ARRIVED: it was only slow */
    KVN_SENT_RUN,     /* it and all before number `what` have arrived or are QUIET; last */
};

enum kvn_sent_kind {
    KVN_SENT_PING, /* part: length of a probe, which weighs nothing (bytes is 0); else 0 */
    KVN_SENT_DATA, /* what: put number; part: slice; cut: the put's slice / KVN_SLICE_ALIGN */
    KVN_SENT_MSG,  /* what: stream offset; part: bytes */
};

struct kvn_sent {
    uint64_t sent_ns;
    uint64_t what;
    uint32_t part;
    uint32_t bytes; /* on the wire */
    uint8_t state;  /* enum kvn_sent_state */
    uint8_t kind;   /* enum kvn_sent_kind */
    uint16_t cut;
    bool nacked; /* it was taken for lost because the peer said that it waits */
};

struct kvn_inflight {
    struct kvn_sent *ring;
    struct kvn_sent *own;    /* what ring is at first */
    uint32_t mask;           /* of an index into ring, whose size is a power of two */
    uint32_t half;           /* of its size */
    uint32_t asking_max;     /* the last eighth is for packets that ask for no ACK, and PINGs */
    uint64_t base;           /* lowest number still of interest */
    uint64_t low;            /* none below it is FLYING */
    uint64_t origin;         /* whose record is the ring's first: moves while there is none, so that
                                who sends little touches little of it */
    uint64_t next;           /* number of the next packet, from 1 */
    uint64_t largest_acked;  /* 0: none */
    uint64_t last_asking_ns; /* when the youngest FLYING packet left */
    uint64_t bytes;          /* FLYING */
    uint32_t packets;        /* FLYING */
};

/* How the owner is told. arrived: late says that it had been taken for lost. */
struct kvn_inflight_events {
    void (*arrived)(void *arg, const struct kvn_sent *sent, uint64_t pn, bool late);
    void (*lost)(void *arg, const struct kvn_sent *sent);
};

void kvn_inflight_begin(struct kvn_inflight *f, struct kvn_sent *ring);

/* Twice as many records, and no more than `most`; the old ones move. False: it has as many, or
 * there is no memory, and nothing has changed. */
bool kvn_inflight_grow(struct kvn_inflight *f, uint32_t most);
/* Give back what was mapped: kvn_inflight_begin() is next. */
void kvn_inflight_end(struct kvn_inflight *f);

/* Whether a packet may get a number: false when the oldest unsettled one is a ring back. */
bool kvn_inflight_room(const struct kvn_inflight *f);

/* Record the packet that gets number next, and return that number. There is room. */
uint64_t kvn_inflight_add(struct kvn_inflight *f, const struct kvn_sent *sent);

/* Settle what an ACK's range [first, end) names; end <= next. */
void kvn_inflight_ack(struct kvn_inflight *f, const struct kvn_range *range,
                      const struct kvn_inflight_events *ev, void *arg);

/* Take one FLYING packet for lost. */
void kvn_inflight_lose(struct kvn_inflight *f, uint64_t pn, const struct kvn_inflight_events *ev,
                       void *arg);

/* The lowest FLYING packet's number; 0: none. */
uint64_t kvn_inflight_oldest(struct kvn_inflight *f);

/* From where on to look for FLYING packets. */
static inline uint64_t kvn_inflight_low(const struct kvn_inflight *f)
{
    return f->low > f->base ? f->low : f->base;
}

/* Forget settled packets at the bottom; lost ones are kept until they left before keep_ns, in case
 * they come in late. */
void kvn_inflight_trim(struct kvn_inflight *f, uint64_t keep_ns);

static inline struct kvn_sent *kvn_inflight_at(const struct kvn_inflight *f, uint64_t pn)
{
    return &f->ring[(pn - f->origin) & f->mask];
}

#endif
