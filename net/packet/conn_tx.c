/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <assert.h>
#include <string.h>

/* What HELLO and HELLO_ACK are padded with. */
static const uint8_t padding[KVN_PAYLOAD_MAX];

static struct kvn_frame frame(const struct kvn_conn *c, const struct kvn_env *env, uint8_t type)
{
    return (struct kvn_frame){
        .version = KVN_WIRE_VERSION,
        .type = type,
        .conn = c->peer_id,
        .stamp = (uint32_t)(env->now_ns >> KVN_STAMP_SHIFT),
    };
}

static void finish(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot,
                   const struct kvn_frame *f)
{
    struct kvn_tx_packet *p = slot->packet;
    uint32_t bytes;

    p->to = c->peer;
    p->head = slot->head;
    p->head_bytes = kvn_frame_encode(slot->head, f);
    kvn_frame_seal(slot->head, p->head_bytes, p->body, p->body_count);
    bytes = p->head_bytes;
    for (uint32_t i = 0; i < p->body_count; ++i)
        bytes += p->body[i].bytes;
    ++env->stats.packets_sent;
    env->stats.bytes_sent += bytes;
}

static void build_hello(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    const bool client = c->state == KVN_CONN_CONNECTING;
    struct kvn_frame f = frame(c, env, client ? KVN_PACKET_HELLO : KVN_PACKET_HELLO_ACK);

    f.hello = (struct kvn_hello){
        .source = c->local_id,
        .payload = c->payload,
        .slice = env->cfg.slice_bytes,
        .stream = KVN_STREAM_BYTES,
        .inflight = env->cfg.inflight_bytes,
        .puts = KVN_PUTS_MAX,
    };
    slot->packet->body[0] = (struct kvw_iov){padding, c->payload - KVN_HELLO_BYTES};
    slot->packet->body_count = c->payload > KVN_HELLO_BYTES ? 1 : 0;
    c->hello_due = false;
    if (client)
        kvn_timers_hello_sent(&c->timers, env->now_ns, ++c->hellos);
    finish(c, env, slot, &f);
}

static void build_goodbye(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f = frame(c, env, KVN_PACKET_GOODBYE);

    f.goodbye = c->farewell;
    f.pn = c->out.next++; /* its fate is nobody's concern, so it isn't recorded */
    c->goodbye_due = false;
    c->last_goodbye_ns = env->now_ns;
    finish(c, env, slot, &f);
}

/* Number a packet that has been decided on. */
static uint64_t record(struct kvn_conn *c, const struct kvn_env *env, enum kvn_sent_kind kind,
                       uint64_t what, uint32_t part, uint32_t bytes)
{
    return kvn_inflight_add(&c->out, &(struct kvn_sent){.sent_ns = env->now_ns,
                                                        .what = what,
                                                        .part = part,
                                                        .bytes = bytes,
                                                        .state = KVN_SENT_FLYING,
                                                        .kind = (uint8_t)kind});
}

static void build_ack(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f = frame(c, env, KVN_PACKET_ACK);
    const struct kvn_ranges *r = &c->seen.ranges;
    const uint64_t held = env->now_ns - c->seen.largest_ns;

    f.pn = kvn_inflight_add(&c->out, &(struct kvn_sent){.state = KVN_SENT_QUIET});
    f.ack.largest = c->seen.largest;
    f.ack.delay = (uint32_t)(held >> KVN_STAMP_SHIFT);
    f.ack.echo = c->seen.largest_stamp;
    f.ack.stream_ends = kvn_stream_in_limit(&c->stream_in);
    f.ack.count = r->count < KVN_ACK_RANGES_MAX ? r->count : KVN_ACK_RANGES_MAX;
    for (uint32_t i = 0; i < f.ack.count; ++i)
        f.ack.range[i] = r->range[r->count - 1 - i];
    c->seen.unacked = 0;
    c->seen.due = false;
    kvn_timers_ack_sent(&c->timers);
    finish(c, env, slot, &f);
}

/* The last eighth of the records is kept for ACKs and PINGs: without those nothing would settle. */
static bool window_open(const struct kvn_conn *c)
{
    return (c->out.bytes < c->cc.window || c->probe_credit > 0) &&
           c->out.next - c->out.base < KVN_SENT_MAX - KVN_SENT_MAX / 8;
}

/* Whether the peer should acknowledge at once: when nothing follows that would make it do so, and
 * often enough that a small window never waits for the peer's timer. */
static uint8_t ask(struct kvn_conn *c, bool again)
{
    const uint64_t quarter = c->cc.window / c->slice / 4;
    const uint32_t every = quarter > 16 ? 16 : quarter < 1 ? 1 : (uint32_t)quarter;
    const bool more = kvn_stream_out_ready(&c->stream_out) || kvn_puts_out_ready(&c->puts_out);
    uint8_t flags = again ? KVN_FLAG_AGAIN : 0;

    if (!more || ++c->since_asked >= every || c->probe_credit > 0) {
        c->since_asked = 0;
        flags |= KVN_FLAG_ACK_NOW;
    }
    return flags;
}

