/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - which kernels code a codec's chunks of a dtype, and their shared memory.
 *
 * threads  const data
 * memory   a library's kernels live as long as it is loaded
 * time     loading: milliseconds
 */
#ifndef KVG_KERNELS_H
#define KVG_KERNELS_H

#include "../kvwire/codec.h"
#include "../kvwire/job.h"
#include "device.h"

/* By name; the first of the two has a CTA a chunk, and codec raw has none of it. */
struct kvg_kernel_pair {
    const char *by_chunk, *by_block;
    uint32_t by_chunk_shared, by_block_shared;
};

struct kvg_coder {
    uint64_t codecs;                /* bit (1 << kvw_codec_id) */
    uint32_t dtypes;                /* bit (1 << kvw_dtype) */
    struct kvg_kernel_pair pair[2]; /* by enum kvw_job_kind */
};

#define KVG_CODERS 9u
extern const struct kvg_coder kvg_coders[KVG_CODERS];

/* Its index, or KVG_CODERS where no kernel takes that. */
uint32_t kvg_coder_find(uint8_t codec, kvw_dtype dtype);

/* The kernels of one library. */
struct kvg_kernels {
    kvg_library library;
    kvg_kernel by_chunk[KVG_CODERS][2], by_block[KVG_CODERS][2]; /* NULL: none */
};

/*
 * Load an image and find all kernels in it. The device's context is current.
 *   KVW_E_UNSUPPORTED  it has no code for this GPU, or lacks a kernel
 *   KVW_E_NOMEM, KVW_E_DEVICE  as the driver says
 */
KVW_NODISCARD kvw_err kvg_kernels_load(struct kvg_kernels *k, const struct kvg_device *dev,
                                       const void *image, char *text, size_t text_bytes);
void kvg_kernels_unload(struct kvg_kernels *k, const struct kvg_device *dev);
#endif
