/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credit.h - GRANT, RECALL and RETURN of SPEC.md 3.4, to and from bytes: which landing slots of
 * the receiver a sender may put chunks into.
 *
 * threads  any, nothing is kept      memory  grant.slots points into the message      time  none
 * Return codes and lengths as in hello.h; messages are exact, so bytes left over are PROTOCOL.
 */
#ifndef KVW_WIRE_CREDIT_H
#define KVW_WIRE_CREDIT_H

#include "../err.h"
#include "types.h"

struct kvw_wire_grant {
    uint64_t from;        /* seq of the put that may use the first slot */
    uint32_t count;       /* 1 .. KVW_WIRE_GRANT_MAX slots */
    uint32_t decode_ps;   /* what that codec costs the receiver, picoseconds a raw byte */
    uint8_t codec;        /* 0: says nothing of a codec; then decode_ps is 0 */
    const uint8_t *slots; /* little-endian u16 each; borrowed. Decoded: each is below
                             KVW_WIRE_LANDING_SLOTS_MAX */
};

static inline uint32_t kvw_wire_grant_slot(const struct kvw_wire_grant *g, uint32_t i)
{
    return (uint32_t)g->slots[2 * i] | (uint32_t)g->slots[2 * i + 1] << 8;
}

KVW_NODISCARD kvw_err kvw_wire_grant_decode(struct kvw_wire_grant *out, const uint8_t *msg,
                                            uint32_t bytes);
KVW_NODISCARD kvw_err kvw_wire_recall_decode(const uint8_t *msg, uint32_t bytes);
/* *next: puts with this seq or a higher one won't use what was granted so far. */
KVW_NODISCARD kvw_err kvw_wire_return_decode(uint64_t *next, const uint8_t *msg, uint32_t bytes);

/* slots of *in are not read: to[KVW_WIRE_GRANT_LEN ..] is the caller's to fill, before or after. */
uint32_t kvw_wire_grant_encode(uint8_t *to, const struct kvw_wire_grant *in);
uint32_t kvw_wire_recall_encode(uint8_t *to);
uint32_t kvw_wire_return_encode(uint8_t *to, uint64_t next);

#endif
