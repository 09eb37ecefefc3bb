/* SPDX-License-Identifier: Apache-2.0 */
/*
 * result.h - what a run measured: rows of samples, and the figures made of them.
 *
 * threads  one      memory  kvp_result_free() gives back what add took      time  ms
 */
#ifndef KVP_RESULT_H
#define KVP_RESULT_H

#include <stdio.h>

#include "beside.h"
#include "client.h"
#include "interval.h"
#include "search.h"
#include "stats.h"

#define KVP_ROWS_MAX (4 * KVP_LIST_MAX * KVP_LIST_MAX)

/* One request of one round. */
struct kvp_sample {
    double exposed_ms, total_ms, hidden_ms, floor_ms;
    double *computed_ms, *landed_ms; /* by layer, owned */
};

struct kvp_row {
    char name[24];  /* bulk, after, streamed */
    char codec[12]; /* as asked for */
    struct kvp_round_plan plan;
    struct kvp_sample *samples;
    uint32_t count, room;
    uint32_t rounds;
    /* sums over all samples */
    double send_cpu_s, recv_cpu_s;
    uint64_t raw_bytes, wire_bytes, chunks, credit_stalls, encoder_stalls, chunks_rejected;
    uint64_t packets, packets_again;     /* that the sender sent; of these again */
    uint64_t by_codec[64];               /* requests whose bytes went mostly through this codec */
    double lag_ms;                       /* the worst */
    struct kvp_shard shards[KVP_TP_MAX]; /* of the receiver; last_ms: sum of its exposed times */
    struct kvp_check check;
    bool data_wrong; /* more than the codec may change */
    char why_codec[160];

    /* made by kvp_result_finish() */
    struct kvp_spread exposed, total;
    double overlap, floor_ms, percent_of_floor, bytes_per_s, percent_of_bulk, ratio, noise;
    double send_cpu_s_per_gib, recv_cpu_s_per_gib;
    uint32_t typical; /* the sample with the median exposed time */
};

struct kvp_result {
    const struct kvp_options *o;
    const struct kvp_client *client; /* NULL: it never came up */
    const char *mode;
    void (*print)(FILE *f, const struct kvp_result *r); /* NULL: kvp_table_print() */
    struct kvp_row rows[KVP_ROWS_MAX];
    uint32_t row_count;
    struct kvp_intervals intervals;
    struct kvp_beside beside[KVP_BESIDE_MAX]; /* --beside */
    uint32_t beside_count;
    struct kvp_found found; /* find */
    enum kvp_exit status;
    char why[KVP_WHY]; /* a sentence, if status isn't 0 */
};

/* A row to fill; NULL: there are too many. */
struct kvp_row *kvp_result_row(struct kvp_result *r, const char *name, const char *codec,
                               const struct kvp_round_plan *plan);
/* Add a round; its times move from the round to the row. False: no memory. */
bool kvp_row_add(struct kvp_row *row, struct kvp_round *round);
/* Make the figures of all rows; twice does no harm. */
void kvp_result_finish(struct kvp_result *r);
void kvp_result_free(struct kvp_result *r);

/* The thresholds: sets status and why if one is missed and nothing else went wrong. */
void kvp_result_judge(struct kvp_result *r);

/* For people. */
void kvp_table_print(FILE *f, const struct kvp_result *r);
/* The layers of a row's typical sample. */
void kvp_gantt_print(FILE *f, const struct kvp_row *row, uint32_t layers);
/* For programs; the caller deletes it, NULL: no memory. */
cJSON *kvp_result_json(const struct kvp_result *r);

/* Print and write all that the options ask for. Returns the exit status. */
int kvp_result_out(struct kvp_result *r);

#endif
