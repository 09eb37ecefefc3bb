/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e.h - E8 and E4 (bf16, fp16) by kernels (compress/SPEC.md 5); the streams are those of the plain
 * C code, and so is every rounding. DTYPE in a kernel's name: bf16, f16.
 *
 *   encode  kvg_e_plan_DTYPE (chunk by chunk), then kvg_e_encode_DTYPE (block by block)
 *   decode  kvg_e_open (chunk by chunk), then kvg_e_decode_DTYPE (block by block)
 *
 * The digest is of the values as they come back, in encode too.
 *
 * threads  plain data
 * memory   chunk.h
 * time     none
 */
#ifndef KVG_E_H
#define KVG_E_H

#include "../kvwire/codec.h"
#include "chunk.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVG_E_HEAD 32u /* room that encode wants beyond the raw bytes */

#define KVG_E_NOISE_E8 0.0890f
#define KVG_E_NOISE_E4 0.2750f

/* Dynamic shared memory of a block of each kernel. */
#define KVG_E_PLAN_SHARED   1536u
#define KVG_E_OPEN_SHARED   1024u
#define KVG_E_ENCODE_SHARED 40320u
#define KVG_E_DECODE_SHARED 40128u

/*
 * kvg_chunk_shape() for these kernels; codec: KVW_CODEC_E8 or KVW_CODEC_E4. args: as the plain C
 * encoder takes them, book apart; NULL for decode.
 *   KVW_E_INVALID  as there, or another dtype or codec, or values at addresses that aren't
 *                  multiples of their size
 */
KVW_NODISCARD kvw_err kvg_e_shape(struct kvg_chunk *c, const struct kvw_view *v, kvw_codec_id codec,
                                  const struct kvw_codec_args *args);

#ifdef __cplusplus
}
#endif
#endif
