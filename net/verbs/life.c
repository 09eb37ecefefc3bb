/* SPDX-License-Identifier: Apache-2.0 */
/* life.c - a connection's timers, what is done about reports (conn.c), and how it ends. */
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

#define PING_NS (KVW_PEER_DEAD_NS / 4)

/* A peer that joins makes queue pairs, on a busy machine for more than a second, and sends nothing
 * meanwhile; TCP sends a lost SYN again after one. So silence says nothing yet. */
#define JOIN_NS (3 * KVW_PEER_DEAD_NS)

/* No device reads for this connection any more: all that is unfinished has failed. */
static void fail_puts(struct end *e, struct conn *c)
{
    c->waiting.count = c->parked.count = 0;
    for (uint16_t i = 0; i < VERBS_PUTS; ++i)
        if (c->puts[i].state == PUT_WAITING || c->puts[i].state == PUT_POSTED)
            kvn_verbs_put_done(e, c, i, KVW_E_PEER_LOST);
}

static void tear_down(struct end *e, struct conn *c)
{
    for (uint32_t i = 0; i < c->path_count; ++i)
        kvn_verbs_path_drop(e, &c->paths[i]);
    kvn_verbs_window_end(c);
    kvn_verbs_side_close(e, c);
    fail_puts(e, c);
}

/* The end that was reported. */
static void end(struct end *e, struct conn *c)
{
    uint8_t body[4 + VERBS_TEXT];
    const size_t n = strlen(c->text);

    c->state = CONN_ENDING;
    if (c->tell) {
        kvw_store_le32(body, (uint32_t)c->down_err);
        memcpy(body + 4, c->text, n);
        kvn_verbs_side_send(e, c, VERBS_F_END, body, 4 + (uint32_t)n);
        kvn_verbs_side_write(e, c);
    }
    tear_down(e, c);
}

static void act_on(struct end *e, struct conn *c)
{
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (c->paths[i].lost)
            kvn_verbs_path_stop(e, &c->paths[i]);
    kvn_verbs_handshake_joined(e, c);
    kvn_verbs_handshake_probed(e, c);
    if (c->state == CONN_OVER)
        end(e, c);
}

/* Acting may bring other reports; each connection ends once, and each queue pair is lost once. */
void kvn_verbs_act(struct end *e)
{
    while (e->reported) {
        e->reported = false;
        for (uint32_t i = 0; i < VERBS_CONNS; ++i)
            act_on(e, &e->conns[i]);
    }
}

void kvn_verbs_conn_leave(struct end *e, struct conn *c)
{
    const enum conn_state was = c->state;

    if (was == CONN_FREE || was == CONN_LEFT || was == CONN_SPENT)
        return;
    c->state = CONN_LEFT;
    if (was == CONN_ENDING)
        return;
    kvn_verbs_side_send(e, c, VERBS_F_BYE, NULL, 0);
    kvn_verbs_side_write(e, c);
    tear_down(e, c);
    /* Nothing of it comes out but the outcomes of its puts. */
    for (; c->arrival_count > 0; --c->arrival_count) {
        kvn_verbs_rx_release(e, &c->arrivals[c->arrival_head].held);
        c->arrival_head = (c->arrival_head + 1) % VERBS_ARRIVALS;
    }
}

static const char *unjoined(const struct conn *c)
{
    if (c->connecting)
        return "nobody answered at the peer's TCP port";
    return c->state < CONN_PROBING ? "the peer didn't finish the handshake"
                                   : "the queue pairs didn't come up";
}

void kvn_verbs_conn_tick(struct end *e, struct conn *c)
{
    if (c->state == CONN_FREE || c->state >= CONN_OVER)
        return;
    if (c->state < CONN_LIVE && e->now_ns > c->begun_ns && e->now_ns - c->begun_ns >= JOIN_NS) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "%s within %u ms", unjoined(c),
                           (unsigned)(JOIN_NS / 1000000));
        return;
    }
    if (c->state == CONN_LIVE && e->now_ns > c->heard_ns &&
        e->now_ns - c->heard_ns >= KVW_PEER_DEAD_NS) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "the peer was silent for %u ms",
                           (unsigned)((e->now_ns - c->heard_ns) / 1000000));
        return;
    }
    if (c->state >= CONN_GO && e->now_ns >= c->ping_ns) {
        if (c->out_bytes == 0) /* else it isn't reading, and more would not help */
            kvn_verbs_side_send(e, c, VERBS_F_PING, NULL, 0);
        c->ping_ns = e->now_ns + PING_NS;
    }
    kvn_verbs_cm_tick(e, c);
    for (uint32_t i = 0; i < c->path_count && c->state < CONN_OVER; ++i)
        kvn_verbs_path_tick(e, &c->paths[i]);
    kvn_verbs_window_tick(e, c);
}

uint64_t kvn_verbs_conn_deadline(const struct end *e, const struct conn *c)
{
    uint64_t at;

    (void)e;
    if (c->state == CONN_FREE)
        return UINT64_MAX;
    if (c->state >= CONN_OVER || c->up_due || c->done.count > 0 || c->arrival_count > 0 ||
        kvn_verbs_tx_due(c))
        return 0;
    at = c->state < CONN_LIVE ? c->begun_ns + JOIN_NS : c->heard_ns + KVW_PEER_DEAD_NS;
    if (c->state >= CONN_GO && c->ping_ns < at)
        at = c->ping_ns;
    if (kvn_verbs_cm_deadline(c) < at)
        at = kvn_verbs_cm_deadline(c);
    if (kvn_verbs_window_deadline(c) < at)
        at = kvn_verbs_window_deadline(c);
    for (uint32_t i = 0; i < c->path_count; ++i)
        if ((c->paths[i].state == PATH_FAILED) && c->paths[i].settle_ns < at)
            at = c->paths[i].settle_ns;
    return at;
}
