/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cm.h - queue pairs joined by rdma_cm instead of by what two ends tell each other (SPEC.md 6). The
 * side channel and its handshake stay; only how a queue pair learns of its other half changes.
 * cm.c does it with librdmacm; a build without that library has cm_none.c, whose open() says so.
 *
 * threads  the transport's one
 * memory   an identifier per rail and per queue pair that joins, and one event channel
 * time     end->now_ns; no call waits for the peer
 */
#ifndef KVN_VERBS_CM_H
#define KVN_VERBS_CM_H

#include "../../kvwire/err.h"
#include "../net.h"

struct end;
struct conn;
struct path;

/* The event channel, and an address of rdma_cm on every rail: r->cm, with a port where listener is
 * set. KVW_E_UNSUPPORTED, KVW_E_ADDRESS, KVW_E_DEVICE with a sentence; kvn_verbs_cm_close() in any
 * case. */
kvw_err kvn_verbs_cm_open(struct end *e, bool listener, char why[KVN_WHY_BYTES]);
void kvn_verbs_cm_close(struct end *e);
/* The channel's descriptor, for the poll set. */
int kvn_verbs_cm_fd(const struct end *e);
/* A connector's queue pairs begin to join; each is joined, or reported lost, within VERBS_CM_NS. */
void kvn_verbs_cm_dial(struct end *e, struct conn *c);
/* Take what the event channel has. */
void kvn_verbs_cm_events(struct end *e);
/* Queue pairs that have waited for too long are dead. */
void kvn_verbs_cm_tick(struct end *e, struct conn *c);
uint64_t kvn_verbs_cm_deadline(const struct conn *c);
/* Its identifier, if it has one, goes: when the queue pair is joined and probed at both ends, or is
 * gone. */
void kvn_verbs_cm_drop(struct path *p);

#endif
