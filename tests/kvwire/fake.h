/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h - a transport without a network: the test says what happens, and sees what was sent. It
 * holds the core to transport.h where it can: one PUT_DONE per put, no events of a dead
 * connection, no put outside the region.
 */
#ifndef T_FAKE_H
#define T_FAKE_H

#include "../../kvwire/transport.h"
#include "../../kvwire/wire.h"

#define FAKE_EVENTS 512u
#define FAKE_SENT   256u
#define FAKE_PUTS   256u
#define FAKE_CONNS  1024u

struct fake_msg {
    kvw_conn_id conn;
    uint32_t bytes;
    uint8_t *msg; /* malloc'ed */
};

struct fake_put {
    struct kvw_put put;
    kvw_conn_id conn;
    bool open; /* PUT_DONE not yet given */
};

struct fake {
    struct kvw_transport transport;
    /* knobs */
    bool send_full, put_full;         /* answer KVW_E_AGAIN */
    struct kvw_transport_stats stats; /* what stats() says */
    kvw_err fail_listen, fail_connect, fail_region_add;
    bool send_refused, put_refused; /* one was, and there was no room since: room is an arrival */
    /* what the core did */
    uint32_t listens, connects, disconnects, regions, sources;
    kvw_conn_id open_to;     /* of the last region_open(); 0: shut since */
    bool opened[FAKE_CONNS]; /* the region, to that connection */
    uint32_t opens, shuts;
    uint32_t polls, stats_asked;
    bool open_full;      /* region_open() says KVW_E_AGAIN */
    kvw_conn_id dialled; /* of the last connect() */
    struct kvw_mem region;
    kvw_put_gate gate;
    void *gate_arg;
    struct fake_msg sent[FAKE_SENT]; /* oldest first */
    uint32_t sent_count;
    struct fake_put puts[FAKE_PUTS]; /* oldest first; forgotten when closed from the front */
    uint32_t put_count;
    /* inside */
    struct kvw_transport_event events[FAKE_EVENTS];
    uint8_t *event_msg[FAKE_EVENTS]; /* malloc'ed, freed by the poll after */
    uint32_t event_head, event_count, event_dead;
    bool live[FAKE_CONNS];
    uint32_t conns;
};

void fake_init(struct fake *f);
void fake_free(struct fake *f); /* after the core's close */

kvw_conn_id fake_incoming(struct fake *f);                     /* somebody connects */
void fake_dialled_up(struct fake *f);                          /* the last connect() succeeded */
void fake_down(struct fake *f, kvw_conn_id conn, kvw_err err); /* open puts fail first */
void fake_message(struct fake *f, kvw_conn_id conn, const void *msg, uint32_t bytes);
/* A put arrives; false: the gate or the region forbids it (nothing is written). */
bool fake_land(struct fake *f, kvw_conn_id conn, uint64_t offset, const void *bytes, uint32_t n,
               uint32_t imm);
/* Outcome of put i of those open. */
void fake_put_done(struct fake *f, uint32_t i, kvw_err err);
/* Something has come since the last poll: an event, or room after a refusal. */
bool fake_arrivals(const struct fake *f);
/* Oldest message sent of that type, or NULL; it is taken out. The caller frees .msg. */
bool fake_take(struct fake *f, uint8_t type, struct fake_msg *m);
void fake_drop_sent(struct fake *f); /* forget all */

#endif
