/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoint.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "../port/steer.h"
#include "conn.h"

#define QUANTUM 8u /* packets of one connection before the next one's turn */

/* A RESET to be sent. */
struct refusal {
    struct kvn_addr to;
    uint8_t source;
    struct kvn_reset reset;
};

struct kvn_endpoint {
    struct kvw_transport base;
    struct kvn_port *port;
    struct kvn_env env;
    bool listening;
    bool polled;  /* last_poll_ns says when */
    bool more_rx; /* the last poll() stopped before the port was empty */
    uint64_t last_poll_ns;
    uint32_t serial; /* connections made so far */
    uint32_t high;   /* connections at and above are FREE and never were anything else */
    uint32_t turn;   /* whose turn it is to send */
    struct kvn_conn *last_hit;
    /* A burst the port hasn't taken yet: packets[tx_first .. tx_count). */
    uint32_t tx_first, tx_count;
    uint64_t tx_retry_ns;
    struct kvn_tx_packet packets[KVN_BURST];
    struct kvn_tx_slot slots[KVN_BURST];
    struct kvn_rx_packet rx[KVN_BURST];
    uint32_t refusals;
    struct refusal refusal[KVN_RESET_BURST];
    uint64_t refusal_credit_ns; /* time that has not been spent on RESETs */
    struct kvn_conn conns[KVW_CONNS_MAX];
};

/* The one allocation: the endpoint, its connections' memory, KVN_BURST bounce buffers. */
#define CONN_MEMORY_AT ((sizeof(struct kvn_endpoint) + 63) / 64 * 64)

static struct kvn_endpoint *self(const struct kvw_transport *t)
{
    return (struct kvn_endpoint *)(uintptr_t)t; /* base is its first member */
}

/* --- the table of connections --- */

/* A connection its user may name. */
static struct kvn_conn *by_api_id(struct kvn_endpoint *ep, kvw_conn_id id)
{
    struct kvn_conn *c = &ep->conns[id.value % KVW_CONNS_MAX];

    return id.value != 0 && c->api_id == id.value &&
                   (c->state == KVN_CONN_CONNECTING || c->state == KVN_CONN_UP)
               ? c
               : NULL;
}

static struct kvn_conn *by_local_id(struct kvn_endpoint *ep, uint32_t id)
{
    if (id == 0)
        return NULL;
    if (ep->last_hit != NULL && ep->last_hit->local_id == id)
        return ep->last_hit;
    for (uint32_t i = 0; i < ep->high; ++i)
        if (ep->conns[i].local_id == id)
            return ep->last_hit = &ep->conns[i];
    return NULL;
}

static struct kvn_conn *by_peer_id(struct kvn_endpoint *ep, uint32_t id,
                                   const struct kvn_addr *from)
{
    for (uint32_t i = 0; i < ep->high; ++i) {
        struct kvn_conn *c = &ep->conns[i];
        if (c->state != KVN_CONN_FREE && c->peer_id == id && kvn_addr_equal(&c->path[0].peer, from))
            return c;
    }
    return NULL;
}

/* A free connection and its api_id; NULL: none. evict: one that only lingers may be taken. */
static struct kvn_conn *take_free(struct kvn_endpoint *ep, bool evict, uint32_t *api_id)
{
    struct kvn_conn *c = NULL;

    /* Ids aren't reused within a transport's life; queues.c makes room in them for the queue. */
    if (ep->serial >= UINT32_MAX / KVW_CONNS_MAX / KVN_QUEUES_MAX)
        return NULL;
    for (uint32_t i = 0; i < ep->env.cfg.conns_max && c == NULL; ++i)
        if (ep->conns[i].state == KVN_CONN_FREE)
            c = &ep->conns[i];
    for (uint32_t i = 0; i < ep->high && c == NULL && evict; ++i)
        if (ep->conns[i].state == KVN_CONN_ENDED && !kvn_conn_has_event(&ep->conns[i])) {
            c = &ep->conns[i];
            kvn_conn_free(c);
        }
    if (c == NULL)
        return NULL;
    *api_id = ++ep->serial * KVW_CONNS_MAX + (uint32_t)(c - ep->conns);
    if ((uint32_t)(c - ep->conns) >= ep->high)
        ep->high = (uint32_t)(c - ep->conns) + 1;
    return c;
}

