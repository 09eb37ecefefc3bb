/* SPDX-License-Identifier: Apache-2.0 */
/* round.c - memory for a round's times, and the clock that stands for a prefill. */
#include "round.h"

#include <stdlib.h>
#include <string.h>

bool kvp_round_make(struct kvp_round *r, uint32_t requests, uint32_t layers)
{
    memset(r, 0, sizeof(*r));
    r->requests = requests;
    r->layers = layers;
    r->transfers = calloc(requests, sizeof(r->transfers[0]));
    for (uint32_t i = 0; r->transfers != NULL && i < requests; ++i) {
        struct kvp_transfer *t = &r->transfers[i];

        t->computed_ms = calloc(2 * (size_t)layers, sizeof(double));
        if (t->computed_ms == NULL) {
            kvp_round_free(r);
            return false;
        }
        t->landed_ms = t->computed_ms + layers;
        for (uint32_t l = 0; l < layers; ++l)
            t->landed_ms[l] = -1;
    }
    return r->transfers != NULL;
}

void kvp_round_free(struct kvp_round *r)
{
    for (uint32_t i = 0; r->transfers != NULL && i < r->requests; ++i)
        free(r->transfers[i].computed_ms);
    free(r->transfers);
    memset(r, 0, sizeof(*r));
}

uint32_t kvp_clock_chunks(const struct kvp_round_plan *p)
{
    if (!p->streamed || p->chunk_tokens == 0 || p->chunk_tokens >= p->tokens)
        return 1;
    return (p->tokens + p->chunk_tokens - 1) / p->chunk_tokens;
}

double kvp_clock_ms(const struct kvp_round_plan *p, uint32_t layers, uint32_t chunk, uint32_t layer,
                    uint32_t *tokens)
{
    const uint32_t chunks = kvp_clock_chunks(p);
    const uint32_t before = chunks == 1 ? 0 : chunk * p->chunk_tokens;
    const uint32_t after = chunk + 1 == chunks ? p->tokens : before + p->chunk_tokens;

    *tokens = after;
    if (!p->streamed)
        return 0;
    return p->prefill_ms * (before + (double)(after - before) * (layer + 1) / layers) / p->tokens;
}
