/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cc.h - how many bytes of one path may be in flight, and how fast they leave. SPEC.md 8.
 *
 * The signal is delay: what a round trip takes beyond the least that was seen lately is a queue.
 * The window grows by about a packet a round trip while that is below a target, and is cut to what
 * the path holds without the queue when it is above. The target is higher for small windows, so
 * that flows that share a queue come to equal shares, and one that hasn't been cut yet grows
 * faster, so that the others soon make room. ECN's marks cut in proportion to how many packets
 * carry them, and so do losses, because on the links this is for (one host, one rack) loss is more
 * often damage than a full queue. The ideas are those of Swift (SIGCOMM 2020) and DCTCP (RFC 8257).
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_CC_H
#define KVN_PACKET_CC_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

struct kvn_cc {
    uint64_t window; /* floor .. ceiling */
    uint64_t floor;
    uint64_t room;          /* what the ends have room for, and what may be in flight of a path */
    uint64_t ceiling;       /* whose round trips are short; kvn_cc_reach() of it */
    uint32_t slice;         /* bytes that a packet has */
    uint64_t slack_ns;      /* delay below it is the hosts', and no queue in the network */
    bool slow_start;        /* the window doubles every round trip until delay or loss shows */
    bool young;             /* no cut since it began, but for the end of the doubling */
    uint64_t cut_ns;        /* packets sent before were sent under a larger window */
    uint64_t least_ns;      /* of the samples since the last decision; UINT64_MAX: none */
    uint32_t samples;       /* so many */
    uint32_t calm;          /* round trips without a cut */
    uint64_t round_ns;      /* a round trip is over when a packet sent since is acknowledged */
    uint64_t round_window;  /* at its begin: losses take half of it at most */
    uint32_t acked, marked; /* packets of this round trip, and those marked CE among them */
    uint32_t marks;         /* average share that is marked, in 1/1024 */
    uint64_t lost_bytes, lost_cut; /* of this round trip; what they cost, for when they come late */
    /* Pacing: the time at which everything sent so far would have left at the rate. */
    uint64_t due_ns;
    uint64_t burst_ns;    /* it may be so far ahead */
    uint64_t ns_per_byte; /* in 1 / 2^KVN_PACE_SHIFT */
};

#define KVN_PACE_SHIFT  20
#define KVN_PACE_MAX_NS (50ull * 1000 * 1000)

/* What one ACK says. */
struct kvn_cc_ack {
    uint64_t now_ns;
    uint64_t rtt_ns;  /* of a packet of full length: short ones are quicker; 0: no sample */
    uint64_t sent_ns; /* when the highest packet left; 0: it was known before */
    uint64_t base_ns; /* the least rtt_ns lately; UINT64_MAX: none yet */
    uint64_t bytes;   /* that have arrived, of those in flight */
    uint32_t packets;
    uint32_t marked; /* of those */
    bool full;       /* the window was what held sending back */
};

/*
 * How much may be in flight, where the ends have room for so much. That is meant for what waits at
 * an end until its process looks. What is on a long wire waits at neither: each KVN_REACH_NS of
 * rtt_ns beyond the hosts' lateness counts as as much again, KVN_REACH_MAX times at most.
 */
static inline uint64_t kvn_cc_reach(uint64_t room, uint64_t rtt_ns, uint64_t slack_ns)
{
    const uint64_t wire_ns = rtt_ns != UINT64_MAX && rtt_ns > slack_ns ? rtt_ns - slack_ns : 0;

    if (wire_ns < 2 * KVN_REACH_NS)
        return room; /* nearly always, and without a division */
    return room * (wire_ns < KVN_REACH_MAX * KVN_REACH_NS ? wire_ns / KVN_REACH_NS : KVN_REACH_MAX);
}

/* room: what may be in flight at most while round trips are short. */
void kvn_cc_begin(struct kvn_cc *cc, uint32_t slice, uint64_t slack_ns, uint64_t room);

/* Packets have another length from now on. */
void kvn_cc_slice(struct kvn_cc *cc, uint32_t slice);

/* The handshake's round trip: the first window leaves at that pace. */
void kvn_cc_guess(struct kvn_cc *cc, uint64_t rtt_ns);

void kvn_cc_acked(struct kvn_cc *cc, const struct kvn_cc_ack *ack);

/* bytes were lost. */
void kvn_cc_lost(struct kvn_cc *cc, uint64_t bytes);
/* bytes that counted as lost have come after all. */
void kvn_cc_late(struct kvn_cc *cc, uint64_t bytes);

/* When the next packet may leave; 0: now is fine. */
static inline uint64_t kvn_cc_send_at(const struct kvn_cc *cc, uint64_t now_ns)
{
    if (cc->due_ns <= now_ns + cc->burst_ns)
        return 0;
    /* One packet at most goes beyond the burst; more says that the clock was set back. */
    return cc->due_ns - now_ns - cc->burst_ns <= KVN_PACE_MAX_NS ? cc->due_ns - cc->burst_ns : 0;
}

/* A packet leaves. */
static inline void kvn_cc_sent(struct kvn_cc *cc, uint32_t bytes, uint64_t now_ns)
{
    if (cc->due_ns < now_ns || cc->due_ns - now_ns > cc->burst_ns + KVN_PACE_MAX_NS)
        cc->due_ns = now_ns;
    cc->due_ns += bytes * cc->ns_per_byte >> KVN_PACE_SHIFT;
}

#endif
