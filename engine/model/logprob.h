/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logprob.h - how probable a token was, and which others were: logarithms of the softmax of the
 * model's own logits, before bias, penalties and temperature.
 *
 * threads  a pure function    memory  none    time  O(vocab)
 */
#ifndef KVE_LOGPROB_H
#define KVE_LOGPROB_H

#include <stdint.h>

#define KVE_LOGPROBS_MAX  20u       /* alternatives to a token: OpenAI's bound */
#define KVE_LOGPROB_LEAST (-9999.f) /* stands for what is smaller: JSON has no infinity */
#define KVE_LOGPROB_NO_ID UINT32_MAX

struct kve_logprob {
    uint32_t id; /* KVE_LOGPROB_NO_ID: there is none */
    float logprob;
};

/* out[0]: token's; out[1 .. n]: the n (<= KVE_LOGPROBS_MAX) most probable ones, the lower id first
 * of equals, token among them if it is one. Fewer tokens than n: the rest have no id. */
void kve_logprobs(const float *logits, uint32_t vocab, uint32_t token, uint32_t n,
                  struct kve_logprob *out);

#endif
