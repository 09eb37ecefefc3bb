/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <stdio.h>

/* A packet came that must be acknowledged. */
static void owe_ack(struct kvn_path *p, const struct kvn_env *env, const struct kvn_frame *f,
                    bool in_order)
{
    ++p->seen.unacked;
    if ((f->flags & KVN_FLAG_ACK_NOW) || !in_order || p->seen.unacked >= KVN_ACK_EVERY)
        p->seen.due = true;
    else
        kvn_timers_ack_owed(&p->conn->timers, env->now_ns);
}

/* The ACK's largest number is news, and its record still there. No number is used twice, so the
 * sample is of this very copy, whatever it carried. */
static void sample(struct kvn_path *p, struct kvn_env *env, const struct kvn_ack *a,
                   struct kvn_cc_ack *news)
{
    const struct kvn_sent *s = kvn_inflight_at(&p->out, a->largest);

    kvn_loss_rtt(&p->loss, env->now_ns - s->sent_ns, (uint64_t)a->delay << KVN_DELAY_SHIFT);
    env->stats.srtt_ns = p->loss.srtt_ns;
    if (s->bytes >= p->cc.slice) {
        if (kvn_loss_base(&p->loss, env->now_ns))
            p->nack_doubt -= p->nack_doubt > 0;
        news->rtt_ns = p->loss.latest_rtt_ns;
    }
    news->sent_ns = s->sent_ns;
}

/* An ACK, by whatever path it came, about path p. */
static void take_path_ack(struct kvn_path *p, struct kvn_env *env, const struct kvn_ack *a)
{
    const uint64_t bytes = p->out.bytes, largest = p->out.largest_acked, late = p->late;
    const uint32_t packets = p->out.packets;
    struct kvn_cc_ack news = {.now_ns = env->now_ns, .full = 2 * bytes > p->cc.window};

    for (uint32_t i = 0; i < a->count; ++i) {
        if (a->range[i].end <= p->out.base)
            break;
        kvn_inflight_ack(&p->out, &a->range[i], &kvn_conn_inflight_events, p);
    }
    if (a->largest > largest && a->largest >= p->out.base)
        sample(p, env, a, &news);
    news.bytes = bytes - p->out.bytes;
    news.packets = packets - p->out.packets;
    news.marked = a->ce - p->ce < news.packets ? a->ce - p->ce : news.packets;
    if (a->largest >= largest)
        p->ce = a->ce;
    env->stats.packets_spurious += p->late - late;
    if (news.packets > 0) {
        p->loss.probes = 0;
        p->progress_ns = p->acked_ns = env->now_ns;
    }
    if (news.packets > 0 || news.sent_ns != 0) {
        news.base_ns = p->loss.base_ns;
        kvn_cc_acked(&p->cc, &news);
        kvn_path_ask_every(p);
    }
    kvn_path_detect(p, env);
    if (KVN_TRACING(env->trace))
        kvn_tell_metrics(p);
}

static void take_ack(struct kvn_conn *c, struct kvn_env *env, const struct kvn_ack *a)
{
    if (a->path >= c->paths || a->largest >= c->path[a->path].out.next) {
        kvn_conn_end(c, env, KVW_E_PROTOCOL, true, "the peer acknowledged what was never sent");
        return;
    }
    if (a->stream_ends > c->stream_out.limit)
        c->stream_out.limit = a->stream_ends;
    if (a->credit > c->puts_out.credit)
        c->puts_out.credit = a->credit;
    take_path_ack(&c->path[a->path], env, a);
}

static kvw_err take_data(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f)
{
    const kvw_conn_id id = {c->api_id};
    char text[160];
    uint32_t fresh;
    const kvw_err err = kvn_puts_in_take(&c->puts_in, f, &env->regions, id, &fresh);

    env->stats.put_bytes_received += fresh;
    c->last_data_ns = c->last_use_ns = env->now_ns;
    c->nacks = 0;
    if (c->puts_in.credit - c->puts_in.taken < env->window / 2)
        kvn_conn_ack_soon(c);
    if (err == KVW_E_PROTOCOL) {
        snprintf(text, sizeof(text),
                 "the peer put %u bytes at offset %llu of region %u (imm %u), where it may not",
                 f->data.bytes, (unsigned long long)f->data.offset, f->data.region, f->data.imm);
        kvn_conn_end(c, env, KVW_E_PROTOCOL, true, text);
    }
    return err;
}

