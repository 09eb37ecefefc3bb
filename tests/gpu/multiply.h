/* SPDX-License-Identifier: Apache-2.0 */
/* multiply.h - a product as cuBLASLt makes it, for the harness: naively, a thread a value. */
#ifndef T_MULTIPLY_H
#define T_MULTIPLY_H

#include "gpu/blas.h"
#include "gpu/dev.h"
#include "gpu/steps.h"

static __device__ void t_multiply(const struct kvg_product &p)
{
    const uint64_t i = (uint64_t)blockIdx.x * KVG_STEP_THREADS + threadIdx.x;

    if (i >= (uint64_t)p.tokens * p.rows)
        return;

    const uint16_t *const x = p.x + i / p.rows * p.cols, *const w = p.w + i % p.rows * p.cols;
    float sum = p.add ? p.y[i] : 0.0f;

    for (uint32_t c = 0; c < p.cols; ++c)
        sum += __uint_as_float((uint32_t)x[c] << 16) * __uint_as_float((uint32_t)w[c] << 16);
    p.y[i] = sum;
}
#endif
