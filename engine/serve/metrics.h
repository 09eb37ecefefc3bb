/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics.h - counts of a server, and their text for Prometheus: vLLM's names and units where it
 * has them, kvserve_ for what only a hand-over has.
 *
 * threads  one    memory  plain data; the text is the caller's (free)    time  none
 */
#ifndef KVE_METRICS_H
#define KVE_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "report.h"

#define KVE_BUCKETS_MAX 16u

struct kve_histogram {
    const double *bounds; /* ascending; +Inf is understood */
    uint32_t count;
    uint64_t in[KVE_BUCKETS_MAX + 1];
    double sum;
};

enum kve_outcome { KVE_STOPPED, KVE_LENGTH, KVE_CANCELED, KVE_FAILED, KVE_OUTCOMES };

struct kve_metrics {
    struct kve_histogram first, between, whole, queue, prefill, decode, exposed, overlap;
    uint64_t prompt_tokens, cached_tokens, answer_tokens, outcomes[KVE_OUTCOMES];
    uint64_t kv_bytes, wire_bytes, chunks;
    uint64_t refused_full; /* 429 */
    uint64_t replies[6];   /* by the status's first digit */
    uint64_t restarts;     /* of the workers */
};

struct kve_metrics_worker {
    const char *name, *role;
    bool up;   /* takes requests */
    bool lent; /* does the other side's work */
    uint32_t running, waiting;
    uint64_t kv_free, kv_blocks, lost;
};

/* As things are when the text is asked for. */
struct kve_metrics_now {
    const char *model;
    uint32_t running, waiting;
    bool up;
    uint64_t refused_late, restarted, turns;
    const struct kve_metrics_worker *workers; /* prefills, then decodes */
    uint32_t count, prefills;
    const uint64_t *pairs; /* requests begun, [prefill * pairs_each + decode] */
    uint32_t pairs_each;
};

void kve_metrics_open(struct kve_metrics *m);
/* A request that ended. waited_us: in the queue; now_us: when. */
void kve_metrics_take(struct kve_metrics *m, const struct kve_report *r, enum kve_outcome outcome,
                      uint64_t queued_us, uint64_t now_us);
void kve_histogram_add(struct kve_histogram *h, double v);
/* malloc'ed, n bytes and a NUL. NULL: out of memory. */
char *kve_metrics_text(const struct kve_metrics *m, const struct kve_metrics_now *now, size_t *n);

#endif
