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

#endif
