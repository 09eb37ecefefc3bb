/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.h - who does a pass (pass.h) on a GPU: its steps by the driver, its products by cuBLASLt, all
 * on one stream, in order with other streams by events alone.
 *
 * threads  one thread's at a time; the device's context is current there
 * memory   device, stream, blas and events are the caller's, and outlive it; the kernels are
 *          unloaded by kvg_run_close(), when nothing of them runs any more
 * time     enqueues only
 */
#ifndef KVG_RUN_H
#define KVG_RUN_H

#include "device.h"
#include "pass.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvg_run {
    struct kvg_runner runner; /* what a pass is given */
    kvg_stream stream;
    struct kvg_blas *blas;
    const kvg_event *ready;   /* [layers], recorded when K and V are in their pages; or NULL */
    const kvg_event *arrived; /* [layers], waited for before attention reads pages of before this
                               * pass; or NULL */
    /* private */
    const struct kvg_device *dev;
    kvg_library library;
    kvg_kernel kernel[KVG_STEPS];
};

/*
 * Load the kernels of a pass out of the image. On KVW_OK the caller sets stream, blas and events;
 * otherwise *r is zero, nothing is held, and text has the reason in one sentence.
 *
 *   KVW_E_UNSUPPORTED  the image has none for this GPU, or isn't of this build
 *   KVW_E_NOMEM, KVW_E_DEVICE  the driver said so
 */
KVW_NODISCARD kvw_err kvg_run_open(struct kvg_run *r, const struct kvg_device *dev,
                                   const void *image, char *text, size_t text_bytes);
void kvg_run_close(struct kvg_run *r);

#ifdef __cplusplus
}
#endif
#endif
