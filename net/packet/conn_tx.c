/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <string.h>

/* What HELLO, HELLO_ACK and the probes of a path's length are padded with. */
static const uint8_t padding[KVN_PAYLOAD_MAX];

/* A path that works, or the first. */
static struct kvn_path *first_live(struct kvn_conn *c)
{
    for (uint32_t i = 0; i < c->paths; ++i)
        if (c->path[i].state == KVN_PATH_LIVE)
            return &c->path[i];
    return &c->path[0];
}

/* The header's fields. The rest of a frame is large and isn't cleared: each type sets its own. */
static void begin(struct kvn_frame *f, const struct kvn_path *p, uint8_t type)
{
    f->version = p->conn->version;
    f->type = type;
    f->flags = 0;
    f->path = p->id;
    f->slice = 0;
    f->conn = p->conn->peer_id;
    f->pn = 0;
}

/* Called at the start of finish(), which keeps the path without a trace short; so the packet's
 * length is computed here a second time. */
__attribute__((cold, noinline)) static void
tell_sent(const struct kvn_path *path, const struct kvn_tx_packet *p, const struct kvn_frame *f)
{
    uint8_t head[KVN_HEAD_BYTES_MAX];
    uint32_t bytes = kvn_frame_encode(head, f);

    for (uint32_t i = 0; i < p->body_count; ++i)
        bytes += p->body[i].bytes;
    kvn_tell_packet(path, KVN_TRACE_PACKET_SENT, f, bytes);
}

static void finish(const struct kvn_path *path, struct kvn_env *env, struct kvn_tx_slot *slot,
                   const struct kvn_frame *f)
{
    struct kvn_tx_packet *p = slot->packet;
    uint32_t bytes;

    if (KVN_TRACING(env->trace))
        tell_sent(path, p, f);
    p->to = path->peer;
    p->source = path->source;
    p->ecn =
        f->type == KVN_PACKET_DATA || f->type == KVN_PACKET_MSG ? KVN_ECN_ECT0 : KVN_ECN_NOT_ECT;
    p->head = slot->head;
    p->head_bytes = kvn_frame_encode(slot->head, f);
    kvn_frame_seal(slot->head, p->head_bytes, p->body, p->body_count, &slot->next);
    bytes = p->head_bytes;
    if (p->body_count > 0)
        bytes += p->body[0].bytes;
    if (p->body_count > 1)
        bytes += p->body[1].bytes;
    env->stats.bytes_sent += bytes; /* the packets are counted by the burst */
}

static void build_hello(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    const bool client = c->state == KVN_CONN_CONNECTING;
    const uint32_t bytes = c->hello_bytes < env->payload_max ? c->hello_bytes : env->payload_max;
    struct kvn_frame f;

    begin(&f, &c->path[0], client ? KVN_PACKET_HELLO : KVN_PACKET_HELLO_ACK);
    if (client) { /* what is unused stays ignored only if it isn't always the same */
        f.pn = kvn_env_random64(env);
        f.slice = (uint16_t)f.pn;
        f.flags = (uint8_t)(f.pn >> 16) & KVN_FLAGS_UNUSED;
    }
    f.versions = kvn_versions_grease(env->cfg.versions, kvn_env_random64(env));
    f.hello = (struct kvn_hello){
        .source = c->local_id,
        .payload = env->takes,
        .paths = client ? env->sources : KVN_PATHS_MAX,
        .stream = KVN_STREAM_BYTES,
        .credit = (uint32_t)c->puts_in.credit,
        .puts = KVN_PUTS_MAX,
        .options = env->head_only ? KVN_OPTION_HEAD_ONLY : 0,
    };
    slot->packet->body[0] = (struct kvw_iov){padding, bytes - KVN_HELLO_BYTES};
    slot->packet->body_count = 1;
    c->hello_due = false;
    ++c->hellos;
    c->hello_ns = env->now_ns;
    if (client) {
        kvn_timers_hello_sent(&c->timers, env->now_ns, c->hellos);
    } else {
        c->hello_least = bytes < c->hello_least ? bytes : c->hello_least;
        c->hello_bytes = 0; /* the next HELLO says how long its answer may be */
    }
    finish(&c->path[0], env, slot, &f);
}

/* Number a packet whose fate doesn't matter. An ACK may show when it arrived, all the same. */
static uint64_t number(struct kvn_path *p, const struct kvn_env *env)
{
    return kvn_inflight_add(&p->out,
                            &(struct kvn_sent){.sent_ns = env->now_ns, .state = KVN_SENT_QUIET});
}

