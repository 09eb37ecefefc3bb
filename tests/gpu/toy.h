/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toy.h - a small model of engine/ whose weights are rounded to bf16, and the same weights as
 * gpu/pass.h wants them: what the two make of a text differs by the rounding of activations alone.
 * With K and V in fp8 the CPU's are floats that are rounded as the GPU's are, once each layer's are
 * written.
 */
#ifndef T_TOY_H
#define T_TOY_H

#include "gpu/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TOY_TOKENS 96u /* of a sequence, at most */
#define TOY_BLOCK  8u
#define TOY_BLOCKS (TOY_TOKENS / TOY_BLOCK)

struct toy {
    struct kve_gguf *gguf;
    struct kve_model *cpu;
    struct kve_run *run;
    struct kve_kvcache *cpu_kv, *gpu_kv; /* the same shape; bf16, or floats and e4m3 */
    struct kvg_layer *layers;
    struct kvg_model gpu;
    const struct kvw_pool *cpu_pool, *gpu_pool;
    uint32_t blocks[TOY_BLOCKS]; /* of both */
    uint32_t cpu_tokens;         /* that cpu_kv has */
    void *kept[64];              /* what toy_close() frees */
    uint32_t kept_count;
};

/* Exits with a sentence where that fails. */
void toy_open(struct toy *t, const char *path);
void toy_open_fp8(struct toy *t, const char *path);
/* What V, or else K, of a layer is stored in parts of. */
float toy_scale(const struct toy *t, uint32_t layer, bool v);
void toy_close(struct toy *t);
/* By the CPU's engine: tokens at positions cpu_tokens .. ; logits after the last one. */
void toy_run(struct toy *t, const uint32_t *tokens, uint32_t count, float *logits);
/* count values of a type of GGUF (enum kve_type), dequantised to bf16 by the CPU. */
void toy_dequantise(uint32_t type, const void *blocks, uint16_t *values, uint32_t count);

#ifdef __cplusplus
}
#endif
#endif
