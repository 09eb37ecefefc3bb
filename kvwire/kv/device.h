/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - a core's GPU: a queue that codes chunks of pools in its memory, and host memory that
 * it reaches, in which all landing and staging slots lie. What crosses the bus is compressed. Twins
 * of the landing slots lie in its own memory: a peer of this host writes its streams there.
 *
 * threads  one
 * memory   the GPU's, from kvw_device_open() to kvw_device_close(); the plugin and the GPU are the
 *          caller's
 * time     opening takes milliseconds
 */
#ifndef KVW_KV_DEVICE_H
#define KVW_KV_DEVICE_H

#include "../peer/core_state.h"

/*
 * Take what a core with c->device.plugin and c->device.gpu needs, and let its slots lie there.
 * c->device.plugin NULL: nothing is done. Errors and why (KVW_GPU_TEXT bytes) as gpu.h has them;
 * nothing is kept then.
 */
KVW_NODISCARD kvw_err kvw_device_open(struct kvw_core *c, char *why);
/* No job and no transport has its memory any more. */
void kvw_device_close(struct kvw_core *c);

/*
 * The peer's connection is up: map the twins of its landing slots, if it shares them and is on this
 * host. p->twins_text says what came of it. No failure here is one of the peer.
 */
void kvw_device_reach(struct kvw_core *c, struct kvw_peer *p);
/* Its connection is over, and no job writes there any more. */
void kvw_device_leave(struct kvw_core *c, struct kvw_peer *p);

/* The twin of a landing slot of this side's, or of one of the peer's. */
static inline unsigned char *kvw_device_twin(const struct kvw_mem *twins, uint32_t slot_bytes,
                                             uint32_t slot)
{
    return (unsigned char *)twins->base + (size_t)slot * slot_bytes;
}

/* Whether a pool that lies in device memory can be coded there; else why names the part. */
bool kvw_device_takes(const struct kvw_core *c, const struct kvw_place *place, char *why,
                      size_t why_bytes);

#endif
