/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that knows the handshake and then sends whatever it likes, from wherever it likes: nothing
 * it sends may crash the endpoint, write outside the region, break the order of events, or have
 * anything that asks or acknowledges sent to an address that has proved nothing.
 *
 * Input: records of {length, action, length bytes}. The bytes are a packet; so that most get past
 * the digest and the lookup, the harness writes the connection id and the digest, unless action
 * says not to. Of the header's unused flags two are the address it comes from, and one has the
 * harness write the token that was last asked for there.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/packet/crc32c.h"
#include "../../net/packet/endpoint.h"
#include "../../net/packet/frame.h"
#include "../../kvwire/wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define REGION 4096u
#define GUARD  256u
#define MS     1000000ull
#define ADDRS  4u
#define TOKENS 4u /* of one address and path, the last that were asked for */

/* A port whose other end is this harness. */
struct wire {
    struct kvn_port base;
    uint8_t in[2048];
    uint32_t in_bytes;    /* 0: nothing to receive */
    uint32_t endpoint_id; /* learnt from HELLO_ACK */
    uint32_t tx_limit;
    uint64_t token[ADDRS][KVN_PATHS_MAX][TOKENS]; /* [0] is the newest */
    bool proved[ADDRS];                           /* it has answered what only it was sent */
};

/* The first of its addresses; the others have the ports above. */
static const struct kvn_addr peer = {.family = 4, .ip = {10, 0, 0, 2}, .port = 7};

static uint32_t from_of(const uint8_t *packet)
{
    return packet[1] >> 3 & (ADDRS - 1);
}

static uint32_t path_of(const uint8_t *packet)
{
    return packet[1] >> KVN_FLAG_PATH_SHIFT;
}

static uint32_t wire_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                        uint32_t max)
{
    struct wire *w = (struct wire *)port;

    (void)now_ns;
    if (w->in_bytes == 0 || max == 0)
        return 0;
    packets[0] = (struct kvn_rx_packet){.bytes = w->in, .len = w->in_bytes, .from = peer};
    packets[0].from.port = (uint16_t)(peer.port + (w->in_bytes > 1 ? from_of(w->in) : 0));
    w->in_bytes = 0;
    return 1;
}

/* The endpoint has sent this. */
static void note_sent(struct wire *w, const struct kvn_tx_packet *p)
{
    const uint32_t to = (uint32_t)(p->to.port - peer.port);
    uint64_t *token;

    if (to >= ADDRS)
        abort();
    switch (p->head[0] & 15) {
    case KVN_PACKET_HELLO_ACK:
        w->endpoint_id = kvw_load_le32(p->head + 24);
        w->proved[to] = true; /* the harness names that id */
        return;
    case KVN_PACKET_CHALLENGE:
        token = w->token[to][path_of(p->head)];
        if (token[0] == kvw_load_le64(p->head + 16))
            return;
        memmove(token + 1, token, (TOKENS - 1) * sizeof(*token));
        token[0] = kvw_load_le64(p->head + 16);
        return;
    case KVN_PACKET_DATA:
    case KVN_PACKET_MSG:
    case KVN_PACKET_ACK:
    case KVN_PACKET_PING:
    case KVN_PACKET_NACK:
        if (!w->proved[to])
            abort();
        return;
    default:
        return;
    }
}

static uint32_t wire_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                        uint32_t count)
{
    struct wire *w = (struct wire *)port;
    const uint32_t n = count < w->tx_limit ? count : w->tx_limit;

    (void)now_ns;
    for (uint32_t i = 0; i < n; ++i)
        note_sent(w, &packets[i]);
    return n;
}

static void wire_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    (void)port;
    (void)until_ns;
    (void)wake_fd;
}

static uint64_t wire_deadline(const struct kvn_port *port)
{
    (void)port;
    return UINT64_MAX;
}

static void wire_close(struct kvn_port *port)
{
    (void)port;
}

static const struct kvn_port_ops wire_ops = {
    .name = "fuzz",
    .rx = wire_rx,
    .tx = wire_tx,
    .wait = wire_wait,
    .deadline_ns = wire_deadline,
    .close = wire_close,
};

struct run {
    struct wire wire;
    struct kvw_transport *t;
    uint64_t now_ns;
    kvw_conn_id conn;
    int ups, downs;
    uint32_t puts, done;
    uint8_t memory[GUARD + REGION + GUARD];
};

static void poll_once(struct run *r)
{
    struct kvw_transport_event ev[4];
    uint32_t n;

    do {
        n = r->t->ops->poll(r->t, r->now_ns, ev, 4);
        for (uint32_t i = 0; i < n; ++i) {
            if (r->downs > r->ups || (ev[i].kind != KVW_TEV_CONN_UP && r->ups == 0))
                abort();
            if (ev[i].kind == KVW_TEV_CONN_UP) {
                ++r->ups;
                r->conn = ev[i].conn;
            }
            r->downs += ev[i].kind == KVW_TEV_CONN_DOWN;
            r->done += ev[i].kind == KVW_TEV_PUT_DONE;
            if (ev[i].kind == KVW_TEV_PUT_LANDED && ev[i].offset + ev[i].bytes > REGION)
                abort();
        }
    } while (n == 4);
    (void)r->t->ops->deadline_ns(r->t);
}

