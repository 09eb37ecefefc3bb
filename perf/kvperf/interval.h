/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interval.h - what happened in each --interval, told while the run goes on: a line, or with
 * --json-stream a JSON object a line.
 *
 * threads  one      memory  grows with what one interval has, end gives it back
 * time     an interval is told when something is added, or looked for, after its end
 */
#ifndef KVP_INTERVAL_H
#define KVP_INTERVAL_H

#include "options.h"

struct kvp_intervals {
    const struct kvp_options *o; /* NULL: not begun */
    uint64_t begun_ns, from_ns;
    double *ms;
    uint32_t count, room, failed;
    double bytes;
};

/* Begin, unless that was done; without --interval nothing is ever told. */
void kvp_intervals_begin(struct kvp_intervals *t, const struct kvp_options *o);
/* Something took ms (< 0: it failed) and moved bytes. */
void kvp_intervals_add(struct kvp_intervals *t, double ms, double bytes);
/* Tell what is due. */
void kvp_intervals_look(struct kvp_intervals *t);
/* Tell what is left. */
void kvp_intervals_end(struct kvp_intervals *t);

#endif