static kvw_err take_msg(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f)
{
    const kvw_err err =
        kvn_stream_in_take(&c->stream_in, f->stream_at, f->payload, f->payload_bytes);

    c->last_use_ns = env->now_ns;
    if (err == KVW_E_PROTOCOL)
        kvn_conn_end(c, env, KVW_E_PROTOCOL, true,
                     "the peer sent more of the control stream than it was allowed");
    return err;
}

static void take_goodbye(struct kvn_conn *c, struct kvn_env *env, kvw_err why)
{
    char text[160];

    if (why == KVW_E_PROTOCOL) {
        kvn_conn_end(c, env, KVW_E_PROTOCOL, false,
                     "the peer ended the connection: this side broke the protocol, it says");
    } else if (why == KVW_OK) {
        kvn_conn_end(c, env, KVW_E_PEER_LOST, false, "the peer disconnected");
    } else {
        snprintf(text, sizeof(text), "the peer ended the connection: %s", kvw_strerror(why));
        kvn_conn_end(c, env, KVW_E_PEER_LOST, false, text);
    }
}

/* An ended connection says so again when the peer seems not to know. */
static void receive_ended(struct kvn_conn *c, const struct kvn_env *env, const struct kvn_frame *f)
{
    if (f->type == KVN_PACKET_GOODBYE) {
        c->repeats_goodbye = false;
        return;
    }
    if (f->type == KVN_PACKET_HELLO_ACK && c->peer_id == 0)
        c->peer_id = f->hello.source;
    if (c->repeats_goodbye && c->peer_id != 0 &&
        env->now_ns - c->last_goodbye_ns >= KVN_GOODBYE_GAP_NS)
        c->goodbye_due = true;
}

/* Both ends speak a higher version than what they were led to. */
static void refuse_downgrade(struct kvn_conn *c, struct kvn_env *env, uint16_t theirs,
                             const struct kvn_addr *from)
{
    char text[192], addr[KVN_ADDR_TEXT_BYTES];

    kvn_addr_format(from, addr);
    snprintf(text, sizeof(text),
             "%s and this side both speak version %u of the packet protocol, but a RESET in its "
             "name said otherwise",
             addr, kvn_versions_choose(env->cfg.versions, theirs, 0));
    kvn_conn_end(c, env, KVW_E_VERSION, false, text);
}

static void receive_hello_ack(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f,
                              const struct kvn_rx_packet *rx)
{
    if (c->state != KVN_CONN_CONNECTING)
        return; /* a second copy */
    if (kvn_versions_choose(env->cfg.versions, f->versions, 0) != c->version) {
        refuse_downgrade(c, env, f->versions, &rx->from);
        return;
    }
    /* A listener on every address answers from the one it likes. */
    c->path[0].peer = rx->from;
    kvn_conn_agree(c, env, &f->hello, rx->len);
    kvn_conn_up(c, env);
    c->hello_due = false;
    c->path[0].ping_due = true; /* tells the listener that this side's address is real */
}

void kvn_conn_hello(struct kvn_conn *c, uint32_t bytes)
{
    if (c->state != KVN_CONN_ACCEPTING && !(c->state == KVN_CONN_UP && c->incoming))
        return;
    c->hello_due = true; /* our HELLO_ACK was lost, or this is an old copy */
    if (bytes > c->hello_bytes)
        c->hello_bytes = bytes;
}

