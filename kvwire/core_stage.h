/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_stage.h - serial mode: the part of core.h for a decode that is told after prefill has ended.
 *
 * threads, memory, time: as core.h
 */
#ifndef KVW_CORE_STAGE_H
#define KVW_CORE_STAGE_H

#include <stddef.h>

#include "core_types.h"
#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_core; /* opaque */

/*
 * Sender, where decode is told only after prefill has ended (serial mode): as kvw_core_stream(),
 * but what is pushed is copied into this side's own staging memory, whether or not a receiver is
 * there. LAYER_SENT says that a layer is staged; XFER_DONE(KVW_OK), after commit, that all is: the
 * blocks are the caller's own again. *args->ref goes to the receiver, by whatever way the two have
 * in common; its offer names it (kvw_offer_args.staged) and gets the state and commit's note as if
 * by a stream, any span of it.
 *
 * What is staged stays until `pulls` offers have got it, `until`, kvw_core_stage_drop() or the
 * removal of its pool. A pull that fails leaves it there for another. An offer that comes early
 * waits, until its take_by, for the end of staging, or of another's pull.
 *
 * An offer of a reference that can't be had ends, at the latest a round trip after its peer is up:
 *   KVW_E_NOTFOUND  it was pulled already; never was one here; is of an earlier life of that node
 *   KVW_E_DEADLINE  its `until` has passed      KVW_E_CANCELED  it was dropped, or its pool went
 *
 * Returns KVW_OK, and why not otherwise in `why`:
 *   KVW_E_AGAIN        no room now: STAGE_GONE says when some is free. Nothing staged is ever
 *                      overwritten. Also: xfers_max, KVW_STAGES_MAX
 *   KVW_E_NOMEM        more than all of stage_bytes; or no memory
 *   KVW_E_UNSUPPORTED  stage_bytes is 0, or the pool lies in a GPU's memory
 *   KVW_E_INVALID, KVW_E_NOTFOUND (pool)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_stage(struct kvw_core *core,
                                             const struct kvw_stage_args *args, uint64_t now_ns,
                                             kvw_xfer_ref *xfer, char *why, size_t why_bytes);
/* Sender: free what was staged; who pulls it is told. XFER_DONE if it wasn't complete, else
 * STAGE_GONE, both KVW_E_CANCELED, follow. KVW_E_FORMAT (no reference), KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_stage_drop(struct kvw_core *core,
                                                  const struct kvw_stage_ref *ref, uint64_t now_ns);

#ifdef __cplusplus
}
#endif
#endif
