/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather.h - whether a wait should let a few packets gather before it looks, as NICs hold back
 * their interrupts. A packet that wakes a sleeper costs the one who sends it, too: where the
 * sleeper has another core, a kick of that core (7 us in a virtual machine). Packets that come one
 * by one every 10 us, as through a shaper, fill the sender's core with these. So after many short
 * sleeps that brought a packet or two each, a wait naps, deaf to the device, and takes what has
 * come:
 *
 *   sleeps  --need thin ones in a row-->  naps for KVN_GATHER_NS
 *   naps    --one that brought less than KVN_GATHER_MIN, need doubles-->  sleeps
 *   naps    --one that brought as many, need halves (KVN_GATHER_NEED_MIN .. _MAX)-->  naps
 *
 * Naps in vain are rare: at worst one for KVN_GATHER_NEED_MAX sleeps.
 *
 * threads  one      memory  the caller's      time  the caller's durations, no I/O
 */
#ifndef KVN_GATHER_H
#define KVN_GATHER_H

#include <stdbool.h>
#include <stdint.h>

#define KVN_GATHER_NS       100000u
#define KVN_GATHER_THIN     3u /* packets that a thin sleep brings at most */
#define KVN_GATHER_MIN      4u /* packets that a nap must bring to have paid */
#define KVN_GATHER_NEED_MIN 16u
#define KVN_GATHER_NEED_MAX 4096u

struct kvn_gather {
    bool on;       /* the next wait naps */
    uint32_t thin; /* sleeps in a row that a nap would have spared */
    uint32_t need; /* of them before a nap is tried */
    uint64_t naps; /* so far; for figures */
};

void kvn_gather_begin(struct kvn_gather *g);

/* What a sleep of ns ended with; woken: by packets, not by its time. */
void kvn_gather_slept(struct kvn_gather *g, uint64_t ns, bool woken, uint32_t packets);

/* What a nap of KVN_GATHER_NS brought. Not for one that was cut short. */
void kvn_gather_napped(struct kvn_gather *g, uint32_t packets);

#endif
