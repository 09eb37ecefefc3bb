/* SPDX-License-Identifier: Apache-2.0 */
/* kernels_e.cpp - the kernels' own source, for the harness: E8 and E4. */
#include "gpu/e_decode.cu"
#include "gpu/e_encode.cu"
#include "gpu/e_plan.cu"
