/* SPDX-License-Identifier: Apache-2.0 */
/* matmul.c - 64 rows of a weight matrix, widened to floats, times many tokens by oneDNN. */
#include "matmul.h"

#include <oneapi/dnnl/dnnl.h>

/*
 * Debian's oneDNN is built on libgomp. Its number of threads is kept per calling thread; asked for
 * one, it starts none. Declared here because clang has no omp.h of that library.
 */
int omp_get_max_threads(void);
void omp_set_num_threads(int count);

int kve_matmul_thread_begin(void)
{
    const int before = omp_get_max_threads();

    omp_set_num_threads(1);
    return before;
}

void kve_matmul_thread_end(int before)
{
    omp_set_num_threads(before);
}

kvw_err kve_gemm(const struct kve_gemm *g)
{
    const dnnl_status_t s =
        dnnl_sgemm('N', g->b_transposed ? 'T' : 'N', g->m, g->n, g->k, 1.0f, g->a, g->a_stride,
                   g->b, g->b_stride, g->add ? 1.0f : 0.0f, g->c, g->c_stride);

    return s == dnnl_success ? KVW_OK : KVW_E_NOMEM;
}

kvw_err kve_matmul_panel(const struct kve_kernels *k, const struct kve_panel *p)
{
    const uint32_t cols = p->w->cols;

    k->dequantise(p->w->type, kve_matrix_row(p->w, p->first), p->scratch, (size_t)p->rows * cols);
    struct kve_gemm g = {.n = p->rows,
                         .k = cols,
                         .b = p->scratch,
                         .a_stride = cols,
                         .b_stride = cols,
                         .c_stride = p->y_stride,
                         .b_transposed = true,
                         .add = p->add};
    kvw_err err = KVW_OK;

    for (uint32_t t = 0; t < p->tokens && err == KVW_OK; t += p->at_once) {
        g.m = p->tokens - t < p->at_once ? p->tokens - t : p->at_once;
        g.a = p->x + (size_t)t * cols;
        g.c = p->y + (size_t)t * p->y_stride;
        err = kve_gemm(&g);
    }
    return err;
}
