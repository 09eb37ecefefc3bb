/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - the kernels of gpu/, as functions, and by their names. */
#ifndef T_KERNELS_H
#define T_KERNELS_H

#include "gpu/chunk.h"
#include "gpu/steps.h"

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

/* X(name) of each step of a forward pass; the structure that it takes is kvg_turn for
 * those that turn, kvg_attend for those that attend, and else has its name. */
#define T_STEP_KERNELS(X)                                                                          \
    X(kvg_embed)                                                                                   \
    X(kvg_norm)                                                                                    \
    X(kvg_turn)                                                                                    \
    X(kvg_attend)                                                                                  \
    X(kvg_gate)                                                                                    \
    X(kvg_pick)                                                                                    \
    X(kvg_attend_64)                                                                               \
    X(kvg_attend_128)                                                                              \
    X(kvg_attend_part)                                                                             \
    X(kvg_attend_join)                                                                             \
    X(kvg_turn_e4m3)                                                                               \
    X(kvg_attend_e4m3)                                                                             \
    X(kvg_attend_64_e4m3)                                                                          \
    X(kvg_attend_128_e4m3)                                                                         \
    X(kvg_attend_part_e4m3)

/* X(name) of each kernel that makes bf16 of weights. */
#define T_WEIGHT_KERNELS(X)                                                                        \
    X(kvg_dequantise_f32)                                                                          \
    X(kvg_dequantise_f16)                                                                          \
    X(kvg_dequantise_q8_0)                                                                         \
    X(kvg_dequantise_q4_0)                                                                         \
    X(kvg_dequantise_q4_1)                                                                         \
    X(kvg_dequantise_q5_0)                                                                         \
    X(kvg_dequantise_q5_1)                                                                         \
    X(kvg_dequantise_q4_k)                                                                         \
    X(kvg_dequantise_q5_k)                                                                         \
    X(kvg_dequantise_q6_k)

#define T_DECLARE(name) extern "C" void name(const struct kvg_dequantise p);
T_WEIGHT_KERNELS(T_DECLARE)
#undef T_DECLARE

extern "C" void kvg_embed(const struct kvg_embed p);
extern "C" void kvg_norm(const struct kvg_norm p);
extern "C" void kvg_turn(const struct kvg_turn p);
extern "C" void kvg_attend(const struct kvg_attend p);
extern "C" void kvg_gate(const struct kvg_gate p);
extern "C" void kvg_pick(const struct kvg_pick p);
extern "C" void kvg_attend_64(const struct kvg_attend p);
extern "C" void kvg_attend_128(const struct kvg_attend p);
extern "C" void kvg_attend_part(const struct kvg_attend p);
extern "C" void kvg_attend_join(const struct kvg_attend p);
extern "C" void kvg_turn_e4m3(const struct kvg_turn p);
extern "C" void kvg_attend_e4m3(const struct kvg_attend p);
extern "C" void kvg_attend_64_e4m3(const struct kvg_attend p);
extern "C" void kvg_attend_128_e4m3(const struct kvg_attend p);
extern "C" void kvg_attend_part_e4m3(const struct kvg_attend p);
#endif
