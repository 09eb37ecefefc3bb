/* SPDX-License-Identifier: Apache-2.0 */
/* trace_add.h - one request more at a trace's end; for trace.c and make.c. */
#ifndef KCL_TRACE_ADD_H
#define KCL_TRACE_ADD_H

#include "trace.h"

/* Its hashes are copied. False: no memory. */
bool kcl_trace_add(struct kcl_trace *t, const struct kcl_arrival *a, const uint64_t *hashes);

#endif