static void build_goodbye(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_path *p = first_live(c);
    struct kvn_frame f;

    begin(&f, p, KVN_PACKET_GOODBYE);
    f.goodbye = c->farewell;
    f.pn = p->out.next++; /* not recorded, as there may be no room */
    c->goodbye_due = false;
    c->last_goodbye_ns = env->now_ns;
    finish(p, env, slot, &f);
}

/* About path q; by itself if it works. */
static void build_ack(struct kvn_path *q, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_conn *c = q->conn;
    struct kvn_path *p = q->state == KVN_PATH_LIVE ? q : first_live(c);
    struct kvn_frame f;

    if (!kvn_inflight_room(&p->out))
        p = q;
    begin(&f, p, KVN_PACKET_ACK);
    f.pn = number(p, env);
    f.ack.path = q->id;
    f.ack.stream_ends = kvn_stream_in_limit(&c->stream_in);
    f.ack.credit = kvn_puts_in_credit(&c->puts_in, kvn_conn_window(c, env));
    kvn_seen_tell(&q->seen, &f.ack, env->now_ns);
    finish(p, env, slot, &f);
}

static void build_token(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    const bool response = (p->due & KVN_DUE_RESPONSE) != 0;
    struct kvn_frame f;

    begin(&f, p, response ? KVN_PACKET_RESPONSE : KVN_PACKET_CHALLENGE);
    f.pn = number(p, env);
    f.token = response ? p->response : p->challenge;
    if (response)
        p->due &= (uint8_t)~KVN_DUE_RESPONSE;
    else
        kvn_path_challenged(p, env->now_ns);
    finish(p, env, slot, &f);
}

/* Whether the peer is where one of its packets came from. */
static void build_who(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f;

    begin(&f, p, KVN_PACKET_CHALLENGE);
    f.pn = number(p, env);
    f.token = p->move.token;
    p->due &= (uint8_t)~KVN_DUE_WHO;
    finish(p, env, slot, &f);
    slot->packet->to = p->move.to;
    slot->packet->source = p->move.source;
}

/* Whether the peer should acknowledge at once: when it is time, or nothing follows that would make
 * it do so. */
static uint8_t ask(struct kvn_path *p, bool again)
{
    const struct kvn_conn *c = p->conn;
    uint8_t flags = again ? KVN_FLAG_AGAIN : 0;

    if (++p->since_asked >= p->ask_every || p->probe_credit > 0 ||
        !(kvn_puts_out_ready(&c->puts_out) || kvn_stream_out_ready(&c->stream_out))) {
        p->since_asked = 0;
        flags |= KVN_FLAG_ACK_NOW;
    }
    return flags;
}

static void sent(struct kvn_path *p, struct kvn_env *env, uint32_t bytes, bool again)
{
    kvn_cc_sent(&p->cc, bytes, env->now_ns);
    p->count.bytes_sent += bytes;
    if (again) {
        ++env->stats.packets_retransmitted;
        ++p->count.packets_retransmitted;
    }
    if (p->probe_credit > 0)
        --p->probe_credit;
    p->ping_due = false; /* it asks for an ACK too */
    if (p->conn->turn_left > 0)
        --p->conn->turn_left;
}

static bool build_msg(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_conn *c = p->conn;
    struct kvn_stretch s;
    struct kvn_frame f;

    kvn_stream_out_take(&c->stream_out, c->fits - KVN_MSG_BYTES, &s);
    if (s.bytes == 0)
        return false;
    begin(&f, p, KVN_PACKET_MSG);
    f.stream_at = s.at;
    f.flags = ask(p, s.again);
    f.pn = kvn_path_record(p, &(struct kvn_sent){.sent_ns = env->now_ns,
                                                 .what = s.at,
                                                 .part = s.bytes,
                                                 .bytes = KVN_MSG_BYTES + s.bytes,
                                                 .state = KVN_SENT_FLYING,
                                                 .kind = KVN_SENT_MSG});
    slot->of_msg = true;
    slot->msg_at = s.at;
    slot->packet->body_count = s.pieces;
    memcpy(slot->packet->body, s.piece, sizeof(s.piece));
    finish(p, env, slot, &f);
    sent(p, env, KVN_MSG_BYTES + s.bytes, s.again);
    return true;
}

