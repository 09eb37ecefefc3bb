/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handshake.c - which connection is the peer's (SPEC.md 3.1).
 *
 * Every connection begins with a HELLO each way. A newcomer replaces the peer only once its HELLO
 * has been found good: a restarted peer gets in before its old connection is known to be dead, and
 * a stranger that merely connects disturbs nobody.
 *
 * Timers: HELLO      a connection whose HELLO hasn't come KVW_HELLO_TIMEOUT_NS after it came up
 *         REJECTED   one that was told so and hasn't hung up after KVW_DIAL_SLOW_NS
 *         dial       sender: at once after a connection that had lasted, else with back-off
 */
#include <stdio.h>
#include <string.h>

#include "session.h"

struct kvw_conn *kvw_handshake_find(struct kvw_session *s, kvw_conn_id id)
{
    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i)
        if (s->conns[i].state != KVW_CONN_NONE && s->conns[i].id.value == id.value)
            return &s->conns[i];
    return NULL;
}

static void dial_later(struct kvw_session *s, uint64_t after_ns)
{
    if (s->role == KVW_ROLE_SENDER)
        s->dial_at_ns = s->now_ns + after_ns;
}

/* The next try: at once, then 10, 20, 40 ... 250 ms. */
static void dial_again(struct kvw_session *s)
{
    dial_later(s, s->dial_delay_ns);
    if (s->dial_delay_ns == 0)
        s->dial_delay_ns = KVW_DIAL_FIRST_NS;
    else if ((s->dial_delay_ns *= 2) > KVW_DIAL_MAX_NS)
        s->dial_delay_ns = KVW_DIAL_MAX_NS;
}

static void emit_lost(struct kvw_session *s, kvw_err err, const char *text)
{
    struct kvw_event_rec *rec = kvw_events_push(&s->events, KVW_EV_PEER_LOST, s->now_ns);

    rec->err = err;
    snprintf(rec->text, sizeof(rec->text), "%s", text);
}

/* The peer is gone; its connection is the caller's to clear. */
static void lose_peer(struct kvw_session *s, kvw_err err, const char *text)
{
    kvw_xfer_peer_lost(s, KVW_E_PEER_LOST, text);
    if (s->now_ns - s->ready->ready_ns >= KVW_SETTLED_NS)
        s->dial_delay_ns = 0;
    s->ready = NULL;
    s->lent = false; /* to the next one the region is shut */
    if (s->role == KVW_ROLE_RECEIVER)
        kvw_window_reset(&s->window);
    else
        kvw_send_stop(s);
    emit_lost(s, err, text);
}

/* Hang up. The caller has dealt with what the connection meant. */
static void drop(struct kvw_session *s, struct kvw_conn *c)
{
    const kvw_conn_id id = c->id;

    c->state = KVW_CONN_NONE;
    s->transport->ops->disconnect(s->transport, id, s->now_ns);
    s->sent = true;
}

/* A connection that never became the peer's has failed. Told to the caller when there is something
 * to learn from it: whom a sender dials is its own choice, while anyone may knock at a receiver. */
static void report_failed(struct kvw_session *s, kvw_err err, const char *text)
{
    if (s->ready == NULL &&
        (s->role == KVW_ROLE_SENDER || err == KVW_E_VERSION || err == KVW_E_MISMATCH))
        emit_lost(s, err, text);
}

static void reject(struct kvw_session *s, struct kvw_conn *c, kvw_err err, const char *text)
{
    c->state = KVW_CONN_REJECTED;
    c->deadline_ns = s->now_ns + KVW_DIAL_SLOW_NS;
    c->reject_due = true;
    c->reject_err = err;
    snprintf(c->text, sizeof(c->text), "%s", text);
    report_failed(s, err, c->text);
}

kvw_err kvw_handshake_dial(struct kvw_session *s)
{
    struct kvw_conn *c = &s->conns[0]; /* a sender has only this one */
    kvw_conn_id id;
    const kvw_err err = s->transport->ops->connect(
        s->transport, s->has_peer_addr ? s->peer_addr : NULL, s->now_ns, &id);

    s->sent = true;
    if (err == KVW_OK) {
        memset(c, 0, sizeof(*c));
        c->state = KVW_CONN_DIALING;
        c->id = id;
        c->deadline_ns = UINT64_MAX; /* the transport ends it one way or the other (rule 8) */
        s->dial_at_ns = UINT64_MAX;
        return KVW_OK;
    }
    dial_again(s);
    return err == KVW_E_AGAIN ? KVW_OK : err;
}

