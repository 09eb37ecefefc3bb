/* SPDX-License-Identifier: Apache-2.0 */
/*
 * past.h - a copy to memory that is large and not read again soon, such as the blocks of a pool:
 * past the caches. A plain store first fetches the line that it writes, and drives another out,
 * perhaps one of what is to be copied next.
 *
 * threads  any; what was copied is visible to others only after kvw_past_done() of the same thread
 * memory   the caller's; any addresses and lengths, not overlapping
 * time     none
 */
#ifndef KVW_PAST_H
#define KVW_PAST_H

#include <stddef.h>

/* Shorter copies are plain ones: the lines at both ends are shared with their neighbours. */
#define KVW_PAST_MIN 256u

void kvw_past_copy(void *to, const void *from, size_t bytes);
void kvw_past_done(void);

#endif
