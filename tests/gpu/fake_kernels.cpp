/* SPDX-License-Identifier: Apache-2.0 */
/* fake_kernels.cpp - the kernels that the stand-in for the driver can launch. */
#include "fake/fake.h"
#include "gpu/dev.h"
#include "kernels.h"
#include "multiply.h"

/* words[i] = words[i] * by + i, for the tests of memory and streams. */
static __global__ void kvt_step(uint32_t *words, uint32_t count, uint32_t by)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < count)
        words[i] = words[i] * by + i;
}

/* What the stand-in for cuBLASLt launches. */
static __global__ void kvt_multiply(const struct kvg_product p)
{
    t_multiply(p);
}

#define T_NAMED(name) FAKE_KERNEL(name),
const fake_kernel fake_kernels[] = {FAKE_KERNEL(kvt_step), FAKE_KERNEL(kvt_multiply),
                                    T_KERNELS(T_NAMED) T_STEP_KERNELS(T_NAMED)
                                        T_WEIGHT_KERNELS(T_NAMED){NULL, NULL}};
