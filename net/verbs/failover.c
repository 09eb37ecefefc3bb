/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failover.c - a queue pair has failed; what was on it goes out again on another.
 *
 * A reliable queue pair delivers in order, so one number says all: how many work requests the peer
 * had received on it. Each side stops its queue pair, waits for the last completions, and tells its
 * count; then nothing of the old queue pair can be written any more, what the peer counted is done,
 * and the rest is posted elsewhere. A put is written twice by that at most in part, and lands once.
 */
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

enum { DRAIN_MAX = 1000 };

static uint32_t live_paths(const struct conn *c)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->path_count; ++i)
        n += c->paths[i].state == PATH_LIVE;
    return n;
}

/* Receives that the queue pair took come back to the shared queue as completions; the device drops
 * those it still holds when the queue pair goes, and their buffers with them. So it stops first,
 * and what has come is taken. */
void kvn_verbs_path_drop(struct end *e, struct path *p)
{
    struct rail *r = &e->rails[p->rail];

    kvn_verbs_path_error(p);
    for (uint32_t i = 0; i < DRAIN_MAX && p->qp != NULL && r->alive && kvn_verbs_rx_poll(e, r); ++i)
        ;
    kvn_verbs_path_destroy(p);
    kvn_verbs_window_path_gone(e, p);
    kvn_verbs_cm_drop(p);
}

/* Stop it, and have a last work request that comes back when all others have. */
static void stop(struct path *p)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    struct ibv_send_wr *bad, wr = {.wr_id = kvn_verbs_path_wr_id(p, VERBS_MARKER),
                                   .opcode = IBV_WR_SEND,
                                   .send_flags = IBV_SEND_SIGNALED};

    if (ibv_modify_qp(p->qp, &attr, IBV_QP_STATE) != 0)
        return;
    p->marked = ibv_post_send(p->qp, &wr, &bad) == 0;
}

void kvn_verbs_path_stop(struct end *e, struct path *p)
{
    struct conn *c = p->conn;

    p->lost = false;
    if (p->state == PATH_UNMADE)
        kvn_verbs_path_drop(e, p);
    if (p->state != PATH_FAILED || c->state >= CONN_OVER)
        return;
    stop(p);
    if (c->state != CONN_PROBING && live_paths(c) == 0)
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "every queue pair failed, the last by: %s",
                           c->lost_text);
}

/* Both sides have told: what the peer had is done, the rest waits again. */
static void resend(struct end *e, struct path *p)
{
    struct conn *c = p->conn;

    if (p->peer_received - p->completed > p->posted - p->completed) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST,
                           "a device failed and lost what had arrived (%s)", c->lost_text);
        return;
    }
    if (p->peer_received != p->completed)
        kvn_verbs_tx_complete(e, p, p->peer_received - 1);
    for (; p->completed != p->posted; ++p->completed) {
        const struct work *w = &p->ring[p->completed % VERBS_SQ];

        if (w->kind == WORK_CTL)
            continue;
        ++e->counters.resent;
        ++e->stats.packets_retransmitted;
        if (w->kind == WORK_MSG) {
            --c->cells_sent;
            continue;
        }
        c->puts[w->put].state = PUT_WAITING;
        kvn_verbs_key_unposted(c, &c->puts[w->put]);
        kvn_verbs_list_push(c, &c->waiting, w->put);
    }
    p->state = PATH_DEAD;
    p->bytes_in_flight = 0;
    if (c->msg_path == p->index)
        for (uint32_t i = 0; i < c->path_count; ++i)
            if (c->paths[i].state == PATH_LIVE) {
                c->msg_path = i;
                break;
            }
}

void kvn_verbs_path_peer(struct end *e, struct conn *c, uint32_t path, uint32_t received)
{
    struct path *p;

    if (path >= c->path_count || c->paths[path].peer_settled) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PROTOCOL, "the peer's word on queue pair %u is wrong",
                           path);
        return;
    }
    p = &c->paths[path];
    p->peer_settled = true;
    p->peer_received = received;
    kvn_verbs_path_lost(e, p, "the peer's half failed");
    if (p->state == PATH_SETTLED)
        resend(e, p);
}

void kvn_verbs_path_tick(struct end *e, struct path *p)
{
    struct conn *c = p->conn;
    struct rail *r = &e->rails[p->rail];
    uint8_t body[8];

    if (p->state != PATH_FAILED || (r->alive && !p->marker_seen && e->now_ns < p->settle_ns))
        return;
    kvn_verbs_path_drop(e, p); /* takes what has come */
    if (c->state >= CONN_OVER)
        return;
    p->state = PATH_SETTLED;
    kvw_store_le32(body, p->index);
    kvw_store_le32(body + 4, p->received);
    kvn_verbs_side_send(e, c, VERBS_F_PATH, body, sizeof(body));
    if (p->peer_settled && c->state < CONN_OVER)
        resend(e, p);
}
