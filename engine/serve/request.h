/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request.h - one generation request as it comes over a control channel, checked field by field.
 *
 * threads  plain data    memory  tokens and the biases are malloc'ed, kve_request_free gives them
 * back    time  none
 */
#ifndef KVE_REQUEST_H
#define KVE_REQUEST_H

#include <cjson/cJSON.h>

#include "../../kvwire/codec.h"
#include "../model/logprob.h"
#include "../model/sample.h"
#include "worker.h"

#define KVE_BIASES_MAX 1024u /* of a request */

/* What a worker does of a request. */
enum kve_request_part {
    KVE_PART_ROLE = 0, /* what it was started for */
    KVE_PART_PREFILL,  /* computes the prompt, sends its K and V to who writes the answer */
    KVE_PART_DECODE,   /* receives them, writes the answer */
    KVE_PART_BOTH,     /* no other worker takes part */
};

struct kve_request {
    uint64_t id;
    enum kve_request_part part;
    uint32_t *tokens; /* the prompt, count ids */
    uint32_t count;
    uint32_t max_tokens; /* of the answer, the first included; >= 1 */
    bool after_prefill;  /* push nothing before the whole prefill is done: the yardstick */
    bool ignore_end;     /* go on past end-of-generation tokens (benchmarks) */
    bool reuse;          /* K and V of earlier prompts that begin alike; and keep this one's */
    uint64_t timeout_ns;
    kvw_budget budget;                /* what codecs may do to the KV on its way */
    uint32_t exact_first, exact_last; /* tokens that stay exact under a lossy one */
    struct kve_sample_config sample;
    char with[KVE_WORKER_NAME]; /* which peer of the worker's takes part; "": who came last */
    uint32_t logprobs; /* 0: none; 1 + n: those of each token, and of the n most probable */
};

/*
 * Take the fields of obj into *r; what isn't there stays as it is. others: keys, ended by NULL,
 * that are the caller's business. vocab: of the model.
 *   KVW_E_INVALID  a field is unknown, there twice or out of its range; why (KVE_WHY_BYTES) has its
 *                  name
 *   KVW_E_NOMEM
 * On an error some fields may have been taken; kve_request_free is due in any case.
 */
KVW_NODISCARD kvw_err kve_request_merge(struct kve_request *r, const cJSON *obj,
                                        const char *const *others, uint32_t vocab, char *why);
/*
 * From {"op":"generate","id":N,"tokens":[...],"max_tokens":N, ...}: as kve_request_merge, and
 * nothing may be missing. context: the longest sequence; prompt and answer may fill it exactly.
 * On an error *r is untouched.
 */
KVW_NODISCARD kvw_err kve_request_parse(struct kve_request *r, const cJSON *obj, uint32_t vocab,
                                        uint32_t context, char *why);
/* Its field "part"; KVE_PART_ROLE where it is absent, or none. */
enum kve_request_part kve_request_part_of(const cJSON *obj);
/* The same object back; NULL when out of memory. */
cJSON *kve_request_print(const struct kve_request *r);
void kve_request_free(struct kve_request *r);

#endif
