/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handshake.c - how queue pairs are joined over the side channel (SPEC.md 2):
 *
 *   connector                              listener
 *   HELLO {its rails, qps}         ->      makes its queue pairs
 *                                  <-      WELCOME {its rails, lanes, queue pairs}
 *   makes its queue pairs, joins them
 *   READY {queue pairs}            ->      joins its own
 *                                  <-      GO
 *   a PROBE on each queue pair    <-->     a PROBE on each queue pair
 *
 * Where both sides have rdma_cm it joins the queue pairs (cm.c), between WELCOME and READY.
 *
 * A connection is up when every queue pair has either carried its PROBE or failed, and one has not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

#define RAIL_BYTES 40u /* gid 16, lid u16, mtu u8, alive u8, cm address 16, cm port u16, 0 u16 */
#define PATH_BYTES 8u  /* queue pair number u32, packet sequence number u32 */
#define TICKET     8u

_Static_assert(8 + VERBS_RAILS * RAIL_BYTES + VERBS_PATHS * PATH_BYTES + TICKET <=
                   VERBS_FRAME_BODY_MAX,
               "a WELCOME has to fit");

/* An address as 16 bytes of IPv6; all zero: none. */
static void put_address(uint8_t *p, const struct kvn_addr *a)
{
    memset(p, 0, 16);
    if (a->family == 4) {
        p[10] = p[11] = 0xff;
        memcpy(p + 12, a->ip, 4);
    } else if (a->family == 6) {
        memcpy(p, a->ip, 16);
    }
}

static struct kvn_addr take_address(const uint8_t *p, uint16_t port)
{
    static const uint8_t none[16], mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct kvn_addr a = {.port = port};

    if (memcmp(p, none, 16) == 0)
        return a;
    a.family = memcmp(p, mapped, 12) == 0 ? 4 : 6;
    memcpy(a.ip, a.family == 4 ? p + 12 : p, a.family == 4 ? 4 : 16);
    return a;
}

static uint32_t put_rails(const struct end *e, uint8_t *body)
{
    uint8_t *p = body;

    *p++ = (uint8_t)e->rail_count;
    *p++ = (uint8_t)e->cfg.qps;
    *p++ = 0;
    *p++ = 0;
    kvw_store_le32(p, VERBS_CREDIT);
    p += 4;
    for (uint32_t i = 0; i < e->rail_count; ++i, p += RAIL_BYTES) {
        const struct rail *r = &e->rails[i];

        memcpy(p, r->gid.gid.raw, 16);
        kvw_store_le16(p + 16, r->port_attr.lid);
        p[18] = (uint8_t)r->mtu;
        p[19] = r->alive;
        put_address(p + 20, &r->cm);
        kvw_store_le16(p + 36, r->cm.port);
        kvw_store_le16(p + 38, 0);
    }
    return (uint32_t)(p - body);
}

static uint32_t put_paths(const struct conn *c, uint8_t *body)
{
    uint8_t *p = body;

    for (uint32_t i = 0; i < c->path_count; ++i, p += PATH_BYTES) {
        const struct path *q = &c->paths[i];

        kvw_store_le32(p, q->qp != NULL ? q->qp->qp_num : 0);
        kvw_store_le32(p + 4, q->psn);
    }
    return (uint32_t)(p - body);
}

static bool broken(struct end *e, struct conn *c, const char *what)
{
    kvn_verbs_conn_end(e, c, true, KVW_E_PROTOCOL, "the peer's %s makes no sense", what);
    return false;
}

/* The peer's rails; bytes used, or 0. */
static uint32_t take_rails(struct end *e, struct conn *c, const uint8_t *body, uint32_t bytes)
{
    const uint32_t count = bytes >= 8 ? body[0] : 0;

    if (count == 0 || count > VERBS_RAILS || bytes < 8 + count * RAIL_BYTES || body[1] == 0 ||
        body[1] > VERBS_QPS_MAX) {
        (void)broken(e, c, "list of devices");
        return 0;
    }
    if (kvw_load_le32(body + 4) != VERBS_CREDIT) {
        (void)broken(e, c, "count of receives");
        return 0;
    }
    c->peer_rail_count = count;
    c->qps = body[1] < e->cfg.qps ? body[1] : e->cfg.qps;
    c->lanes = count < e->rail_count ? count : e->rail_count;
    if (c->lanes * c->qps > VERBS_PATHS)
        c->qps = VERBS_PATHS / c->lanes;
    c->path_count = c->lanes * c->qps;
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t *p = body + 8 + i * RAIL_BYTES;
        struct peer_rail *r = &c->peer_rails[i];

        memcpy(r->gid.raw, p, 16);
        r->lid = kvw_load_le16(p + 16);
        r->mtu = p[18];
        r->alive = p[19] != 0;
        r->cm = take_address(p + 20, kvw_load_le16(p + 36));
        if (r->mtu < IBV_MTU_256 || r->mtu > IBV_MTU_4096) {
            (void)broken(e, c, "MTU");
            return 0;
        }
    }
    c->by_cm = e->cm != NULL && c->peer_rails[0].cm.family != 0;
    return 8 + count * RAIL_BYTES;
}

