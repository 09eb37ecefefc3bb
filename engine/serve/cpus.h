/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpus.h - a list of CPUs as people write it: "3", "2,4-5".
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVE_CPUS_H
#define KVE_CPUS_H

#include <sched.h>
#include <stdbool.h>

/* False: not a list, or beyond the CPUs that a cpu_set_t holds; *set untouched. */
bool kve_cpus_parse(cpu_set_t *set, const char *text);

#endif
