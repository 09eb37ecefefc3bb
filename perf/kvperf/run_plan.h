/* SPDX-License-Identifier: Apache-2.0 */
/* run_plan.h - modes without a network: codec measures codecs here, plan reckons with them. */
#ifndef KVP_RUN_PLAN_H
#define KVP_RUN_PLAN_H

#include "options.h"

/* Both print and return the exit status. */
int kvp_run_codec(const struct kvp_options *o);
int kvp_run_plan(const struct kvp_options *o);

#endif
