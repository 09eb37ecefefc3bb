/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - connections, and which of them is a peer's.
 *
 * Timers  link  HELLO     2 s for the other side to say who it is
 *               REJECTED  1 s for the other side to hang up
 *         peer  dial      at once after a connection that had lasted, else with back-off
 */
#include "link.h"

#include <stdio.h>

#include "../wire/fields.h"

static uint64_t conn_hash(uint32_t way, kvw_conn_id conn)
{
    return kvw_index_mix((uint64_t)way << 32 | conn.value);
}

struct kvw_link *kvw_link_find(const struct kvw_core *c, uint32_t way, kvw_conn_id conn)
{
    for (struct kvw_indexed *m = kvw_index_first(&c->conns, conn_hash(way, conn)); m != NULL;
         m = kvw_index_next(m)) {
        struct kvw_link *l = kvw_list_of(m, struct kvw_link, by_conn);

        if (l->path == way && l->conn.value == conn.value)
            return l;
    }
    return NULL;
}

/* A free entry, in the index; NULL: none is left. */
static struct kvw_link *link_new(struct kvw_core *c, uint32_t way, kvw_conn_id conn)
{
    struct kvw_link *l;

    if (kvw_list_empty(&c->free_links))
        return NULL;
    l = kvw_list_of(c->free_links.next, struct kvw_link, in);
    kvw_list_remove(&l->in);
    memset(l, 0, sizeof(*l));
    kvw_list_init(&l->in);
    kvw_list_init(&l->due);
    kvw_timer_init(&l->timer, KVW_TIMER_LINK);
    l->path = way;
    l->conn = conn;
    kvw_index_add(&c->conns, &l->by_conn, conn_hash(way, conn));
    return l;
}

void kvw_link_gone(struct kvw_core *c, struct kvw_link *l)
{
    if (l->peer == NULL)
        --c->newcomer_count;
    else if (l->peer->dialing == l)
        l->peer->dialing = NULL;
    kvw_heap_set(&c->timers, &l->timer, UINT64_MAX);
    kvw_index_remove(&c->conns, &l->by_conn);
    kvw_list_remove(&l->in);
    kvw_list_remove(&l->due);
    l->state = KVW_LINK_FREE;
    kvw_list_add(&c->free_links, &l->in);
}

void kvw_link_drop(struct kvw_core *c, struct kvw_link *l)
{
    struct kvw_core_way *way = &c->ways[l->path];

    way->transport->ops->disconnect(way->transport, l->conn, c->now_ns);
    way->sent = true;
    c->more = true;
    kvw_link_gone(c, l);
}

/* --- dialling --------------------------------------------------------------------------------- */

void kvw_link_dial_again(struct kvw_core *c, struct kvw_peer *p, uint64_t after_ns)
{
    if (!p->added)
        return;
    p->dial_at_ns = c->now_ns + (p->dial_delay_ns > after_ns ? p->dial_delay_ns : after_ns);
    p->dial_delay_ns = p->dial_delay_ns == 0 ? KVW_DIAL_MIN_NS : 2 * p->dial_delay_ns;
    if (p->dial_delay_ns > KVW_DIAL_CAP_NS)
        p->dial_delay_ns = KVW_DIAL_CAP_NS;
    kvw_heap_set(&c->timers, &p->timer,
                 p->dial_at_ns < p->idle_at_ns ? p->dial_at_ns : p->idle_at_ns);
}

/* A try has failed; told to the caller once until something new is learnt: another reason is. */
static void failed(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text,
                   uint64_t after_ns, struct kvw_verdict *v)
{
    const bool again = strncmp(p->why, text, sizeof(p->why) - 1) == 0;

    snprintf(p->why, sizeof(p->why), "%s", text);
    kvw_link_dial_again(c, p, after_ns);
    if ((p->told_down && again) || p->link != NULL)
        return;
    p->told_down = true;
    *v = (struct kvw_verdict){.kind = KVW_VERDICT_FAILED, .peer = p, .err = err};
    snprintf(v->text, sizeof(v->text), "%s", text);
}