static void take_paths(struct conn *c, const uint8_t *body)
{
    for (uint32_t i = 0; i < c->path_count; ++i) {
        c->paths[i].peer_qpn = kvw_load_le32(body + i * PATH_BYTES);
        c->paths[i].peer_psn = kvw_load_le32(body + i * PATH_BYTES + 4) & 0xffffff;
    }
}

/* Queue pairs for every lane; one that can't be made is dead from the start. */
static bool make_paths(struct end *e, struct conn *c)
{
    uint32_t made = 0;

    for (uint32_t i = 0; i < c->path_count; ++i) {
        struct path *p = &c->paths[i];
        const uint8_t rail = (uint8_t)(i / c->qps);

        p->peer_rail = rail;
        if (c->peer_rails[rail].alive && kvn_verbs_path_make(e, p, rail))
            ++made;
        else
            p->state = PATH_DEAD;
    }
    if (made == 0)
        kvn_verbs_conn_end(e, c, true, KVW_E_DEVICE,
                           "no queue pair could be made: every device is gone or full");
    return made > 0;
}

static bool join_paths(struct end *e, struct conn *c)
{
    uint32_t joined = 0;
    int error = 0;

    for (uint32_t i = 0; i < c->path_count; ++i) {
        struct path *p = &c->paths[i];
        const struct peer_rail *r = &c->peer_rails[p->peer_rail];
        int one;

        if (p->state != PATH_MADE)
            continue;
        one = p->peer_qpn == 0 ? ENODEV : kvn_verbs_path_join(e, p, &r->gid, r->lid, r->mtu);
        if (one == 0) {
            ++joined;
        } else {
            error = one;
            kvn_verbs_path_drop(e, p);
        }
    }
    if (joined == 0) {
        char mine[64], theirs[64];

        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST,
                           "GID %s can't be joined to %s: %s (same network? same kind of GID?)",
                           kvn_verbs_gid_text(&e->rails[0].gid.gid, mine),
                           kvn_verbs_gid_text(&c->peer_rails[0].gid, theirs), strerror(error));
    }
    return joined > 0;
}

/* What rdma_cm has joined, and the peer too, is live; the rest is dead. */
static uint32_t settle_joined(struct end *e, struct conn *c)
{
    uint32_t live = 0;

    for (uint32_t i = 0; i < c->path_count; ++i) {
        struct path *p = &c->paths[i];

        if (p->state != PATH_MADE)
            continue;
        if (p->cm_joined && p->peer_qpn != 0) {
            kvn_verbs_path_live(p);
            ++live;
        } else {
            kvn_verbs_path_drop(e, p);
        }
    }
    return live;
}

/* The connector's queue pairs can receive. */
static void ready(struct end *e, struct conn *c)
{
    uint8_t body[VERBS_FRAME_BODY_MAX];

    if (c->state >= CONN_OVER)
        return;
    c->state = CONN_GO;
    kvn_verbs_side_send(e, c, VERBS_F_READY, body, put_paths(c, body));
}

void kvn_verbs_handshake_joined(struct end *e, struct conn *c)
{
    if (c->state != CONN_DIALING || c->cm_from_ns == 0)
        return;
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (c->paths[i].state == PATH_MADE && !c->paths[i].cm_joined)
            return;
    if (settle_joined(e, c) == 0) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "%s",
                           c->cm_text[0] != '\0' ? c->cm_text : "every device is gone");
        return;
    }
    ready(e, c);
}

static void probe(struct end *e, struct conn *c)
{
    if (c->state >= CONN_OVER)
        return;
    c->state = CONN_PROBING;
    for (uint32_t i = 0; i < c->path_count && c->state == CONN_PROBING; ++i)
        if (c->paths[i].state == PATH_LIVE)
            kvn_verbs_tx_probe(e, &c->paths[i]);
}

void kvn_verbs_handshake_probed(struct end *e, struct conn *c)
{
    uint32_t probed = 0;
    char mine[64], theirs[64];

    if (c->state != CONN_PROBING)
        return;
    for (uint32_t i = 0; i < c->path_count; ++i) {
        if (c->paths[i].state == PATH_LIVE && !c->paths[i].probed)
            return;
        if (c->paths[i].state == PATH_LIVE)
            ++probed;
    }
    if (probed > 0) {
        c->state = CONN_LIVE;
        c->heard_ns = e->now_ns; /* its device answered, if nothing else did */
        c->up_due = true;
        for (uint32_t i = 0; i < c->path_count; ++i)
            kvn_verbs_cm_drop(&c->paths[i]);
        while (c->paths[c->msg_path].state != PATH_LIVE)
            ++c->msg_path;
        return;
    }
    kvn_verbs_conn_end(
        e, c, true, KVW_E_PEER_LOST,
        "TCP reaches the peer but RDMA doesn't, from %s to %s: wrong subnet or GID, or UDP port "
        "4791 is blocked",
        kvn_verbs_gid_text(&e->rails[0].gid.gid, mine),
        kvn_verbs_gid_text(&c->peer_rails[0].gid, theirs));
}

