/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - the kernels of gpu/, as functions, and by their names. */
#ifndef T_KERNELS_H
#define T_KERNELS_H

#include "gpu/chunk.h"

/* X(name) of each kernel. */
#define T_KERNELS(X)                                                                               \
    X(kvg_raw_encode)                                                                              \
    X(kvg_raw_decode)                                                                              \
    X(kvg_l0_plan_bf16)                                                                            \
    X(kvg_l0_plan_f16)                                                                             \
    X(kvg_l0_plan_e4m3)                                                                            \
    X(kvg_l0_plan_e5m2)                                                                            \
    X(kvg_l0_encode_bf16)                                                                          \
    X(kvg_l0_encode_f16)                                                                           \
    X(kvg_l0_encode_e4m3)                                                                          \
    X(kvg_l0_encode_e5m2)                                                                          \
    X(kvg_l0_open)                                                                                 \
    X(kvg_l0_decode_bf16)                                                                          \
    X(kvg_l0_decode_f16)                                                                           \
    X(kvg_l0_decode_e4m3)                                                                          \
    X(kvg_l0_decode_e5m2)                                                                          \
    X(kvg_e_plan_bf16)                                                                             \
    X(kvg_e_plan_f16)                                                                              \
    X(kvg_e_encode_bf16)                                                                           \
    X(kvg_e_encode_f16)                                                                            \
    X(kvg_e_open)                                                                                  \
    X(kvg_e_decode_bf16)                                                                           \
    X(kvg_e_decode_f16)

#define T_DECLARE(name) extern "C" void name(const struct kvg_batch b);
T_KERNELS(T_DECLARE)
#undef T_DECLARE
#endif
