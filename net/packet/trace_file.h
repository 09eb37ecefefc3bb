/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace_file.h - a trace (packet/trace.h) into a file, a line of JSON an event.
 *
 * threads  one for a file: that of the transport which it traces
 * memory   taken at open, given back by the transport's close()
 * time     writing blocks as a file does: this is for looking at a run, not for running
 */
#ifndef KVN_TRACE_FILE_H
#define KVN_TRACE_FILE_H

#include "../net.h"
#include "trace.h"

/* Begins the file anew. name: whose trace it is, for people. KVW_E_IO: why says what the system
 * did; KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvn_trace_file_open(struct kvn_trace **trace, const char *path,
                                          const char *name, char why[KVN_WHY_BYTES]);
/* What kvn_config asks for: as kvn_trace_file_open(), or *trace = NULL and KVW_OK. */
KVW_NODISCARD kvw_err kvn_trace_config(struct kvn_trace **trace, const struct kvn_config *cfg,
                                       const char *name, char why[KVN_WHY_BYTES]);
/* Only if no transport took it. Takes NULL. */
void kvn_trace_file_close(struct kvn_trace *trace);

#endif
