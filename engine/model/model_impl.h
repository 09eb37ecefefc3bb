/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model_impl.h - what a model is made of; for model.c, the architectures and the pass.
 *
 * threads  read-only after open
 * memory   matrices point into the GGUF's map; norms and rotation speeds are copies
 * time     none
 */
#ifndef KVE_MODEL_IMPL_H
#define KVE_MODEL_IMPL_H

#include "model.h"
#include "../kernels/quant.h"

#define KVE_NAME_BYTES 96

struct kve_layer {
    const float *attn_norm;        /* [hidden] */
    struct kve_matrix attn_q;      /* [heads * head_dim][hidden] */
    struct kve_matrix attn_k;      /* [kv_heads * head_dim][hidden] */
    struct kve_matrix attn_v;      /* [kv_heads * head_dim][hidden] */
    struct kve_matrix attn_output; /* [hidden][heads * head_dim] */
    const float *ffn_norm;         /* [hidden] */
    struct kve_matrix ffn_gate;    /* [ffn][hidden] */
    struct kve_matrix ffn_up;      /* [ffn][hidden] */
    struct kve_matrix ffn_down;    /* [hidden][ffn] */
    /* NULL where the architecture has none: */
    const float *bias_q, *bias_k, *bias_v; /* added to Q, K and V, as wide as each */
    const float *norm_q, *norm_k;          /* [head_dim], of each head before it is turned */
    const float *post_attn_norm;           /* [hidden], of what attention adds */
    const float *post_ffn_norm;            /* [hidden], of what feed-forward adds */
    uint32_t window;                       /* positions seen, its own included; 0: all */
    uint32_t rope;                         /* which of the model's rotations */
};

#define KVE_ROPES 2u

struct kve_arch;

struct kve_model {
    const struct kve_arch *arch;
    struct kve_model_config config;
    const struct kve_gguf *gguf;
    char name[KVE_NAME_BYTES];
    struct kve_matrix token_embd; /* [vocab][hidden] */
    struct kve_matrix output;     /* [vocab][hidden]; token_embd where the file has none */
    const float *output_norm;     /* [hidden] */
    uint32_t ropes;               /* 1 .. KVE_ROPES */
    double *speeds[KVE_ROPES];    /* [rope_dims / 2] radians per position */
    struct kve_layer *layers;
    float *vectors; /* backs all norms and biases */
    size_t vectors_used;
};

#endif
