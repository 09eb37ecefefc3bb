/* SPDX-License-Identifier: Apache-2.0 */
/* work.c - what the parts of a request share: of whom is spoken, how a token is drawn. */
#include "work.h"

#include <stdio.h>

void kve_work_speak(struct kve_worker *w, const struct kve_work *j)
{
    w->request_id = j != NULL ? j->r.id : 0;
    w->channel.write_by_ns = j != NULL ? j->until_ns : 0;
    snprintf(w->with, sizeof(w->with), "%s", j != NULL ? j->r.with : "");
}

void kve_work_draw(const struct kve_worker *w, struct kve_work *j, const float *logits,
                   uint32_t position, struct kve_first *t)
{
    t->token = kve_sample(j->sampler, logits, position);
    t->count = j->r.logprobs;
    kve_sampler_took(j->sampler, t->token);
    if (j->r.logprobs > 0)
        kve_logprobs(logits, w->mc->vocab, t->token, j->r.logprobs - 1, t->logprobs);
}
