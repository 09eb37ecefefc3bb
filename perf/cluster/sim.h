/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - a cluster on a virtual clock: the router's own functions (engine/route) decide, workers
 * take steps of the length that machine.h says, caches cross links of a given rate.
 *
 * A worker's step has one token of every sequence that decodes there and a piece of the prompts in
 * its queue, in order. K and V follow the prefill layer by layer. The router believes what it
 * counts: its estimates and its list of held prompts are its own, the workers' caches are the
 * truth.
 *
 * threads  one a run      memory  all given back at the end      time  of the run: none but the
 * CPU's
 */
#ifndef KCL_SIM_H
#define KCL_SIM_H

#include "../../engine/route/route.h"
#include "machine.h"
#include "measure.h"
#include "trace.h"

struct kcl_setup {
    const struct kcl_trace *trace;
    const struct kcl_model *model;
    const struct kcl_machine *machine;
    struct kve_route_config route; /* cost is filled in */
    uint32_t prefills, decodes;    /* workers; route.together: all do both */
    uint32_t blocks;               /* of KCL_BLOCK_TOKENS, of a worker */
    uint32_t max_tokens;           /* that requests ask for, at least */
    uint32_t piece; /* tokens of prompts in a step alone; route.piece beside decoding */
    uint32_t racks; /* 0: all in the same; worker i stands in i % racks */
    double cross;   /* rate to another rack, as a part of the link's */
};

/* A policy's sane setup; trace, model, machine, workers are the caller's. */
void kcl_setup_of(struct kcl_setup *s, const struct kve_route_policy *p);
struct kcl_result kcl_run(const struct kcl_setup *s);

#endif
