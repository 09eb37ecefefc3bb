/* SPDX-License-Identifier: Apache-2.0 */
#include "seen.h"

#include <string.h>

void kvn_seen_begin(struct kvn_seen *s)
{
    memset(s, 0, sizeof(*s));
    s->floor = 1; /* numbers start at 1 */
}

/*
 * Numbers lost on the way leave gaps for ever, as nothing is sent twice under one number; so the
 * set fills up, and then forgets its lowest range. A packet that comes later than that is dropped
 * and sent again under a new number.
 */
void kvn_seen_add(struct kvn_seen *s, uint64_t pn, uint64_t now_ns)
{
    if (pn == s->largest + 1 && s->ranges.count > 0) { /* in order, as nearly all come */
        s->ranges.range[s->ranges.count - 1].end = pn + 1;
        s->largest = pn;
        s->largest_ns = now_ns;
        return;
    }
    if (kvn_ranges_add(&s->ranges, pn, pn + 1) == KVN_RANGES_FULL) {
        if (pn < s->ranges.range[0].first)
            return;
        s->floor = kvn_ranges_shift(&s->ranges).end;
        (void)kvn_ranges_add(&s->ranges, pn, pn + 1);
    }
    if (pn > s->largest) {
        s->largest = pn;
        s->largest_ns = now_ns;
    }
}

void kvn_seen_tell(struct kvn_seen *s, struct kvn_ack *a, uint64_t now_ns)
{
    const struct kvn_ranges *r = &s->ranges;

    a->largest = s->largest;
    a->delay = (uint32_t)((now_ns - s->largest_ns) >> KVN_DELAY_SHIFT);
    a->ce = s->ce;
    a->count = r->count < KVN_ACK_RANGES_MAX ? r->count : KVN_ACK_RANGES_MAX;
    for (uint32_t i = 0; i < a->count; ++i)
        a->range[i] = r->range[r->count - 1 - i];
    s->unacked = 0;
    s->due = false;
}
