/* SPDX-License-Identifier: Apache-2.0 */
/*
 * duo.h - two verbs transports on the pretended fabric, joined, on a virtual clock; what each end
 * was told, counted.
 */
#ifndef T_VERBS_DUO_H
#define T_VERBS_DUO_H

#include "../../net/net.h"
#include "../../net/verbs/verbs.h"
#include "fake.h"

#define DUO_PUTS   512u
#define DUO_REGION (1u << 20)

struct duo_end {
    struct kvw_transport *t;
    kvw_conn_id conn;
    uint32_t ups, downs, msgs, messages_wrong;
    uint32_t not_opened; /* the region, when it came up */
    kvw_err down_err;
    char down_text[256];
    uint32_t accepted, ok, failed, after_down;
    uint8_t done[DUO_PUTS], landed[DUO_PUTS];
    kvw_err err[DUO_PUTS];
    struct kvw_region_key key;
    uint8_t region[DUO_REGION], source[DUO_REGION];
};

extern struct duo_end duo_a, duo_b;
extern uint64_t duo_now;

/* Open both with these addresses (NULL: fake0+fake1) and join them. False: why says what failed. */
bool duo_open(const char *local_a, const char *local_b, char why[KVN_WHY_BYTES]);
/* connect(), and no more. */
bool duo_dial(void);
/* The same, until it is up, or has failed. */
bool duo_join(void);
void duo_close(void);
/* One poll of each, and time goes on: a little, or to the next deadline when all is quiet. */
void duo_step(void);
void duo_run(uint32_t steps);
/* One poll of this one, and no time goes by. */
void duo_poll(struct duo_end *e);
/* One poll of this one alone, and 10 ms go by: the other is busy or gone. */
void duo_step_one(struct duo_end *e);
/* Put number n of end from's source to the same place in the peer's region. */
kvw_err duo_put(struct duo_end *from, uint32_t n, uint32_t offset, uint32_t bytes);
/* Message number n, of a length that depends on it. */
kvw_err duo_send(struct duo_end *from, uint32_t n);

#endif