/* A packet's body has two pieces at most; a slice in more is gathered first. */
static void set_body(struct kvn_tx_slot *slot, const struct kvw_iov *piece, uint32_t count)
{
    uint32_t bytes = 0;

    slot->packet->body_count = count;
    slot->packet->body[0] = piece[0];
    if (count == 1)
        return;
    slot->packet->body[1] = piece[1];
    if (count == 2)
        return;
    for (uint32_t i = 0; i < count; ++i) {
        memcpy(slot->bounce + bytes, piece[i].base, piece[i].bytes);
        bytes += piece[i].bytes;
    }
    slot->packet->body[0] = (struct kvw_iov){.base = slot->bounce, .bytes = bytes};
    slot->packet->body_count = 1;
}

static void build_data(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_conn *c = p->conn;
    struct kvn_frame f;
    struct kvw_iov piece[KVW_PUT_IOV_MAX];
    const struct kvn_slice s = kvn_puts_out_take(&c->puts_out);
    const struct kvn_put_out *o = s.of;

    begin(&f, p, KVN_PACKET_DATA);
    f.slice = (uint16_t)s.number;
    f.flags = ask(p, s.again);
    if (c->head_only)
        f.flags |= KVN_FLAG_HEAD_ONLY;
    f.data = (struct kvn_data){.put = s.put,
                               .region = o->region,
                               .offset = o->offset,
                               .bytes = o->bytes,
                               .slice = o->slice,
                               .imm = o->imm};
    f.pn = kvn_path_record(p, &(struct kvn_sent){.sent_ns = env->now_ns,
                                                 .what = s.put,
                                                 .part = s.number,
                                                 .bytes = KVN_DATA_BYTES + s.bytes,
                                                 .state = KVN_SENT_FLYING,
                                                 .kind = KVN_SENT_DATA,
                                                 .cut = (uint16_t)(o->slice / KVN_SLICE_ALIGN)});
    set_body(slot, piece, kvn_puts_out_pieces(&s, piece));
    if (o->iov_count == 1) { /* and the next slice most likely follows this one */
        const uint32_t end = s.number * o->slice + s.bytes;

        slot->next = (struct kvw_iov){(const uint8_t *)o->iov[0].base + end, o->bytes - end};
    }
    slot->of_put = true;
    slot->put = s.put;
    finish(p, env, slot, &f);
    sent(p, env, KVN_DATA_BYTES + s.bytes, s.again);
    if (!s.again)
        env->stats.put_bytes_sent += s.bytes;
}

static void build_ping(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f;

    begin(&f, p, KVN_PACKET_PING);
    f.flags = KVN_FLAG_ACK_NOW;
    f.pn = kvn_path_record(p, &(struct kvn_sent){.sent_ns = env->now_ns,
                                                 .bytes = KVN_PING_BYTES,
                                                 .state = KVN_SENT_FLYING,
                                                 .kind = KVN_SENT_PING});
    sent(p, env, KVN_PING_BYTES, false);
    finish(p, env, slot, &f);
}

/* A PING that asks whether the path carries anything, or packets of a length. */
static void build_probe(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    const bool longer = (p->due & KVN_DUE_PING) == 0;
    const uint32_t bytes = longer ? p->fit.trying : KVN_PING_BYTES;
    struct kvn_frame f;

    p->due &= longer ? (uint8_t)~KVN_DUE_PROBE : (uint8_t)~KVN_DUE_PING;
    begin(&f, p, KVN_PACKET_PING);
    f.flags = KVN_FLAG_ACK_NOW;
    f.pn = kvn_path_record(p, &(struct kvn_sent){.sent_ns = env->now_ns,
                                                 .part = longer ? bytes : 0,
                                                 .state = KVN_SENT_FLYING,
                                                 .kind = KVN_SENT_PING});
    slot->packet->body[0] = (struct kvw_iov){padding, bytes - KVN_PING_BYTES};
    slot->packet->body_count = longer ? 1 : 0;
    kvn_cc_sent(&p->cc, bytes, env->now_ns);
    finish(p, env, slot, &f);
}

/* What this side waits for. Returns whether there is anything. */
static bool build_nack(struct kvn_path *p, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_frame f;

    p->due &= (uint8_t)~KVN_DUE_NACK;
    f.nack.count = kvn_puts_in_missing(&p->conn->puts_in, f.nack.missing, KVN_NACK_MAX);
    if (f.nack.count == 0)
        return false;
    begin(&f, p, KVN_PACKET_NACK);
    f.pn = number(p, env);
    finish(p, env, slot, &f);
    return true;
}

