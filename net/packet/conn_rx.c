/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <stdio.h>

/* Whether this number was seen, or is so old that it counts as seen. */
static bool seen_before(const struct kvn_seen *s, uint64_t pn)
{
    return pn < s->floor || kvn_ranges_has(&s->ranges, pn);
}

/*
 * Numbers lost on the way leave gaps for ever, as nothing is sent twice under one number; so the
 * set fills up, and then forgets its lowest range. A packet that comes later than that is dropped
 * and sent again under a new number.
 */
static void mark_seen(struct kvn_conn *c, const struct kvn_env *env, const struct kvn_frame *f)
{
    struct kvn_seen *s = &c->seen;

    if (kvn_ranges_add(&s->ranges, f->pn, f->pn + 1) == KVN_RANGES_FULL) {
        if (f->pn < s->ranges.range[0].first)
            return;
        s->floor = kvn_ranges_shift(&s->ranges).end;
        (void)kvn_ranges_add(&s->ranges, f->pn, f->pn + 1);
    }
    if (f->pn > s->largest) {
        s->largest = f->pn;
        s->largest_ns = env->now_ns;
        s->largest_stamp = f->stamp;
    }
}

/* A packet came that must be acknowledged. */
static void owe_ack(struct kvn_conn *c, const struct kvn_env *env, const struct kvn_frame *f,
                    bool in_order)
{
    ++c->seen.unacked;
    if ((f->flags & KVN_FLAG_ACK_NOW) || !in_order || c->seen.unacked >= KVN_ACK_EVERY)
        c->seen.due = true;
    else
        kvn_timers_ack_owed(&c->timers, env->now_ns);
}

static void take_ack(struct kvn_conn *c, struct kvn_env *env, const struct kvn_ack *a)
{
    const uint64_t before = c->out.bytes;
    const bool full = 2 * c->out.bytes > c->cc.window;
    const uint64_t largest_before = c->out.largest_acked;
    bool progress = false, queued;

    if (a->largest >= c->out.next) {
        kvn_conn_end(c, env, KVW_E_PROTOCOL, true, "the peer acknowledged what was never sent");
        return;
    }
    for (uint32_t i = 0; i < a->count; ++i) {
        if (a->range[i].end <= c->out.base)
            break;
        progress |= kvn_inflight_ack(&c->out, &a->range[i], &kvn_conn_inflight_events, c);
    }
    if (a->largest > largest_before) {
        const uint32_t now = (uint32_t)(env->now_ns >> KVN_STAMP_SHIFT);
        kvn_loss_rtt(&c->loss, (uint64_t)(now - a->echo) << KVN_STAMP_SHIFT,
                     (uint64_t)a->delay << KVN_STAMP_SHIFT);
        env->stats.srtt_ns = c->loss.srtt_ns;
    }
    if (progress) {
        c->loss.probes = 0;
        c->progress_ns = env->now_ns;
        queued = c->loss.latest_rtt_ns > 2 * c->loss.min_rtt_ns + 1000000;
        kvn_cc_arrived(&c->cc, (uint32_t)(before - c->out.bytes), full, queued);
    }
    if (a->stream_ends > c->stream_out.limit)
        c->stream_out.limit = a->stream_ends;
    kvn_conn_detect(c, env);
}

static kvw_err take_data(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f)
{
    const kvw_conn_id id = {c->api_id};
    char text[160];
    uint32_t fresh;
    const kvw_err err = kvn_puts_in_take(&c->puts_in, f, &env->regions, id, &fresh);

    env->stats.put_bytes_received += fresh;
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
        c->answers = false;
        return;
    }
    if (f->type == KVN_PACKET_HELLO_ACK && c->peer_id == 0)
        c->peer_id = f->hello.source;
    if (c->answers && c->peer_id != 0 && env->now_ns - c->last_goodbye_ns >= KVN_GOODBYE_GAP_NS)
        c->goodbye_due = true;
}

static void receive_hello_ack(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f,
                              const struct kvn_addr *from)
{
    if (c->state != KVN_CONN_CONNECTING)
        return; /* a second copy */
    if (f->hello.payload > c->payload) {
        ++env->stats.packets_rejected; /* it may only agree to what was proposed */
        return;
    }
    /* A listener on every address answers from the one it likes. */
    c->peer = *from;
    kvn_conn_agree(c, env, &f->hello);
    kvn_conn_up(c, env);
    c->hello_due = false;
    c->ping_due = true; /* tells the listener that this side's address is real */
}

void kvn_conn_hello(struct kvn_conn *c)
{
    if (c->state == KVN_CONN_ACCEPTING || c->state == KVN_CONN_UP)
        c->hello_due = true; /* our HELLO_ACK was lost, or this is an old copy */
}

void kvn_conn_reset(struct kvn_conn *c, struct kvn_env *env, const struct kvn_reset *reset)
{
    char text[192], addr[KVN_ADDR_TEXT_BYTES];

    kvn_addr_format(&c->peer, addr);
    switch (reset->reason) {
    case KVN_RESET_VERSION:
        snprintf(text, sizeof(text),
                 "%s speaks version %u of the packet protocol, this side version %u", addr,
                 reset->version, KVN_WIRE_VERSION);
        kvn_conn_end(c, env, KVW_E_VERSION, false, text);
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

static void receive_up(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f)
{
    const bool in_order = f->pn == c->seen.largest + 1;
    kvw_err err = KVW_OK;

    kvn_timers_heard(&c->timers, env->now_ns, env->cfg.dead_ns);
    if (f->pn == 0 || seen_before(&c->seen, f->pn)) {
        ++env->stats.packets_duplicate;
        if (f->type != KVN_PACKET_ACK)
            c->seen.due = c->seen.largest > 0; /* perhaps our ACK was lost */
        return;
    }
    switch (f->type) {
    case KVN_PACKET_DATA:
        err = take_data(c, env, f);
        break;
    case KVN_PACKET_MSG:
        err = take_msg(c, env, f);
        break;
    case KVN_PACKET_ACK:
        take_ack(c, env, &f->ack);
        break;
    case KVN_PACKET_GOODBYE:
        take_goodbye(c, env, f->goodbye);
        return;
    default:
        break;
    }
    /* What can't be taken now must come again, so its number isn't remembered. */
    if (err != KVW_OK || c->state != KVN_CONN_UP)
        return;
    mark_seen(c, env, f);
    if (f->type != KVN_PACKET_ACK)
        owe_ack(c, env, f, in_order);
    kvn_conn_rearm(c, env);
}

void kvn_conn_receive(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *f,
                      const struct kvn_addr *from)
{
    if (f->type == KVN_PACKET_HELLO_ACK) {
        if (c->state == KVN_CONN_ENDED)
            receive_ended(c, env, f);
        else
            receive_hello_ack(c, env, f, from);
        return;
    }
    if (!kvn_addr_equal(from, &c->peer) || c->state == KVN_CONN_CONNECTING) {
        ++env->stats.packets_rejected;
        return;
    }
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
    receive_up(c, env, f);
}
