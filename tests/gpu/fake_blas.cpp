/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_blas.cpp - a stand-in for libcublasLt.so, in the same library as the driver's: products are
 * launched on the stream like any kernel, so they are as late as CUDA allows. It takes the one form
 * that gpu/blas.c asks for, and finds fault with any other.
 *
 * The environment: FAKECUBLAS_STATUS=n: what cublasLtCreate returns; FAKECUBLAS_NOTHING=1: no
 * algorithm is found.
 */
#include <stdlib.h>
#include <string.h>

#include "fake/inside.h"
#include "gpu/blas.h"
#include "gpu/steps.h"

struct kvg_lt_context {
    kvg_library library;
    kvg_kernel multiply;
};
struct kvg_lt_desc_data {
    int transposed;
};
struct kvg_lt_layout_data {
    int type;
    uint64_t rows, cols;
    int64_t stride;
};
struct kvg_lt_wish_data {
    uint64_t workspace;
};

#define INVALID     7 /* CUBLAS_STATUS_INVALID_VALUE */
#define UNSUPPORTED 15
#define ALGORITHM   0x616c676f72ull /* what find() gives and multiply() wants */

static int from_environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? atoi(value) : 0;
}

/* Whether y = x w^T is what they say: w transposed, all of them packed. */
static bool fit(kvg_lt_desc desc, kvg_lt_layout w, kvg_lt_layout x, kvg_lt_layout y)
{
    return desc->transposed == KVG_LT_TRANSPOSED && w->type == KVG_LT_BF16 &&
           x->type == KVG_LT_BF16 && y->type == KVG_LT_F32 && w->rows == x->rows &&
           w->cols == y->rows && x->cols == y->cols && w->stride == (int64_t)w->rows &&
           x->stride == (int64_t)x->rows && y->stride == (int64_t)y->rows;
}

extern "C" {
#define FAKE_DECLARE_BLAS(name, symbol, params)                                                    \
    __attribute__((visibility("default"))) kvg_blas_status symbol params;
KVG_BLAS_CALLS(FAKE_DECLARE_BLAS)

kvg_blas_status cublasLtCreate(kvg_lt_handle *handle)
{
    const int status = from_environment("FAKECUBLAS_STATUS");

    if (status != 0)
        return status;
    *handle = new kvg_lt_context();
    if (cuLibraryLoadData(&(*handle)->library, FAKECUDA_IMAGE, NULL, NULL, 0, NULL, NULL, 0) == 0 &&
        cuLibraryGetKernel(&(*handle)->multiply, (*handle)->library, "kvt_multiply") == 0)
        return KVG_LT_SUCCESS;
    delete *handle;
    return 1; /* CUBLAS_STATUS_NOT_INITIALIZED */
}

kvg_blas_status cublasLtDestroy(kvg_lt_handle handle)
{
    const kvg_result r = cuLibraryUnload(handle->library);

    delete handle;
    return r == KVG_CU_SUCCESS ? KVG_LT_SUCCESS : INVALID;
}

kvg_blas_status cublasLtMatmulDescCreate(kvg_lt_desc *desc, int compute, int scale)
{
    if (compute != KVG_LT_COMPUTE_F32 || scale != KVG_LT_F32)
        return UNSUPPORTED;
    *desc = new kvg_lt_desc_data();
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulDescDestroy(kvg_lt_desc desc)
{
    delete desc;
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulDescSetAttribute(kvg_lt_desc desc, int attribute, const void *value,
                                               size_t bytes)
{
    if (attribute != KVG_LT_TRANSPOSE_A || bytes != sizeof(desc->transposed))
        return INVALID;
    memcpy(&desc->transposed, value, bytes);
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatrixLayoutCreate(kvg_lt_layout *layout, int type, uint64_t rows,
                                           uint64_t cols, int64_t stride)
{
    *layout = new kvg_lt_layout_data{type, rows, cols, stride};
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatrixLayoutDestroy(kvg_lt_layout layout)
{
    delete layout;
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatrixLayoutSetAttribute(kvg_lt_layout layout, int attribute,
                                                 const void *value, size_t bytes)
{
    if (attribute != KVG_LT_LAYOUT_COLS || bytes != sizeof(layout->cols))
        return INVALID;
    memcpy(&layout->cols, value, bytes);
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulPreferenceCreate(kvg_lt_wish *wish)
{
    *wish = new kvg_lt_wish_data();
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulPreferenceDestroy(kvg_lt_wish wish)
{
    delete wish;
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulPreferenceSetAttribute(kvg_lt_wish wish, int attribute,
                                                     const void *value, size_t bytes)
{
    if (attribute != KVG_LT_WISH_WORKSPACE || bytes != sizeof(wish->workspace))
        return INVALID;
    memcpy(&wish->workspace, value, bytes);
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmulAlgoGetHeuristic(kvg_lt_handle, kvg_lt_desc desc, kvg_lt_layout a,
                                               kvg_lt_layout b, kvg_lt_layout c, kvg_lt_layout d,
                                               kvg_lt_wish wish, int wanted,
                                               struct kvg_lt_found *found, int *count)
{
    *count = 0;
    if (!fit(desc, a, b, c) || c != d || wanted != 1 || wish->workspace == 0)
        return INVALID;
    if (from_environment("FAKECUBLAS_NOTHING") != 0)
        return KVG_LT_SUCCESS;
    found->algorithm.data[0] = ALGORITHM + a->cols;
    *count = 1;
    return KVG_LT_SUCCESS;
}

kvg_blas_status cublasLtMatmul(kvg_lt_handle handle, kvg_lt_desc desc, const void *alpha,
                               const void *a, kvg_lt_layout a_layout, const void *b,
                               kvg_lt_layout b_layout, const void *beta, const void *c,
                               kvg_lt_layout c_layout, void *d, kvg_lt_layout d_layout,
                               const struct kvg_lt_algorithm *algorithm, void *workspace,
                               size_t workspace_bytes, kvg_stream stream)
{
    float one, add;

    memcpy(&one, alpha, sizeof(one));
    memcpy(&add, beta, sizeof(add));
    if (!fit(desc, a_layout, b_layout, d_layout) || c_layout != d_layout || c != d || one != 1 ||
        (add != 0 && add != 1) || workspace == NULL || workspace_bytes == 0 ||
        algorithm->data[0] != ALGORITHM + a_layout->cols)
        return INVALID;

    struct kvg_product p = {
        (const uint16_t *)a,      (const uint16_t *)b,      (float *)d, (uint32_t)d_layout->cols,
        (uint32_t)d_layout->rows, (uint32_t)a_layout->rows, add == 1};
    const struct kvg_launch config = {kvg_threads_grid((uint64_t)p.tokens * p.rows),
                                      1,
                                      1,
                                      KVG_STEP_THREADS,
                                      1,
                                      1,
                                      0,
                                      stream,
                                      NULL,
                                      0};
    void *params[] = {&p};

    return cuLaunchKernelEx(&config, handle->multiply, params, NULL) == KVG_CU_SUCCESS
               ? KVG_LT_SUCCESS
               : 13; /* CUBLAS_STATUS_EXECUTION_FAILED */
}
}