static uint32_t half_open(const struct kvn_endpoint *ep)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < ep->high; ++i)
        n += ep->conns[i].state == KVN_CONN_ACCEPTING;
    return n;
}

/* --- receiving --- */

static void refuse(struct kvn_endpoint *ep, const struct kvn_rx_packet *rx, uint32_t id,
                   enum kvn_reset_reason reason)
{
    if (ep->refusals == KVN_RESET_BURST || ep->refusal_credit_ns < KVN_RESET_GAP_NS)
        return;
    ep->refusal_credit_ns -= KVN_RESET_GAP_NS;
    ep->refusal[ep->refusals++] = (struct refusal){
        .to = rx->from,
        .source = rx->source,
        .reset = {.id = id, .reason = (uint8_t)reason},
    };
}

static void receive_hello(struct kvn_endpoint *ep, const struct kvn_frame *f,
                          const struct kvn_rx_packet *rx)
{
    const struct kvn_addr *from = &rx->from;
    struct kvn_conn *c;
    uint32_t api_id;

    if (!ep->listening)
        return; /* the client tries again; perhaps listen() comes in time */
    if (!kvn_versions_have(ep->env.cfg.versions, f->version)) {
        refuse(ep, rx, f->hello.source, KVN_RESET_VERSION);
        return;
    }
    c = by_peer_id(ep, f->hello.source, from);
    if (c != NULL) {
        kvn_conn_hello(c);
        return;
    }
    if (half_open(ep) >= KVN_HALF_OPEN_MAX)
        return;
    c = take_free(ep, true, &api_id);
    if (c == NULL)
        refuse(ep, rx, f->hello.source, KVN_RESET_FULL);
    else
        kvn_conn_accept(c, &ep->env, f, rx, api_id);
}

/* A RESET is believed when it names an id that only the peer can know. */
static void receive_reset(struct kvn_endpoint *ep, const struct kvn_frame *f,
                          const struct kvn_addr *from)
{
    struct kvn_conn *c;

    if (f->reset.reason == KVN_RESET_UNKNOWN) {
        c = by_peer_id(ep, f->reset.id, from);
        if (c != NULL && c->state != KVN_CONN_CONNECTING)
            kvn_conn_reset(c, &ep->env, f);
        return;
    }
    c = by_local_id(ep, f->reset.id);
    if (c != NULL && c->state == KVN_CONN_CONNECTING && kvn_addr_equal(&c->path[0].peer, from))
        kvn_conn_reset(c, &ep->env, f);
}

static enum kvn_drop unreadable(kvw_err err)
{
    switch (err) {
    case KVW_E_TRUNCATED:
        return KVN_DROP_TRUNCATED;
    case KVW_E_CHECKSUM:
        return KVN_DROP_CHECKSUM;
    case KVW_E_VERSION:
        return KVN_DROP_VERSION;
    default:
        return KVN_DROP_MALFORMED;
    }
}

/* The next packet of the burst follows p; left says how many do. */
static void receive(struct kvn_endpoint *ep, const struct kvn_rx_packet *p, uint32_t left)
{
    struct kvn_frame f;
    struct kvn_conn *c;
    kvw_err err;

    ++ep->env.stats.packets_received;
    ep->env.stats.bytes_received += p->len;
    err = kvn_frame_decode_before(&f, ep->env.cfg.versions, p->bytes, p->len,
                                  left > 0 ? p[1].bytes : NULL, left > 0 ? p[1].len : 0);
    if (err != KVW_OK) {
        ++ep->env.stats.packets_rejected;
        kvn_note_dropped(&ep->env, NULL, NULL, p->len, unreadable(err));
        return;
    }
    if (f.type == KVN_PACKET_HELLO) {
        receive_hello(ep, &f, p);
        return;
    }
    if (f.type == KVN_PACKET_RESET) {
        receive_reset(ep, &f, &p->from);
        return;
    }
    c = by_local_id(ep, f.conn);
    if (c != NULL && c->version == f.version) {
        kvn_conn_receive(c, &ep->env, &f, p);
        return;
    }
    ++ep->env.stats.packets_rejected;
    kvn_note_dropped(&ep->env, c, &f, p->len, c != NULL ? KVN_DROP_VERSION : KVN_DROP_UNKNOWN);
    if (c == NULL && f.type != KVN_PACKET_GOODBYE)
        refuse(ep, p, f.type == KVN_PACKET_HELLO_ACK ? f.hello.source : f.conn, KVN_RESET_UNKNOWN);
}

