/* SPDX-License-Identifier: Apache-2.0 */
/*
 * l0.h - L0 (bf16, fp16) and L8 (fp8 e4m3, e5m2) by kernels (compress/SPEC.md 3); the streams are
 * those of the plain C code. DTYPE in a kernel's name: bf16, f16 (l0), e4m3, e5m2 (l8).
 *
 *   encode  kvg_l0_plan_DTYPE (chunk by chunk), then kvg_l0_encode_DTYPE (block by block)
 *   decode  kvg_l0_open (chunk by chunk), then kvg_l0_decode_DTYPE (block by block)
 *
 * threads  plain data
 * memory   chunk.h
 * time     none
 */
#ifndef KVG_L0_H
#define KVG_L0_H

#include "chunk.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVG_L0_HEAD 16u
#define KVG_L0_PAST 48u /* room that encode wants beyond the raw bytes */

/* Dynamic shared memory of a block of each kernel. */
#define KVG_L0_PLAN_SHARED   16u
#define KVG_L0_OPEN_SHARED   16u
#define KVG_L0_ENCODE_SHARED 37056u
#define KVG_L0_DECODE_SHARED 33104u

/*
 * kvg_chunk_shape() for these kernels.
 *   KVW_E_INVALID  as there, or another dtype, or values at addresses that aren't multiples of
 *                  their size
 */
KVW_NODISCARD kvw_err kvg_l0_shape(struct kvg_chunk *c, const struct kvw_view *v);

/* Whether a chunk of so many columns may name these 1 + columns bytes as its book (SPEC.md 3.2):
 * the kernels don't ask before they encode with it. */
bool kvg_l0_book_is_sound(const uint8_t *book, uint32_t columns);

#ifdef __cplusplus
}
#endif
#endif