/* A listener doesn't speak the version of our HELLO. */
static void take_versions(struct kvn_conn *c, struct kvn_env *env, uint16_t theirs,
                          const char *addr)
{
    const uint8_t next = kvn_versions_choose(env->cfg.versions, theirs, c->tried);
    char text[256], peer[48], own[48];

    if (kvn_versions_have(theirs, c->version))
        return; /* it speaks it: said of an earlier HELLO, or by somebody else */
    if (next != 0) {
        c->version = next;
        c->tried |= (uint16_t)(1u << next);
        c->hello_due = true;
        return;
    }
    kvn_versions_format(theirs, peer, sizeof(peer));
    kvn_versions_format(env->cfg.versions, own, sizeof(own));
    snprintf(text, sizeof(text),
             "%s speaks version %s of the packet protocol, this side version %s", addr, peer, own);
    kvn_conn_end(c, env, KVW_E_VERSION, false, text);
}

void kvn_conn_reset(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f)
{
    char text[192], addr[KVN_ADDR_TEXT_BYTES];

    kvn_addr_format(&c->path[0].peer, addr);
    switch (f->reset.reason) {
    case KVN_RESET_VERSION:
        take_versions(c, env, f->versions, addr);
        return;
    case KVN_RESET_FULL:
        snprintf(text, sizeof(text), "%s has no room for another connection", addr);
        break;
    default:
        snprintf(text, sizeof(text), "%s doesn't know this connection any more; did it restart?",
                 addr);
        break;
    }
    kvn_conn_end(c, env, KVW_E_PEER_LOST, false, text);
}

/* What is acted on once, whatever the type. */
static kvw_err act(struct kvn_path *p, struct kvn_env *env, const struct kvn_frame *f)
{
    struct kvn_conn *c = p->conn;

    switch (f->type) {
    case KVN_PACKET_DATA:
        return take_data(c, env, f);
    case KVN_PACKET_MSG:
        return take_msg(c, env, f);
    case KVN_PACKET_ACK:
        take_ack(c, env, &f->ack);
        return KVW_OK;
    case KVN_PACKET_CHALLENGE:
        p->response = f->token;
        p->due |= KVN_DUE_RESPONSE;
        return KVW_OK;
    case KVN_PACKET_RESPONSE:
        if (kvn_path_response(p, f->token, env->now_ns)) {
            kvn_path_agreed(p, env, c->slice);
            kvn_note_path(p, "live");
            kvn_conn_refit(c, env);
            kvn_timers_search(&c->timers, 0); /* what it carries may have to be found out */
        }
        return KVW_OK;
    case KVN_PACKET_GOODBYE:
        take_goodbye(c, env, f->goodbye);
        return KVW_OK;
    case KVN_PACKET_NACK:
        kvn_conn_nacked(c, env, &f->nack);
        return KVW_OK;
    default:
        return KVW_OK;
    }
}

static void receive_up(struct kvn_path *p, struct kvn_env *env, const struct kvn_frame *f,
                       uint8_t ecn)
{
    const bool in_order = f->pn == p->seen.largest + 1;
    const bool asks =
        f->type == KVN_PACKET_DATA || f->type == KVN_PACKET_MSG || f->type == KVN_PACKET_PING;
    kvw_err err;

    kvn_timers_heard(&p->conn->timers, env->now_ns, env->cfg.dead_ns);
    /* 0 is no number, nor is 2^64 - 1: ranges end one after their last. */
    if (f->pn - 1 >= UINT64_MAX - 1 || kvn_seen_has(&p->seen, f->pn)) {
        ++env->stats.packets_duplicate;
        kvn_note_dropped(env, p->conn, f, 0, KVN_DROP_DUPLICATE);
        if (asks)
            p->seen.due = p->seen.largest > 0; /* perhaps our ACK was lost */
        return;
    }
    /* What can't be taken now must come again, so its number isn't remembered. */
    err = act(p, env, f);
    if (err == KVW_E_AGAIN)
        kvn_note_dropped(env, p->conn, f, 0, KVN_DROP_NO_ROOM);
    if (err != KVW_OK || p->conn->state != KVN_CONN_UP)
        return;
    kvn_seen_add(&p->seen, f->pn, env->now_ns);
    p->seen.ce += ecn == KVN_ECN_CE;
    if (asks)
        owe_ack(p, env, f, in_order);
}

