/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compress.h - the codecs by name. What a codec is: ../kvwire/codec.h.
 *
 * threads  any; everything here is const
 * memory   static
 * time     none
 */
#ifndef KVC_COMPRESS_H
#define KVC_COMPRESS_H

#include "../kvwire/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The stream is the raw bytes themselves, in canonical order. Always built. */
extern const struct kvw_codec_ops kvc_codec_raw;

/* Lossless, SPEC.md 3: bf16 and fp16; fp8 e4m3 and e5m2. */
extern const struct kvw_codec_ops kvc_codec_l0;
extern const struct kvw_codec_ops kvc_codec_l8;

/* The libraries, on the whole chunk and on the exponents of 16-bit values only: yardsticks, used by
 * name only. Built where liblz4 and libzstd are. */
extern const struct kvw_codec_ops kvc_codec_lz4;
extern const struct kvw_codec_ops kvc_codec_zstd;
extern const struct kvw_codec_ops kvc_codec_lz4_x;
extern const struct kvw_codec_ops kvc_codec_zstd_x;

/* Error-bounded, SPEC.md 5: bf16 and fp16. */
extern const struct kvw_codec_ops kvc_codec_e8;
extern const struct kvw_codec_ops kvc_codec_e4;

/* What was built, best first, raw last, ended by NULL: what kvw_core_config.codecs wants. Filled
 * by meson (codecs_table.c.in). */
extern const struct kvw_codec_ops *const kvc_codecs[];

/* The codec of that name, or NULL if this build has none. */
const struct kvw_codec_ops *kvc_codec_by_name(const char *name);

#ifdef __cplusplus
}
#endif
#endif
