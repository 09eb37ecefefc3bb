/* SPDX-License-Identifier: Apache-2.0 */
/* blas_abi.cpp - gpu/blas.h against cublasLt.h: it compiles, or they differ. */
#include <cublasLt.h>

#include <type_traits>

#include "gpu/blas.h"

#define T_NUMBER(ours, theirs) static_assert((int)(ours) == (int)(theirs))
T_NUMBER(KVG_LT_SUCCESS, CUBLAS_STATUS_SUCCESS);
T_NUMBER(KVG_LT_NO_MEMORY, CUBLAS_STATUS_ALLOC_FAILED);
T_NUMBER(KVG_LT_COMPUTE_F32, CUBLAS_COMPUTE_32F);
T_NUMBER(KVG_LT_F32, CUDA_R_32F);
T_NUMBER(KVG_LT_BF16, CUDA_R_16BF);
T_NUMBER(KVG_LT_TRANSPOSE_A, CUBLASLT_MATMUL_DESC_TRANSA);
T_NUMBER(KVG_LT_TRANSPOSED, CUBLAS_OP_T);
T_NUMBER(KVG_LT_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
T_NUMBER(KVG_LT_WISH_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);

static_assert(sizeof(kvg_lt_algorithm) == sizeof(cublasLtMatmulAlgo_t));
#define T_FOUND(ours, theirs)                                                                      \
    static_assert(offsetof(kvg_lt_found, ours) == offsetof(cublasLtMatmulHeuristicResult_t, theirs))
T_FOUND(algorithm, algo);
T_FOUND(workspace_bytes, workspaceSize);
T_FOUND(status, state);
T_FOUND(waves, wavesCount);
static_assert(sizeof(kvg_lt_found) == sizeof(cublasLtMatmulHeuristicResult_t));

/* A parameter of theirs and of ours are passed alike: pointers, or numbers of one size. */
template <typename A, typename B>
constexpr bool alike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;
template <typename F, typename G> struct same : std::false_type {
};
template <typename R, typename... A, typename S, typename... B>
struct same<R (*)(A...), S (*)(B...)> {
    static constexpr bool value = []() {
        if constexpr (sizeof...(A) == sizeof...(B))
            return alike<R, S> && (alike<A, B> && ...);
        else
            return false;
    }();
};
static_assert(!same<int (*)(void *), int (*)(int)>::value, "a pointer is no number");
static_assert(!same<int (*)(int), int (*)(int, int)>::value, "two are no one");
#define T_SAME(name, symbol, params)                                                               \
    static_assert(same<decltype(kvg_blas_calls::name), decltype(&symbol)>::value, #symbol);
KVG_BLAS_CALLS(T_SAME)
