/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_batch.h - mode batch: READs and WRITEs of many pieces, without a shape, beside one piece of
 * the same bytes in the same run.
 *
 * threads  one      memory  given back when it returns      time  every post has a deadline
 */
#ifndef KVP_RUN_BATCH_H
#define KVP_RUN_BATCH_H

#include "interval.h"
#include "out.h"
#include "scatter.h"

/* One direction, order and size. */
struct kvp_batch_row {
    bool read, scattered;
    uint64_t piece_bytes;
    uint32_t rounds, posts, runs;
    uint64_t bytes;       /* of all posts */
    double *ms, *post_us; /* by post: until it ended; what the call took */
    double *rates;        /* by round: bytes a second */
    double make_us;       /* the dearest */
    double send_cpu_s, recv_cpu_s;
    uint64_t message_bytes, chunks_rejected;
    struct kvp_check check;

    /* made by finish */
    struct kvp_spread took, post;
    double rate, percent_of_contiguous;
};

struct kvp_batch_result {
    const struct kvp_options *o;
    struct kvp_client c;
    struct kvp_intervals intervals;
    struct kvp_batch_row rows[4 * KVP_LIST_MAX];
    uint32_t row_count, failed;
    enum kvp_exit status;
    char why[KVP_WHY];
};

/* Measure and print. Returns the exit status. */
int kvp_run_batch(const struct kvp_options *o);

/* For people, for programs, for spreadsheets: of is a kvp_batch_result. */
void kvp_batch_print(FILE *f, const void *of);
cJSON *kvp_batch_json(const void *of);
void kvp_batch_csv(FILE *f, const void *of);

#endif
