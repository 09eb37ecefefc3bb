/* SPDX-License-Identifier: Apache-2.0 */
/* kernels_steps.cpp - the kernels' own source, for the harness: a forward pass's steps. */
#include "gpu/step_attend.cu"
#include "gpu/step_dequantise.cu"
#include "gpu/step_gate.cu"
#include "gpu/step_norm.cu"
#include "gpu/step_tile.cu"
#include "gpu/step_turn.cu"
