/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steps.h - the steps that layers are made of, each cut into items for the run's workers: products
 * with weights, the gated feed-forward, norms. Attention's are in run_scratch.h.
 *
 * threads  the pass's own; the workers take items
 * memory   the run's scratch
 * time     none
 */
#ifndef KVE_STEPS_H
#define KVE_STEPS_H

#include "run_scratch.h"

/* y = x W^T for up to three matrices with the same input, in one step. */
struct kve_project {
    struct kve_run *r;
    const float *x;
    uint32_t tokens;
    uint32_t parts;
    struct {
        const struct kve_matrix *w;
        float *y; /* [tokens][w->rows] */
    } part[3];
    bool add;           /* y += */
    uint32_t item_rows; /* rows of one matrix in an item */
};

void kve_project(struct kve_project *j);

/* ffn = activation(gate x) * (up x) */
struct kve_gate_up {
    struct kve_run *r;
    const struct kve_layer *layer;
    const float *x;
    float *ffn; /* [tokens][ffn] */
    uint32_t tokens;
    uint32_t item_rows;
};

void kve_gate_up(struct kve_gate_up *j);

/* y[tokens][hidden] = each row of x, normed, times w[hidden]; y may be x. */
void kve_norm_rows(const struct kve_run *r, float *y, const float *x, const float *w,
                   uint32_t tokens);

#endif
