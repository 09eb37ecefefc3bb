/* SPDX-License-Identifier: Apache-2.0 */
/*
 * all.cu - all kernels, for one image. What is shared stands outside, and each file has a namespace
 * of its own, as if it were compiled alone.
 */
#include "e_parts.h"
#include "l0_parts.h"
#include "raw.h"
#include "step_parts.h"

namespace raw
{
#include "raw.cu"
}
namespace l0_plan
{
#include "l0_plan.cu"
}
namespace l0_encode
{
#include "l0_encode.cu"
}
namespace l0_decode
{
#include "l0_decode.cu"
}
namespace e_plan
{
#include "e_plan.cu"
}
namespace e_encode
{
#include "e_encode.cu"
}
namespace e_decode
{
#include "e_decode.cu"
}
namespace step_attend
{
#include "step_attend.cu"
}
namespace step_dequantise
{
#include "step_dequantise.cu"
}
namespace step_gate
{
#include "step_gate.cu"
}
namespace step_norm
{
#include "step_norm.cu"
}
namespace step_tile
{
#include "step_tile.cu"
}
namespace step_turn
{
#include "step_turn.cu"
}