void kvw_link_dial(struct kvw_core *c, struct kvw_peer *p, struct kvw_verdict *v)
{
    struct kvw_core_way *way = &c->ways[p->path];
    char text[96];
    kvw_conn_id conn;
    const kvw_err err = way->transport->ops->connect(
        way->transport, p->has_address ? p->address : NULL, c->now_ns, &conn);
    struct kvw_link *l;

    way->sent = true;
    c->more = true;
    p->dial_at_ns = UINT64_MAX;
    if (err == KVW_E_AGAIN) {
        kvw_link_dial_again(c, p, KVW_DIAL_MIN_NS);
        return;
    }
    if (err != KVW_OK) {
        snprintf(text, sizeof(text), "%s can't connect: %s", way->name, kvw_strerror(err));
        failed(c, p, err, text, KVW_REJECTED_NS, v);
        return;
    }
    if ((l = link_new(c, p->path, conn)) == NULL) { /* can't be: there is one for each peer */
        way->transport->ops->disconnect(way->transport, conn, c->now_ns);
        kvw_link_dial_again(c, p, KVW_REJECTED_NS);
        return;
    }
    l->state = KVW_LINK_DIALING;
    l->dialled = true;
    l->peer = p;
    p->dialing = l;
}

/* --- up and down ------------------------------------------------------------------------------ */

/* Room for one more newcomer: that of the oldest, if there are too many. */
static void make_room(struct kvw_core *c)
{
    if (c->newcomer_count < KVW_NEWCOMERS(c->peers_max))
        return;
    kvw_link_drop(c, kvw_list_of(c->newcomers.next, struct kvw_link, in));
}

void kvw_link_conn_up(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev)
{
    struct kvw_link *l = kvw_link_find(c, way, ev->conn);

    if (l == NULL && ev->incoming) {
        make_room(c);
        l = link_new(c, way, ev->conn);
        if (l != NULL) {
            ++c->newcomer_count;
            kvw_list_add(&c->newcomers, &l->in);
            l->hello_due = true;
            kvw_list_want(&c->links_due, &l->due);
        }
    }
    if (l == NULL) { /* nobody asked for it, or no entry is left */
        c->ways[way].transport->ops->disconnect(c->ways[way].transport, ev->conn, c->now_ns);
        c->ways[way].sent = true;
        return;
    }
    l->state = KVW_LINK_HELLO;
    kvw_heap_set(&c->timers, &l->timer, c->now_ns + KVW_HELLO_TIMEOUT_NS);
}

void kvw_link_conn_down(struct kvw_core *c, uint32_t way, const struct kvw_transport_event *ev,
                        struct kvw_verdict *v)
{
    struct kvw_link *l = kvw_link_find(c, way, ev->conn);
    const char *text =
        ev->text != NULL && ev->text[0] != '\0' ? ev->text : "the connection went down";
    struct kvw_peer *p;
    bool rejected;

    if (l == NULL)
        return;
    p = l->peer;
    rejected = l->state == KVW_LINK_REJECTED;
    if (p != NULL && p->link == l) {
        *v = (struct kvw_verdict){
            .kind = KVW_VERDICT_LOST,
            .peer = p,
            .link = l,
            .err = ev->err != KVW_OK ? ev->err : KVW_E_PEER_LOST,
        };
        snprintf(v->text, sizeof(v->text), "%s", text);
        return; /* core.c gives it back */
    }
    kvw_link_gone(c, l);
    if (p != NULL && p->link == NULL) {
        if (rejected)
            kvw_link_dial_again(c, p, KVW_REJECTED_NS);
        else
            failed(c, p, ev->err != KVW_OK ? ev->err : KVW_E_PEER_LOST, text, 0, v);
    }
}

static void reject(struct kvw_core *c, struct kvw_link *l, kvw_err err, const char *text,
                   struct kvw_verdict *v)
{
    l->state = KVW_LINK_REJECTED;
    l->reject_due = true;
    kvw_list_want(&c->links_due, &l->due);
    l->hello_due = l->hello_due || l->dialled; /* so that the other side can find what differs */
    l->reject_err = err;
    snprintf(l->text, sizeof(l->text), "%s", text);
    kvw_heap_set(&c->timers, &l->timer, c->now_ns + KVW_REJECTED_NS);
    if (l->peer != NULL)
        failed(c, l->peer, err, text, KVW_REJECTED_NS, v);
}

/* --- HELLO ------------------------------------------------------------------------------------ */

