/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cc.h - how many bytes may be in flight: additive growth, multiplicative cuts, and a floor below
 * which no loss pushes it, because on the links this is for (one host, one rack) loss is more often
 * damage than a full queue.
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_CC_H
#define KVN_PACKET_CC_H

#include <stdbool.h>
#include <stdint.h>

struct kvn_cc {
    uint64_t window; /* floor .. ceiling */
    uint64_t floor;
    uint64_t ceiling;
    uint64_t slow_start_ends; /* window above which growth is additive */
    uint64_t cut_ns;          /* packets sent before this have paid already */
    uint32_t slice;
};

/* ceiling: what the peer can take. */
void kvn_cc_begin(struct kvn_cc *cc, uint32_t slice, uint64_t ceiling);

/* bytes arrived; full: the window was what held sending back. queued: the round trip shows it. */
void kvn_cc_arrived(struct kvn_cc *cc, uint32_t bytes, bool full, bool queued);

/* A packet sent at sent_ns was lost; cuts once per round trip. */
void kvn_cc_lost(struct kvn_cc *cc, uint64_t sent_ns, uint64_t now_ns);

#endif