static void sent(struct kvn_conn *c, struct kvn_env *env, bool again)
{
    if (again)
        ++env->stats.packets_retransmitted;
    if (c->probe_credit > 0)
        --c->probe_credit;
}

static bool build_msg(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f = frame(c, env, KVN_PACKET_MSG);
    struct kvn_stretch s;

    kvn_stream_out_take(&c->stream_out, c->payload - KVN_MSG_BYTES, &s);
    if (s.bytes == 0)
        return false;
    f.stream_at = s.at;
    f.flags = ask(c, s.again);
    f.pn = record(c, env, KVN_SENT_MSG, s.at, s.bytes, KVN_MSG_BYTES + s.bytes);
    slot->packet->body_count = s.pieces;
    memcpy(slot->packet->body, s.piece, sizeof(s.piece));
    finish(c, env, slot, &f);
    sent(c, env, s.again);
    return true;
}

/* A packet's body has two pieces at most; a slice in more is gathered first. */
static void set_body(struct kvn_tx_slot *slot, const struct kvw_iov *piece, uint32_t count)
{
    uint32_t bytes = 0;

    if (count <= 2) {
        memcpy(slot->packet->body, piece, count * sizeof(piece[0]));
        slot->packet->body_count = count;
        return;
    }
    for (uint32_t i = 0; i < count; ++i) {
        memcpy(slot->bounce + bytes, piece[i].base, piece[i].bytes);
        bytes += piece[i].bytes;
    }
    slot->packet->body[0] = (struct kvw_iov){.base = slot->bounce, .bytes = bytes};
    slot->packet->body_count = 1;
}

static void build_data(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f = frame(c, env, KVN_PACKET_DATA);
    struct kvw_iov piece[KVW_PUT_IOV_MAX];
    const struct kvn_slice s = kvn_puts_out_take(&c->puts_out);
    const struct kvn_put_out *o = kvn_puts_out_find(&c->puts_out, s.put);
    uint32_t bytes = 0, count;

    assert(o != NULL);
    count = kvn_puts_out_pieces(&c->puts_out, &s, piece);
    for (uint32_t i = 0; i < count; ++i)
        bytes += piece[i].bytes;
    f.slice = (uint16_t)s.number;
    f.flags = ask(c, s.again);
    f.data = (struct kvn_data){
        .put = s.put, .region = o->region, .offset = o->offset, .bytes = o->bytes, .imm = o->imm};
    f.pn = record(c, env, KVN_SENT_DATA, s.put, s.number, KVN_DATA_BYTES + bytes);
    set_body(slot, piece, count);
    slot->of_put = true;
    slot->put = s.put;
    finish(c, env, slot, &f);
    sent(c, env, s.again);
    if (!s.again)
        env->stats.put_bytes_sent += bytes;
}

static void build_ping(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f = frame(c, env, KVN_PACKET_PING);

    f.flags = KVN_FLAG_ACK_NOW;
    f.pn = record(c, env, KVN_SENT_PING, 0, 0, KVN_PING_BYTES);
    c->ping_due = false;
    sent(c, env, false);
    finish(c, env, slot, &f);
}

bool kvn_conn_can_send(const struct kvn_conn *c)
{
    if (c->state == KVN_CONN_ENDED)
        return c->goodbye_due;
    if (c->state != KVN_CONN_UP)
        return c->hello_due;
    if (!kvn_inflight_room(&c->out))
        return c->hello_due;
    return c->hello_due || c->seen.due || c->ping_due ||
           (window_open(c) &&
            (kvn_stream_out_ready(&c->stream_out) || kvn_puts_out_ready(&c->puts_out)));
}

bool kvn_conn_build(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    if (!kvn_conn_can_send(c))
        return false;
    /* Late arrivals are not worth a record when records run short. */
    if (c->out.next - c->out.base > KVN_SENT_MAX / 2)
        kvn_inflight_trim(&c->out, UINT64_MAX);
    slot->conn = c;
    slot->api_id = c->api_id;
    slot->of_put = false;
    slot->packet->body_count = 0;
    if (c->state == KVN_CONN_ENDED) {
        build_goodbye(c, env, slot);
    } else if (c->hello_due) {
        build_hello(c, env, slot);
    } else if (c->seen.due) {
        build_ack(c, env, slot);
    } else if (window_open(c) && build_msg(c, env, slot)) {
        c->ping_due = false; /* it asks for an ACK too */
    } else if (window_open(c) && kvn_puts_out_ready(&c->puts_out)) {
        build_data(c, env, slot);
        c->ping_due = false;
    } else {
        build_ping(c, env, slot);
    }
    kvn_conn_rearm(c, env);
    return true;
}
