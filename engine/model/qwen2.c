/* SPDX-License-Identifier: Apache-2.0 */
/* qwen2.c - the qwen2 architecture (Qwen2, Qwen2.5): a llama with biases on Q, K and V, whose
 * rotations pair a head's halves. */
#include "arch.h"

const struct kve_arch kve_arch_qwen2 = {
    .name = "qwen2",
    .parts = KVE_PART_BIAS,
    .rope_halves = true,
};
