/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranges.h - a bounded set of numbers kept as sorted ranges: which packets have arrived, which
 * bytes of the control stream have, which must be sent again.
 *
 * threads  one      memory  the caller's struct      time  none
 */
#ifndef KVN_PACKET_RANGES_H
#define KVN_PACKET_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

struct kvn_range {
    uint64_t first;
    uint64_t end; /* one past the last; > first */
};

/* Ascending, disjoint, never touching. All zero is the empty set. */
struct kvn_ranges {
    uint32_t count;
    struct kvn_range range[KVN_RANGES_MAX];
};

enum kvn_ranges_result {
    KVN_RANGES_ADDED, /* at least one number is new */
    KVN_RANGES_THERE, /* all were in it */
    KVN_RANGES_FULL,  /* not added: it would need one range too many */
};

/* first < end. */
enum kvn_ranges_result kvn_ranges_add(struct kvn_ranges *set, uint64_t first, uint64_t end);

/* As add, but never full: two ranges are joined over their gap when there is no room, so that the
 * set may end up with more than was put in. For "send again", where more is harmless. */
void kvn_ranges_add_cover(struct kvn_ranges *set, uint64_t first, uint64_t end);

bool kvn_ranges_has(const struct kvn_ranges *set, uint64_t number);

/* Take [first, end) out. Where that would split a range and there is no room, the upper part stays
 * and so does [first, end). */
void kvn_ranges_remove(struct kvn_ranges *set, uint64_t first, uint64_t end);

/* Take the lowest range out; the set isn't empty. */
struct kvn_range kvn_ranges_shift(struct kvn_ranges *set);

#endif
