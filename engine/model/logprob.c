/* SPDX-License-Identifier: Apache-2.0 */
/* logprob.c - log-softmax of a token and of the most probable ones. */
#include "logprob.h"

#include <math.h>

static float value(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

/* The logarithm of the sum of all e^logit. */
static double log_sum(const float *logits, uint32_t vocab)
{
    float top = -INFINITY;
    double sum = 0;

    for (uint32_t i = 0; i < vocab; ++i)
        top = value(logits[i]) > top ? value(logits[i]) : top;
    if (!isfinite(top))
        return (double)top;
    for (uint32_t i = 0; i < vocab; ++i)
        sum += exp((double)value(logits[i]) - (double)top);
    return (double)top + log(sum);
}

static struct kve_logprob of(uint32_t id, float logit, double whole)
{
    const double d = (double)value(logit) - whole;

    /* without a finite logit, or with an infinite one, there is no distribution */
    return (struct kve_logprob){id, isnan(d) || d < (double)KVE_LOGPROB_LEAST ? KVE_LOGPROB_LEAST
                                                                              : (float)d};
}

void kve_logprobs(const float *logits, uint32_t vocab, uint32_t token, uint32_t n,
                  struct kve_logprob *out)
{
    const double whole = log_sum(logits, vocab);
    struct kve_logprob *top = out + 1;
    uint32_t have = 0;

    out[0] = of(token, logits[token], whole);
    for (uint32_t i = 0; i < vocab && n > 0; ++i) {
        uint32_t at = have;

        while (at > 0 && value(logits[i]) > value(logits[top[at - 1].id]))
            --at;
        if (at == n)
            continue;
        have += have < n;
        for (uint32_t k = have - 1; k > at; --k)
            top[k] = top[k - 1];
        top[at].id = i;
    }
    for (uint32_t i = 0; i < n; ++i)
        top[i] = i < have ? of(top[i].id, logits[top[i].id], whole)
                          : (struct kve_logprob){KVE_LOGPROB_NO_ID, KVE_LOGPROB_LEAST};
}
