/* SPDX-License-Identifier: Apache-2.0 */
/* qwen3.c - the qwen3 architecture: no biases, but a norm of each head's Q and K before they are
 * turned. */
#include "arch.h"

const struct kve_arch kve_arch_qwen3 = {
    .name = "qwen3",
    .parts = KVE_PART_QK_NORM,
    .rope_halves = true,
};
