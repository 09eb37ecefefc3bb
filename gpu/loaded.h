/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loaded.h - a model in a GPU's memory, for whoever has its weights in a GGUF's types (../engine):
 * the one header of this folder that others include. What is behind it is a table of functions,
 * kvw_gpu_plugin.model (../kvwire/gpu.h), so that the same programs run where there is no GPU.
 *
 * threads  one thread's at a time, and that is the one that opened the GPU: its context is current
 *          there
 * memory   weights and limits are read during open; the GPU outlives what is loaded
 * time     open copies the weights and makes bf16 of them: seconds. A call enqueues, and waits for
 *          the GPU where it gives logits, or where the call before gave none
 */
#ifndef KVG_LOADED_H
#define KVG_LOADED_H

#include <stdbool.h>

#include "../kvwire/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up when a structure of this file changes. */
#define KVG_LOADED_ABI 2u

/* Types of weights, with a GGUF's numbers. */
enum kvg_gguf {
    KVG_GGUF_F32 = 0,
    KVG_GGUF_F16 = 1,
    KVG_GGUF_Q4_0 = 2,
    KVG_GGUF_Q4_1 = 3,
    KVG_GGUF_Q5_0 = 6,
    KVG_GGUF_Q5_1 = 7,
    KVG_GGUF_Q8_0 = 8,
    KVG_GGUF_Q4_K = 12,
    KVG_GGUF_Q5_K = 13,
    KVG_GGUF_Q6_K = 14,
    KVG_GGUF_BF16 = 30,
};

/* Rows of cols values, one behind the other. */
struct kvg_matrix {
    const void *at; /* any alignment */
    uint64_t row_bytes;
    uint32_t rows, cols;
    uint32_t type; /* enum kvg_gguf */
};

#define KVG_TURNS 2u

/* NULL where the architecture has none: biases, norms of heads, post norms. */
struct kvg_weights_layer {
    struct kvg_matrix q, k, v, output, gate, up, down;
    const float *attn_norm, *ffn_norm;
    const float *bias_q, *bias_k, *bias_v;
    const float *norm_q, *norm_k;
    const float *post_attn_norm, *post_ffn_norm;
    uint32_t turn;   /* which of turns */
    uint32_t window; /* positions seen, its own included; 0: all */
    float k_scale,
        v_scale; /* of K and V in fp8: a value is what is stored times that; 1: as it is */
};

struct kvg_weights {
    uint32_t layers, hidden, heads, kv_heads, dim, ffn, vocab;
    uint32_t pairs; /* of a head, that are turned */
    bool halves;    /* a pair is (i, i + pairs), or neighbours */
    bool gelu;      /* the gate's activation, by tanh; or SiLU */
    float eps, embd_scale, attn_scale, softcap;
    struct kvg_matrix embd, logits; /* logits.at may be embd's: then it is held once */
    const float *output_norm;
    const struct kvg_weights_layer *layer; /* [layers] */
    const float *turns[KVG_TURNS];         /* [seq_tokens_max][pairs], cos and sin; or NULL */
};

struct kvg_limits {
    uint32_t tokens_max;     /* of a call */
    uint32_t seq_tokens_max; /* of a sequence */
    uint32_t seqs_max;       /* of a call */
    uint32_t block_tokens;   /* of the pool's blocks */
};

struct kvg_sequence {
    const uint32_t *blocks; /* ids of the pool, as many as first + count tokens need */
    uint32_t first;         /* position of the first token */
};

struct kvg_call {
    const struct kvw_pool *pool;    /* bf16 or fp8 e4m3, of this GPU's memory */
    const struct kvg_sequence *seq; /* [seqs] */
    uint32_t seqs;                  /* 1; or count, each token another sequence's */
    const uint32_t *tokens;         /* [count] */
    uint32_t count;
    float *logits; /* [vocab] after the last token, of several sequences [count][vocab]; or NULL */
    /*
     * Called while the pass is enqueued; other than KVW_OK ends it with that.
     *   written  what is on the stream now writes a layer's K and V: before its attention is there
     *   wait     what follows reads K and V of before this call; NULL, both: nobody cares
     */
    kvw_err (*written)(void *arg, uint32_t layer);
    kvw_err (*wait)(void *arg, uint32_t layer);
    void *arg;
};

struct kvg_loaded; /* opaque: the plugin's */

/* Every `why` has KVW_GPU_TEXT bytes and gets one sentence where an error is returned. */
struct kvg_loaded_calls {
    uint32_t abi;      /* KVG_LOADED_ABI */
    uint32_t reserved; /* 0 */
    /*
     *   KVW_E_NOTFOUND     no cuBLASLt
     *   KVW_E_UNSUPPORTED  it lacks a function; a matrix of a type that no kernel reads; a head
     *                      that is too wide
     *   KVW_E_NOMEM, KVW_E_DEVICE  the GPU has no room, or failed
     */
    kvw_err (*open)(struct kvg_loaded **l, struct kvw_gpu *g, const struct kvg_weights *w,
                    const struct kvg_limits *limits, char *why);
    /* Waits for what is enqueued. Takes NULL. */
    void (*close)(struct kvg_loaded *l);
    /*
     *   KVW_E_INVALID  more than the limits, or a pool of another shape
     *   others         what written or wait said; the driver's, cuBLASLt's
     * The logits are there on return. Without logits the work may still be under way, and the
     * caller's arrays are the caller's all the same.
     */
    kvw_err (*call)(struct kvg_loaded *l, const struct kvg_call *c);
    /* The CUstream on which all of it is, for kvw_node_push_after() and kvw_node_layer_wait(). */
    void *(*stream)(const struct kvg_loaded *l);
};

#ifdef __cplusplus
}
#endif
#endif