/* Whether these two can talk at all; else the error and a sentence. Pools are no matter here. */
static kvw_err fits(const struct kvw_core *c, const struct kvw_wire_hello *h, char *text,
                    size_t size)
{
    if (kvw_wire_agree(KVW_WIRE_VERSIONS, h->versions) == 0) {
        snprintf(text, size, "no common protocol version: here %llx, peer %llx, a bit each",
                 (unsigned long long)KVW_WIRE_VERSIONS,
                 (unsigned long long)(h->versions & KVW_WIRE_VERSION_BITS));
        return KVW_E_VERSION;
    }
    if (h->instance == c->instance) {
        snprintf(text, size, "this node has reached itself");
        return KVW_E_MISMATCH;
    }
    if ((h->digests & KVW_DIGESTS) == 0) {
        snprintf(text, size, "no common digest: here %llx, peer %llx, a bit each",
                 (unsigned long long)KVW_DIGESTS, (unsigned long long)h->digests);
        return KVW_E_MISMATCH;
    }
    return KVW_OK;
}

/* The link is the peer's from now on. */
static void up(struct kvw_core *c, struct kvw_link *l, struct kvw_peer *p, struct kvw_verdict *v)
{
    if (l->peer == NULL) {
        --c->newcomer_count;
        kvw_list_remove(&l->in);
    } else if (p->dialing == l) {
        p->dialing = NULL;
    }
    l->peer = p;
    l->state = KVW_LINK_READY;
    kvw_heap_set(&c->timers, &l->timer, UINT64_MAX);
    p->hello = l->hello;
    p->version = kvw_wire_agree(KVW_WIRE_VERSIONS, l->hello.versions);
    *v = (struct kvw_verdict){.kind = KVW_VERDICT_UP, .peer = p, .link = l};
    v->quiet = p->link != NULL && p->link->dialled != l->dialled &&
               c->now_ns - p->ready_ns < KVW_STEADY_NS;
}

/* The dialler has read whom it has reached. */
static void dialler_hello(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v)
{
    struct kvw_peer *p = l->peer, *known = kvw_peer_of_instance(c, l->hello.instance);
    const uint32_t id = p->id;

    const bool other_name = known != NULL && known != p;

    if (other_name) { /* it has come by itself, or has another address, too */
        p->dialing = NULL;
        l->peer = known;
        kvw_peer_absorb(c, known, p);
        p = known;
        if (p->dialing != NULL && !p->dialing->hello_got)
            kvw_link_drop(c, p->dialing); /* it may lead elsewhere; this one has arrived */
        if (p->dialing == NULL)
            p->dialing = l;
    }
    if (p->link != NULL || p->dialing != l) { /* up, or about to be: this one is one too many */
        if (other_name && p->link != NULL)    /* else its PEER_UP names all its ids */
            *v = (struct kvw_verdict){.kind = KVW_VERDICT_SAME, .peer = p, .also = id};
        kvw_link_drop(c, l);
        return;
    }
    kvw_peer_set_instance(c, p, l->hello.instance);
    l->hello_due = true; /* and when it has gone the link is up */
    kvw_list_want(&c->links_due, &l->due);
}

/* The dialled side has read who wants to be its peer. */
static void dialled_hello(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v)
{
    struct kvw_peer *p = kvw_peer_of_instance(c, l->hello.instance);

    if (p == NULL) {
        struct kvw_peer *idle;

        if (c->peer_count == c->peers_max && (idle = kvw_peer_oldest_idle(c)) != NULL)
            kvw_peer_free(c, idle);
        if ((p = kvw_peer_new(c, l->path)) == NULL) {
            reject(c, l, KVW_E_NOMEM, "this node knows as many peers as it can", v);
            return;
        }
        kvw_peer_set_instance(c, p, l->hello.instance);
    } else if (p->link != NULL && p->link->dialled && c->now_ns - p->ready_ns < KVW_STEADY_NS &&
               c->instance < p->instance) {
        /* Both have dialled: ours stays. The peer, to which this one may be up, hangs up on it when
         * our HELLO comes there; before that it would take the end of this one for ours. */
        l->state = KVW_LINK_REJECTED;
        kvw_heap_set(&c->timers, &l->timer, c->now_ns + KVW_REJECTED_NS);
        return;
    }
    up(c, l, p, v);
}

