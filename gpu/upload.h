/* SPDX-License-Identifier: Apache-2.0 */
/*
 * upload.h - a model's weights (loaded.h) into VRAM, in bf16 and as a pass wants them (pass.h).
 *
 * threads  the one whose context is current
 * memory   the same walk first measures, with base NULL, and then hands out and fills
 * time     enqueues; the host's weights are read until the stream has come to its end
 */
#ifndef KVG_UPLOAD_H
#define KVG_UPLOAD_H

#include "loaded.h"
#include "run.h"

#define KVG_UPLOAD_BYTES (4u << 20) /* of a piece, as it lies in the file */

struct kvg_upload {
    const struct kvg_run *run; /* its library has the kernels, its stream is where they go */
    char *base;                /* VRAM; NULL: only used grows */
    uint64_t used;
    void *staging; /* KVG_UPLOAD_BYTES of VRAM */
    char *why;     /* KVW_GPU_TEXT bytes */
};

/* The next bytes of the arena, aligned for anything; NULL without a base. */
void *kvg_upload_take(struct kvg_upload *u, uint64_t bytes);

/*
 * Fill *m and layers[w->layers], whose pointers are into the arena.
 *   KVW_E_UNSUPPORTED  a matrix of a type that no kernel reads, or with rows that are too long
 *   others             the driver's
 */
KVW_NODISCARD kvw_err kvg_upload_weights(struct kvg_upload *u, const struct kvg_weights *w,
                                         uint32_t seq_tokens_max, struct kvg_model *m,
                                         struct kvg_layer *layers);
#endif
