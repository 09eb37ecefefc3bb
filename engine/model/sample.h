/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.h - from logits to a token: greedy, temperature, top-p; deterministic for a seed.
 *
 * threads  a sampler belongs to one thread    memory  taken in open (vocab-sized)    time  none
 */
#ifndef KVE_SAMPLE_H
#define KVE_SAMPLE_H

#include <stdint.h>

#include "../../kvwire/err.h"

struct kve_sample_config {
    float temperature; /* 0: greedy; else > 0 */
    float top_p;       /* 0 < top_p <= 1; 1: off */
    uint64_t seed;
};

struct kve_sampler; /* opaque */

/* KVW_E_INVALID: temperature or top_p out of range; KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_sampler_open(struct kve_sampler **s, const struct kve_sample_config *cfg,
                                       uint32_t vocab);
void kve_sampler_close(struct kve_sampler *s);
/*
 * The next token. Greedy: the largest logit, the lowest id on a tie. The draw for position pos
 * depends on (seed, pos) only, so that a hand-over between processes doesn't change the sequence.
 * logits[vocab] aren't changed. NaNs count as -inf.
 */
uint32_t kve_sample(struct kve_sampler *s, const float *logits, uint64_t pos);

#endif
