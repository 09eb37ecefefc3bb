/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quality_codecs.h - what others do to a KV cache, as plain round trips for quality.c: no streams,
 * only the values that come out and the bits that a stream would need.
 *
 * threads  pure functions on the caller's memory    memory  none    time  none
 */
#ifndef T_QUALITY_CODECS_H
#define T_QUALITY_CODECS_H

#include <stdbool.h>
#include <stdint.h>

/* K or V of one layer as floats, [tokens][heads][head_dim]. */
struct t_tensor {
    float *x;
    uint32_t tokens, heads, head_dim;
    bool is_v;
};

struct t_peer {
    const char *name;
    /* Alters x in place; returns the bits that a stream of it would take. */
    double (*round_trip)(const struct t_tensor *t);
};

/* Ended by a NULL name. */
extern const struct t_peer t_peers[];

uint16_t t_to_bf16(float v); /* to nearest, ties to even */
float t_from_bf16(uint16_t b);

#endif