/* A path that the client begins to use: from the same host, by another port. */
static bool begins(const struct kvn_path *p, const struct kvn_frame *f,
                   const struct kvn_rx_packet *rx)
{
    struct kvn_addr same;

    if (p->state != KVN_PATH_NONE || f->type != KVN_PACKET_CHALLENGE ||
        p->conn->state != KVN_CONN_UP || !p->conn->incoming)
        return false;
    same = rx->from;
    same.port = p->conn->path[0].peer.port;
    return kvn_addr_equal(&same, &p->conn->path[0].peer);
}

/*
 * A packet from another address than its path's: perhaps a NAT has bound the peer anew, perhaps
 * somebody made it up. It isn't acted on, but the peer is asked whether it is there, if the number
 * is one that the peer may use next. Returns whether this very packet is the answer.
 */
__attribute__((cold, noinline)) static bool moves(struct kvn_path *p, struct kvn_env *env,
                                                  const struct kvn_frame *f,
                                                  const struct kvn_rx_packet *rx)
{
    const uint64_t pn = kvn_seen_number(p->seen.largest, (uint32_t)f->pn);
    struct kvn_conn *c = p->conn;

    if (c->state != KVN_CONN_UP || p->state == KVN_PATH_NONE)
        return false;
    if (f->type == KVN_PACKET_RESPONSE && kvn_path_proved(p, &rx->from, f->token)) {
        kvn_conn_path_moved(p, env);
        return true;
    }
    if (pn > p->seen.largest && f->type != KVN_PACKET_GOODBYE)
        kvn_path_suspect(p, &rx->from, c->incoming ? rx->source : p->source, kvn_env_random64(env),
                         env->now_ns);
    return false;
}

/* The path a packet came by; NULL: there is no such path, or it isn't this peer. */
static struct kvn_path *path_of(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f,
                                const struct kvn_rx_packet *rx)
{
    struct kvn_path *p = f->path < c->paths ? &c->path[f->path] : NULL;

    if (p == NULL)
        return NULL;
    if (begins(p, f, rx)) {
        p->state = KVN_PATH_UNSURE;
        p->peer = rx->from;
        p->source = rx->source;
        kvn_path_challenge(p, kvn_env_random64(env), env->now_ns);
    }
    if (p->state == KVN_PATH_NONE && p->id > 0)
        return NULL;
    if (!kvn_addr_equal(&rx->from, &p->peer) && !moves(p, env, f, rx))
        return NULL;
    return p;
}

void kvn_conn_receive(struct kvn_conn *c, struct kvn_env *env, struct kvn_frame *f,
                      const struct kvn_rx_packet *rx)
{
    struct kvn_path *p;

    if (f->type == KVN_PACKET_HELLO_ACK) {
        if (c->state == KVN_CONN_ENDED)
            receive_ended(c, env, f);
        else
            receive_hello_ack(c, env, f, rx);
        return;
    }
    p = path_of(c, env, f, rx);
    if (p == NULL || c->state == KVN_CONN_CONNECTING) {
        ++env->stats.packets_rejected;
        kvn_note_dropped(env, c, f, rx->len, KVN_DROP_ADDRESS);
        return;
    }
    f->pn = kvn_seen_number(p->seen.largest, (uint32_t)f->pn);
    ++p->count.packets_received;
    p->count.bytes_received += rx->len;
    if (KVN_TRACING(env->trace))
        kvn_tell_packet(p, KVN_TRACE_PACKET_RECEIVED, f, rx->len);
    if (c->state == KVN_CONN_ENDED) {
        receive_ended(c, env, f);
        return;
    }
    if (c->state == KVN_CONN_ACCEPTING) {
        if (f->type == KVN_PACKET_GOODBYE) {
            kvn_conn_free(c);
            return;
        }
        kvn_conn_up(c, env);
    }
    receive_up(p, env, f, rx->ecn);
}
