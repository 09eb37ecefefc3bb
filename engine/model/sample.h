/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.h - from logits to a token: bias and penalties, then greedy, or temperature, min-p, top-k
 * and top-p; deterministic for a seed.
 *
 * In this order, which is vLLM's:
 *   bias         logit += what logit_bias says of the token
 *   repetition   of tokens in the prompt or the answer: logit / r if it is > 0, logit * r otherwise
 *   frequency    logit -= frequency * (how often the answer has the token)
 *   presence     logit -= presence, if the answer has the token
 *   temperature  0: the largest logit is taken, and nothing below counts
 *   min-p        a token whose probability is below min_p times the largest one is out
 *   top-k        all but the top_k most probable are out; of equals the lower ids stay
 *   top-p        all but the smallest set of the rest that holds top_p of it are out
 *
 * threads  a sampler belongs to one thread    memory  taken in open (vocab-sized)    time  none
 */
#ifndef KVE_SAMPLE_H
#define KVE_SAMPLE_H

#include <stdint.h>

#include "../../kvwire/err.h"

/* Added to a token's logit. */
struct kve_bias {
    uint32_t id;
    float add;
};

/* What is 0 is off, so that an initializer names only what a caller wants. */
struct kve_sample_config {
    float temperature; /* 0: greedy; else > 0 */
    float top_p;       /* 0 < top_p <= 1; 1: off */
    uint64_t seed;
    uint32_t top_k;              /* 0: off */
    float min_p;                 /* 0 <= min_p <= 1; 0: off */
    float frequency, presence;   /* any finite number; 0: off */
    float repetition;            /* > 0; 1: off, and so is 0 */
    const struct kve_bias *bias; /* copied in open */
    uint32_t bias_count;
};

struct kve_sampler; /* opaque */

/* KVW_E_INVALID: a number out of its range, a bias of no token or not finite; KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_sampler_open(struct kve_sampler **s, const struct kve_sample_config *cfg,
                                       uint32_t vocab);
void kve_sampler_close(struct kve_sampler *s);
/* What penalties look back on: the prompt's tokens, once; then each token of the answer. An id that
 * is none is ignored. */
void kve_sampler_prompt(struct kve_sampler *s, const uint32_t *tokens, uint32_t count);
void kve_sampler_took(struct kve_sampler *s, uint32_t token);
/*
 * The next token. Greedy: the largest logit, the lowest id on a tie. The draw for position pos
 * depends on (seed, pos) only, so that a hand-over between processes doesn't change the sequence.
 * logits[vocab] aren't changed. NaNs count as -inf.
 */
uint32_t kve_sample(struct kve_sampler *s, const float *logits, uint64_t pos);

#endif
