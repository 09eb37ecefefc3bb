/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - a run whose passes a GPU computes: the plugin's table (../../gpu/loaded.h) in the
 * place of forward.c's chunk, and K and V in its memory.
 *
 * threads  one: the one that opens the device
 * memory   the model's weights are copied; a device outlives its runs and its caches
 * time     opening a run copies the weights to the GPU: seconds
 */
#ifndef KVE_DEVICE_H
#define KVE_DEVICE_H

#include "../../kvwire/gpu.h"
#include "model.h"

struct kve_device {
    const struct kvw_gpu_plugin *plugin;
    struct kvw_gpu *gpu;
    const struct kvw_mem *kv; /* of the cache; NULL: none is open */
    const char *text;         /* "GPU 0 (NVIDIA H200, sm_90): dma-buf" */
};

/* Every why here gets one sentence where an error is returned; it names what is absent. */

/*
 * GPU `ordinal`.
 *   KVW_E_UNSUPPORTED, KVW_E_NOTFOUND  no plugin, no driver, no GPU, or one that is too old
 *   KVW_E_NOMEM, KVW_E_DEVICE
 * On an error nothing is held.
 */
KVW_NODISCARD kvw_err kve_device_open(struct kve_device *d, int ordinal, char why[KVE_WHY_BYTES]);
void kve_device_close(struct kve_device *d); /* one that isn't open, too */

/* kve_run_open() on the device. block_tokens: of the cache. What kvw_gpu's model says in addition:
 * no cuBLAS, no room, weights of a type that no kernel reads. */
KVW_NODISCARD kvw_err kve_device_run(const struct kve_device *d, struct kve_run **r,
                                     const struct kve_model *m, uint32_t prefill_tokens,
                                     uint32_t block_tokens, char why[KVE_WHY_BYTES]);
/* kve_kvcache_open() in the device's memory, of a pool's layers, heads, width and blocks; one for a
 * device. */
KVW_NODISCARD kvw_err kve_device_kvcache(struct kve_device *d, struct kve_kvcache *kv,
                                         const struct kvw_pool *shape, char why[KVE_WHY_BYTES]);

#endif