/* A path that has something to say for itself, in front of everything else. */
static struct kvn_path *talks(struct kvn_conn *c)
{
    for (uint32_t i = 0; i < c->paths; ++i) {
        struct kvn_path *p = &c->path[i];

        if ((p->due != 0 || p->seen.due) && kvn_inflight_room(&p->out))
            return p;
    }
    return NULL;
}

static struct kvn_path *pings(struct kvn_conn *c)
{
    for (uint32_t i = 0; i < c->paths; ++i)
        if (c->path[i].ping_due && kvn_inflight_room(&c->path[i].out))
            return &c->path[i];
    return NULL;
}

/* When a path may carry DATA or MSG: 0 is now, UINT64_MAX not before an ACK. */
static uint64_t open_at(const struct kvn_path *p, uint64_t now_ns)
{
    if (!kvn_path_open(p))
        return UINT64_MAX;
    return p->probe_credit > 0 ? 0 : kvn_cc_send_at(&p->cc, now_ns);
}

/* The path that DATA and MSG go by: in turns, so that each carries as much as its window lets it.
 * NULL: none may send. */
static struct kvn_path *open_path(struct kvn_conn *c, uint64_t now_ns)
{
    struct kvn_path *p = &c->path[c->turn];

    if ((c->turn_left > 0 || c->paths == 1) && open_at(p, now_ns) == 0)
        return p;
    for (uint32_t i = 1; i <= c->paths && c->paths > 1; ++i) {
        const uint32_t next = (c->turn + i) % c->paths;

        if (open_at(&c->path[next], now_ns) == 0) {
            c->turn = next;
            c->turn_left = KVN_PATH_QUANTUM;
            return &c->path[next];
        }
    }
    return NULL;
}

uint64_t kvn_conn_send_at(struct kvn_conn *c, const struct kvn_env *env)
{
    uint64_t at = UINT64_MAX;

    if (c->state == KVN_CONN_ENDED)
        return c->goodbye_due ? 0 : UINT64_MAX;
    if (c->hello_due)
        return 0;
    if (c->state != KVN_CONN_UP)
        return UINT64_MAX;
    if (talks(c) != NULL || pings(c) != NULL)
        return 0;
    if (!kvn_stream_out_ready(&c->stream_out) && !kvn_puts_out_ready(&c->puts_out))
        return UINT64_MAX;
    for (uint32_t i = 0; i < c->paths; ++i) {
        const uint64_t path_at = open_at(&c->path[i], env->now_ns);
        at = path_at < at ? path_at : at;
    }
    return at;
}

static bool build_up(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    struct kvn_path *p;

    while ((p = talks(c)) != NULL) {
        if (p->due & (KVN_DUE_RESPONSE | KVN_DUE_CHALLENGE))
            build_token(p, env, slot);
        else if (p->due & KVN_DUE_WHO)
            build_who(p, env, slot);
        else if (p->seen.due)
            build_ack(p, env, slot);
        else if ((p->due & KVN_DUE_NACK) == 0)
            build_probe(p, env, slot);
        else if (!build_nack(p, env, slot))
            continue;
        return true;
    }
    p = open_path(c, env->now_ns);
    if (p != NULL) {
        if (kvn_stream_out_ready(&c->stream_out) && build_msg(p, env, slot))
            return true;
        if (kvn_puts_out_ready(&c->puts_out)) {
            build_data(p, env, slot);
            return true;
        }
        if (c->puts_out.fresh != c->puts_out.next || c->stream_out.next != c->stream_out.head)
            kvn_note_stalls(c);
    }
    p = pings(c);
    if (p == NULL)
        return false;
    build_ping(p, env, slot);
    return true;
}

bool kvn_conn_build(struct kvn_conn *c, struct kvn_env *env, struct kvn_tx_slot *slot)
{
    slot->conn = c;
    slot->api_id = c->api_id;
    slot->of_put = slot->of_msg = false;
    slot->next.bytes = 0;
    slot->packet->body_count = 0;
    if (c->state == KVN_CONN_UP && !c->hello_due)
        return build_up(c, env, slot);
    if (c->state == KVN_CONN_ENDED && c->goodbye_due)
        build_goodbye(c, env, slot);
    else if (c->state != KVN_CONN_ENDED && c->hello_due)
        build_hello(c, env, slot);
    else
        return false;
    return true;
}
