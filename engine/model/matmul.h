/* SPDX-License-Identifier: Apache-2.0 */
/*
 * matmul.h - Y = X W^T for many tokens: a panel of weight rows is dequantised into scratch and
 * multiplied by oneDNN's sgemm in the calling thread. The whole matrix never exists in f32.
 *
 * A panel's result depends on the panel and on the tokens only, not on who computes it, so any
 * division of panels over threads gives the same bits. oneDNN adds up in an order that depends on
 * the shape of the whole product (with AVX2 also on where a token stands in it). So at_once tokens
 * are multiplied at a time: cut at a multiple of that, a prompt's rest has the bits of the whole.
 *
 * threads  any, each with its own scratch, after kve_matmul_thread_begin() in that thread
 * memory   oneDNN packs its operands into memory of its own, up to a few MiB per thread
 * time     none
 */
#ifndef KVE_MATMUL_H
#define KVE_MATMUL_H

#include <stdbool.h>

#include "../kernels/kernels.h"

#define KVE_PANEL_ROWS 64u

/* Tell the library to use this thread and no other; returns the setting it had before. */
int kve_matmul_thread_begin(void);
void kve_matmul_thread_end(int before);

struct kve_panel {
    const struct kve_matrix *w;
    uint32_t first, rows;     /* rows first .. first+rows-1 of w; rows <= KVE_PANEL_ROWS */
    const float *x;           /* [tokens][w->cols] */
    uint32_t tokens, at_once; /* at_once > 0 */
    float *y;                 /* y[t * y_stride + r] is the product with row first + r */
    uint32_t y_stride;
    bool add;       /* y += , not y = */
    float *scratch; /* [KVE_PANEL_ROWS][w->cols] */
};

/* KVW_E_NOMEM: oneDNN had none; y is unspecified. */
KVW_NODISCARD kvw_err kve_matmul_panel(const struct kve_kernels *k, const struct kve_panel *p);

/* C[m][n] = A[m][k] B[k][n] (or B[n][k], transposed) + (add ? C : 0), with row strides. */
struct kve_gemm {
    uint32_t m, n, k;
    const float *a, *b;
    float *c;
    uint32_t a_stride, b_stride, c_stride;
    bool b_transposed, add;
};
KVW_NODISCARD kvw_err kve_gemm(const struct kve_gemm *g);

#endif
