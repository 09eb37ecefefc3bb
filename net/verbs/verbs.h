/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs.h - what tests and tools want to know of a verbs transport beyond transport.h. Opened by
 * kvn_open("verbs"); net.h has the addresses, README.md the design.
 *
 * threads  the transport's own
 * memory   texts belong to the transport and live until it is closed
 * time     none
 */
#ifndef KVN_VERBS_H
#define KVN_VERBS_H

#include "../../kvwire/transport.h"

/* Which devices, ports and GIDs were chosen and by which rule, and what the last registration took
 * of the ladder dma-buf, peer memory, host copy; and what keys live with: a sentence each. */
const char *kvn_verbs_about(const struct kvw_transport *t);

/* The side channel's TCP port; 0 for a transport that doesn't listen. */
uint16_t kvn_verbs_port(const struct kvw_transport *t);

/* A peer's region key with the rkeys that conn was told for it now, in *with; for tests of what a
 * peer that keeps them can do. False: none. */
bool kvn_verbs_key_told(const struct kvw_transport *t, kvw_conn_id conn,
                        const struct kvw_region_key *key, struct kvw_region_key *with);

struct kvn_verbs_counters {
    uint64_t writes;        /* RDMA WRITE WITH IMMEDIATE posted */
    uint64_t sends;         /* SENDs posted: messages, credits, places */
    uint64_t places;        /* of those, because an offset was new to its queue pair */
    uint64_t doorbells;     /* calls of ibv_post_send */
    uint64_t signalled;     /* work requests that asked for a completion */
    uint64_t copied_bytes;  /* put from memory nobody had announced */
    uint64_t paths_lost;    /* queue pairs that failed */
    uint64_t resent;        /* puts and message pieces sent again on another */
    uint64_t registrations; /* memory regions made */
    uint64_t binds;         /* of memory windows, posted */
    uint64_t parked;        /* puts that waited for a key */
    uint64_t keys_taken;    /* windows that went before the peer had let go of their key */
};
void kvn_verbs_counters(const struct kvw_transport *t, struct kvn_verbs_counters *c);

#endif
