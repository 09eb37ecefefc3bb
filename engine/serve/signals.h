/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals.h - what ends the program, and the descriptors that it was started without.
 *
 * threads  before any is started    memory  none    time  none
 */
#ifndef KVE_SIGNALS_H
#define KVE_SIGNALS_H

#include <stdbool.h>

/* From now on. http: the first lets what runs come to its end. */
void kve_signals_handle(bool http);
/* False: they can't be had. */
bool kve_signals_keep_standard(void);

#endif
