/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.cpp - the kernels' own source, for the harness: L0 and raw. */
#include "gpu/l0_decode.cu"
#include "gpu/l0_encode.cu"
#include "gpu/l0_plan.cu"
#include "gpu/raw.cu"
