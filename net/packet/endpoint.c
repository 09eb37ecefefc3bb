/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoint.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "../put.h"
#include "conns.h"
#include "idle.h"

#define QUANTUM 8u /* packets of one connection before the next one's turn */

/* A RESET to be sent. */
struct refusal {
    struct kvn_addr to;
    uint8_t source;
    struct kvn_reset reset;
};

struct kvn_endpoint {
    struct kvw_transport base;
    size_t bytes; /* of its one allocation */
    struct kvn_port *port;
    struct kvn_env env;
    pid_t pid; /* that opened it; a child of fork() says no farewells */
    bool listening;
    bool polled;  /* last_poll_ns says when */
    bool more_rx; /* the last poll() stopped before the port was empty */
    uint64_t last_poll_ns;
    /* A burst the port hasn't taken yet: packets[tx_first .. tx_count). */
    uint32_t tx_first, tx_count;
    uint64_t tx_retry_ns;
    struct kvn_tx_packet packets[KVN_BURST];
    struct kvn_tx_slot slots[KVN_BURST];
    struct kvn_rx_packet rx[KVN_BURST];
    uint32_t refusals;
    struct refusal refusal[KVN_RESET_BURST];
    uint64_t refusal_credit_ns; /* time that has not been spent on RESETs */
    struct kvn_conns conns;
};

/* The one allocation: the endpoint, the tables of its connections, KVN_BURST bounce buffers. */
#define TABLES_AT ((sizeof(struct kvn_endpoint) + 63) / 64 * 64)

static struct kvn_endpoint *self(const struct kvw_transport *t)
{
    return (struct kvn_endpoint *)(uintptr_t)t; /* base is its first member */
}

/* --- the table of connections --- */

/* A connection its user may name. */
static struct kvn_conn *by_api_id(struct kvn_endpoint *ep, kvw_conn_id id)
{
    struct kvn_conn *c = kvn_conns_by_api(&ep->conns, id.value);

    return c != NULL && (c->state == KVN_CONN_CONNECTING || c->state == KVN_CONN_UP) ? c : NULL;
}

/* What of it waits for the port names memory that is about to go. */
static void forget(struct kvn_endpoint *ep, struct kvn_conn *c)
{
    for (uint32_t i = ep->tx_first; i < ep->tx_count; ++i)
        if (ep->slots[i].conn == c) {
            ep->slots[i].conn = NULL;
            ep->slots[i].of_put = true; /* nobody's put: drop_stale() */
        }
    kvn_conns_forget(&ep->conns, c);
}

/* A free connection and its api_id; NULL: none. evict: one that only lingers may be taken. */
static struct kvn_conn *take_free(struct kvn_endpoint *ep, bool evict, uint32_t *api_id)
{
    struct kvn_conn *c = kvn_conns_new(&ep->conns, api_id), *old;

    if (c != NULL || !evict || (old = kvn_conns_lingering(&ep->conns)) == NULL)
        return c;
    forget(ep, old);
    return kvn_conns_new(&ep->conns, api_id);
}

/* How many HELLOs may be answered and not yet heard again: more where many may come at once. */
static uint32_t half_open_max(const struct kvn_endpoint *ep)
{
    const uint32_t share = ep->conns.max / KVN_HALF_OPEN_SHARE;

    return share > KVN_HALF_OPEN_MAX ? share : KVN_HALF_OPEN_MAX;
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
    c = kvn_conns_by_peer(&ep->conns, f->hello.source, from);
    if (c != NULL) {
        kvn_conns_wake(&ep->conns, c);
        kvn_conn_hello(c, rx->len);
        return;
    }
    if (ep->conns.half_open >= half_open_max(ep))
        return;
    c = take_free(ep, true, &api_id);
    if (c == NULL) {
        refuse(ep, rx, f->hello.source, KVN_RESET_FULL);
        return;
    }
    kvn_conn_accept(c, &ep->env, f, rx, api_id);
    kvn_conns_renamed(&ep->conns, c);
}