static void take_hello(struct kvw_core *c, struct kvw_link *l, const uint8_t *msg, uint32_t bytes,
                       struct kvw_verdict *v)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    uint32_t layout;
    kvw_err err = kvw_wire_hello_front(msg, bytes, &layout);

    if (err != KVW_OK) {
        reject(c, l, KVW_E_PROTOCOL, "the first message is not a HELLO", v);
        return;
    }
    if (layout != KVW_WIRE_LAYOUT) {
        snprintf(text, sizeof(text), "protocol version differs: here %u, peer %u", KVW_WIRE_LAYOUT,
                 layout);
        reject(c, l, KVW_E_VERSION, text, v);
        return;
    }
    if (kvw_wire_hello_decode(&l->hello, msg, bytes) != KVW_OK) {
        reject(c, l, KVW_E_PROTOCOL, "the HELLO is malformed", v);
        return;
    }
    if ((err = fits(c, &l->hello, text, sizeof(text))) != KVW_OK) {
        reject(c, l, err, text, v);
        return;
    }
    l->hello_got = true;
    if (l->dialled)
        dialler_hello(c, l, v);
    else if (!l->hello_due) /* else ours must leave first: kvw_link_flush() goes on */
        dialled_hello(c, l, v);
}

static void take_reject(struct kvw_core *c, struct kvw_link *l, const uint8_t *msg, uint32_t bytes,
                        struct kvw_verdict *v)
{
    struct kvw_wire_reject r;
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct kvw_peer *p = l->peer;

    if (kvw_wire_reject_decode(&r, msg, bytes) != KVW_OK)
        r = (struct kvw_wire_reject){.err = KVW_E_PROTOCOL, .text = "(malformed REJECT)"};
    if (r.err != KVW_E_VERSION && r.err != KVW_E_MISMATCH && r.err != KVW_E_NOMEM)
        r.err = KVW_E_PROTOCOL;
    snprintf(text, sizeof(text), "refused by the peer: %.*s", (int)sizeof(text) - 24, r.text);
    if (p != NULL && p->link == l) {
        *v = (struct kvw_verdict){
            .kind = KVW_VERDICT_LOST, .peer = p, .link = l, .err = r.err, .rejected = true};
        snprintf(v->text, sizeof(v->text), "%s", text);
        p->dial_delay_ns = KVW_REJECTED_NS;
        return;
    }
    kvw_link_drop(c, l);
    if (p != NULL)
        failed(c, p, r.err, text, KVW_REJECTED_NS, v);
}

void kvw_link_message(struct kvw_core *c, struct kvw_link *l, const uint8_t *msg, uint32_t bytes,
                      struct kvw_verdict *v)
{
    if (bytes > 0 && msg[0] == KVW_WIRE_REJECT)
        take_reject(c, l, msg, bytes, v);
    else if (l->state == KVW_LINK_HELLO && !l->hello_got)
        take_hello(c, l, msg, bytes, v);
    else if (l->state == KVW_LINK_HELLO)
        reject(c, l, KVW_E_PROTOCOL, "a message before the handshake was over", v);
    /* REJECTED: it may have said more before it heard of that. READY: core.c calls it a breach. */
}

void kvw_link_timer(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v)
{
    const bool rejected = l->state == KVW_LINK_REJECTED;
    struct kvw_peer *p = l->peer;

    kvw_link_drop(c, l);
    if (p == NULL || p->link != NULL)
        return;
    if (rejected)
        kvw_link_dial_again(c, p, KVW_REJECTED_NS);
    else
        failed(c, p, KVW_E_PEER_LOST, "the peer sent no HELLO in time", 0, v);
}

void kvw_link_flush(struct kvw_core *c, struct kvw_link *l, struct kvw_verdict *v)
{
    struct kvw_core_way *way = &c->ways[l->path];
    struct kvw_wire_reject r;

    if (l->hello_due) {
        if (way->transport->ops->send(way->transport, l->conn, c->msg,
                                      kvw_wire_hello_encode(c->msg, &way->hello)) != KVW_OK) {
            c->retry_ns = c->now_ns + KVW_MSG_RETRY_NS; /* full: later. Gone: CONN_DOWN comes */
            return;
        }
        l->hello_due = false;
        way->sent = true;
        if (l->state == KVW_LINK_HELLO && l->hello_got) {
            kvw_list_remove(&l->due);
            if (l->dialled)
                up(c, l, l->peer, v);
            else
                dialled_hello(c, l, v);
            return;
        }
    }
    if (l->reject_due) {
        r = (struct kvw_wire_reject){.err = l->reject_err, .layout = KVW_WIRE_LAYOUT};
        memcpy(r.text, l->text, sizeof(r.text));
        if (way->transport->ops->send(way->transport, l->conn, c->msg,
                                      kvw_wire_reject_encode(c->msg, &r)) != KVW_OK) {
            c->retry_ns = c->now_ns + KVW_MSG_RETRY_NS;
            return;
        }
        l->reject_due = false;
        way->sent = true;
    }
    kvw_list_remove(&l->due);
}