/* A RESPONSE, which may bring back what was asked. */
static void answer(struct wire *w)
{
    const uint64_t *token = w->token[from_of(w->in)][path_of(w->in)];

    if (w->in[1] & 4)
        kvw_store_le64(w->in + 16, token[0]);
    for (uint32_t i = 0; i < TOKENS; ++i)
        if (token[i] != 0 && kvw_load_le64(w->in + 16) == token[i])
            w->proved[from_of(w->in)] = true;
}

/* What the digest is of. */
static uint32_t summed(const struct wire *w)
{
    const bool head_only =
        (w->in[0] & 15) == KVN_PACKET_DATA && (w->in[1] & KVN_FLAG_HEAD_ONLY) != 0;

    return head_only && w->in_bytes > KVN_DATA_BYTES ? KVN_DATA_BYTES : w->in_bytes;
}

static void give(struct run *r, bool seal)
{
    struct wire *w = &r->wire;
    const uint32_t crc_at = kvn_frame_crc_at(w->in[0]);

    if (seal && w->in_bytes >= crc_at + 4) {
        if ((w->in[0] & 15) != KVN_PACKET_HELLO && (w->in[0] & 15) != KVN_PACKET_RESET)
            kvw_store_le32(w->in + 4, w->endpoint_id);
        if ((w->in[0] & 15) == KVN_PACKET_RESPONSE && w->in_bytes >= 24)
            answer(w);
        kvw_store_le32(w->in + crc_at, 0);
        kvw_store_le32(w->in + crc_at, kvn_crc32c(0, w->in, summed(w)));
    }
    poll_once(r);
}

static void shake_hands(struct run *r)
{
    const struct kvn_frame hello = {.version = KVN_WIRE_VERSION,
                                    .type = KVN_PACKET_HELLO,
                                    .versions = KVN_VERSIONS,
                                    .hello = {77, 1200, 4, KVN_STREAM_BYTES, 1 << 20, 512, 0}};

    memset(r->wire.in, 0, sizeof(r->wire.in));
    (void)kvn_frame_encode(r->wire.in, &hello);
    r->wire.in_bytes = 1200;
    give(r, true);
    memset(r->wire.in, 0, KVN_PING_BYTES);
    r->wire.in[0] = KVN_WIRE_VERSION << 4 | KVN_PACKET_PING;
    r->wire.in[8] = 1;
    r->wire.in_bytes = KVN_PING_BYTES;
    give(r, true);
    if (r->ups != 1)
        abort();
}

static void act(struct run *r, uint8_t action)
{
    struct kvw_put put = {.iov = {{r->memory, GUARD + REGION}}, .iov_count = 1};

    r->now_ns += (uint64_t)(action >> 5) * (action & 16 ? 40 * MS : MS / 10);
    r->wire.tx_limit = action & 8 ? 1 : KVN_BURST;
    if (action & 4 && r->t->ops->send(r->t, r->conn, r->memory, 100) == KVW_E_INVALID)
        abort();
    if (action & 2 && r->puts < 1000 && r->t->ops->put(r->t, r->conn, &put) == KVW_OK)
        ++r->puts;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct run r;
    const struct kvn_packet_config cfg = {.seed = 1, .conns_max = 2};
    const struct kvw_mem mem = {.base = r.memory + GUARD, .bytes = REGION, .kind = KVW_MEM_HOST};
    struct kvw_region_key key;
    char why[KVN_WHY_BYTES];

    memset(&r, 0, sizeof(r));
    memset(r.memory, 0x5a, sizeof(r.memory));
    r.wire.base = (struct kvn_port){.ops = &wire_ops, .payload_max = 1200};
    r.wire.tx_limit = KVN_BURST;
    r.now_ns = 1000 * MS;
    if (kvn_packet_open(&r.t, &r.wire.base, &cfg, why) != KVW_OK ||
        r.t->ops->region_add(r.t, &mem, NULL, NULL, &key) != KVW_OK ||
        r.t->ops->listen(r.t) != KVW_OK)
        abort();
    shake_hands(&r);
    while (n >= 2) {
        const uint32_t len = bytes[0] < n - 2 ? bytes[0] : (uint32_t)(n - 2);
        const uint8_t action = bytes[1];

        memcpy(r.wire.in, bytes + 2, len);
        r.wire.in_bytes = len;
        bytes += 2 + len;
        n -= 2 + len;
        act(&r, action);
        give(&r, !(action & 1));
    }
    r.now_ns += 5000 * MS; /* whatever happened, it ends */
    r.wire.tx_limit = KVN_BURST;
    for (int i = 0; i < 20; ++i) {
        poll_once(&r);
        r.now_ns += 500 * MS;
    }
    if (r.downs != r.ups || r.done != r.puts)
        abort();
    for (uint32_t i = 0; i < GUARD; ++i)
        if (r.memory[i] != 0x5a || r.memory[GUARD + REGION + i] != 0x5a)
            abort();
    r.t->ops->close(r.t);
    return 0;
}
