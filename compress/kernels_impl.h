/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_impl.h - the parts that the levels of kernels.h are put together of; nobody else's.
 *
 * threads  const      memory  static      time  none
 */
#ifndef KVC_KERNELS_IMPL_H
#define KVC_KERNELS_IMPL_H

#include "kernels.h"

extern const struct kvc_planes kvc_planes_avx2;
extern const struct kvc_planes kvc_planes_avx512;
extern const struct kvc_bf16 kvc_bf16_avx2;
extern const struct kvc_bf16 kvc_bf16_avx512;

/* Codes, or ranks, of the lanes of one group, side by side. */
#define KVC_AVX512_PACKED (KVC_BLOCK_VALUES + 2 * KVC_SLACK_BYTES)

/* The planes of all groups but group 0, of n codes (readable for KVC_SLACK_BYTES more) that go on.
 * Returns their end. */
uint8_t *kvc_avx512_close(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n,
                          uint8_t *to);

#endif
