/* SPDX-License-Identifier: Apache-2.0 */
/* machine.c - models and machines, and the time of a step. */
#include "machine.h"

#include <math.h>

#include "trace.h"

#define NS 1e9

/* layers * 2 (K, V) * heads * width * 2 bytes; layers * 2 (scores, sums) * 2 * query heads *
 * width */
const struct kcl_model kcl_models[] = {
    {"qwen3-0.6b", 0.6e9, 28 * 2 * 8 * 128 * 2, 28, 28.0 * 4 * 16 * 128},
    {"llama-3.1-8b", 8.0e9, 32 * 2 * 8 * 128 * 2, 32, 32.0 * 4 * 32 * 128},
    {"llama-3.1-70b", 70.6e9, 80 * 2 * 8 * 128 * 2, 80, 80.0 * 4 * 64 * 128},
    {0},
};

/* H100 SXM: 989 TFLOP/s of bf16 and 3.35 TB/s; half and four fifths of them. L20: 119.5 and
 * 0.864. */
const struct kcl_machine kcl_machines[] = {
    {"h100", 989e12 * 0.5, 3.35e12 * 0.8, 1e6},
    {"4xh100", 4 * 989e12 * 0.45, 4 * 3.35e12 * 0.75, 1.5e6},
    {"l20", 119.5e12 * 0.5, 0.864e12 * 0.8, 1e6},
    {0},
};

uint64_t kcl_step_ns(const struct kcl_model *m, const struct kcl_machine *on,
                     const struct kcl_step *s)
{
    const double weights = fmax(2 * m->params / on->bytes, 2 * m->params * s->tokens / on->flops);

    return (uint64_t)(on->step_ns + NS * (weights + s->pairs * m->pair_flops / on->flops +
                                          (double)s->cached * m->token_bytes / on->bytes));
}

struct kve_route_cost kcl_cost(const struct kcl_model *m, const struct kcl_machine *on)
{
    return (struct kve_route_cost){
        .token_ns = NS * 2 * m->params / on->flops,
        .pair_ns = NS * m->pair_flops / on->flops,
        .step_ns = on->step_ns + NS * 2 * m->params / on->bytes,
        .step_token_ns = NS * m->token_bytes / on->bytes,
        .token_bytes = m->token_bytes,
        .layers = m->layers,
        .block_tokens = KCL_BLOCK_TOKENS,
    };
}
