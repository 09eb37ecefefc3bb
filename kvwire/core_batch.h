/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_batch.h - regions, batches, notifications: the part of core.h for memory without a shape.
 *
 * A region is memory without a shape that peers may read or write by its raw addresses. A batch is
 * a READ or a WRITE of up to 100,000 pieces between regions of this node and of one peer, made once
 * and posted as often as wanted:
 *
 *     kvw_core_region_add(...)                       on both sides; the peer's event REGIONS
 *     kvw_core_batch_make(WRITE, peer, pieces)
 *     kvw_core_batch_post(batch, note)               event BATCH_DONE here, NOTIFY at the peer
 *     kvw_core_batch_post(batch, note) ...
 *     kvw_core_batch_release(batch)
 *
 * Every piece is checked by the node that owns the memory, too, before a byte of it moves; a chunk
 * carries a digest, and one of a post that has ended is dropped. Nothing is retried: a post ends
 * once, well or with an error, after which any part of a WRITE's (READ's) bytes may be in place.
 *
 * threads, memory, time: as core.h
 */
#ifndef KVW_CORE_BATCH_H
#define KVW_CORE_BATCH_H

#include "core_types.h"
#include "mem.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_core; /* opaque */

/*
 * Let peers read or write memory, or (rights 0) let batches of this side use it.
 *   KVW_E_INVALID      a field; why names it
 *   KVW_E_UNSUPPORTED  memory of a device
 *   KVW_E_AGAIN        KVW_NODE_REGIONS_MAX are known
 *   KVW_E_NOMEM
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_region_add(struct kvw_core *core,
                                                  const struct kvw_region_args *args,
                                                  kvw_region_id *region, char *why,
                                                  size_t why_bytes);
/* Posts that use it, of either side, end (KVW_E_CANCELED). No byte of it is touched after remove
 * returns. KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_region_remove(struct kvw_core *core, kvw_region_id region,
                                                     uint64_t now_ns);

/*
 * Region number at (0, 1 ...) of those that the peer has told, in the order of its adding them.
 *   KVW_E_NOTFOUND  the peer, or at is beyond the last
 *   KVW_E_AGAIN     the peer is up and hasn't told yet; event REGIONS says when
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_peer_region(const struct kvw_core *core, kvw_peer_id peer,
                                                   uint32_t at, struct kvw_region_info *info);

/*
 * Check pieces and keep them. The peer must be up.
 *   KVW_E_INVALID      a field or a piece; why names it
 *   KVW_E_NOTFOUND     peer; or no region, here or there, holds a piece (why says which, and that a
 *                      region the peer added a moment ago may not have been told yet)
 *   KVW_E_MISMATCH     a region of the peer's holds it and doesn't give the right
 *   KVW_E_PEER_LOST    the peer isn't up
 *   KVW_E_UNSUPPORTED  the peer doesn't know batches
 *   KVW_E_AGAIN        KVW_BATCHES_MAX are made; or the peer hasn't told its regions yet
 *   KVW_E_NOMEM
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_batch_make(struct kvw_core *core,
                                                  const struct kvw_batch_args *args,
                                                  kvw_batch_id *batch, char *why, size_t why_bytes);

/*
 * Move all pieces once. args may be NULL: no note, no deadline. Returns at once; nothing moves
 * before the next poll. Posts to one peer begin in order and may end in any.
 *   KVW_E_AGAIN      its latest post hasn't ended, or its BATCH_DONE hasn't been taken
 *                    (release, or a quiet post, spares that); or the peer, back after a loss,
 *                    hasn't told its regions yet
 *   KVW_E_INVALID    a field; why names it
 *   KVW_E_NOTFOUND   no such batch; or a region of it, here or there, is gone
 *   KVW_E_PEER_LOST  the peer isn't up
 *   KVW_E_NOMEM
 * How a post ends, beside what these say: KVW_E_CANCELED (a region was removed, here or there),
 * KVW_E_PEER_LOST, KVW_E_DEADLINE, KVW_E_CHECKSUM, KVW_E_NOTFOUND or KVW_E_MISMATCH (the peer knows
 * of no such region, or right, any more).
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_batch_post(struct kvw_core *core, kvw_batch_id batch,
                                                  const struct kvw_post_args *args, uint64_t now_ns,
                                                  char *why, size_t why_bytes);

/* Where the batch's latest post stands, into *status. KVW_E_NOTFOUND: no such batch. */
KVW_API KVW_NODISCARD kvw_err kvw_core_batch_status(const struct kvw_core *core, kvw_batch_id batch,
                                                    struct kvw_batch_status *status);

/*
 * Forget a batch. A post that is under way ends here and at the peer, without an event here; when
 * this returns no byte of its local pieces is touched any more. KVW_E_NOTFOUND.
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_batch_release(struct kvw_core *core, kvw_batch_id batch,
                                                     uint64_t now_ns);

/*
 * Send a peer 1 .. KVW_NOTE_MAX bytes. They arrive once, in the order of the calls, unless the
 * connection is lost; they don't wait for posts that are under way (post's own note does).
 *   KVW_E_INVALID, KVW_E_NOTFOUND (peer), KVW_E_PEER_LOST (not up), KVW_E_UNSUPPORTED (the peer
 *   doesn't know them), KVW_E_AGAIN (KVW_NOTES_QUEUED_MAX wait), KVW_E_NOMEM
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_notify(struct kvw_core *core, kvw_peer_id peer,
                                              const void *note, uint32_t note_bytes);

#ifdef __cplusplus
}
#endif
#endif
