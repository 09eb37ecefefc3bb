/* SPDX-License-Identifier: Apache-2.0 */
/* scatter.c - where the pieces of batches lie, and what is in them. */
#include "scatter.h"

#include <stdlib.h>
#include <string.h>

#define SPOILT 0xa5

bool kvp_scatter_make(struct kvp_scatter *s, bool scattered, uint64_t seed)
{
    s->order = NULL;
    if (!scattered)
        return true;
    s->order = malloc((size_t)s->pieces * s->slots * sizeof(s->order[0]));
    if (s->order == NULL)
        return false;
    for (uint32_t slot = 0; slot < s->slots; ++slot) {
        uint32_t *order = s->order + (size_t)slot * s->pieces;

        for (uint32_t i = 0; i < s->pieces; ++i)
            order[i] = i;
        for (uint32_t i = s->pieces; i > 1; --i) { /* Fisher and Yates */
            const uint32_t k = (uint32_t)(kvp_mix(seed + ((uint64_t)slot << 32) + i) % i);
            const uint32_t was = order[k];

            order[k] = order[i - 1];
            order[i - 1] = was;
        }
    }
    return true;
}

void kvp_scatter_free(struct kvp_scatter *s)
{
    free(s->order);
    s->order = NULL;
}

uint64_t kvp_scatter_bytes(const struct kvp_scatter *s)
{
    return s->piece_bytes * s->pieces * s->slots;
}

uint64_t kvp_scatter_at(const struct kvp_scatter *s, uint32_t slot, uint32_t piece)
{
    const uint64_t first = (uint64_t)slot * s->pieces;

    return (first + (s->order != NULL ? s->order[first + piece] : piece)) * s->piece_bytes;
}

static uint64_t word_of(uint64_t values, uint64_t piece, uint64_t at)
{
    return kvp_mix(values + (piece << 24) + at);
}

void kvp_scatter_fill(const struct kvp_scatter *s, unsigned char *base, uint64_t values)
{
    const uint64_t all = (uint64_t)s->pieces * s->slots;

    if (values == 0)
        memset(base, SPOILT, kvp_scatter_bytes(s));
    for (uint64_t i = 0; i < all && values != 0; ++i) {
        unsigned char *to =
            base + kvp_scatter_at(s, (uint32_t)(i / s->pieces), (uint32_t)(i % s->pieces));

        for (uint64_t at = 0; at < s->piece_bytes; at += 8) {
            const uint64_t word = word_of(values, i, at), left = s->piece_bytes - at;

            memcpy(to + at, &word, left < 8 ? left : 8);
        }
    }
}

struct kvp_check kvp_scatter_check(const struct kvp_scatter *s, const unsigned char *base,
                                   uint64_t values)
{
    const uint64_t all = (uint64_t)s->pieces * s->slots;
    struct kvp_check found = {.bytes = kvp_scatter_bytes(s)};

    for (uint64_t i = 0; i < all; ++i) {
        const unsigned char *is =
            base + kvp_scatter_at(s, (uint32_t)(i / s->pieces), (uint32_t)(i % s->pieces));

        for (uint64_t at = 0; at < s->piece_bytes; at += 8) {
            const uint64_t word = word_of(values, i, at), left = s->piece_bytes - at;
            unsigned char was[8];

            memcpy(was, &word, 8);
            for (uint64_t k = 0; k < 8 && k < left; ++k)
                found.wrong += is[at + k] != was[k];
        }
    }
    return found;
}
