/* SPDX-License-Identifier: Apache-2.0 */
/* How connections begin and end when things go wrong: lost handshakes, other versions, partitions,
 * restarts, floods and forgeries. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../net/packet/frame.h"
#include "../../net/packet/versions.h"
#include "pair.h"

#define MS 1000000ull
#define S  1000000000ull

static struct t_pair pair;
static const struct kvn_sim_link clean = {.delay_ns = 20000}, cut = {.cut = true};
static const struct kvn_packet_config defaults = {.seed = 0};

static void up(void)
{
    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

/* A node without an endpoint: sends what the test makes up. */
static struct kvn_port *raw(uint32_t node)
{
    struct kvn_port *port;

    cr_assert_eq(kvn_sim_port_open(&port, pair.sim, node), KVW_OK);
    return port;
}

static void raw_send(struct kvn_port *port, uint32_t to, const struct kvn_frame *f,
                     uint32_t padding)
{
    static const uint8_t zeros[65000];
    uint8_t head[KVN_HEAD_BYTES_MAX];
    struct kvn_tx_packet p = {.to = {.family = 4, .ip = {10, 0, 0, (uint8_t)(to + 1)}},
                              .head = head,
                              .body = {{zeros, padding}},
                              .body_count = padding > 0};

    p.to.port = port->local.port;
    p.head_bytes = kvn_frame_encode(head, f);
    kvn_frame_seal(head, p.head_bytes, p.body, p.body_count, &(struct kvw_iov){0});
    cr_assert_eq(port->ops->tx(port, kvn_sim_now(pair.sim), &p, 1), 1);
}

/* The first packet for a raw node, or none. */
static bool raw_receive(struct kvn_port *port, struct kvn_frame *f)
{
    struct kvn_rx_packet p;

    return port->ops->rx(port, kvn_sim_now(pair.sim), &p, 1) == 1 &&
           kvn_frame_decode(f, KVN_VERSIONS, p.bytes, p.len) == KVW_OK;
}

static struct kvn_frame hello(uint32_t source)
{
    return (struct kvn_frame){.version = KVN_WIRE_VERSION,
                              .type = KVN_PACKET_HELLO,
                              .versions = KVN_VERSIONS,
                              .hello = {.source = source,
                                        .payload = 1200,
                                        .paths = 1,
                                        .stream = KVN_STREAM_BYTES,
                                        .credit = 1 << 20,
                                        .puts = 512}};
}

static struct kvw_transport_event first_event(uint32_t side)
{
    struct kvw_transport *const t = pair.side[side].t;
    struct kvw_transport_event ev = {.kind = 0};

    (void)t->ops->poll(t, kvn_sim_now(pair.sim), &ev, 1);
    return ev;
}

/* The first packets of a link may vanish: HELLO is sent again. */
Test(life, lost_hellos_are_repeated)
{
    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &cut);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 900 * MS);
    cr_assert(!pair.side[0].up && !pair.side[0].down);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 200 * MS);
    cr_expect(pair.side[0].up && pair.side[1].up);
    t_pair_close(&pair);
}

/* Nobody there: one CONN_DOWN in time, no CONN_UP. */
Test(life, connect_times_out)
{
    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &cut);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + KVW_HELLO_TIMEOUT_NS - 10 * MS);
    cr_expect_eq(pair.side[0].downs, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    cr_expect_eq(pair.side[0].downs, 1);
    cr_expect_eq(pair.side[0].ups, 0);
    cr_expect_eq(pair.side[0].down_err, KVW_E_PEER_LOST);
    t_pair_close(&pair);
}

/* A path that swallows large packets: the handshake finds a size that passes, and puts flow. */
Test(life, steps_down_to_the_path)
{
    struct kvw_transport *t;

    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_payload_limit(pair.sim, 1460);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 1500 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
    for (int i = 0; i < 10; ++i)
        cr_assert(t_pair_put(&pair, (uint32_t)i % 2, 100000));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 100 * MS);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_expect(t_pair_settled(&pair));
    t = pair.side[0].t;
    cr_expect_eq(t->ops->deadline_ns(t) > kvn_sim_now(pair.sim), true);
    t_pair_close(&pair);
}

