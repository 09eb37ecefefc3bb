/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blas.h - matrix products by cuBLASLt, found by dlopen: one table of functions, as driver.h has.
 * The types, numbers and symbols are those of the library's published ABI, declared here so that
 * this builds without the toolkit; tests/gpu/blas_abi.cpp holds them against cublasLt.h where there
 * is one.
 *
 * Which algorithm a product takes is asked once for its weights' shape and a bucket of tokens: the
 * next power of two.
 *
 * threads  a struct kvg_blas is one thread's at a time; the device's context is current there
 * memory   the workspace is the caller's, and is used by one product after the other of one stream
 * time     opening loads a library of 500 MB; a product is enqueued, the first of a bucket after
 *          some time of the CPU
 */
#ifndef KVG_BLAS_H
#define KVG_BLAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int kvg_blas_status; /* cublasStatus_t */
typedef struct kvg_lt_context *kvg_lt_handle;
typedef struct kvg_lt_desc_data *kvg_lt_desc;     /* cublasLtMatmulDesc_t */
typedef struct kvg_lt_layout_data *kvg_lt_layout; /* cublasLtMatrixLayout_t */
typedef struct kvg_lt_wish_data *kvg_lt_wish;     /* cublasLtMatmulPreference_t */

enum {
    KVG_LT_SUCCESS = 0,
    KVG_LT_NO_MEMORY = 3,      /* CUBLAS_STATUS_ALLOC_FAILED */
    KVG_LT_COMPUTE_F32 = 68,   /* CUBLAS_COMPUTE_32F */
    KVG_LT_F32 = 0,            /* CUDA_R_32F */
    KVG_LT_BF16 = 14,          /* CUDA_R_16BF */
    KVG_LT_TRANSPOSE_A = 3,    /* CUBLASLT_MATMUL_DESC_TRANSA */
    KVG_LT_TRANSPOSED = 1,     /* CUBLAS_OP_T */
    KVG_LT_LAYOUT_COLS = 3,    /* CUBLASLT_MATRIX_LAYOUT_COLS */
    KVG_LT_WISH_WORKSPACE = 1, /* CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES */
};

struct kvg_lt_algorithm { /* cublasLtMatmulAlgo_t */
    uint64_t data[8];
};

struct kvg_lt_found { /* cublasLtMatmulHeuristicResult_t */
    struct kvg_lt_algorithm algorithm;
    size_t workspace_bytes;
    kvg_blas_status status;
    float waves;
    int reserved[4];
};

/* X(name in the table, symbol, parameters): all that gpu/ asks of cuBLASLt. */
#define KVG_BLAS_CALLS(X)                                                                          \
    X(create, cublasLtCreate, (kvg_lt_handle * handle))                                            \
    X(destroy, cublasLtDestroy, (kvg_lt_handle handle))                                            \
    X(desc_create, cublasLtMatmulDescCreate, (kvg_lt_desc * desc, int compute, int scale))         \
    X(desc_destroy, cublasLtMatmulDescDestroy, (kvg_lt_desc desc))                                 \
    X(desc_set, cublasLtMatmulDescSetAttribute,                                                    \
      (kvg_lt_desc desc, int attribute, const void *value, size_t bytes))                          \
    X(layout_create, cublasLtMatrixLayoutCreate,                                                   \
      (kvg_lt_layout * layout, int type, uint64_t rows, uint64_t cols, int64_t stride))            \
    X(layout_destroy, cublasLtMatrixLayoutDestroy, (kvg_lt_layout layout))                         \
    X(layout_set, cublasLtMatrixLayoutSetAttribute,                                                \
      (kvg_lt_layout layout, int attribute, const void *value, size_t bytes))                      \
    X(wish_create, cublasLtMatmulPreferenceCreate, (kvg_lt_wish * wish))                           \
    X(wish_destroy, cublasLtMatmulPreferenceDestroy, (kvg_lt_wish wish))                           \
    X(wish_set, cublasLtMatmulPreferenceSetAttribute,                                              \
      (kvg_lt_wish wish, int attribute, const void *value, size_t bytes))                          \
    X(find, cublasLtMatmulAlgoGetHeuristic,                                                        \
      (kvg_lt_handle handle, kvg_lt_desc desc, kvg_lt_layout a, kvg_lt_layout b, kvg_lt_layout c,  \
       kvg_lt_layout d, kvg_lt_wish wish, int wanted, struct kvg_lt_found *found, int *count))     \
    X(multiply, cublasLtMatmul,                                                                    \
      (kvg_lt_handle handle, kvg_lt_desc desc, const void *alpha, const void *a,                   \
       kvg_lt_layout a_layout, const void *b, kvg_lt_layout b_layout, const void *beta,            \
       const void *c, kvg_lt_layout c_layout, void *d, kvg_lt_layout d_layout,                     \
       const struct kvg_lt_algorithm *algorithm, void *workspace, size_t workspace_bytes,          \
       kvg_stream stream))

struct kvg_blas_calls {
#define KVG_MEMBER(name, symbol, params) kvg_blas_status(*name) params;
    KVG_BLAS_CALLS(KVG_MEMBER)
#undef KVG_MEMBER
};

/* y[tokens][rows] = x[tokens][cols] times w[rows][cols] transposed, or += that. x and w are bf16, y
 * is floats, and so are the sums. */
struct kvg_product {
    const uint16_t *w, *x;
    float *y;
    uint32_t tokens, rows, cols;
    bool add;
};

/* The tokens that a product of so many is planned for. */
static inline uint32_t kvg_blas_bucket(uint32_t tokens)
{
    uint32_t bucket = 1;

    while (bucket < tokens && bucket < 1u << 31)
        bucket *= 2;
    return bucket;
}

#define KVG_BLAS_WORKSPACE (32u << 20) /* bytes, that are enough for every algorithm */
#define KVG_BLAS_PLANS     128u        /* kept; the oldest goes */

struct kvg_blas; /* opaque */

/*
 * Load libcublasLt.so.13 or .12, or what the environment's KVW_LIBCUBLASLT names. Otherwise than on
 * KVW_OK nothing is held, and text has the reason in one sentence.
 *
 *   KVW_E_NOTFOUND     there is no such library
 *   KVW_E_UNSUPPORTED  it lacks a function
 *   KVW_E_NOMEM, KVW_E_DEVICE  it doesn't start
 */
KVW_NODISCARD kvw_err kvg_blas_open(struct kvg_blas **blas, void *workspace, size_t workspace_bytes,
                                    char *text, size_t text_bytes);
void kvg_blas_close(struct kvg_blas *blas); /* takes NULL */

/*
 * Enqueue the product on the stream.
 *   KVW_E_INVALID      an empty one
 *   KVW_E_UNSUPPORTED  cuBLASLt knows no algorithm for it
 *   KVW_E_NOMEM, KVW_E_DEVICE  it said so
 */
KVW_NODISCARD kvw_err kvg_blas_multiply(struct kvg_blas *blas, const struct kvg_product *p,
                                        kvg_stream stream);
/* Plans made so far. */
uint64_t kvg_blas_plans(const struct kvg_blas *blas);

#ifdef __cplusplus
}
#endif
#endif
