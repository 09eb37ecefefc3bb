/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_replay.h - mode replay: the requests of a trace at their times, whatever becomes of the
 * others.
 *
 * threads  one      memory  given back when it returns      time  ms; every transfer has a deadline
 */
#ifndef KVP_RUN_REPLAY_H
#define KVP_RUN_REPLAY_H

#include "interval.h"
#include "out.h"
#include "trace.h"

/* What became of one request of the trace; times are ms since the replay began. */
struct kvp_replayed {
    bool begun, over;
    int32_t err;
    double wait_ms;   /* for free blocks, since it was to begin */
    double lag_ms;    /* this program's own, in beginning it */
    double landed_ms; /* the receiver was told that all is in place */
};

struct kvp_replay_result {
    struct kvp_options o; /* a copy: tokens are the trace's longest */
    struct kvp_trace trace;
    struct kvp_client c;
    struct kvp_intervals intervals;
    struct kvp_replayed *each;
    uint32_t begun, done, failed, timed_out;
    uint64_t raw_bytes, wire_bytes;
    double push_lag_ms; /* the latest push of a layer behind its time */
    double send_cpu_s, recv_cpu_s, took_ms;
    struct kvp_check check;
    bool data_wrong;
    enum kvp_exit status;
    char why[KVP_WHY], first_failure[KVP_WHY];

    /* made by finish */
    struct kvp_spread latency, exposed, wait, lag;
    double offered_per_s, achieved_per_s, offered_bytes_per_s, achieved_bytes_per_s;
};

/* Measure and print. Returns the exit status. */
int kvp_run_replay(const struct kvp_options *o);
/* How long a request's prefill takes. */
static inline double kvp_replay_prefill_ms(const struct kvp_replay_result *r, uint32_t request)
{
    return 1000.0 * r->trace.each[request].tokens / r->o.geometry.prefill_tok_s;
}

/* of is a kvp_replay_result. */
void kvp_replay_print(FILE *f, const void *of);
cJSON *kvp_replay_json(const void *of);
void kvp_replay_csv(FILE *f, const void *of);

#endif
