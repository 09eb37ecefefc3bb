/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.h - the receiver's landing slots: one table shared by all peers. A slot is lent to one peer
 * for one put at a time (SPEC.md 4.2).
 *
 * threads  one, but for kvw_slots_allow()   memory  the core's arena   time  the core's now_ns
 */
#ifndef KVW_PEER_SLOTS_H
#define KVW_PEER_SLOTS_H

#include "core_state.h"

void kvw_slots_init(struct kvw_slots *s);

/* Lend up to count free slots to the peer as the puts that follow its limit; numbers go to `to`,
 * little-endian u16 each. Returns how many. */
uint32_t kvw_slots_lend(struct kvw_slots *s, struct kvw_peer *p, uint32_t count, uint8_t *to,
                        uint64_t now_ns);

/* Whether a put of that connection at `offset`, `bytes` long, with this imm is one that was lent to
 * it. From any thread. */
bool kvw_slots_allow(const struct kvw_slots *s, uint32_t path, kvw_conn_id conn, uint64_t offset,
                     uint32_t bytes, uint32_t imm);

/* Such a put has landed: it waits to be taken. KVW_E_PROTOCOL: it wasn't allowed. */
KVW_NODISCARD kvw_err kvw_slots_land(struct kvw_slots *s, struct kvw_peer *p, uint64_t offset,
                                     uint32_t bytes, uint32_t imm, uint64_t now_ns);

/* The slot of a transfer that landed first, NULL: none waits. */
struct kvw_landing *kvw_slots_first(const struct kvw_slots *s);
/* The one that landed after it, NULL: it is the last. */
struct kvw_landing *kvw_slots_after(const struct kvw_slots *s, const struct kvw_landing *l);
/* The first that wasn't looked at ahead of its turn, NULL: all were; and now it was, too. */
struct kvw_landing *kvw_slots_unseen(const struct kvw_slots *s);
void kvw_slots_see(struct kvw_slots *s);
/* It was taken or dropped: free. */
void kvw_slots_pop(struct kvw_slots *s);
/* The same of batches. */
struct kvw_landing *kvw_slots_batch_first(const struct kvw_slots *s);
void kvw_slots_batch_pop(struct kvw_slots *s);
/* The first one of batches isn't taken yet but stands in `line` from now on; all of that line come
 * after those that wait. */
void kvw_slots_park(struct kvw_slots *s, struct kvw_slot_line *line);
void kvw_slots_unpark(struct kvw_slots *s, struct kvw_slot_line *line);

/* A batch's chunks will come from the peer; or no more of that one. */
void kvw_slots_need(struct kvw_core *c, struct kvw_peer *p);
void kvw_slots_need_no_more(struct kvw_core *c, struct kvw_peer *p);
/* The peer needs slots: those that it has aren't called back; or none, after a while they are. */
void kvw_slots_needed(struct kvw_core *c, struct kvw_peer *p);
void kvw_slots_unneeded(struct kvw_core *c, struct kvw_peer *p);
/* Slots may be free again: peers that need some and have none are looked at. */
void kvw_slots_wake(struct kvw_core *c);

/* The peer won't use what it was lent from seq `next` on (RETURN), or is gone (next 0; what landed
 * is dropped too). False: next is beyond what was lent, or a put that landed says otherwise. */
KVW_NODISCARD bool kvw_slots_take_back(struct kvw_slots *s, struct kvw_peer *p, uint64_t next);

/* How many slots this peer should be lent in all, with `receiving` peers in need. */
uint32_t kvw_slots_share(const struct kvw_slots *s, const struct kvw_peer *p, uint32_t receiving);

static inline unsigned char *kvw_slots_mem(const struct kvw_slots *s, const struct kvw_landing *l)
{
    return s->mem + (size_t)(l - s->slots) * s->slot_bytes;
}

#endif