/* A RESET is believed when it names an id that only the peer can know. */
static void receive_reset(struct kvn_endpoint *ep, const struct kvn_frame *f,
                          const struct kvn_addr *from)
{
    struct kvn_conn *c;

    if (f->reset.reason == KVN_RESET_UNKNOWN) {
        c = kvn_conns_by_peer(&ep->conns, f->reset.id, from);
        if (c == NULL || c->state == KVN_CONN_CONNECTING)
            return;
    } else {
        c = kvn_conns_by_local(&ep->conns, f->reset.id);
        if (c == NULL || c->state != KVN_CONN_CONNECTING || !kvn_addr_equal(&c->path[0].peer, from))
            return;
    }
    kvn_conns_wake(&ep->conns, c);
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

/* What the packet's digest leaves out may be left out. */
static bool agreed(const struct kvn_conn *c, const struct kvn_frame *f)
{
    return f->type != KVN_PACKET_DATA || (f->flags & KVN_FLAG_HEAD_ONLY) == 0 || c->head_only;
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
    c = ep->conns.last_hit;
    if (c == NULL || c->local_id != f.conn || f.conn == 0)
        c = kvn_conns_by_local(&ep->conns, f.conn);
    if (c != NULL && c->version == f.version && agreed(c, &f)) {
        kvn_conns_touched(&ep->conns, c);
        kvn_conn_receive(c, &ep->env, &f, p);
        if (c->state != KVN_CONN_UP || kvn_conns_entry(c)->peer_id != c->peer_id)
            kvn_conns_renamed(&ep->conns, c);
        return;
    }
    ++ep->env.stats.packets_rejected;
    kvn_note_dropped(&ep->env, c, &f, p->len,
                     c == NULL                 ? KVN_DROP_UNKNOWN
                     : c->version == f.version ? KVN_DROP_CHECKSUM
                                               : KVN_DROP_VERSION);
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

/* Fill the empty burst, QUANTUM packets a connection and turn; then it is the next one's. */
static void fill(struct kvn_endpoint *ep)
{
    const struct kvn_entry *quiet = NULL; /* the first of those in a row with nothing to send */

    ep->tx_first = ep->tx_count = 0;
    while (ep->refusals > 0 && ep->tx_count < KVN_BURST)
        build_refusal(ep, &ep->slots[ep->tx_count++]);
    while (ep->conns.first != NULL && ep->conns.first != quiet && ep->tx_count < KVN_BURST) {
        struct kvn_entry *e = ep->conns.first;
        uint32_t n = 0;

        while (n < QUANTUM && ep->tx_count < KVN_BURST &&
               kvn_conn_build(&e->conn, &ep->env, &ep->slots[ep->tx_count])) {
            ++ep->tx_count;
            ++n;
        }
        if (n == 0 && quiet == NULL)
            quiet = e;
        else if (n > 0)
            quiet = NULL;
        if (ep->conns.last != e)
            kvn_conns_to_back(&ep->conns, &e->conn);
    }
    ep->env.stats.packets_sent += ep->tx_count;
}

static bool is_stale(const struct kvn_conn *c, const struct kvn_tx_slot *s)
{
    if (c->api_id != s->api_id)
        return true;
    if (s->of_put && kvn_puts_out_find(&c->puts_out, s->put) == NULL)
        return true;
    /* A copy of what has arrived; the ring may hold something else there. */
    return s->of_msg && s->msg_at < c->stream_out.tail;
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

        if (s->conn == NULL ? s->of_put : is_stale(s->conn, s))
            continue;
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

/* What the port sends now; what it takes, and the bounce buffers, are as at open. */
static uint32_t payload_max(const struct kvn_endpoint *ep)
{
    return ep->port->payload_max < ep->env.takes ? ep->port->payload_max : ep->env.takes;
}

/* The port's interface may have got another MTU. */
static void look_at_payload_max(struct kvn_endpoint *ep)
{
    if (ep->env.payload_max == payload_max(ep))
        return;
    ep->env.payload_max = payload_max(ep);
    for (uint32_t i = 0; i < ep->conns.high; ++i)
        if (ep->conns.slot[i] != NULL) {
            kvn_conns_wake(&ep->conns, &ep->conns.slot[i]->conn);
            kvn_conn_payload_max(&ep->conns.slot[i]->conn, &ep->env);
        }
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
    char why[KVN_REACH_WHY_BYTES];
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
    kvn_conns_renamed(&ep->conns, c);
    kvn_conn_assert_consistent(c);
    conn->value = api_id;
    if (ep->port->ops->reaches != NULL && !ep->port->ops->reaches(ep->port, &addr, why))
        kvn_conn_end(c, &ep->env, KVW_E_ADDRESS, false, why);
    return KVW_OK;
}

static void ep_disconnect(struct kvw_transport *t, kvw_conn_id conn, uint64_t now_ns)
{
    struct kvn_endpoint *ep = self(t);
    struct kvn_conn *c = kvn_conns_by_api(&ep->conns, conn.value);

    if (c == NULL)
        return;
    kvn_conn_assert_consistent(c);
    clock_is(ep, now_ns);
    kvn_conns_wake(&ep->conns, c);
    kvn_conn_disconnect(c, &ep->env);
    kvn_conn_assert_consistent(c);
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

/* Its user has something for the peer. */
static void use(struct kvn_endpoint *ep, struct kvn_conn *c)
{
    kvn_conns_touched(&ep->conns, c);
    kvn_idle_used(c, ep->env.now_ns);
}

static kvw_err ep_send(struct kvw_transport *t, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    struct kvn_conn *c = by_api_id(self(t), conn);
    kvw_err err;

    if (bytes == 0 || bytes > KVW_MSG_BYTES_MAX)
        return KVW_E_INVALID;
    if (c == NULL)
        return KVW_E_NOTFOUND;
    kvn_conn_assert_consistent(c);
    use(self(t), c);
    err = kvn_stream_out_push(&c->stream_out, msg, bytes);
    kvn_conn_assert_consistent(c);
    return err;
}

static kvw_err ep_put(struct kvw_transport *t, kvw_conn_id conn, const struct kvw_put *put)
{
    struct kvn_conn *c = by_api_id(self(t), conn);
    const uint32_t bytes = kvn_put_bytes(put);
    kvw_err err;

    if (bytes == 0)
        return KVW_E_INVALID;
    if (c == NULL)
        return KVW_E_NOTFOUND;
    kvn_conn_assert_consistent(c);
    use(self(t), c);
    err = kvn_puts_out_push(&c->puts_out, put, bytes);
    if (err == KVW_E_AGAIN && kvn_conn_window(c, &self(t)->env) > self(t)->env.window &&
        kvn_puts_out_grow(&c->puts_out)) /* a long way holds more */
        err = kvn_puts_out_push(&c->puts_out, put, bytes);
    kvn_conn_assert_consistent(c);
    return err;
}

static void assert_consistent(const struct kvn_endpoint *ep)
{
    for (const struct kvn_entry *e = ep->conns.first; e != NULL; e = e->after)
        kvn_conn_assert_consistent(&e->conn);
    assert(ep->env.payload_max <= ep->env.takes && ep->tx_first <= ep->tx_count);
}

/* This side may not have looked for a long while (it computes, or was stopped); what the peer sent
 * meanwhile deserves a look before it counts as silent. */
static void mind_the_gap(struct kvn_endpoint *ep, uint64_t now_ns)
{
    const uint64_t dead = ep->env.cfg.dead_ns;

    if (ep->polled && now_ns - ep->last_poll_ns > dead / 4)
        for (uint32_t i = 0; i < ep->conns.high; ++i)
            if (ep->conns.slot[i] != NULL && ep->conns.slot[i]->conn.state == KVN_CONN_UP)
                kvn_timers_was_away(&ep->conns.slot[i]->conn.timers, now_ns, dead / 4);
    ep->polled = true;
    ep->last_poll_ns = now_ns;
}

/* When this connection must be looked at again; 0: at once. What the port doesn't take is no
 * reason to. */
static uint64_t due_ns(struct kvn_endpoint *ep, struct kvn_conn *c, bool tx_waits)
{
    const uint64_t timer = kvn_timers_next(&c->timers);
    uint64_t at;

    if (kvn_conn_has_event(c))
        return 0;
    at = tx_waits ? UINT64_MAX : kvn_conn_send_at(c, &ep->env);
    if (c->state == KVN_CONN_UP && !tx_waits && kvn_stream_in_reopened(&c->stream_in))
        return 0;
    /* What was due at the last poll() was done, and if it is still due, then because what it led to
     * waits for the port. */
    if (tx_waits && timer <= ep->env.now_ns)
        return at;
    return timer < at ? timer : at;
}

/* At the end of a poll: who has nothing to do now sleeps. Who has handed out messages, or counts
 * as busy, is looked at once more. */
static void settle(struct kvn_endpoint *ep)
{
    const uint64_t now_ns = ep->env.now_ns;

    kvn_conns_each(&ep->conns, e, next)
    {
        struct kvn_conn *c = &e->conn;
        uint64_t at;

        if (c->state == KVN_CONN_FREE) {
            forget(ep, c);
            continue;
        }
        if (c->state == KVN_CONN_UP)
            kvn_conn_rearm(c);
        if ((kvn_idle_is_busy(c) || kvn_idle_brings_data(c, now_ns)) && !e->half_open)
            continue;
        if (c->state == KVN_CONN_UP)
            kvn_idle_put_ping_off(c, now_ns);
        kvn_conns_renamed(&ep->conns, c);
        at = due_ns(ep, c, false);
        if (at > now_ns &&
            (c->state != KVN_CONN_UP || c->stream_in.released == c->stream_in.delivered))
            kvn_conns_sleep(&ep->conns, c, at);
    }
}

static uint32_t ep_poll(struct kvw_transport *t, uint64_t now_ns,
                        struct kvw_transport_event *events, uint32_t max)
{
    struct kvn_endpoint *ep = self(t);
    const uint64_t full = (uint64_t)KVN_RESET_BURST * KVN_RESET_GAP_NS;
    const uint64_t before_ns = ep->env.now_ns;
    uint32_t n, busy = 0;

    clock_is(ep, now_ns);
    now_ns = ep->env.now_ns;
    mind_the_gap(ep, now_ns);
    ep->refusal_credit_ns += now_ns - before_ns;
    if (ep->refusal_credit_ns > full)
        ep->refusal_credit_ns = full;
    look_at_payload_max(ep);
    if (kvn_conns_next_ns(&ep->conns) <= now_ns)
        kvn_conns_wake_due(&ep->conns, now_ns);
    assert_consistent(ep);
    kvn_conns_each(&ep->conns, e, next)
    {
        kvn_conn_release(&e->conn);
        busy += kvn_idle_brings_data(&e->conn, now_ns);
    }
    kvn_env_share(&ep->env, busy);
    receive_all(ep);
    kvn_conns_each(&ep->conns, e, next)
    {
        kvn_conn_run_timers(&e->conn, &ep->env);
        ++ep->conns.visited;
    }
    transmit(ep);
    n = kvn_conns_take_events(&ep->conns, &ep->env, events, max);
    settle(ep);
    assert_consistent(ep);
    return n;
}

static uint64_t ep_deadline_ns(const struct kvw_transport *t)
{
    struct kvn_endpoint *ep = self(t);
    const bool tx_waits = ep->tx_first < ep->tx_count;
    uint64_t next = ep->port->ops->deadline_ns(ep->port);

    if (ep->more_rx || (ep->refusals > 0 && !tx_waits) || ep->env.payload_max != payload_max(ep))
        return 0;
    if (tx_waits && ep->tx_retry_ns < next)
        next = ep->tx_retry_ns;
    if (kvn_conns_next_ns(&ep->conns) < next)
        next = kvn_conns_next_ns(&ep->conns);
    kvn_conns_each(&ep->conns, e, after)
    {
        const uint64_t at = due_ns(ep, &e->conn, tx_waits);

        if (at < next)
            next = at;
    }
    return next;
}

static void ep_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    struct kvn_endpoint *ep = self(t);

    ep->port->ops->wait(ep->port, until_ns, wake_fd);
}

static int ep_fd(struct kvw_transport *t)
{
    struct kvn_port *port = self(t)->port;

    return port->ops->fd != NULL ? port->ops->fd(port) : -1;
}

static bool ep_arm(struct kvw_transport *t, uint64_t *until_ns)
{
    struct kvn_port *port = self(t)->port;

    return port->ops->arm(port, until_ns);
}

static void ep_disarm(struct kvw_transport *t)
{
    struct kvn_port *port = self(t)->port;

    port->ops->disarm(port);
}

static bool ep_local(const struct kvw_transport *t, char *text, size_t bytes)
{
    const struct kvn_addr *local = &self(t)->port->local;
    char buffer[KVN_ADDR_TEXT_BYTES];

    return local->family != 0 &&
           snprintf(text, bytes, "%s", kvn_addr_format(local, buffer)) < (int)bytes;
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
    stats->payload_least = 0;
    stats->conns = self(t)->conns.live;
    stats->conns_visited = self(t)->conns.visited;
    for (uint32_t i = 0; i < self(t)->conns.high; ++i) {
        const struct kvn_entry *e = self(t)->conns.slot[i];
        const struct kvn_conn *c = e != NULL ? &e->conn : NULL;

        if (c != NULL && c->state == KVN_CONN_UP &&
            (stats->payload_least == 0 || c->fits < stats->payload_least))
            stats->payload_least = c->fits;
    }
}

kvw_err kvn_packet_conn_stats(const struct kvw_transport *t, kvw_conn_id conn,
                              struct kvn_conn_stats *stats)
{
    const struct kvn_conn *c = by_api_id(self(t), conn);
    const struct kvn_env *env = &self(t)->env;

    if (c == NULL)
        return KVW_E_NOTFOUND;
    *stats = (struct kvn_conn_stats){
        .credit_stalls = c->credit_stalls,
        .stream_stalls = c->stream_stalls,
        .credit_bytes = c->puts_out.credit - c->puts_out.sent,
        .payload = c->fits,
        .payload_limit = c->payload < env->payload_max ? c->payload : env->payload_max,
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
    if (ep->pid != getpid()) {
        /* The connections are the parent's, and so is what the trace file still buffers. */
        ep->port->ops->close(ep->port);
        kvn_conns_end(&ep->conns);
        munmap(ep, ep->bytes);
        return;
    }
    /* Three copies of the farewell: nobody will be here to repeat it. A full port gets a chance. */
    for (int copy = 0; copy < 3; ++copy) {
        for (uint32_t i = 0; i < ep->conns.high; ++i) {
            struct kvn_conn *c = ep->conns.slot[i] != NULL ? &ep->conns.slot[i]->conn : NULL;

            if (c == NULL)
                continue;
            kvn_conns_wake(&ep->conns, c);
            if (c->state == KVN_CONN_CONNECTING || c->state == KVN_CONN_UP)
                kvn_conn_disconnect(c, &ep->env);
            if (c->state == KVN_CONN_ENDED && c->repeats_goodbye && c->peer_id != 0)
                c->goodbye_due = true;
        }
        transmit(ep);
    }
    ep->port->ops->close(ep->port);
    if (ep->env.trace != NULL && ep->env.trace->close != NULL)
        ep->env.trace->close(ep->env.trace);
    kvn_conns_end(&ep->conns);
    munmap(ep, ep->bytes);
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
    .local = ep_local,
    .fd = ep_fd,
    .arm = ep_arm,
    .disarm = ep_disarm,
};

kvw_err kvn_packet_open(struct kvw_transport **t, struct kvn_port *port,
                        const struct kvn_packet_config *cfg, char why[KVN_WHY_BYTES])
{
    struct kvn_packet_config c = cfg != NULL ? *cfg : (struct kvn_packet_config){.seed = 0};
    const size_t burst = (size_t)KVN_BURST * port->payload_max;
    struct kvn_endpoint *ep;
    uint8_t *bounce;
    size_t bytes;
    kvw_err err;

    err = kvn_packet_resolve(&c, port, why);
    if (err != KVW_OK)
        return err;
    if (c.seed == 0 && getrandom(&c.seed, sizeof(c.seed), 0) != sizeof(c.seed)) {
        snprintf(why, KVN_WHY_BYTES, "getrandom gave no entropy for connection ids");
        return KVW_E_IO;
    }
    bytes = TABLES_AT + kvn_conns_bytes(c.conns_max) + burst;
    ep = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
              0);
    if (ep == MAP_FAILED) {
        snprintf(why, KVN_WHY_BYTES, "no memory for %u connections", c.conns_max);
        return KVW_E_NOMEM;
    }
    ep->bytes = bytes;
    kvn_conns_begin(&ep->conns, (uint8_t *)ep + TABLES_AT, c.conns_max, c.seed);
    bounce = (uint8_t *)ep + TABLES_AT + kvn_conns_bytes(c.conns_max);
    ep->base.ops = &ops;
    ep->pid = getpid();
    ep->base.one_host = ep->env.head_only = port->one_host;
    ep->port = port;
    ep->env.cfg = c;
    ep->env.random = c.seed;
    ep->env.trace = c.trace;
    ep->env.takes = ep->env.payload_max = port->payload_max;
    ep->env.slack_ns = port->slack_ns;
    ep->env.sources = port->source_count == 0 ? 1 : port->source_count;
    kvn_env_share(&ep->env, 0);
    kvn_regions_begin(&ep->env.regions);
    for (uint32_t i = 0; i < KVN_BURST; ++i) {
        ep->slots[i].packet = &ep->packets[i];
        ep->slots[i].bounce = bounce + (size_t)i * port->payload_max;
    }
    *t = &ep->base;
    return KVW_OK;
}
