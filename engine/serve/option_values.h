/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option_values.h - values of kvserve's options that are words of a list: each is checked here, and
 * another one is refused with a sentence on standard error that has the list.
 *
 * threads  pure functions    memory  none    time  none
 */
#ifndef KVE_OPTION_VALUES_H
#define KVE_OPTION_VALUES_H

#include <stdbool.h>
#include <stdint.h>

#include "../../kvwire/codec.h"

extern const char *const kve_option_budgets[]; /* by kvw_budget */

bool kve_option_codec(uint8_t *id, const char *text); /* "auto": 0 */
bool kve_option_budget(kvw_budget *to, const char *text);
bool kve_option_cpus(const char *text);
bool kve_option_net(const char *text);

#endif