/* Room for a newcomer: a free entry, or that of the one that has been silent longest. */
static struct kvw_conn *newcomer(struct kvw_session *s)
{
    struct kvw_conn *oldest = NULL;

    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i) {
        struct kvw_conn *c = &s->conns[i];

        if (c->state == KVW_CONN_NONE)
            return c;
        if (c != s->ready && (oldest == NULL || c->deadline_ns < oldest->deadline_ns))
            oldest = c;
    }
    drop(s, oldest); /* exists: at most one of the five is the peer's */
    return oldest;
}

void kvw_handshake_conn_up(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    struct kvw_conn *c = kvw_handshake_find(s, ev->conn);

    if (s->role == KVW_ROLE_RECEIVER && ev->incoming && c == NULL) {
        c = newcomer(s);
        memset(c, 0, sizeof(*c));
        c->id = ev->conn;
    } else if (c == NULL || c->state != KVW_CONN_DIALING) {
        if (c == NULL) /* nobody asked for it */
            s->transport->ops->disconnect(s->transport, ev->conn, s->now_ns);
        return;
    }
    c->state = KVW_CONN_HELLO;
    c->deadline_ns = s->now_ns + KVW_HELLO_TIMEOUT_NS;
    c->hello_due = true;
}

void kvw_handshake_conn_down(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    struct kvw_conn *c = kvw_handshake_find(s, ev->conn);
    enum kvw_conn_state was;

    if (c == NULL)
        return;
    was = c->state;
    if (c == s->ready)
        lose_peer(s, ev->err != KVW_OK ? ev->err : KVW_E_PEER_LOST,
                  ev->text != NULL && ev->text[0] != '\0' ? ev->text : "the connection went down");
    c->state = KVW_CONN_NONE;
    if (was == KVW_CONN_REJECTED)
        dial_later(s, KVW_DIAL_SLOW_NS);
    else
        dial_again(s);
}

/* Both HELLOs are through: this connection is the peer's from now on. */
static void promote(struct kvw_session *s, struct kvw_conn *c)
{
    struct kvw_event_rec *rec;

    if (s->ready != NULL) {
        struct kvw_conn *old = s->ready;

        lose_peer(s, KVW_E_PEER_LOST, "the peer connected anew");
        drop(s, old);
    }
    c->state = KVW_CONN_READY;
    c->deadline_ns = UINT64_MAX;
    c->ready_ns = s->now_ns;
    s->ready = c;
    if (s->role == KVW_ROLE_SENDER)
        kvw_send_start(s);
    rec = kvw_events_push(&s->events, KVW_EV_PEER_UP, s->now_ns);
    snprintf(rec->text, sizeof(rec->text), "the peer serves %s, blocks of %u tokens",
             c->hello.name[0] != '\0' ? c->hello.name : "a model without a name",
             c->hello.shape.block_tokens);
}

static void take_hello(struct kvw_session *s, struct kvw_conn *c, const uint8_t *msg,
                       uint32_t bytes)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    uint32_t version;
    kvw_err err = kvw_hello_front(msg, bytes, &version);

    if (err != KVW_OK) {
        reject(s, c, KVW_E_PROTOCOL, "the first message is not a HELLO");
        return;
    }
    if (version != KVW_WIRE_VERSION) {
        snprintf(text, sizeof(text), "protocol version differs: here %u, peer %u", KVW_WIRE_VERSION,
                 version);
        reject(s, c, KVW_E_VERSION, text);
        return;
    }
    if (kvw_hello_decode(&c->hello, msg, bytes) != KVW_OK) {
        reject(s, c, KVW_E_PROTOCOL, "the HELLO is malformed");
        return;
    }
    if ((err = kvw_hello_match(&s->hello, &c->hello, text)) != KVW_OK) {
        reject(s, c, err, text);
        return;
    }
    c->hello_got = true;
    if (!c->hello_due)
        promote(s, c);
}