/* --- sending --- */

static void build_refusal(struct kvn_endpoint *ep, struct kvn_tx_slot *slot)
{
    const struct refusal *r = &ep->refusal[--ep->refusals];
    const struct kvn_frame f = {
        .version = kvn_versions_choose(ep->env.cfg.versions, UINT16_MAX, 0),
        .type = KVN_PACKET_RESET,
        .versions = kvn_versions_grease(ep->env.cfg.versions, kvn_env_random64(&ep->env)),
        .reset = r->reset,
    };

    slot->conn = NULL;
    slot->of_put = slot->of_msg = false;
    slot->packet->to = r->to;
    slot->packet->source = r->source;
    slot->packet->ecn = KVN_ECN_NOT_ECT;
    slot->packet->body_count = 0;
    slot->packet->head = slot->head;
    slot->packet->head_bytes = kvn_frame_encode(slot->head, &f);
    kvn_frame_seal(slot->head, slot->packet->head_bytes, NULL, 0, &(struct kvw_iov){0});
    ep->env.stats.bytes_sent += slot->packet->head_bytes;
}

/* Fill the empty burst, QUANTUM packets a connection and turn. */
static void fill(struct kvn_endpoint *ep)
{
    uint32_t idle = 0;

    ep->tx_first = ep->tx_count = 0;
    while (ep->refusals > 0 && ep->tx_count < KVN_BURST)
        build_refusal(ep, &ep->slots[ep->tx_count++]);
    while (idle < ep->high && ep->tx_count < KVN_BURST) {
        struct kvn_conn *c = &ep->conns[ep->turn % ep->high];
        uint32_t n = 0;

        while (n < QUANTUM && ep->tx_count < KVN_BURST &&
               kvn_conn_build(c, &ep->env, &ep->slots[ep->tx_count])) {
            ++ep->tx_count;
            ++n;
        }
        idle = n > 0 ? 0 : idle + 1;
        ep->turn = (ep->turn + 1) % ep->high;
    }
    ep->env.stats.packets_sent += ep->tx_count;
}

/*
 * The port refused part of a burst in an earlier poll(). What has become pointless since then is
 * dropped, above all slices of puts that are over: their memory isn't ours any more.
 */
static void drop_stale(struct kvn_endpoint *ep)
{
    uint32_t kept = 0;

    for (uint32_t i = ep->tx_first; i < ep->tx_count; ++i) {
        const struct kvn_tx_slot *s = &ep->slots[i];

        if (s->conn != NULL && s->conn->api_id != s->api_id)
            continue;
        if (s->of_put && kvn_puts_out_find(&s->conn->puts_out, s->put) == NULL)
            continue;
        if (s->of_msg && s->msg_at < s->conn->stream_out.tail)
            continue; /* a copy of what has arrived; the ring may hold something else there */
        if (kept != i) {
            struct kvn_tx_slot *to = &ep->slots[kept];
            uint8_t *const bounce = to->bounce;
            struct kvn_tx_packet *const packet = to->packet;

            *packet = *s->packet;
            *to = *s;
            to->packet = packet;
            to->packet->head = to->head;
            to->bounce = s->bounce;
            ep->slots[i].bounce = bounce;
        }
        ++kept;
    }
    ep->tx_first = 0;
    ep->tx_count = kept;
}

