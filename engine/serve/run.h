/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - `kvserve run`: prompts from the command line or a batch file, one after the other on a
 * pair of workers (dispatch.h), their answers and reports on standard output.
 *
 * threads  one
 * memory   all given back before a call returns
 * time     every wait has a deadline
 */
#ifndef KVE_RUN_H
#define KVE_RUN_H

#include "../model/sample.h"
#include "spawn.h"

struct kve_run_config {
    struct kve_spawn_config spawn;
    const char *prompt;     /* text; NULL: batch */
    const char *system;     /* system turn, NULL: the model's own */
    const char *batch_path; /* one JSON object a line: batch.h; "-": standard input */
    bool raw;               /* the prompt as it is, no chat format */
    bool json;              /* one JSON object per request on stdout, nothing else */
    bool compare;           /* run each request again, sending after prefill */
    bool ignore_end;
    const char *save;    /* K and V of the prompt to this file, after the answer; NULL: none */
    const char *restore; /* those of a file before it */
    uint32_t max_tokens;
    uint64_t timeout_ns;
    kvw_budget budget; /* as kve_request's */
    uint32_t exact_first, exact_last;
    struct kve_sample_config sample;
};

/* The exit status: 0; 1 after a sentence on stderr; 128 + the signal when interrupted. */
int kve_run_main(const struct kve_run_config *cfg);
/* `kvserve tokenize`: the prompt's token ids as a JSON list on stdout. */
int kve_run_tokenize(const struct kve_run_config *cfg);
/* End what runs, because of this signal. Async-signal-safe. */
void kve_run_interrupt(int sig);

#endif
