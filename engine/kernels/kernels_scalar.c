/* SPDX-License-Identifier: Apache-2.0 */
/* kernels_scalar.c - for any CPU: what the compiler makes of plain C; the reference. */
#define KVE_VL 4

#include "attend_body.h"
#include "kernels_body.h"

const struct kve_kernels kve_kernels_scalar = {
    .name = "scalar",
    .dequantise = body_dequantise,
    .matvec = body_matvec,
    .matvecs = body_matvecs,
    .rmsnorm = body_rmsnorm,
    .silu_mul = body_silu_mul,
    .gelu_mul = body_gelu_mul,
    .to_bf16 = body_to_bf16,
    .from_bf16 = body_from_bf16,
    .softmax_part = body_softmax_part,
    .attend = body_attend,
};
