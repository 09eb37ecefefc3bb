/* SPDX-License-Identifier: Apache-2.0 */
/* run_kv.h - modes that hand KV over: kv, bw, lat; sweep and find are kv again and again. */
#ifndef KVP_RUN_KV_H
#define KVP_RUN_KV_H

#include "result.h"

/* Measure and print. Return the exit status. */
int kvp_run_kv(const struct kvp_options *o);
int kvp_run_sweep(const struct kvp_options *o);
int kvp_run_find(const struct kvp_options *o);

/* What a row of these options does on a lane (0: raw). */
struct kvp_round_plan kvp_plan_of(const struct kvp_options *o, uint32_t lane, bool shuffled,
                                  bool streamed);
/* Connect for o, fill the rows from first on, in turns. Sets r->status and r->why. */
void kvp_measure(struct kvp_client *c, const struct kvp_options *o, struct kvp_result *r,
                 uint32_t first);

#endif
