/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seen.h - which packet numbers came on one path, and what the next ACK of it says. SPEC.md 7.
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_SEEN_H
#define KVN_PACKET_SEEN_H

#include "frame.h"

struct kvn_seen {
    struct kvn_ranges ranges;
    uint64_t floor;   /* numbers below count as seen, whether they were or not */
    uint64_t largest; /* 0: none came */
    uint64_t largest_ns;
    uint32_t ce;      /* packets that came marked CE */
    uint32_t unacked; /* packets that ask for an ACK, since the last one left */
    bool due;         /* an ACK should leave now */
};

void kvn_seen_begin(struct kvn_seen *s);

/* Whether this number was seen, or is so old that it counts as seen. */
static inline bool kvn_seen_has(const struct kvn_seen *s, uint64_t pn)
{
    return pn <= s->largest && (pn < s->floor || kvn_ranges_has(&s->ranges, pn));
}

/* The number whose low 32 bits these are: of all such the nearest to the one after largest. */
static inline uint64_t kvn_seen_number(uint64_t largest, uint32_t low)
{
    const uint64_t next = largest + 1;
    const int32_t ahead = (int32_t)(low - (uint32_t)next);
    const uint64_t number = next + (uint64_t)(int64_t)ahead;

    return ahead < 0 && number > next ? low : number; /* none is below 0 */
}

/* It came now and was acted on. It hasn't been seen. */
void kvn_seen_add(struct kvn_seen *s, uint64_t pn, uint64_t now_ns);

/* The part of an ACK that is about this path; it counts as sent. Something came. */
void kvn_seen_tell(struct kvn_seen *s, struct kvn_ack *a, uint64_t now_ns);

#endif
