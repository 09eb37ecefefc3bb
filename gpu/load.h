/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - loaded.h's functions, for the plugin: the same, on a device and with the kernels' image.
 *
 * threads, memory, time  as loaded.h says
 */
#ifndef KVG_LOAD_H
#define KVG_LOAD_H

#include "device.h"
#include "loaded.h"

struct kvg_load {
    const struct kvg_device *dev; /* borrowed until close */
    const void *image;
    const struct kvg_weights *weights;
    const struct kvg_limits *limits;
};

KVW_NODISCARD kvw_err kvg_loaded_open(struct kvg_loaded **out, const struct kvg_load *how,
                                      char *why);
void kvg_loaded_close(struct kvg_loaded *l);
KVW_NODISCARD kvw_err kvg_loaded_call(struct kvg_loaded *l, const struct kvg_call *c);
void *kvg_loaded_stream(const struct kvg_loaded *l);

#endif
