/* SPDX-License-Identifier: Apache-2.0 */
/* kernels_avx512.c - AVX-512 F, BW, DQ and VL. */
#define KVE_VL 16

#include "kernels_body.h"

const struct kve_kernels kve_kernels_avx512 = {
    .name = "avx512",
    .dequantise = body_dequantise,
    .matvec = body_matvec,
    .rmsnorm = body_rmsnorm,
    .silu_mul = body_silu_mul,
    .to_bf16 = body_to_bf16,
    .from_bf16 = body_from_bf16,
    .softmax_part = body_softmax_part,
    .attend = body_attend,
};
