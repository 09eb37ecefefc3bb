/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rate.h - how fast the wire takes puts, learnt from when they are done.
 *
 * A sample is what was delivered between the last delivery before a put was sent and the put's own
 * (as BBR measures delivery rate). A put that had the wire to itself measures its latency too and
 * says less than the truth, so it may raise the estimate but never lower it; the round trip that
 * the transport has measured is taken off it.
 *
 * threads  one      memory  the caller's      time  handed in, never backwards
 */
#ifndef KVW_RATE_H
#define KVW_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct kvw_rate {
    double bytes_per_ns; /* 0: nothing is known */
    uint64_t delivered;  /* bytes */
    uint64_t delivered_ns;
    uint64_t in_flight; /* bytes */
    uint64_t rtt_ns;    /* the transport's; 0: not known. Set by the owner */
    double extra_ns;    /* beyond queue and bytes over rate: latency; smoothed */
};

/* A put, remembered while it flies. */
struct kvw_rate_mark {
    uint64_t delivered, delivered_ns, sent_ns;
    uint64_t ahead; /* bytes in flight before it */
    uint32_t bytes;
};

void kvw_rate_sent(struct kvw_rate *r, struct kvw_rate_mark *m, uint32_t bytes, uint64_t now_ns);
void kvw_rate_done(struct kvw_rate *r, const struct kvw_rate_mark *m, uint64_t now_ns);
/* The connection is gone: nothing is in flight; what was learnt stays. */
void kvw_rate_stop(struct kvw_rate *r);
/* Before the first sample: slow enough that smaller is better, fast enough not to pick the slowest
 * codec. */
#define KVW_RATE_GUESS 0.125 /* bytes/ns: 1 Gb/s */
double kvw_rate_ns(const struct kvw_rate *r, double bytes);

#endif