/* A listener of another version says so, and the client's CONN_DOWN names both. */
Test(life, other_version_is_refused)
{
    struct kvn_frame f, reset = {.version = 3, .type = KVN_PACKET_RESET, .versions = 1 << 3};
    struct kvw_transport_event ev;
    struct kvw_transport *t;
    struct kvn_port *port;
    kvw_conn_id conn;

    up();
    port = raw(2);
    t = pair.side[0].t;
    cr_assert_eq(t->ops->connect(t, "10.0.0.3:9000", kvn_sim_now(pair.sim), &conn), KVW_OK);
    (void)first_event(0);
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    cr_assert(raw_receive(port, &f) && f.type == KVN_PACKET_HELLO);
    reset.reset = (struct kvn_reset){.id = f.hello.source + 1, .reason = KVN_RESET_VERSION};
    raw_send(port, 0, &reset, 0); /* a guess at the id is not believed */
    reset.reset.id = f.hello.source;
    raw_send(port, 0, &reset, 0);
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    ev = first_event(0);
    cr_assert_eq(ev.kind, KVW_TEV_CONN_DOWN);
    cr_expect_eq(ev.err, KVW_E_VERSION);
    cr_expect(strstr(ev.text, "version 3") != NULL && strstr(ev.text, "version 2") != NULL, "%s",
              ev.text);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A client of another version is told ours. */
Test(life, other_version_is_told)
{
    struct kvn_frame f = hello(0x1234);
    struct kvn_port *port;

    up();
    port = raw(2);
    f.version = 9;
    f.versions = 1 << 9;
    raw_send(port, 1, &f, 500);
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(first_event(1).kind, 0);
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    cr_assert(raw_receive(port, &f));
    cr_expect_eq(f.type, KVN_PACKET_RESET);
    cr_expect_eq(f.reset.id, 0x1234);
    cr_expect_eq(f.reset.reason, KVN_RESET_VERSION);
    cr_expect_eq(f.versions & KVN_VERSIONS_ALL, KVN_VERSIONS);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* Silence longer than dead_ns ends both sides, and every put with them. */
Test(life, partition_ends_both_sides)
{
    uint64_t cut_at;

    up();
    cut_at = kvn_sim_now(pair.sim);
    kvn_sim_links(pair.sim, &cut);
    for (int i = 0; i < 8; ++i)
        cr_assert(t_pair_put(&pair, (uint32_t)i % 2, 100000));
    t_pair_run(&pair, cut_at + KVW_PEER_DEAD_NS + 10 * MS);
    for (int i = 0; i < 2; ++i) {
        cr_expect_eq(pair.side[i].downs, 1);
        cr_expect_eq(pair.side[i].down_err, KVW_E_PEER_LOST);
        cr_expect_eq(pair.side[i].puts_done, pair.side[i].puts_sent);
    }
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    t_pair_close(&pair);
}

/* A partition of one direction only is noticed on both sides too. */
Test(life, one_way_partition)
{
    up();
    kvn_sim_link(pair.sim, 0, 1, &cut);
    cr_assert(t_pair_put(&pair, 0, 100000));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 3 * S);
    cr_expect_eq(pair.side[0].downs, 1);
    cr_expect_eq(pair.side[1].downs, 1);
    t_pair_close(&pair);
}

/* A side that doesn't poll for long (it computes) finds its peer alive when it does again, as long
 * as the peer was willing to wait. */
Test(life, a_long_absence_is_not_a_death)
{
    const struct kvn_packet_config patient = {.dead_ns = 10 * S};
    struct t_side *s;

    t_pair_open(&pair, 1, 8240, &patient);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    for (uint64_t end = kvn_sim_now(pair.sim) + 9 * S; kvn_sim_now(pair.sim) < end;) {
        t_pair_poll(&pair, 1);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + 50 * MS);
    }
    s = &pair.side[0];
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + 900 * MS);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + S);
    cr_expect_eq(s->downs, 0);
    cr_expect_eq(pair.side[1].downs, 0);
    t_pair_close(&pair);
}