static void transmit(struct kvn_endpoint *ep)
{
    if (ep->tx_first < ep->tx_count)
        drop_stale(ep);
    for (uint32_t bursts = 0; bursts < KVN_TX_BURSTS; ++bursts) {
        uint32_t n;

        if (ep->tx_first == ep->tx_count)
            fill(ep);
        if (ep->tx_count == 0)
            return;
        n = ep->port->ops->tx(ep->port, ep->env.now_ns, &ep->packets[ep->tx_first],
                              ep->tx_count - ep->tx_first);
        ep->tx_first += n;
        if (ep->tx_first < ep->tx_count) {
            ++ep->env.stats.tx_full;
            ep->tx_retry_ns = ep->env.now_ns + KVN_TX_RETRY_NS;
            return;
        }
    }
    ep->tx_first = ep->tx_count = 0;
}

/* A full burst is answered before the next one is looked at: an ACK that waits for the port to run
 * empty keeps the sender waiting too, and both ends work in turns. */
static void receive_all(struct kvn_endpoint *ep)
{
    uint32_t n = KVN_BURST;

    for (uint32_t bursts = 0; bursts < KVN_RX_BURSTS && n == KVN_BURST; ++bursts) {
        if (bursts > 0)
            transmit(ep);
        n = ep->port->ops->rx(ep->port, ep->env.now_ns, ep->rx, KVN_BURST);
        for (uint32_t i = 0; i < n; ++i)
            receive(ep, &ep->rx[i], n - 1 - i);
    }
    ep->more_rx = n == KVN_BURST;
}

/* --- the transport's operations --- */

/* A clock that steps back stands still here until it has caught up. */
static void clock_is(struct kvn_endpoint *ep, uint64_t now_ns)
{
    if (now_ns > ep->env.now_ns)
        ep->env.now_ns = now_ns;
}

/* The port's interface may have got another MTU. */
static void look_at_payload_max(struct kvn_endpoint *ep)
{
    if (ep->env.payload_max == ep->port->payload_max)
        return;
    ep->env.payload_max = ep->port->payload_max;
    for (uint32_t i = 0; i < ep->high; ++i)
        kvn_conn_payload_max(&ep->conns[i], &ep->env);
}

static kvw_err ep_listen(struct kvw_transport *t)
{
    struct kvn_endpoint *ep = self(t);

    if (ep->listening)
        return KVW_E_INVALID;
    ep->listening = true;
    return KVW_OK;
}

static kvw_err ep_connect(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                          kvw_conn_id *conn)
{
    struct kvn_endpoint *ep = self(t);
    struct kvn_addr addr = ep->port->default_peer;
    struct kvn_conn *c;
    uint32_t api_id;

    if (peer != NULL && kvn_addr_parse(&addr, peer) != KVW_OK)
        return KVW_E_ADDRESS;
    if (addr.family == 0 || addr.port == 0)
        return KVW_E_ADDRESS;
    c = take_free(ep, false, &api_id);
    if (c == NULL)
        return KVW_E_AGAIN;
    clock_is(ep, now_ns);
    look_at_payload_max(ep);
    kvn_conn_connect(c, &ep->env, &addr, api_id);
    conn->value = api_id;
    return KVW_OK;
}

static void ep_disconnect(struct kvw_transport *t, kvw_conn_id conn, uint64_t now_ns)
{
    struct kvn_endpoint *ep = self(t);
    struct kvn_conn *c = &ep->conns[conn.value % KVW_CONNS_MAX];

    if (conn.value == 0 || c->api_id != conn.value)
        return;
    clock_is(ep, now_ns);
    kvn_conn_disconnect(c, &ep->env);
}

static kvw_err ep_region_add(struct kvw_transport *t, const struct kvw_mem *mem, kvw_put_gate gate,
                             void *gate_arg, struct kvw_region_key *key)
{
    return kvn_regions_add(&self(t)->env.regions, mem, gate, gate_arg, key);
}

static kvw_err ep_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    return kvn_regions_remove(&self(t)->env.regions, key);
}

static kvw_err ep_send(struct kvw_transport *t, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    struct kvn_conn *c = by_api_id(self(t), conn);

    if (bytes == 0 || bytes > KVW_MSG_BYTES_MAX)
        return KVW_E_INVALID;
    if (c == NULL)
        return KVW_E_NOTFOUND;
    return kvn_stream_out_push(&c->stream_out, msg, bytes);
}

