/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exact.h - L0 or L8 on any bytes. As a stream: every level of the CPU says the same of it and
 * writes the same, inside the view only. As values: they come back, from the same stream on every
 * level. Whatever isn't so aborts.
 *
 * Input: dtype, tokens, heads, head_dim, whether there is a book; the rest is the stream, or the
 * values.
 *
 * threads  one: it forces levels      memory  its own, freed      time  none
 */
#ifndef EXACT_H
#define EXACT_H

#include "../../compress/compress.h"

/* The input's first byte chooses between two dtypes, both of which the codec takes. */
void exact_input(const struct kvw_codec_ops *codec, const kvw_dtype dtypes[2], const uint8_t *bytes,
                 size_t n);

#endif
