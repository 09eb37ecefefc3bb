/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - one GPU: its primary context, and what it can do.
 *
 * threads  a device is opened and closed by one thread, and read by any; who calls the driver with
 * it calls kvg_device_enter() in that thread first memory   the driver's table is borrowed until
 * kvg_device_close() time     opening makes the GPU's context, which takes up to seconds
 */
#ifndef KVG_DEVICE_H
#define KVG_DEVICE_H

#include <stdbool.h>

#include "driver.h"

struct kvg_device {
    const struct kvg_driver *driver;
    kvg_context context;
    kvg_device_id id;
    int ordinal;
    char name[64];
    int arch; /* 90: sm_90 */
    int multiprocessors;
    bool has_dmabuf;
    bool has_rdma;    /* cuMemCreate may ask for gpuDirectRDMACapable */
    bool needs_flush; /* RDMA writes that have completed aren't visible to kernels by themselves, */
    bool can_flush;   /* and the CPU can make them so */
};

#define KVG_ARCH_MIN 80

/*
 * Open GPU `ordinal`. On KVW_OK its context is current in this thread; otherwise nothing is held,
 * *dev is zero, and text has the reason in one sentence.
 *
 *   KVW_E_NOTFOUND     there is no such GPU
 *   KVW_E_UNSUPPORTED  it is older than sm_80, or has no virtual memory management
 *   KVW_E_NOMEM, KVW_E_DEVICE  the driver said so
 */
KVW_NODISCARD kvw_err kvg_device_open(struct kvg_device *dev, const struct kvg_driver *driver,
                                      int ordinal, char *text, size_t text_bytes);
void kvg_device_close(struct kvg_device *dev);

/* Make the device's context the calling thread's. */
KVW_NODISCARD kvw_err kvg_device_enter(const struct kvg_device *dev);
#endif