static kvw_err ep_put(struct kvw_transport *t, kvw_conn_id conn, const struct kvw_put *put)
{
    struct kvn_conn *c = by_api_id(self(t), conn);
    uint64_t bytes = 0;

    if (put->iov_count == 0 || put->iov_count > KVW_PUT_IOV_MAX)
        return KVW_E_INVALID;
    for (uint32_t i = 0; i < put->iov_count; ++i)
        bytes += put->iov[i].bytes;
    if (bytes == 0 || bytes > KVW_PUT_BYTES_MAX)
        return KVW_E_INVALID;
    if (c == NULL)
        return KVW_E_NOTFOUND;
    return kvn_puts_out_push(&c->puts_out, put, (uint32_t)bytes);
}

/* This side may not have looked for a long while (it computes, or was stopped); what the peer sent
 * meanwhile deserves a look before it counts as silent. */
static void mind_the_gap(struct kvn_endpoint *ep, uint64_t now_ns)
{
    const uint64_t dead = ep->env.cfg.dead_ns;

    if (ep->polled && now_ns - ep->last_poll_ns > dead / 4)
        for (uint32_t i = 0; i < ep->high; ++i)
            if (ep->conns[i].state == KVN_CONN_UP)
                kvn_timers_was_away(&ep->conns[i].timers, now_ns, dead / 4);
    ep->polled = true;
    ep->last_poll_ns = now_ns;
}

static bool brings_data(const struct kvn_conn *c, uint64_t now_ns)
{
    return c->state == KVN_CONN_UP && c->last_data_ns != 0 &&
           now_ns - c->last_data_ns < KVN_BUSY_NS;
}

static uint32_t ep_poll(struct kvw_transport *t, uint64_t now_ns,
                        struct kvw_transport_event *events, uint32_t max)
{
    struct kvn_endpoint *ep = self(t);
    const uint64_t full = (uint64_t)KVN_RESET_BURST * KVN_RESET_GAP_NS;
    const uint64_t before_ns = ep->env.now_ns;
    uint32_t n = 0;

    clock_is(ep, now_ns);
    now_ns = ep->env.now_ns;
    mind_the_gap(ep, now_ns);
    ep->refusal_credit_ns += now_ns - before_ns;
    if (ep->refusal_credit_ns > full)
        ep->refusal_credit_ns = full;
    look_at_payload_max(ep);
    ep->env.busy = 0;
    for (uint32_t i = 0; i < ep->high; ++i) {
        kvn_conn_release(&ep->conns[i]);
        ep->env.busy += brings_data(&ep->conns[i], now_ns);
    }
    receive_all(ep);
    for (uint32_t i = 0; i < ep->high; ++i)
        kvn_conn_run_timers(&ep->conns[i], &ep->env);
    transmit(ep);
    for (uint32_t i = 0; i < ep->high; ++i)
        while (n < max && kvn_conn_next_event(&ep->conns[i], &ep->env, &events[n]))
            ++n;
    for (uint32_t i = 0; i < ep->high; ++i)
        if (ep->conns[i].state == KVN_CONN_UP)
            kvn_conn_rearm(&ep->conns[i]);
    return n;
}

static uint64_t ep_deadline_ns(const struct kvw_transport *t)
{
    struct kvn_endpoint *ep = self(t);
    const bool tx_waits = ep->tx_first < ep->tx_count;
    uint64_t next = ep->port->ops->deadline_ns(ep->port);

    if (ep->more_rx || (ep->refusals > 0 && !tx_waits))
        return 0;
    if (tx_waits && ep->tx_retry_ns < next)
        next = ep->tx_retry_ns;
    for (uint32_t i = 0; i < ep->high; ++i) {
        struct kvn_conn *c = &ep->conns[i];
        const uint64_t timer = kvn_timers_next(&c->timers);
        uint64_t send_at;

        if (c->state == KVN_CONN_FREE)
            continue;
        if (kvn_conn_has_event(c))
            return 0;
        send_at = tx_waits ? UINT64_MAX : kvn_conn_send_at(c, &ep->env);
        if (send_at < next)
            next = send_at;
        if (c->state == KVN_CONN_UP && !tx_waits && kvn_stream_in_reopened(&c->stream_in))
            return 0;
        /* What was due at the last poll() was done, and if it is still due, then because what it
         * led to waits for the port. */
        if (tx_waits && timer <= ep->env.now_ns)
            continue;
        if (timer < next)
            next = timer;
    }
    return next;
}

