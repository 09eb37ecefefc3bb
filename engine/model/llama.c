/* SPDX-License-Identifier: Apache-2.0 */
/* llama.c - the llama architecture: neighbours are turned, and Llama 3.1's divisors are read. */
#include "arch.h"

const struct kve_arch kve_arch_llama = {
    .name = "llama",
    .rope_freqs = true,
};
