/* SPDX-License-Identifier: Apache-2.0 */
/* e_avx512bf16.c - the AVX-512 loops where the CPU rounds to bf16 by itself. */
#define NATIVE_BF16 1
#include "e_avx512_body.h"

const struct kvc_e_kernels kvc_e_avx512bf16 = {
    .sums = sums,
    .encode = encode,
    .decode = decode,
};
