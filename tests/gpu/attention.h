/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention.h - do the kernels of attention do what attention is, and does fp8 round as it should.
 *
 * fp8: pages are e4m3, with a scale of K and one of V; else bf16.
 */
#ifndef T_ATTENTION_H
#define T_ATTENTION_H

#include <stdint.h>

#include "launch.h"

/* Another seed for each launch, and now and then none. */
inline simt_options t_options(void)
{
    static uint64_t seed;

    return {++seed % 3 == 0 ? 0 : seed, 3};
}

/* One query, by one warp a head and in segments. */
bool t_attends(bool fp8, uint32_t window);

/* claimed: what the definition is asked with; else than the kernel's, it is a control. */
struct t_many {
    uint32_t dim, window, claimed_window;
    float claimed_scale; /* of V, in parts of the right one */
};
/* How far many queries by tensor cores are from it, at most. */
double t_attends_many(bool fp8, const struct t_many &m);

/* Whether each value becomes the nearest byte, with a scale and without. */
bool t_narrows(void);
#endif
