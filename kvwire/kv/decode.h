/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.h - landed chunks that a queue of jobs decodes, while the poll goes on: encoders' threads
 * for host memory, a GPU for its own. They are begun as they land and finished in that order, each
 * while it still has its landing slot (arrive.c).
 *
 * threads  one (jobs run elsewhere)      memory  the core's arena      time  none
 */
#ifndef KVW_KV_DECODE_H
#define KVW_KV_DECODE_H

#include "../peer/core_state.h"

/* Who codes what lies in that pool of the core's; NULL: poll does. */
struct kvw_jobs *kvw_decode_queue(const struct kvw_core *c, uint32_t pool);

static inline struct kvw_decode *kvw_decode_of(const struct kvw_core *c,
                                               const struct kvw_landing *slot)
{
    return &c->decodes[slot - c->slots.slots];
}

/*
 * Where the stream of the chunk in a slot is, for a queue of the GPU's, or for CPUs: these get what
 * lies in the slot's twin copied into the slot, and wait for that. NULL: that failed.
 */
const unsigned char *kvw_decode_stream(const struct kvw_core *c, const struct kvw_landing *slot,
                                       const struct kvw_wire_chunk *header, bool on_device);

/*
 * Give the chunk in a slot to the queue. *d has its header and where it belongs; view is that of
 * its blocks. Errors as kvw_jobs_ops.submit()'s; of KVW_E_AGAIN alone nothing is kept.
 */
KVW_NODISCARD kvw_err kvw_decode_begin(struct kvw_core *c, struct kvw_jobs *q,
                                       const struct kvw_landing *slot, struct kvw_decode *d,
                                       const struct kvw_view *view);

/* Whether such a chunk would go where another goes that landed before it and isn't in place. */
bool kvw_decode_overlaps(const struct kvw_core *c, const struct kvw_landing *slot,
                         const struct kvw_decode *d);

/* A flow ends: when this returns, no job writes its blocks any more and none names it. */
void kvw_decode_take_back(struct kvw_core *c, const struct kvw_flow *f);

#endif
