/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_trace.h - a node's trace (trace.h) as a file of lines of JSON.
 *
 * threads  one at a time      memory  a buffer of stdio's      time  none
 */
#ifndef KVW_NODE_TRACE_H
#define KVW_NODE_TRACE_H

#include "trace.h"

struct kvw_trace_file;

/* Make the file, or empty it, and write the line that says whose it is. KVW_E_NOMEM, KVW_E_IO; why
 * (256 bytes) says which file and what the system said. */
KVW_NODISCARD kvw_err kvw_trace_file_open(struct kvw_trace_file **file, const char *path,
                                          const char *name, uint64_t instance, char *why);
/* kvw_core_config.trace; arg is the file. */
void kvw_trace_file_event(void *arg, const struct kvw_trace_event *ev);
/* Lines that could not be written (a full disk). NULL: 0. */
uint64_t kvw_trace_file_lost(const struct kvw_trace_file *file);
/* Takes NULL. */
void kvw_trace_file_close(struct kvw_trace_file *file);

#endif
