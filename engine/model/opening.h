/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opening.h - what opens a model reads its file with: keys and tensors of the right shape, and a
 * sentence where one is missing or wrong. For model.c and the architectures' files.
 *
 * threads  one opening is one thread's
 * memory   matrices point into the GGUF's map; vectors are copied into the caller's memory
 * time     none
 */
#ifndef KVE_OPENING_H
#define KVE_OPENING_H

#include "model_impl.h"

/* One open: the model as it grows, and where the sentence goes. */
struct kve_opening {
    struct kve_model *m;
    const struct kve_gguf *g;
    const char *arch; /* the architecture's name, with which its keys begin */
    char *why;        /* KVE_WHY_BYTES */
};

#define KVE_KEY_BYTES 80

/* "ARCH.name" into key; returns key. */
const char *kve_opening_key(const struct kve_opening *o, const char *name, char key[KVE_KEY_BYTES]);

/* Writes the sentence and returns err. */
KVW_PRINTF(3, 4)
kvw_err kve_opening_fail(const struct kve_opening *o, kvw_err err, const char *format, ...);

/* A whole number, 1 .. max, from the architecture's key of that name; absent: the default, unless
 * that is UINT64_MAX, "must be there". KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_opening_number(const struct kve_opening *o, const char *name,
                                         uint64_t absent, uint32_t max, uint32_t *v);
/* A positive real number from such a key; absent: the default, unless that is 0. KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_opening_real(const struct kve_opening *o, const char *name, float absent,
                                       float *v);
/* attention.sliding_window, any number; absent: 0. KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_opening_window(const struct kve_opening *o, uint64_t *window);
/* A matrix of the shape that the configuration asks for. KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_opening_matrix(const struct kve_opening *o, const char *name,
                                         uint32_t rows, uint32_t cols, struct kve_matrix *w);
/* A vector of n, widened into values. KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_opening_vector(const struct kve_opening *o, const char *name, uint32_t n,
                                         float *values);
bool kve_str_is(struct kve_str s, const char *text);

#endif
