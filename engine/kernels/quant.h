/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quant.h - weights as they lie in the file to f32. This is the plain reference; the copies
 * compiled for wider vectors (kernels.h) give the same bits, because every formula rounds at most
 * once: a block's scale times a quant fits 24 bits, Q6_K's product is rounded, then nothing added.
 *
 * threads  pure functions    memory  none    time  O(count)
 */
#ifndef KVE_QUANT_H
#define KVE_QUANT_H

#include "../gguf/gguf.h"

/* A weight matrix in its file: rows of cols values; y = W x has rows values. */
struct kve_matrix {
    const unsigned char *at; /* any alignment */
    uint64_t row_bytes;
    uint32_t rows, cols; /* cols is a multiple of the type's block */
    kve_type type;
};

static inline const unsigned char *kve_matrix_row(const struct kve_matrix *w, uint64_t row)
{
    return w->at + row * w->row_bytes;
}

/* count values, a multiple of the type's block; blocks may have any alignment. */
void kve_dequantise(kve_type type, const void *blocks, float *values, size_t count);

#endif
