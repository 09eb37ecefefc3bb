/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - connections, and which of them is a peer's (SPEC.md 3.1).
 *
 * The side that was dialled says HELLO first. The dialler reads it and then knows whom it has
 * reached: a node that it is connected to already (it hangs up, nothing is lost), or a new one (it
 * says HELLO). So a HELLO that comes to the dialled side means that the dialler has no other
 * connection: the new one takes the place of any old one, of which this side hasn't heard that it
 * is dead. If both dial each other at the same time, the connection that was dialled by the node
 * with the lower instance number stays.
 *
 * threads  one
 * memory   links are the core's arena's; a peer that comes by itself is allocated at its HELLO
 * time     the core's now_ns
 *
 * Nothing here ends a transfer or hangs up on a peer that is up: a verdict says what has happened,
 * and core.c does it.
 */
#ifndef KVW_PEER_LINK_H
#define KVW_PEER_LINK_H

#include "peer.h"

enum kvw_verdict_kind {
    KVW_VERDICT_NONE = 0,
    KVW_VERDICT_UP,     /* link is now peer's; an old one of it (peer->link) must go first */
    KVW_VERDICT_SAME,   /* peer was up already; the ids of `also` are its ids now */
    KVW_VERDICT_LOST,   /* the link that was up is gone; err, text */
    KVW_VERDICT_FAILED, /* a peer that this side dials can't be reached; err, text */
};

struct kvw_verdict {
    enum kvw_verdict_kind kind;
    struct kvw_peer *peer;
    struct kvw_link *link;
    uint32_t also; /* SAME: the id that the caller was given */
    bool rejected; /* LOST: by a REJECT, so this side hangs up */
    bool quiet;    /* UP: the old link's end is no news (both sides dialled) */
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
};

struct kvw_link *kvw_link_find(const struct kvw_core *c, uint32_t way, kvw_conn_id conn);

/* Connect to a peer that has neither a link nor one on its way. */
void kvw_link_dial(struct kvw_core *c, struct kvw_peer *p, struct kvw_verdict *v);
/* The next try is due: at once, then after 10, 20 ... 250 ms; after_ns at least. */
void kvw_link_dial_again(struct kvw_core *c, struct kvw_peer *p, uint64_t after_ns);

void kvw_link_conn_up(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev);
void kvw_link_conn_down(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev,
                        struct kvw_verdict *v);
/* A message on a link that isn't READY, or a HELLO or REJECT on one that is. */
void kvw_link_message(struct kvw_core *c, struct kvw_link *l, const uint8_t *msg, uint32_t bytes,
                      struct kvw_verdict *v);
void kvw_link_timer(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v);
/* Send the HELLO or REJECT that is due. */
void kvw_link_flush(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v);

/* Hang up and give the link back; whose it was has been dealt with. */
void kvw_link_drop(struct kvw_core *c, struct kvw_link *l);
/* The transport has ended it: give it back. */
void kvw_link_gone(struct kvw_core *c, struct kvw_link *l);

#endif
