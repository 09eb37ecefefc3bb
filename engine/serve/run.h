/* SPDX-License-Identifier: Apache-2.0 */
/*
 * router.h - `kvserve run`: a router for one request at a time. It starts (or finds) a prefill and
 * a decode worker, hands each request to both at once under one transfer id, and gathers what they
 * say.
 *
 * threads  one    memory  all given back before it returns    time  every wait has a deadline
 */
#ifndef KVE_ROUTER_H
#define KVE_ROUTER_H

#include "spawn.h"

struct kve_run_config {
    struct kve_spawn_config spawn;
    const char *prompt;     /* text; NULL: batch */
    const char *system;     /* system turn, NULL: the model's own */
    const char *batch_path; /* one JSON object a line: {"prompt":..} or {"tokens":[..]} */
    bool raw;               /* the prompt as it is, no chat format */
    bool json;              /* one JSON object per request on stdout, nothing else */
    bool compare;           /* run each request again, sending after prefill */
    bool ignore_end;
    uint32_t max_tokens;
    uint64_t timeout_ns;
    kvw_budget budget; /* as kve_request's */
    uint32_t exact_first, exact_last;
    struct kve_sample_config sample;
};

/* The exit status: 0; 1 after a sentence on stderr; 130 when interrupted. */
int kve_run_main(const struct kve_run_config *cfg);
/* `kvserve tokenize`: the prompt's token ids as a JSON list on stdout. */
int kve_run_tokenize(const struct kve_run_config *cfg);
/* Async-signal-safe. */
void kve_run_interrupt(void);

#endif
