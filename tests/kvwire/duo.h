/* SPDX-License-Identifier: Apache-2.0 */
/* duo.h - a sender and a receiver, each on a fake transport; the test is the network between. */
#ifndef T_DUO_H
#define T_DUO_H

#include "../../kvwire/kvwire.h"
#include "../../kvwire/msg.h"
#include "fake.h"
#include "kv.h"

#define DUO_LAYERS 3u
#define DUO_TOKENS 40u /* of the transfers that duo_* open */
#define DUO_ID     7u
#define DUO_WHAT   99u

struct duo {
    struct fake rf, sf;
    struct kvw_session *r, *s;
    struct kvw_pool r_pool, s_pool;
    struct kvw_session_config r_cfg, s_cfg;
    kvw_conn_id r_conn, s_conn;
    uint64_t now;
    /* what the network does to the next put: flip this bit (counted over the whole put) */
    bool flip;
    uint32_t flip_bit;
};

/* Pools and configs ready to be changed; sessions not yet open. */
void duo_init(struct duo *d);
void duo_open(struct duo *d);
void duo_close(struct duo *d);

/* Connect them and let the HELLOs through; both report PEER_UP, which is taken. */
void duo_up(struct duo *d);
void duo_poll(struct duo *d);
/* Messages both ways, then puts, until nothing moves. */
void duo_run(struct duo *d);
void duo_messages(struct duo *d);
/* Put i of those in flight reaches the receiver and is acknowledged. */
void duo_land(struct duo *d, uint32_t i);
void duo_sleep(struct duo *d, uint64_t ns); /* in steps of 1 ms, polling and delivering messages */

/* Blocks 0, 1, 2 ... on both sides, DUO_TOKENS tokens. */
void duo_offer(struct duo *d, uint64_t id, uint64_t lease_ns);
void duo_stream(struct duo *d, uint64_t id);
void duo_push_all(struct duo *d, uint64_t id);
void duo_commit(struct duo *d, uint64_t id);

/* The next event of that kind, others are skipped; false: none. */
bool duo_event(struct kvw_session *s, kvw_event_kind kind, struct kvw_event *ev);
/* Exactly one XFER_DONE with that error is queued; its text is returned (valid until the next call
 * on the session). */
const char *duo_done(struct kvw_session *s, uint64_t id, kvw_err err);
/* Nothing but LAYER_ and OFFERED events is queued; they are taken. */
void duo_calm(struct kvw_session *s);

#endif
