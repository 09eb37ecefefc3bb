/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compute.h - the options that say who computes, and in what K and V are kept.
 *
 * threads  any      memory  none, *w keeps the text      time  none
 */
#ifndef KVE_COMPUTE_H
#define KVE_COMPUTE_H

#include "worker.h"

/* --device and --kv-dtype. False: what was said is none, and a sentence on standard error. */
bool kve_compute_device(struct kve_worker_config *w, const char *text);
bool kve_compute_kv_dtype(struct kve_worker_config *w, const char *text);
/* "bf16" or "fp8"; NULL of 0, which nobody has named. */
const char *kve_compute_kv_name(kvw_dtype dtype);
/* Whether a GPU may compute. */
bool kve_compute_on_gpu(const struct kve_worker_config *w);
/* Whether the two go together, for `kvserve WHAT`; else a sentence as above. */
bool kve_compute_fits(const struct kve_worker_config *w, const char *what);

#endif
