/* SPDX-License-Identifier: Apache-2.0 */
/*
 * measure.h - what a run is judged by. Rejected and late are apart: a cluster that drops what it
 * can't serve in time isn't praised for it.
 *
 * threads  one      memory  open takes it, close gives it back
 */
#ifndef KCL_MEASURE_H
#define KCL_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

struct kcl_result {
    uint32_t requests, good, late, slow,
        rejected;                 /* late: first token; slow: the others; in this order */
    double span_s;                /* first to last arrival */
    double goodput, good_tokens;  /* good ones a second of it; their part of all prompts' tokens */
    double ttft_ms[3], itl_ms[3]; /* p50, p90, p99 of what was served */
    double hit;                   /* blocks of prompts that weren't computed */
    double imbalance;             /* most prefill work of a prefill worker over their mean */
    uint32_t local, turns;        /* prefilled where they were decoded; changes of sides */
    uint64_t computed, sent;      /* tokens of prompts */
    double overloaded_s;
    bool ok; /* false: no memory */
};

#define KCL_BUCKETS 2048
struct kcl_measure {
    double *ttft; /* ns, of each one served */
    uint32_t count;
    uint64_t itl[KCL_BUCKETS]; /* 1 % wide */
    uint64_t itl_count;
    uint64_t blocks, hits;
};

bool kcl_measure_open(struct kcl_measure *m, uint32_t requests);
void kcl_measure_close(struct kcl_measure *m);
void kcl_measure_gap(struct kcl_measure *m, uint64_t ns);
/* Percentiles and hits into r. */
void kcl_measure_sum(struct kcl_measure *m, struct kcl_result *r);

#endif
