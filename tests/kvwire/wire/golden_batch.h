/* SPDX-License-Identifier: Apache-2.0 */
/*
 * golden_batch.h - test_golden2.c's part about batches: REGION, GONE, BATCH, BATCH_DONE, NOTIFY and
 * their chunks decode to the fields of SPEC.md and encode to themselves.
 *
 * threads  one      memory  the row's      time  none
 */
#ifndef T_GOLDEN_BATCH_H
#define T_GOLDEN_BATCH_H

#include <stdint.h>

#include "../../../kvwire/err.h"

/* Decode the bytes of the row of that name, whose kind is what it begins with, and write what comes
 * out to `again`; *encoded is its length. */
kvw_err t_golden_batch(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                       uint32_t *encoded);

#endif