static void ep_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    struct kvn_endpoint *ep = self(t);

    ep->port->ops->wait(ep->port, until_ns, wake_fd);
}

static void ep_stats(const struct kvw_transport *t, struct kvw_transport_stats *stats)
{
    *stats = self(t)->env.stats;
}

void kvn_packet_stats(const struct kvw_transport *t, struct kvn_packet_stats *stats)
{
    const struct kvn_env *env = &self(t)->env;

    stats->all = env->stats;
    memcpy(stats->dropped, env->dropped, sizeof(stats->dropped));
}

kvw_err kvn_packet_conn_stats(const struct kvw_transport *t, kvw_conn_id conn,
                              struct kvn_conn_stats *stats)
{
    const struct kvn_conn *c = by_api_id(self(t), conn);

    if (c == NULL)
        return KVW_E_NOTFOUND;
    *stats = (struct kvn_conn_stats){
        .credit_stalls = c->credit_stalls,
        .stream_stalls = c->stream_stalls,
        .credit_bytes = c->puts_out.credit - c->puts_out.sent,
        .paths = c->paths,
    };
    for (uint32_t i = 0; i < c->paths; ++i)
        kvn_path_stats(&c->path[i], &stats->path[i]);
    return KVW_OK;
}

static void ep_close(struct kvw_transport *t)
{
    struct kvn_endpoint *ep = self(t);

    if (t == NULL)
        return;
    /* Three copies of the farewell: nobody will be here to repeat it. A full port gets a chance. */
    for (int copy = 0; copy < 3; ++copy) {
        for (uint32_t i = 0; i < ep->high; ++i) {
            struct kvn_conn *c = &ep->conns[i];

            if (c->state == KVN_CONN_CONNECTING || c->state == KVN_CONN_UP)
                kvn_conn_disconnect(c, &ep->env);
            if (c->state == KVN_CONN_ENDED && c->answers && c->peer_id != 0)
                c->goodbye_due = true;
        }
        transmit(ep);
    }
    ep->port->ops->close(ep->port);
    if (ep->env.trace != NULL && ep->env.trace->close != NULL)
        ep->env.trace->close(ep->env.trace);
    free(ep);
}

static const struct kvw_transport_ops ops = {
    .name = "packet",
    .listen = ep_listen,
    .connect = ep_connect,
    .disconnect = ep_disconnect,
    .region_add = ep_region_add,
    .region_remove = ep_region_remove,
    .send = ep_send,
    .put = ep_put,
    .poll = ep_poll,
    .deadline_ns = ep_deadline_ns,
    .wait = ep_wait,
    .stats = ep_stats,
    .close = ep_close,
};