void kvn_verbs_handshake_begin(struct end *e, struct conn *c)
{
    uint8_t body[VERBS_FRAME_BODY_MAX];

    kvn_verbs_side_send(e, c, VERBS_F_HELLO, body, put_rails(e, body));
}

static void on_hello(struct end *e, struct conn *c, const uint8_t *body, uint32_t bytes)
{
    uint8_t reply[VERBS_FRAME_BODY_MAX];
    uint32_t n;

    if (take_rails(e, c, body, bytes) == 0 || !make_paths(e, c))
        return;
    if (c->by_cm && getrandom(&c->ticket, sizeof(c->ticket), 0) != (ssize_t)sizeof(c->ticket))
        c->by_cm = false; /* the peer says so */
    n = put_rails(e, reply);
    n += put_paths(c, reply + n);
    kvw_store_le64(reply + n, c->ticket);
    n += TICKET;
    kvn_verbs_side_send(e, c, VERBS_F_WELCOME, reply, n);
}

static void on_welcome(struct end *e, struct conn *c, const uint8_t *body, uint32_t bytes)
{
    const uint32_t at = take_rails(e, c, body, bytes);

    if (at == 0)
        return;
    if (bytes != at + c->path_count * PATH_BYTES + TICKET) {
        (void)broken(e, c, "WELCOME");
        return;
    }
    if (e->cm != NULL && !c->by_cm) {
        kvn_verbs_conn_end(e, c, true, KVW_E_ADDRESS,
                           "the peer doesn't join by rdma_cm: give its address cm=1, too, or leave "
                           "it out of ours");
        return;
    }
    if (!make_paths(e, c))
        return;
    take_paths(c, body + at);
    c->ticket = kvw_load_le64(body + at + c->path_count * PATH_BYTES);
    if (c->by_cm) {
        kvn_verbs_cm_dial(e, c);
        return;
    }
    if (join_paths(e, c))
        ready(e, c);
}

static void on_ready(struct end *e, struct conn *c, const uint8_t *body, uint32_t bytes)
{
    if (bytes != c->path_count * PATH_BYTES || c->path_count == 0) {
        (void)broken(e, c, "READY");
        return;
    }
    take_paths(c, body);
    if (c->by_cm && settle_joined(e, c) == 0) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "rdma_cm joined no queue pair");
        return;
    }
    if (!c->by_cm && !join_paths(e, c))
        return;
    kvn_verbs_side_send(e, c, VERBS_F_GO, NULL, 0);
    probe(e, c);
}

static void on_end(struct end *e, struct conn *c, const uint8_t *body, uint32_t bytes)
{
    char text[VERBS_TEXT / 2];
    uint32_t n = bytes > 4 ? bytes - 4 : 0;
    kvw_err err = bytes >= 4 ? (kvw_err)(int32_t)kvw_load_le32(body) : KVW_E_PROTOCOL;

    if (err != KVW_E_PROTOCOL && err != KVW_E_VERSION)
        err = KVW_E_PEER_LOST;
    if (n >= sizeof(text))
        n = sizeof(text) - 1;
    for (uint32_t i = 0; i < n; ++i) /* it may be printed */
        text[i] = body[4 + i] >= ' ' && body[4 + i] < 127 ? (char)body[4 + i] : '?';
    text[n] = '\0';
    kvn_verbs_conn_end(e, c, false, err, "the peer says: %s", text);
}

static void on_key_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                         const uint8_t *body, uint32_t bytes)
{
    const bool owner = type == VERBS_F_SHUT_OK || type == VERBS_F_ASK;

    if (!(owner ? kvn_verbs_window_frame(e, c, type, body, bytes)
                : kvn_verbs_key_frame(e, c, type, body, bytes)))
        (void)broken(e, c, "frame about a region's keys");
}

void kvn_verbs_handshake_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                               const uint8_t *body, uint32_t bytes)
{
    if (type == VERBS_F_HELLO && c->state == CONN_ACCEPTED && c->path_count == 0)
        on_hello(e, c, body, bytes);
    else if (type == VERBS_F_WELCOME && c->state == CONN_DIALING && c->path_count == 0)
        on_welcome(e, c, body, bytes);
    else if (type == VERBS_F_READY && c->state == CONN_ACCEPTED)
        on_ready(e, c, body, bytes);
    else if (type == VERBS_F_GO && c->state == CONN_GO)
        probe(e, c);
    else if (type == VERBS_F_BYE)
        kvn_verbs_conn_end(e, c, false, KVW_E_PEER_LOST, "the peer disconnected");
    else if (type == VERBS_F_END)
        on_end(e, c, body, bytes);
    else if (type == VERBS_F_PATH && c->state >= CONN_GO && bytes == 8)
        kvn_verbs_path_peer(e, c, kvw_load_le32(body), kvw_load_le32(body + 4));
    else if (type >= VERBS_F_KEY && type <= VERBS_F_GONE && c->state >= CONN_GO)
        on_key_frame(e, c, type, body, bytes);
    else if (type != VERBS_F_PING)
        (void)broken(e, c, "frame");
}
