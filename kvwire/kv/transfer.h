/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transfer.h - transfers: made by an offer or a stream, ended once, gone when their event has been
 * taken and every peer has been told.
 *
 * threads  one
 * memory   one allocation a transfer; block tables are copied into it
 * time     the core's now_ns
 */
#ifndef KVW_KV_TRANSFER_H
#define KVW_KV_TRANSFER_H

#include "flow.h"

/* The pool of that id, NULL: none. */
struct kvw_local_pool *kvw_core_pool(const struct kvw_core *c, kvw_pool_id id);

/*
 * A transfer, OPEN, with the caller's blocks in it, in the index of keys.
 *   KVW_E_AGAIN    xfers_max are known
 *   KVW_E_INVALID  the key is open in that role, or tokens or blocks are out of range; why says
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvw_transfer_new(struct kvw_core *c, struct kvw_transfer **out,
                                       const struct kvw_local_pool *pool, const kvw_key *key,
                                       uint32_t tokens, const struct kvw_group_blocks *groups,
                                       uint32_t group_count, bool receiver, char *why,
                                       size_t why_bytes);

/*
 * A transfer that serves a pull of what is staged: all of it is pushed and committed. Nobody finds
 * it by its key, and it has no event.
 *   KVW_E_NOMEM  xfers_max are known, or no memory; why says
 */
KVW_NODISCARD kvw_err kvw_transfer_serve(struct kvw_core *c, struct kvw_transfer **out,
                                         struct kvw_hold *h, char *why, size_t why_bytes);

/*
 * A caller's array of group_blocks, whose structs may be shorter or longer than ours (0: 32 bytes,
 * their first size), into to[KVW_GROUPS_MAX]. False: why says what is wrong.
 */
bool kvw_groups_in(struct kvw_group_blocks *to, const struct kvw_group_blocks *from, uint32_t count,
                   uint32_t bytes, char *why, size_t why_bytes);

/* Undo kvw_transfer_new() before anybody has heard of it. */
void kvw_transfer_undo(struct kvw_core *c, struct kvw_transfer *t);

/* The open transfer of that key in that role, or of that reference; NULL: none. */
struct kvw_transfer *kvw_transfer_of_key(const struct kvw_core *c, const kvw_key *key,
                                         bool receiver);
struct kvw_transfer *kvw_transfer_of_ref(const struct kvw_core *c, kvw_xfer_ref ref);

/*
 * The one place where a transfer ends. Queues its XFER_DONE; the peers of its flows that aren't
 * complete are told with `reply` (ABORT; NONE: nobody need be told). text is copied. After this no
 * byte of its blocks is read or written. OPEN only.
 */
void kvw_transfer_finish(struct kvw_core *c, struct kvw_transfer *t, kvw_err err,
                         enum kvw_flow_reply reply, const char *text);
void kvw_transfer_finishf(struct kvw_core *c, struct kvw_transfer *t, kvw_err err,
                          const char *format, ...) KVW_PRINTF(4, 5); /* with KVW_TELL_ABORT */

/* A flow is over for this side: out of the counts of its peer; the peer is told with `reply`.
 * WAITING and OPEN, or COMPLETE ones that still have a DONE to send. */
void kvw_flow_end(struct kvw_core *c, struct kvw_flow *f, enum kvw_flow_reply reply, kvw_err err,
                  const char *text);

/* A flow's peer has been told, or never will be: the flow goes, and its transfer if nobody waits
 * for anything of it any more. ENDED or COMPLETE, reply NONE. */
void kvw_flow_release(struct kvw_core *c, struct kvw_flow *f);

/* Its event has been taken: it goes once its flows have gone. */
void kvw_transfer_release(struct kvw_core *c, struct kvw_transfer *t);

/* What an ABORT's code becomes here: peers may only name what a transfer can die of. */
kvw_err kvw_transfer_err_from_peer(kvw_err from_peer);

/*
 * Owe the peer a REFUSE. A peer that isn't up need not be told. False: too many are owed already,
 * to all or to this peer.
 */
bool kvw_core_owe_refusal(struct kvw_core *c, struct kvw_peer *p, const kvw_key *key,
                          uint32_t epoch, kvw_err err, const char *text);

/* Keys that ended, a ring for each kind; the oldest is forgotten. */
void kvw_recent_add(struct kvw_core *c, const kvw_key *key, enum kvw_recent_kind kind, kvw_err err,
                    const char *text);
/* NULL: not among them. */
const struct kvw_recent *kvw_recent_find(const struct kvw_core *c, const kvw_key *key,
                                         enum kvw_recent_kind kind);
/* The key begins anew. */
void kvw_recent_forget(struct kvw_core *c, const kvw_key *key, enum kvw_recent_kind kind);

/* A peer has broken a rule: core.c hangs up after the step. The first one counts. */
void kvw_core_breach(struct kvw_core *c, struct kvw_peer *p, const char *text);

#endif
