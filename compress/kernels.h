/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - the inner loops of the codecs, compiled for several CPUs and chosen once: plain C
 * (the specification), AVX2 + BMI2 (and F16C, which every such CPU has), AVX-512
 * F/BW/VL/DQ/VBMI/VBMI2/VPOPCNTDQ. All write the same bytes.
 *
 * The environment variable KVC_CPU = scalar | avx2 | avx512 forces a level; one that this CPU
 * doesn't have falls back to the best that it has.
 *
 * threads  pure functions on the caller's memory; choosing is safe from any thread
 * memory   none
 * time     none
 */
#ifndef KVC_KERNELS_H
#define KVC_KERNELS_H

#include <stdbool.h>

#include "e.h"
#include "lanes.h"
#include "planes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A whole block of bf16, values to planes and back in one pass: lanes.h and planes.h at once, with
 * the same meaning of the arguments that are called alike. NULL for what planes and lanes do as
 * fast one after the other. */
struct kvc_bf16 {
    /* The low bytes, padded, and the planes to to, which has room for them (kvc_aligned(n) and
     * kvc_planes_bound) and KVC_SLACK_BYTES more. Returns their bytes; *escapes is how many
     * exponents went to escaped. */
    uint32_t (*encode)(const struct kvc_block *b, const uint8_t *const *rows, uint8_t *to,
                       uint8_t *escaped, uint32_t *escapes, uint32_t *digest);
    /* from is readable for KVC_SLACK_BYTES past bytes. false: the planes or the escapes aren't what
     * the bytes have room for, or a padding bit is set; nothing was written then. */
    bool (*decode)(const struct kvc_block *b, const uint8_t *from, uint32_t bytes,
                   uint8_t *const *rows, uint32_t *digest);
};

struct kvc_kernels {
    const char *name;
    const struct kvc_planes *planes;
    const struct kvc_lanes *lanes;
    const struct kvc_e_kernels *e;
    /* NULL: no fused bf16 kernels; planes and lanes are used one after the other. */
    const struct kvc_bf16 *bf16;
};

extern const struct kvc_kernels kvc_kernels_scalar;
extern const struct kvc_kernels kvc_kernels_avx2;
extern const struct kvc_kernels kvc_kernels_avx512;

/* The best for this CPU, KVC_CPU heeded; the same at every call. */
const struct kvc_kernels *kvc_kernels(void);
/* By name, for tests; NULL: not built in, or this CPU can't. */
const struct kvc_kernels *kvc_kernels_named(const char *name);
/* Let kvc_kernels() return k from now on, for tests and benches, which then run one thread. */
void kvc_kernels_force(const struct kvc_kernels *k);

#ifdef __cplusplus
}
#endif
#endif