/* Defaults for what is 0. KVW_E_INVALID: out of range. */
static kvw_err resolve(struct kvn_packet_config *cfg, const struct kvn_port *port,
                       char why[KVN_WHY_BYTES])
{
    if (port->payload_max < KVN_PAYLOAD_MIN || port->payload_max > KVN_PAYLOAD_MAX) {
        snprintf(why, KVN_WHY_BYTES, "port %s: payload_max %u is not within %u .. %u",
                 port->ops->name, port->payload_max, KVN_PAYLOAD_MIN, KVN_PAYLOAD_MAX);
        return KVW_E_INVALID;
    }
    if (cfg->dead_ns == 0)
        cfg->dead_ns = KVW_PEER_DEAD_NS;
    if (cfg->connect_ns == 0)
        cfg->connect_ns = KVW_HELLO_TIMEOUT_NS;
    if (cfg->slice_bytes == 0)
        cfg->slice_bytes = KVN_SLICE_DEFAULT;
    if (cfg->inflight_bytes == 0)
        cfg->inflight_bytes = KVN_INFLIGHT_BYTES;
    if (cfg->conns_max == 0)
        cfg->conns_max = KVW_CONNS_MAX;
    if (cfg->queues == 0)
        cfg->queues = 1;
    if (cfg->versions == 0)
        cfg->versions = KVN_VERSIONS;
    if ((cfg->versions & ~KVN_VERSIONS_ALL) != 0) {
        snprintf(why, KVN_WHY_BYTES, "versions 0x%x: bits outside 0x%x", cfg->versions,
                 KVN_VERSIONS_ALL);
        return KVW_E_INVALID;
    }
    if (cfg->queues > KVN_QUEUES_MAX || cfg->queue >= cfg->queues) {
        snprintf(why, KVN_WHY_BYTES, "queue %u of %u; there can be %u queues", cfg->queue,
                 cfg->queues, KVN_QUEUES_MAX);
        return KVW_E_INVALID;
    }
    if (cfg->slice_bytes < KVN_SLICE_MIN) {
        snprintf(why, KVN_WHY_BYTES, "slice_bytes %u is below %u", cfg->slice_bytes, KVN_SLICE_MIN);
        return KVW_E_INVALID;
    }
    if (cfg->inflight_bytes < 2 * port->payload_max) {
        snprintf(why, KVN_WHY_BYTES, "inflight_bytes %u is below two packets of %u",
                 cfg->inflight_bytes, port->payload_max);
        return KVW_E_INVALID;
    }
    if (cfg->conns_max > KVW_CONNS_MAX) {
        snprintf(why, KVN_WHY_BYTES, "conns_max %u is above %u", cfg->conns_max, KVW_CONNS_MAX);
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

kvw_err kvn_packet_open(struct kvw_transport **t, struct kvn_port *port,
                        const struct kvn_packet_config *cfg, char why[KVN_WHY_BYTES])
{
    struct kvn_packet_config c = cfg != NULL ? *cfg : (struct kvn_packet_config){.seed = 0};
    struct kvn_conn_memory *mem;
    struct kvn_endpoint *ep;
    uint8_t *bounce;
    kvw_err err;

    err = resolve(&c, port, why);
    if (err != KVW_OK)
        return err;
    if (c.seed == 0 && getrandom(&c.seed, sizeof(c.seed), 0) != sizeof(c.seed)) {
        snprintf(why, KVN_WHY_BYTES, "getrandom gave no entropy for connection ids");
        return KVW_E_IO;
    }
    /* calloc, because connection memory must start as zeros; untouched pages cost nothing. */
    ep = calloc(1, CONN_MEMORY_AT + c.conns_max * sizeof(*mem) +
                       (size_t)KVN_BURST * port->payload_max);
    if (ep == NULL) {
        snprintf(why, KVN_WHY_BYTES, "no memory for %u connections", c.conns_max);
        return KVW_E_NOMEM;
    }
    mem = (struct kvn_conn_memory *)(void *)((uint8_t *)ep + CONN_MEMORY_AT);
    bounce = (uint8_t *)(mem + c.conns_max);
    ep->base.ops = &ops;
    ep->base.one_host = port->one_host;
    ep->port = port;
    ep->env.cfg = c;
    ep->env.random = c.seed;
    ep->env.trace = c.trace;
    ep->env.payload_max = port->payload_max;
    ep->env.slack_ns = port->slack_ns;
    ep->env.sources = port->source_count == 0 ? 1 : port->source_count;
    kvn_regions_begin(&ep->env.regions);
    for (uint32_t i = 0; i < KVW_CONNS_MAX; ++i) {
        ep->conns[i].mem = i < c.conns_max ? &mem[i] : NULL;
        kvn_timers_stop(&ep->conns[i].timers);
    }
    for (uint32_t i = 0; i < KVN_BURST; ++i) {
        ep->slots[i].packet = &ep->packets[i];
        ep->slots[i].bounce = bounce + (size_t)i * port->payload_max;
    }
    *t = &ep->base;
    return KVW_OK;
}
