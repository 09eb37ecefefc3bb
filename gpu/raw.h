/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.h - codec raw by kernels: kvg_raw_encode gathers a view into its canonical bytes,
 * kvg_raw_decode scatters them; both run the digest on the way. A CTA a block, of any dtype and any
 * strides. Encode wants room for the raw bytes; decode finds a stream of another length damaged.
 *
 * threads  plain data
 * memory   chunk.h
 * time     none
 */
#ifndef KVG_RAW_H
#define KVG_RAW_H

#include "chunk.h"

/* Dynamic shared memory of a block, by the size of a value. */
#define KVG_RAW_SHARED(value_bytes) (KVG_UNIT_MAX * (value_bytes))
#endif
