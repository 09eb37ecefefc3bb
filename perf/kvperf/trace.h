/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - requests to replay: JSON lines as Mooncake published them, each with "timestamp" (ms,
 * ascending) and "input_length" (tokens); what else a line has isn't looked at.
 *
 * threads  plain data      memory  load takes it, free gives it back      time  ms since the first
 */
#ifndef KVP_TRACE_H
#define KVP_TRACE_H

#include "options.h"

struct kvp_trace {
    struct kvp_arrival {
        double at_ms;    /* intended, after --speed */
        uint32_t tokens; /* after --scale */
    } * each;
    uint32_t count, cut; /* cut: longer than --tokens, and shortened to it */
    uint32_t longest;
    uint64_t tokens;
};

/* What o says of the trace, its first --duration. False: why names the file and the line. */
bool kvp_trace_load(struct kvp_trace *t, const struct kvp_options *o, char why[KVP_WHY]);
void kvp_trace_free(struct kvp_trace *t);

#endif
