/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stage.h - serial mode, the sender's side: what is pushed is copied into a hold (hold.h), and an
 * offer that names the hold is served by a transfer of its own, whose blocks are the hold's
 * (SPEC.md 4.6).
 *
 * threads  one      memory  hold.h's; a pull takes a transfer      time  the core's now_ns
 */
#ifndef KVW_KV_STAGE_H
#define KVW_KV_STAGE_H

#include "hold.h"
#include "supply.h"

/* An OFFER that names a stage. */
void kvw_stage_offer(struct kvw_core *c, struct kvw_peer *p, const struct kvw_wire_offer *m);
/* Copy what has been pushed, a few chunks of it; serve or refuse pulls that wait. True: more could
 * be done at once. */
bool kvw_stage_poll(struct kvw_core *c);
/* Its time is over. */
void kvw_stage_timer(struct kvw_core *c, struct kvw_hold *h);
/* It ends now, and what fills or serves it. */
void kvw_stage_end(struct kvw_core *c, struct kvw_hold *h, kvw_err err, const char *text);

#endif