/* A peer that was restarted doesn't know us, and says so at once. */
Test(life, restarted_peer_resets)
{
    struct t_side *b = &pair.side[1];
    struct kvn_packet_config cfg = {.seed = 99};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;
    uint64_t back;

    up();
    kvn_sim_links(pair.sim, &cut); /* its farewell must not get through */
    b->t->ops->close(b->t);
    kvn_sim_links(pair.sim, &clean);
    cr_assert_eq(kvn_sim_port_open(&port, pair.sim, 1), KVW_OK);
    cr_assert_eq(kvn_packet_open(&b->t, port, &cfg, why), KVW_OK);
    back = kvn_sim_now(pair.sim);
    cr_assert(t_pair_put(&pair, 0, 100000));
    t_pair_run(&pair, back + 5 * MS);
    cr_expect_eq(pair.side[0].downs, 1, "not told within 5 ms");
    cr_expect_eq(pair.side[0].down_err, KVW_E_PEER_LOST);
    cr_expect_eq(pair.side[0].puts_done, 1);
    t_pair_close(&pair);
}

/* RESETs, GOODBYEs and ACKs with made-up ids, or from elsewhere, change nothing. */
Test(life, forgeries_are_ignored)
{
    struct kvn_frame f = {.version = KVN_WIRE_VERSION};
    struct kvn_port *port;

    up();
    port = raw(2);
    for (uint32_t i = 1; i < 2000; ++i) {
        f.type = i % 2 ? KVN_PACKET_RESET : KVN_PACKET_GOODBYE;
        f.conn = i * 2654435761u;
        f.pn = i;
        f.reset = (struct kvn_reset){.id = i * 2654435761u, .reason = (uint8_t)(i % 5)};
        raw_send(port, i / 2 % 2, &f, 0);
        if (i % 50 == 0)
            t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    }
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_expect_eq(pair.side[0].downs + pair.side[1].downs, 0);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A flood of HELLOs that are never followed up: bounded state, no events, and soon after it real
 * clients are served again. */
Test(life, half_open_flood)
{
    struct kvn_port *port;
    struct kvw_transport *t;
    uint32_t answers = 0;
    struct kvn_frame got;
    kvw_conn_id conn;

    up();
    port = raw(2);
    for (uint32_t i = 1; i <= 5000; ++i) {
        const struct kvn_frame f = hello(i);
        raw_send(port, 1, &f, 1200 - KVN_HELLO_BYTES);
        while (raw_receive(port, &got))
            answers += got.type == KVN_PACKET_HELLO_ACK;
        if (i % 16 == 0)
            t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    }
    cr_expect_geq(answers, 1);
    cr_expect_leq(answers, KVN_CONNS_DEFAULT / KVN_HALF_OPEN_SHARE, "%u were answered", answers);
    cr_expect_eq(pair.side[1].ups, 1, "a HELLO alone made a connection");
    t = pair.side[0].t;
    cr_assert_eq(t->ops->connect(t, NULL, kvn_sim_now(pair.sim), &conn), KVW_OK);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + S);
    cr_expect_eq(pair.side[0].ups, 2);
    cr_expect_eq(pair.side[1].ups, 2);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A full table refuses, with a reason, at once. */
Test(life, full_table_refuses)
{
    const struct kvn_packet_config one = {.conns_max = 1};
    struct kvn_packet_config cfg = {.seed = 5};
    struct kvw_transport_event ev;
    char why[KVN_WHY_BYTES];
    struct kvw_transport *t;
    struct kvn_port *port;
    kvw_conn_id conn;
    uint32_t n = 0;

    t_pair_open(&pair, 1, 8240, &one);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_expect_eq(pair.side[0].t->ops->connect(pair.side[0].t, NULL, 0, &conn), KVW_E_AGAIN);
    cr_assert_eq(kvn_sim_port_open(&port, pair.sim, 2), KVW_OK);
    cr_assert_eq(kvn_packet_open(&t, port, &cfg, why), KVW_OK);
    cr_assert_eq(t->ops->connect(t, "10.0.0.2:9000", kvn_sim_now(pair.sim), &conn), KVW_OK);
    for (int i = 0; i < 10 && n == 0; ++i) {
        n = t->ops->poll(t, kvn_sim_now(pair.sim), &ev, 1);
        t_pair_poll(&pair, 1);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    }
    cr_assert_eq(n, 1);
    cr_expect_eq(ev.kind, KVW_TEV_CONN_DOWN);
    cr_expect(strstr(ev.text, "no room") != NULL, "%s", ev.text);
    t->ops->close(t);
    t_pair_close(&pair);
}

/* The port is full while a slice waits to be sent again; the first copy turns out to have arrived,
 * the put is over and its memory its owner's. The second copy must not leave. */
Test(life, finished_puts_are_not_touched)
{
    const struct kvn_sim_link slow = {.delay_ns = 4 * MS};
    struct kvw_transport_stats s;
    struct t_side *a = &pair.side[0];
    static uint8_t bytes[1000];
    struct kvw_put put = {.key = {{0}}, .iov = {{bytes, sizeof(bytes)}}, .iov_count = 1};

    up();
    kvn_sim_links(pair.sim, &slow);
    put.key = pair.side[1].key;
    a->puts_sent = 1; /* as pair.c counts */
    cr_assert_eq(a->t->ops->put(a->t, a->conn, &put), KVW_OK);
    t_pair_poll(&pair, 0);
    kvn_sim_tx_limit(pair.sim, 0);
    for (int i = 0; i < 6; ++i) { /* long enough for a probe, not for the ACK */
        t_pair_poll(&pair, 0);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    }
    a->t->ops->stats(a->t, &s);
    cr_assert_geq(s.packets_retransmitted, 1, "no second copy was built");
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    pair.side[1].t->ops->stats(pair.side[1].t, &s);
    {
        struct kvw_transport_event ev[8];
        cr_assert_eq(pair.side[1].t->ops->poll(pair.side[1].t, kvn_sim_now(pair.sim), ev, 8), 1);
    }
    kvn_sim_tx_limit(pair.sim, 0);
    while (a->puts_done == 0) {
        t_pair_poll(&pair, 0);
        kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    }
    memset(bytes, 0xff, sizeof(bytes)); /* its digest would be wrong now */
    kvn_sim_tx_limit(pair.sim, UINT32_MAX);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 50 * MS);
    pair.side[1].t->ops->stats(pair.side[1].t, &s);
    cr_expect_eq(s.packets_rejected, 0, "a finished put's memory was sent");
    cr_expect_eq(pair.side[0].downs + pair.side[1].downs, 0);
    t_pair_close(&pair);
}