static void take_reject(struct kvw_session *s, struct kvw_conn *c, const uint8_t *msg,
                        uint32_t bytes)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct kvw_reject r;

    if (kvw_reject_decode(&r, msg, bytes) != KVW_OK)
        r = (struct kvw_reject){.err = KVW_E_PROTOCOL, .text = "(malformed REJECT)"};
    if (r.err != KVW_E_VERSION && r.err != KVW_E_MISMATCH)
        r.err = KVW_E_PROTOCOL;
    snprintf(text, sizeof(text), "refused by the peer: %.*s", (int)sizeof(text) - 24, r.text);
    if (c == s->ready)
        lose_peer(s, r.err, text);
    else if (c->state != KVW_CONN_REJECTED) /* else both found the same, and ours is told */
        report_failed(s, r.err, text);
    drop(s, c);
    dial_later(s, KVW_DIAL_SLOW_NS);
}

void kvw_handshake_message(struct kvw_session *s, struct kvw_conn *c, const uint8_t *msg,
                           uint32_t bytes)
{
    if (bytes > 0 && kvw_msg_type(msg) == KVW_MSG_REJECT)
        take_reject(s, c, msg, bytes);
    else if (c->state == KVW_CONN_READY)
        kvw_handshake_breach(s, "a second HELLO");
    else if (c->state == KVW_CONN_HELLO && !c->hello_got)
        take_hello(s, c, msg, bytes);
    else if (c->state == KVW_CONN_HELLO)
        reject(s, c, KVW_E_PROTOCOL, "a message before the handshake was over");
    /* REJECTED: it may have said more before it heard of that. */
}

void kvw_handshake_breach(struct kvw_session *s, const char *text)
{
    struct kvw_conn *c = s->ready;

    lose_peer(s, KVW_E_PROTOCOL, text);
    drop(s, c);
    dial_again(s);
}

void kvw_handshake_timers(struct kvw_session *s)
{
    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i) {
        struct kvw_conn *c = &s->conns[i];
        const bool rejected = c->state == KVW_CONN_REJECTED;

        if (c->state == KVW_CONN_NONE || s->now_ns < c->deadline_ns)
            continue;
        if (!kvw_events_room(&s->events, KVW_EVENTS_STEP(s->pool.layers))) {
            s->held_up = true;
            return;
        }
        if (!rejected)
            report_failed(s, KVW_E_PEER_LOST, "the peer sent no HELLO in time");
        drop(s, c);
        if (rejected)
            dial_later(s, KVW_DIAL_SLOW_NS);
        else
            dial_again(s);
    }
    if (s->now_ns >= s->dial_at_ns &&
        kvw_events_room(&s->events, KVW_EVENTS_STEP(s->pool.layers)) &&
        kvw_handshake_dial(s) != KVW_OK)
        report_failed(s, KVW_E_PEER_LOST, "the transport can't connect");
}

void kvw_handshake_flush(struct kvw_session *s)
{
    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i) {
        struct kvw_conn *c = &s->conns[i];
        uint32_t bytes;

        /* Our HELLO goes before a REJECT, so that the other side can find what differs too. */
        if (c->state == KVW_CONN_NONE || (!c->hello_due && !c->reject_due))
            continue;
        if (c->hello_due) {
            bytes = kvw_hello_encode(s->msg, &s->hello);
            if (s->transport->ops->send(s->transport, c->id, s->msg, bytes) != KVW_OK)
                continue; /* full: later. Gone: CONN_DOWN is on its way */
            c->hello_due = false;
            s->sent = true;
        }
        if (c->reject_due) {
            struct kvw_reject r = {.err = c->reject_err, .version = KVW_WIRE_VERSION};

            memcpy(r.text, c->text, sizeof(r.text));
            bytes = kvw_reject_encode(s->msg, &r);
            if (s->transport->ops->send(s->transport, c->id, s->msg, bytes) != KVW_OK)
                continue;
            c->reject_due = false;
            s->sent = true;
        }
        if (c->state == KVW_CONN_HELLO && c->hello_got &&
            kvw_events_room(&s->events, KVW_EVENTS_STEP(s->pool.layers)))
            promote(s, c);
    }
}

uint64_t kvw_handshake_deadline_ns(const struct kvw_session *s)
{
    uint64_t at = s->dial_at_ns;

    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i)
        if (s->conns[i].state != KVW_CONN_NONE && s->conns[i].deadline_ns < at)
            at = s->conns[i].deadline_ns;
    return at;
}

void kvw_handshake_close(struct kvw_session *s)
{
    s->ready = NULL;
    for (uint32_t i = 0; i < KVW_SESSION_CONNS; ++i)
        if (s->conns[i].state != KVW_CONN_NONE)
            drop(s, &s->conns[i]);
}
