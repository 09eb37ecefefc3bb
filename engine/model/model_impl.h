/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model_impl.h - what a model is made of; for model.c and forward.c.
 *
 * threads  read-only after open
 * memory   matrices point into the GGUF's map; norms and rotation speeds are copies
 * time     none
 */
#ifndef KVE_MODEL_IMPL_H
#define KVE_MODEL_IMPL_H

#include "model.h"
#include "quant.h"

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
};

struct kve_model {
    struct kve_model_config config;
    const struct kve_gguf *gguf;
    char name[KVE_NAME_BYTES];
    struct kve_matrix token_embd; /* [vocab][hidden] */
    struct kve_matrix output;     /* [vocab][hidden]; token_embd where the file has none */
    const float *output_norm;     /* [hidden] */
    const double *rope_speed;     /* [rope_dims / 2] radians per position */
    struct kve_layer *layers;
    float *norms; /* backs all norms: [2 * layers + 1][hidden] */
    double *speeds;
};

#endif
