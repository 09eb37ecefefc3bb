/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - how long a step takes: a model on a machine, as arithmetic and as memory traffic, the
 * longer of the two.
 *
 * Published dimensions and data sheet rates, times what is usually reached of them. It is a model:
 * it says which of two ways is better and by what cause, not how many seconds yours will take.
 */
#ifndef KCL_MACHINE_H
#define KCL_MACHINE_H

#include <stdint.h>

#include "../../engine/route/route.h"

struct kcl_model {
    const char *name;
    double params;      /* 16 bits each */
    double token_bytes; /* of K and V */
    double layers;
    double pair_flops; /* of attention, for a token and one before it */
};

struct kcl_machine {
    const char *name;
    double flops, bytes; /* a second, as reached */
    double step_ns;      /* of every step, whatever it does */
};

/* NULL-terminated by name. */
extern const struct kcl_model kcl_models[];
extern const struct kcl_machine kcl_machines[];

/* One step: tokens of prompts and of answers, (token, one before it) pairs of the prompts'
 * attention, tokens in the caches of the sequences that decode. */
struct kcl_step {
    uint32_t tokens;
    double pairs;
    uint64_t cached;
};
uint64_t kcl_step_ns(const struct kcl_model *m, const struct kcl_machine *on,
                     const struct kcl_step *s);
/* What a router would have measured. */
struct kve_route_cost kcl_cost(const struct kcl_model *m, const struct kcl_machine *on);

#endif
