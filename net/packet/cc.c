/* SPDX-License-Identifier: Apache-2.0 */
#include "cc.h"

#include "wire.h"

void kvn_cc_begin(struct kvn_cc *cc, uint32_t slice, uint64_t ceiling)
{
    uint64_t floor = (uint64_t)KVN_WINDOW_MIN_SLICE * slice;

    if (floor < KVN_WINDOW_MIN)
        floor = KVN_WINDOW_MIN;
    if (floor > ceiling)
        floor = ceiling;
    *cc = (struct kvn_cc){
        .window = KVN_WINDOW_START < ceiling ? KVN_WINDOW_START : ceiling,
        .floor = floor,
        .ceiling = ceiling,
        .slow_start_ends = UINT64_MAX,
        .slice = slice,
    };
    if (cc->window < floor)
        cc->window = floor;
}

void kvn_cc_arrived(struct kvn_cc *cc, uint32_t bytes, bool full, bool queued)
{
    if (!full)
        return;
    if (cc->window < cc->slow_start_ends) {
        if (queued)
            cc->slow_start_ends = cc->window;
        else
            cc->window += bytes;
    } else if (!queued) {
        /* Four slices a round trip: quick enough to use a fast link, slow enough to share one. */
        cc->window += 4ull * cc->slice * bytes / cc->window;
    }
    if (cc->window > cc->ceiling)
        cc->window = cc->ceiling;
}

void kvn_cc_lost(struct kvn_cc *cc, uint64_t sent_ns, uint64_t now_ns)
{
    if (sent_ns < cc->cut_ns)
        return;
    cc->cut_ns = now_ns;
    cc->window -= cc->window / 8;
    if (cc->window < cc->floor)
        cc->window = cc->floor;
    cc->slow_start_ends = cc->window;
}