/* A raw client of the listener: what it must know of the connection to go on. */
static uint32_t raw_connect(struct kvn_port *port)
{
    struct kvn_frame f = hello(4711);
    uint32_t id = 0;

    raw_send(port, 1, &f, 1200 - KVN_HELLO_BYTES);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    while (raw_receive(port, &f))
        id = f.hello.source;
    cr_assert_neq(id, 0);
    return id;
}

/* What the receiver has no room to remember isn't acknowledged, so that it comes again. */
Test(life, what_is_not_taken_is_not_acknowledged)
{
    struct kvn_frame f, ack = {.type = 0};
    struct kvn_port *port;
    uint64_t pn = 1;
    uint32_t id;

    up();
    port = raw(2);
    id = raw_connect(port);
    f = (struct kvn_frame){.version = KVN_WIRE_VERSION,
                           .type = KVN_PACKET_PING,
                           .flags = KVN_FLAG_ACK_NOW,
                           .conn = id,
                           .pn = pn++};
    raw_send(port, 1, &f, 0);
    f.type = KVN_PACKET_MSG; /* every second byte, from the second on: each a gap of its own */
    for (uint32_t i = 0; i < KVN_RANGES_MAX + 10; ++i) {
        f.pn = pn++;
        f.stream_at = 2 * i + 1;
        raw_send(port, 1, &f, 1);
    }
    f.type = KVN_PACKET_DATA; /* a put too far ahead */
    f.pn = pn++;
    f.data = (struct kvn_data){.put = KVN_PUTS_MAX, .region = 64, .bytes = 1, .slice = 8192};
    raw_send(port, 1, &f, 1);
    f.type = KVN_PACKET_PING;
    f.pn = pn++;
    raw_send(port, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 5 * MS);
    while (raw_receive(port, &f))
        if (f.type == KVN_PACKET_ACK)
            ack = f;
    cr_assert_eq(ack.type, KVN_PACKET_ACK);
    cr_expect_eq(ack.ack.largest, pn - 1);
    cr_assert_eq(ack.ack.count, 2);
    cr_expect_eq(ack.ack.range[1].end, 2 + KVN_RANGES_MAX, "%llu",
                 (unsigned long long)ack.ack.range[1].end);
    cr_expect_eq(pair.side[1].downs, 0);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A raw client says that the listener's packet of this number, relative to the last that it got,
 * has arrived on this path. Returns how many connections of the listener are down then. */
static uint32_t downs_after_ack(int64_t ahead, uint8_t path)
{
    struct kvn_frame f;
    struct kvn_port *port;
    uint64_t last = 0;
    uint32_t id, downs;

    up();
    port = raw(2);
    id = raw_connect(port);
    f = (struct kvn_frame){.version = KVN_WIRE_VERSION,
                           .type = KVN_PACKET_PING,
                           .flags = KVN_FLAG_ACK_NOW,
                           .conn = id,
                           .pn = 1};
    raw_send(port, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    while (raw_receive(port, &f))
        if (f.type == KVN_PACKET_ACK)
            last = f.pn;
    cr_assert_eq(last, 1, "%llu", (unsigned long long)last);
    f = (struct kvn_frame){.version = KVN_WIRE_VERSION,
                           .type = KVN_PACKET_ACK,
                           .conn = id,
                           .pn = 2,
                           .ack = {.largest = last + (uint64_t)ahead, .path = path, .count = 1}};
    f.ack.range[0] = (struct kvn_range){f.ack.largest, f.ack.largest + 1};
    raw_send(port, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    downs = pair.side[1].downs;
    if (downs > 0) {
        cr_expect_eq(pair.side[1].down_err, KVW_E_PROTOCOL);
        cr_assert(raw_receive(port, &f) && f.type == KVN_PACKET_GOODBYE);
        cr_expect_eq(f.goodbye, KVW_E_PROTOCOL);
    }
    port->ops->close(port);
    t_pair_close(&pair);
    return downs;
}

/* An ACK of the next number, which wasn't used yet, or on a path that isn't there, ends the
 * connection; one of the last number doesn't. */
Test(life, an_ack_of_what_was_never_sent)
{
    cr_expect_eq(downs_after_ack(0, 0), 0);
    cr_expect_eq(downs_after_ack(1, 0), 1);
    cr_expect_eq(downs_after_ack(2, 0), 1);
    cr_expect_eq(downs_after_ack(1 << 30, 0), 1);
    cr_expect_eq(downs_after_ack(0, 1), 1);
}

static uint32_t greased; /* HELLOs with something in what is unused */
static bool greases(void *arg, const struct kvn_sim_sight *sight)
{
    static const uint8_t zero[8];
    const uint8_t *head = sight->packet->head;

    (void)arg;
    greased += (head[0] & 15) == KVN_PACKET_HELLO && (head[1] & KVN_FLAGS_UNUSED) != 0 &&
               memcmp(head + 8, zero, 8) != 0;
    return true;
}

/* What is unused isn't always 0, and nobody minds. */
Test(life, unused_bits_are_ignored)
{
    uint32_t ups = 0;

    for (uint64_t seed = 1; seed <= 20; ++seed) {
        t_pair_open(&pair, seed, 8240, &defaults);
        kvn_sim_links(pair.sim, &clean);
        kvn_sim_tap(pair.sim, greases, NULL);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
        ups += pair.side[0].up && pair.side[1].up;
        t_pair_close(&pair);
    }
    cr_expect_eq(ups, 20);
    cr_expect_geq(greased, 10, "%u", greased);
}

/* Packets tell the low half of their numbers, ACKs all of them. */
Test(life, numbers_beyond_32_bits)
{
    struct kvn_port *port;
    struct kvn_frame f;
    uint64_t largest = 0, pn = 1;
    uint32_t id;

    up();
    port = raw(2);
    id = raw_connect(port);
    for (uint32_t i = 0; i < 6; ++i, pn += 0x7fffffff) {
        f = (struct kvn_frame){.version = KVN_WIRE_VERSION,
                               .type = KVN_PACKET_PING,
                               .flags = KVN_FLAG_ACK_NOW,
                               .conn = id,
                               .pn = pn};
        raw_send(port, 1, &f, 0);
        t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
        while (raw_receive(port, &f))
            if (f.type == KVN_PACKET_ACK)
                largest = f.ack.largest;
        cr_assert_eq(largest, pn);
    }
    cr_expect_gt(pn, 1ull << 33);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A put is refused, and the GOODBYE that says so is lost: the sender is told again, with the
 * reason. */
Test(life, a_lost_goodbye_is_repeated)
{
    const struct kvn_sim_link gone = {.cut = true};
    static const uint8_t bytes[100];
    struct t_side *a = &pair.side[0];
    struct kvw_put put = {.offset = 1ull << 40, .iov = {{bytes, sizeof(bytes)}}, .iov_count = 1};

    up();
    put.key = pair.side[1].key;
    a->puts_sent = 1;
    cr_assert_eq(a->t->ops->put(a->t, a->conn, &put), KVW_OK);
    kvn_sim_link(pair.sim, 1, 0, &gone);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    cr_expect_eq(pair.side[1].downs, 1);
    cr_expect_eq(a->downs, 0);
    kvn_sim_link(pair.sim, 1, 0, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 200 * MS);
    cr_expect_eq(a->downs, 1);
    cr_expect_eq(a->down_err, KVW_E_PROTOCOL, "%s", kvw_strerror(a->down_err));
    t_pair_close(&pair);
}

/* Who knows the id but writes from elsewhere is not the peer. */
Test(life, other_addresses_are_not_the_peer)
{
    struct kvn_frame f = hello(4711);
    struct kvn_port *port, *thief;
    uint32_t id = 0;

    up();
    port = raw(2);
    thief = raw(3);
    raw_send(port, 1, &f, 1200 - KVN_HELLO_BYTES);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    while (raw_receive(port, &f))
        id = f.hello.source;
    f = (struct kvn_frame){
        .version = KVN_WIRE_VERSION, .type = KVN_PACKET_PING, .conn = id, .pn = 1};
    raw_send(port, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_assert_eq(pair.side[1].ups, 2);
    f = (struct kvn_frame){
        .version = KVN_WIRE_VERSION, .type = KVN_PACKET_GOODBYE, .conn = id, .pn = 2};
    raw_send(thief, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(pair.side[1].downs, 0);
    raw_send(port, 1, &f, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(pair.side[1].downs, 1);
    port->ops->close(port);
    thief->ops->close(thief);
    t_pair_close(&pair);
}
