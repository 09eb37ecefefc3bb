/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.h - what a GPU does for KV: memory, and codecs that run there (job.h). The part that knows a
 * driver is a plugin, libkvwire-cuda.so, so that the same programs run where there is none.
 *
 * threads  open and close from one at a time; the rest as job.h and mem.h say
 * memory   a plugin stays loaded for the life of the process; what a GPU has given is given back
 *          before kvw_gpu_close()
 * time     open loads a library and makes a context: up to seconds
 */
#ifndef KVW_GPU_H
#define KVW_GPU_H

#include "job.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up when a structure of this file, job.h or mem.h changes. */
#define KVW_GPU_ABI 4u

#define KVW_GPU_TEXT  256u /* bytes of every `why` and text */
#define KVW_GPU_IPC   72u  /* bytes that name cudaMalloc's memory in other processes */
#define KVW_GPU_TOKEN 16u  /* bytes that name shared memory on its host */

struct kvw_gpu; /* opaque: the plugin's */

/* What a queue of jobs must be ready for. */
struct kvw_gpu_jobs {
    uint32_t jobs_max;     /* submitted and not yet done */
    uint32_t chunk_bytes;  /* raw bytes of a chunk, at most */
    uint32_t columns;      /* values of a token in a chunk, at most */
    uint32_t table_blocks; /* entries of a block table that a chunk may need */
    uint32_t ctas;         /* of a launch, at most; 0: as many as fill the GPU */
};

/* A plugin exports one symbol of this type, kvw_gpu_plugin. Every `why` has KVW_GPU_TEXT bytes and
 * gets one sentence where an error is returned. */
struct kvw_gpu_plugin {
    uint32_t abi;        /* KVW_GPU_ABI */
    uint32_t reserved;   /* 0 */
    const char *version; /* KVW_VERSION: library and plugins are of one build */
    /*
     *   KVW_E_NOTFOUND     no driver, or no GPU of that number
     *   KVW_E_UNSUPPORTED  a driver or a GPU too old, or no kernels for it
     *   KVW_E_NOMEM, KVW_E_DEVICE  the driver said so
     */
    kvw_err (*open)(struct kvw_gpu **g, int ordinal, char *why);
    void (*close)(struct kvw_gpu *g);
    /* "GPU 0 (NVIDIA H200, sm_90): dma-buf", or a lower rung and why none above; valid until
     * close. The rungs: gpu/mem.h. */
    const char *(*ladder)(struct kvw_gpu *g);
    /* KV memory: VRAM, whose struct stays where *mem points until pool_close. KVW_E_NOMEM. */
    kvw_err (*pool_open)(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem, char *why);
    /* Host memory that the GPU reaches, for streams. KVW_E_NOMEM. */
    kvw_err (*pinned_open)(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem,
                           char *why);
    /* Of any kind. */
    void (*mem_close)(struct kvw_gpu *g, const struct kvw_mem *mem);
    /* KVW_E_INVALID: a field of cfg, which `why` names; KVW_E_NOMEM. */
    kvw_err (*jobs_open)(struct kvw_gpu *g, const struct kvw_gpu_jobs *cfg, struct kvw_jobs **q,
                         char *why);
    /* Whether its queues take jobs of a codec (kvw_codec_id), of some element types at least. */
    bool (*takes)(const struct kvw_gpu *g, uint32_t codec);
    /* What else it does, for who knows the header: a struct kvg_loaded_calls (gpu/loaded.h). NULL:
     * nothing. */
    const void *model;
    /*
     * Another process of this user on this host may map a pool until its mem_close, by this token,
     * and write there whenever it likes. KVW_E_IO, KVW_E_DEVICE, KVW_E_UNSUPPORTED: it can't.
     */
    kvw_err (*share)(struct kvw_gpu *g, const struct kvw_mem *mem, uint8_t token[KVW_GPU_TOKEN],
                     char *why);
    /*
     * Map what has been shared, of `bytes` at least; mem_close ends it. Waits a fraction of a
     * second at most, and that only where the other process doesn't run.
     *   KVW_E_NOTFOUND  nobody on this host shares it
     *   others          it can't be mapped, and why
     */
    kvw_err (*reach)(struct kvw_gpu *g, const uint8_t token[KVW_GPU_TOKEN], uint64_t bytes,
                     const struct kvw_mem **mem, char *why);
    /*
     * KV memory that somebody else has allocated in this process (cudaMalloc, torch): all of it in
     * one allocation of this GPU's. It stays its owner's, until mem_close at least.
     *   KVW_E_INVALID, KVW_E_UNSUPPORTED  it can't be a pool, and why
     */
    kvw_err (*pool_adopt)(struct kvw_gpu *g, void *base, uint64_t bytes, const struct kvw_mem **mem,
                          char *why);
    /* What has been adopted from cudaMalloc's memory, for another process: KVW_GPU_IPC bytes.
     * KVW_E_UNSUPPORTED: it isn't such memory. */
    kvw_err (*pool_ipc)(struct kvw_gpu *g, const struct kvw_mem *mem, void *ipc, char *why);
    /* There: map it. Errors as pool_adopt. */
    kvw_err (*pool_ipc_open)(struct kvw_gpu *g, const void *ipc, uint64_t bytes,
                             const struct kvw_mem **mem, char *why);
};

/*
 * Load the plugin, unless that was done before. It is looked for in $KVWIRE_PLUGINS, or else in
 * kvwire/ beside the library that this is in.
 *   KVW_E_UNSUPPORTED  there is none, it can't be loaded, or it is of another build; why says
 *                      which, and where it was looked for
 */
KVW_API KVW_NODISCARD kvw_err kvw_gpu_load(const struct kvw_gpu_plugin **plugin, char *why);

/*
 * One line, without its end, of what GPU `ordinal` would do here: "gpu: GPU 0 (..): dma-buf", or
 * "gpu: none: " and the sentence why not. Opens the GPU and closes it again. Returns whether it can
 * be used.
 */
KVW_API bool kvw_gpu_line(int ordinal, char *text, size_t text_bytes);

#ifdef __cplusplus
}
#endif
#endif
