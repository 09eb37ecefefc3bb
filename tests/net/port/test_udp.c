/* SPDX-License-Identifier: Apache-2.0 */
/* The UDP port carries packets of every size between addresses of both families, says why it can't
 * open, and is not upset by a peer that isn't there. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "../../../net/net.h"
#include "../../../net/port/udp/udp.h"
#include "veth.h"

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct kvn_port *open_port(const char *local, uint32_t payload_max)
{
    const struct kvn_udp_config cfg = {.local = local, .payload_max = payload_max};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&port, &cfg, &queued, why), KVW_OK, "%s", why);
    cr_expect_neq(port->local.port, 0);
    cr_expect_gt(queued, 0);
    return port;
}

static bool have_ipv6(void)
{
    const struct kvn_udp_config cfg = {.local = "[::1]:0"};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;
    uint32_t queued;

    if (kvn_udp_port_open(&port, &cfg, &queued, why) != KVW_OK)
        return false;
    port->ops->close(port);
    return true;
}

/* Up to n packets, all still readable. */
static uint32_t receive_all(struct kvn_port *port, struct kvn_rx_packet *packets, uint32_t n)
{
    port->ops->wait(port, now_ns() + 1000000000u, -1);
    return port->ops->rx(port, 0, packets, n);
}

static void exchange(const char *local)
{
    static uint8_t bytes[60000], got[60000];
    struct kvn_port *a = open_port(local, 60000), *b = open_port(local, 60000);
    static const uint32_t sizes[] = {24, 1200, 8240, 59999};

    for (uint32_t i = 0; i < sizeof(bytes); ++i)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t third = sizes[i] / 3;
        const struct kvn_tx_packet p = {
            .to = b->local,
            .head = bytes,
            .head_bytes = third,
            .body = {{bytes + third, third}, {bytes + 2 * third, sizes[i] - 2 * third}},
            .body_count = 2,
        };
        struct kvn_rx_packet r[KVN_BURST];
        uint32_t n;

        cr_assert_eq(a->ops->tx(a, 0, &p, 1), 1);
        b->ops->wait(b, now_ns() + 1000000000u, -1);
        n = b->ops->rx(b, 0, r, KVN_BURST);
        cr_assert_eq(n, 1, "%u B: %u packets", sizes[i], n);
        cr_expect_eq(r[0].len, sizes[i]);
        memcpy(got, r[0].bytes, r[0].len);
        cr_expect(memcmp(got, bytes, sizes[i]) == 0);
        cr_expect(kvn_addr_equal(&r[0].from, &a->local));
        cr_expect_eq(b->ops->rx(b, 0, r, KVN_BURST), 0);
    }
    a->ops->close(a);
    b->ops->close(b);
}

Test(udp, carries_ipv4)
{
    exchange("127.0.0.1:0");
}

Test(udp, carries_ipv6)
{
    if (!have_ipv6())
        cr_skip_test("this machine has no IPv6");
    exchange("[::1]:0");
}

/* Sent to a port that nobody has open, again and again: ICMP errors come back, and change nothing
 * for a peer that is there. */
Test(udp, survives_closed_ports)
{
    struct kvn_port *a = open_port("127.0.0.1:0", 1200), *b = open_port("127.0.0.1:0", 1200);
    struct kvn_port *gone = open_port("127.0.0.1:0", 1200);
    const struct kvn_addr nobody = gone->local;
    uint32_t got = 0;

    gone->ops->close(gone);
    for (int i = 0; i < 50; ++i) {
        struct kvn_tx_packet p[2] = {
            {.to = nobody, .head = (const uint8_t *)"x", .head_bytes = 1},
            {.to = b->local, .head = (const uint8_t *)"y", .head_bytes = 1}};
        struct kvn_rx_packet r[KVN_BURST];
        uint32_t sent = 0;

        for (int tries = 0; tries < 10 && sent < 2; ++tries)
            sent += a->ops->tx(a, 0, p + sent, 2 - sent);
        cr_assert_eq(sent, 2);
        cr_expect_eq(a->ops->rx(a, 0, r, KVN_BURST), 0);
        b->ops->wait(b, now_ns() + 100000000u, -1);
        got += b->ops->rx(b, 0, r, KVN_BURST);
    }
    cr_expect_eq(got, 50);
    cr_expect_eq(a->tx_errors, 0);
    a->ops->close(a);
    b->ops->close(b);
}

/* One that UDP can't carry at all is counted and taken, alone; its neighbours leave. */
Test(udp, too_long_costs_only_itself)
{
    static const uint8_t bytes[65507];
    struct kvn_port *a = open_port("127.0.0.1:0", 1200), *b = open_port("127.0.0.1:0", 1200);
    struct kvn_tx_packet p[3] = {
        {.to = b->local, .head = bytes, .head_bytes = 48},
        {.to = b->local,
         .head = bytes,
         .head_bytes = 48,
         .body = {{bytes, 65507}},
         .body_count = 1},
        {.to = b->local, .head = bytes, .head_bytes = 47},
    };
    struct kvn_rx_packet r[KVN_BURST];

    cr_expect_eq(a->ops->tx(a, 0, p, 3), 3);
    cr_expect_eq(a->tx_errors, 1);
    cr_expect_eq(receive_all(b, r, 2), 2);
    cr_expect_eq(r[0].len + r[1].len, 95);
    a->ops->close(a);
    b->ops->close(b);
}

/* What an interface's MTU took from payload_max is given back later, and taken again if it still
 * doesn't fit. */
Test(udp, payload_max_rises_again)
{
    static const uint8_t bytes[8000];
    const uint64_t t0 = 1000000000u;
    const char *skip = t_veth_make(1500);
    struct kvn_tx_packet p = {.head = bytes, .head_bytes = 48, .body_count = 1};
    struct kvn_port *a;

    if (skip != NULL)
        cr_skip_test("%s", skip);
    a = open_port("10.77.0.100:0", 8000);
    cr_assert_eq(kvn_addr_parse(&p.to, "10.77.0.101:7000"), KVW_OK);
    p.body[0] = (struct kvw_iov){bytes, 8000 - 48};
    for (uint64_t round = 0; round < 2; ++round) {
        const uint64_t at = t0 + round * KVN_UDP_RAISE_NS;

        cr_expect_eq(a->ops->tx(a, at, &p, 1), 1);
        cr_expect_eq(a->tx_errors, round + 1);
        cr_expect_eq(a->payload_max, 1472);
        p.body[0].bytes = 1;
        cr_expect_eq(a->ops->tx(a, at + KVN_UDP_RAISE_NS - 1, &p, 1), 1);
        cr_expect_eq(a->payload_max, 1472, "too soon");
        cr_expect_eq(a->ops->tx(a, at + KVN_UDP_RAISE_NS, &p, 1), 1);
        cr_expect_eq(a->payload_max, 8000, "it stayed at %u", a->payload_max);
        p.body[0].bytes = 8000 - 48;
    }
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 9000"), 0);
    cr_assert_eq(t_veth_run(1, "ip link set kvt1 mtu 9000"), 0);
    cr_expect_eq(a->ops->tx(a, t0 + 3 * KVN_UDP_RAISE_NS, &p, 1), 1);
    cr_expect_eq(a->tx_errors, 2);
    cr_expect_eq(a->payload_max, 8000);
    a->ops->close(a);
}

/*
 * A burst of packets of mixed sizes, addresses and marks, which GSO and GRO may join as they like,
 * arrives as the same packets in the same order. One rx() is asked for so few that what was joined
 * has to be handed out over several.
 */
static void burst(const struct kvn_udp_config *cfg, uint32_t at_once)
{
    static const uint32_t sizes[] = {1200, 1200, 1200, 700,  1200, 1,    1200, 8000, 8000,
                                     8000, 8000, 8000, 8000, 8000, 8000, 8000, 3000, 3000};
    enum { N = 18 };
    static uint8_t bytes[N][8000];
    struct kvn_tx_packet p[N];
    struct kvn_port *a, *b = open_port(cfg->local, 8192);
    char why[KVN_WHY_BYTES];
    uint32_t queued, got = 0;

    cr_assert_eq(kvn_udp_port_open(&a, cfg, &queued, why), KVW_OK, "%s", why);
    for (uint32_t i = 0; i < N; ++i) {
        memset(bytes[i], (int)i, sizeof(bytes[i]));
        p[i] = (struct kvn_tx_packet){
            .to = b->local,
            .head = bytes[i],
            .head_bytes = sizes[i] / 2,
            .body = {{bytes[i], sizes[i] - sizes[i] / 2}},
            .body_count = 1,
            .ecn = i < 2     ? KVN_ECN_ECT0
                   : i == 14 ? KVN_ECN_CE
                             : KVN_ECN_NOT_ECT,
        };
    }
    cr_assert_eq(a->ops->tx(a, 0, p, N), N);
    for (int tries = 0; tries < 200 && got < N; ++tries) {
        struct kvn_rx_packet r[KVN_BURST];
        uint32_t n;

        b->ops->wait(b, now_ns() + 10000000u, -1);
        n = b->ops->rx(b, 0, r, at_once);
        cr_assert_leq(n, at_once);
        for (uint32_t i = 0; i < n; ++i, ++got) {
            cr_assert_lt(got, N);
            cr_expect_eq(r[i].len, sizes[got], "packet %u: %u B", got, r[i].len);
            cr_expect_eq(r[i].ecn, p[got].ecn, "packet %u: ecn %u", got, r[i].ecn);
            for (uint32_t k = 0; k < r[i].len; ++k)
                cr_assert_eq(r[i].bytes[k], (uint8_t)got, "packet %u, byte %u", got, k);
        }
    }
    cr_expect_eq(got, N);
    cr_expect_eq(b->ops->deadline_ns(b), UINT64_MAX);
    a->ops->close(a);
    b->ops->close(b);
}

Test(udp, bursts)
{
    static const uint32_t at_once[] = {32, 5, 1};

    for (int i = 0; i < 3; ++i) {
        burst(&(struct kvn_udp_config){.local = "127.0.0.1:0"}, at_once[i]);
        burst(&(struct kvn_udp_config){.local = "127.0.0.1:0", .plain = true}, at_once[i]);
    }
}

Test(udp, bursts_ipv6)
{
    static const struct kvn_udp_config cfg = {.local = "[::1]:0"};

    if (!have_ipv6())
        cr_skip_test("this machine has no IPv6");
    burst(&cfg, 32);
    burst(&cfg, 3);
}

/* As many full packets as a burst has, so that what GRO joins exceeds one rx(). */
Test(udp, hands_out_the_rest_later)
{
    static uint8_t bytes[1000];
    struct kvn_port *a = open_port("127.0.0.1:0", 1200), *b = open_port("127.0.0.1:0", 1200);
    struct kvn_tx_packet p[KVN_BURST];
    uint32_t got = 0;

    for (uint32_t i = 0; i < KVN_BURST; ++i)
        p[i] = (struct kvn_tx_packet){.to = b->local, .head = bytes, .head_bytes = sizeof(bytes)};
    for (int i = 0; i < 8; ++i)
        cr_assert_eq(a->ops->tx(a, 0, p, KVN_BURST), KVN_BURST);
    while (got < 8 * KVN_BURST) {
        struct kvn_rx_packet r[KVN_BURST];
        const uint32_t n = b->ops->rx(b, 0, r, 7);

        cr_assert_gt(n, 0, "%u came", got);
        got += n;
        cr_assert(b->ops->deadline_ns(b) == 0 || got % 32 == 0, "what is left is due now");
    }
    a->ops->close(a);
    b->ops->close(b);
}

/* Several UDP ports: each packet leaves from the one it names and arrives at the one it is for. */
Test(udp, sources)
{
    const struct kvn_udp_config four = {.local = "127.0.0.1:0", .sources = 4};
    struct kvn_port *a, *b = open_port("127.0.0.1:0", 1200);
    struct kvn_rx_packet r[KVN_BURST], back[KVN_BURST];
    struct kvn_tx_packet p[8];
    char why[KVN_WHY_BYTES];
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&a, &four, &queued, why), KVW_OK, "%s", why);
    cr_expect_eq(a->source_count, 4);
    for (uint32_t i = 0; i < 8; ++i)
        p[i] = (struct kvn_tx_packet){.to = b->local,
                                      .head = (const uint8_t *)"01234567" + i,
                                      .head_bytes = 1,
                                      .source = (uint8_t)(i / 2)};
    cr_assert_eq(a->ops->tx(a, 0, p, 8), 8);
    cr_assert_eq(receive_all(b, r, 8), 8);
    for (uint32_t i = 0; i < 8; ++i) {
        cr_expect_eq(kvn_addr_equal(&r[i].from, &r[i / 2 * 2].from), true);
        if (i >= 2)
            cr_expect_eq(kvn_addr_equal(&r[i].from, &r[i - 2].from), false);
        p[i] = (struct kvn_tx_packet){.to = r[i].from, .head = p[i].head, .head_bytes = 1};
    }
    cr_assert_eq(b->ops->tx(b, 0, p, 8), 8);
    cr_assert_eq(receive_all(a, back, 8), 8);
    for (uint32_t i = 0, seen = 0; i < 8; ++i) {
        const uint32_t n = back[i].bytes[0] - (uint32_t)'0';

        cr_expect_eq(back[i].source, n / 2);
        cr_expect_eq(seen & 1u << n, 0);
        seen |= 1u << n;
    }
    a->ops->close(a);
    b->ops->close(b);
}

Test(udp, too_many_sources)
{
    const struct kvn_udp_config nine = {.local = "127.0.0.1:0", .sources = 9},
                                end = {.local = "127.0.0.1:65530", .sources = 8};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;
    uint32_t queued;

    cr_expect_eq(kvn_udp_port_open(&port, &nine, &queued, why), KVW_E_INVALID);
    cr_expect(strstr(why, "9 UDP ports") != NULL, "%s", why);
    cr_expect_eq(kvn_udp_port_open(&port, &end, &queued, why), KVW_E_INVALID);
}

/* What was opened is said in one line, and so is a buffer that the kernel made smaller. */
Test(udp, says_what_falls_short)
{
    const struct kvn_udp_config huge = {.local = "127.0.0.1:0", .queue_bytes = 1u << 30},
                                plain = {.local = "127.0.0.1:0", .plain = true};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&port, &plain, &queued, why), KVW_OK, "%s", why);
    cr_expect(strstr(why, "GSO no, GRO no, buffers in") != NULL, "%s", why);
    cr_expect(strstr(why, "short of") == NULL || queued < 4u << 20, "%s", why);
    port->ops->close(port);
    if (geteuid() == 0 && setuid(65534) != 0) /* who may do anything gets anything */
        cr_skip_test("can't become an ordinary user");
    cr_assert_eq(kvn_udp_port_open(&port, &huge, &queued, why), KVW_OK, "%s", why);
    cr_expect(strstr(why, "raise net.core.rmem_max") != NULL, "%s", why);
    cr_expect_lt(queued, 1u << 30);
    port->ops->close(port);
}

/* A wait that never sleeps still ends for input, for wake_fd, and at its time. */
Test(udp, busy_poll)
{
    const struct kvn_udp_config cfg = {.local = "127.0.0.1:0", .busy_poll = true};
    struct kvn_port *a, *b = open_port("127.0.0.1:0", 1200);
    char why[KVN_WHY_BYTES];
    struct kvn_tx_packet p = {.head = (const uint8_t *)"x", .head_bytes = 1};
    const int wake = eventfd(1, 0);
    uint64_t begin;
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&a, &cfg, &queued, why), KVW_OK, "%s", why);
    begin = now_ns();
    a->ops->wait(a, begin + 20000000u, -1);
    cr_expect_geq(now_ns() - begin, 20000000u);
    a->ops->wait(a, UINT64_MAX, wake);
    p.to = a->local;
    cr_assert_eq(b->ops->tx(b, 0, &p, 1), 1);
    a->ops->wait(a, UINT64_MAX, -1);
    close(wake);
    a->ops->close(a);
    b->ops->close(b);
}

static const struct bad {
    const char *local, *peer;
} bad[] = {
    {NULL, NULL},
    {"", NULL},
    {"127.0.0.1", NULL},
    {"127.0.0.1:", NULL},
    {"127.0.0.1:x", NULL},
    {"127.0.0.1:65536", NULL},
    {"127.0.0.1:-1", NULL},
    {"127.0.0.1:1 ", NULL},
    {"localhost:1", NULL},
    {"[::1:1", NULL},
    {"[::1]", NULL},
    {"[::1]x1", NULL},
    {"[127.0.0.1]:1", NULL},
    {"192.0.2.1:0", NULL}, /* nobody's */
    {"127.0.0.1:0", "nowhere"},
    {"127.0.0.1:0", "[::1]"},
};

Test(udp, says_why_not)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        const struct kvn_udp_config cfg = {.local = bad[i].local, .peer = bad[i].peer};
        const char *const named = bad[i].peer != NULL ? bad[i].peer : bad[i].local;
        char why[KVN_WHY_BYTES] = "";
        struct kvn_port *port = NULL;
        uint32_t queued;

        cr_expect_eq(kvn_udp_port_open(&port, &cfg, &queued, why), KVW_E_ADDRESS, "%zu", i);
        cr_expect_null(port);
        cr_expect(named == NULL || strstr(why, named) != NULL, "%zu: %s", i, why);
    }
}

Test(udp, port_in_use)
{
    struct kvn_port *a = open_port("127.0.0.1:0", 1200), *b = NULL;
    char local[KVN_ADDR_TEXT_BYTES], why[KVN_WHY_BYTES] = "";
    const struct kvn_udp_config cfg = {.local = kvn_addr_format(&a->local, local)};
    uint32_t queued;

    cr_expect_eq(kvn_udp_port_open(&b, &cfg, &queued, why), KVW_E_ADDRESS);
    cr_expect(strstr(why, local) != NULL, "%s", why);
    a->ops->close(a);
}

/* Text to address and back. */
Test(addr, round_trip)
{
    static const char *const texts[] = {"1.2.3.4:5", "255.255.255.255:65535", "[::1]:9000",
                                        "[2001:db8::1]:80"};

    for (int i = 0; i < 4; ++i) {
        char buf[KVN_ADDR_TEXT_BYTES];
        struct kvn_addr a;
        cr_assert_eq(kvn_addr_parse(&a, texts[i]), KVW_OK);
        cr_expect_str_eq(kvn_addr_format(&a, buf), texts[i]);
    }
}

/* --- addresses that lead nowhere -------------------------------------------------------------- */

/* What connect() from local to peer ends in, within a tenth of the time that silence takes. */
static kvw_err ends_in(const char *local, const char *peer, char text[256])
{
    const struct kvn_config cfg = {.local = local};
    struct kvw_transport_event ev[4] = {{.kind = KVW_TEV_CONN_UP}};
    struct kvw_transport *t = NULL;
    kvw_conn_id conn = {0};
    char why[KVN_WHY_BYTES];
    kvw_err err = KVW_OK;
    uint32_t n;

    cr_assert_eq(kvn_open(&t, "udp", &cfg, why), KVW_OK, "%s", why);
    cr_assert_eq(t->ops->connect(t, peer, 1000000000, &conn), KVW_OK);
    if (strstr(local, "queues=") == NULL)
        cr_expect_eq(t->ops->deadline_ns(t), 0, "the next poll is due");
    else if (t->ops->deadline_ns(t) != 0)
        t->ops->wait(t, now_ns() + 300000000, -1); /* its thread tells, at once */
    n = t->ops->poll(t, 1000000001, ev, 4);
    text[0] = '\0';
    if (n == 1 && ev[0].kind == KVW_TEV_CONN_DOWN) {
        err = ev[0].err;
        snprintf(text, 256, "%s", ev[0].text);
    }
    t->ops->close(t);
    return err;
}

static void expect_reason(const char *local, const char *peer, const char *says)
{
    char text[256];

    cr_expect_eq(ends_in(local, peer, text), KVW_E_ADDRESS, "%s to %s: %s", local, peer, text);
    cr_expect_not_null(strstr(text, says), "%s to %s: \"%s\" doesn't say \"%s\"", local, peer, text,
                       says);
}

Test(udp, the_other_family_is_said)
{
    expect_reason("127.0.0.1:0", "[::1]:7000", "IPv6");
    expect_reason("[::1]:0", "127.0.0.1:7000", "IPv4");
    expect_reason("127.0.0.1:0,queues=2", "[::1]:7000", "IPv6");
}

Test(udp, no_way_is_said)
{
    char text[256];
    const char *skip = t_veth_make(1500);

    if (skip != NULL)
        cr_skip_test("%s", skip);
    expect_reason("10.77.0.100:0", "10.99.0.1:7000", "Network is unreachable");
    expect_reason("[fd77::100]:0", "[fd99::1]:7000", "Network is unreachable");
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 1000"), 0);
    expect_reason("10.77.0.100:0", "10.77.0.101:7000", "MTU 1000");
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 1228"), 0);
    cr_expect_eq(ends_in("10.77.0.100:0", "10.77.0.101:7000", text), KVW_OK, "%s", text);
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 1227"), 0);
    expect_reason("10.77.0.100:0", "10.77.0.101:7000", "MTU 1227");
}

Test(udp, link_local_addresses)
{
    static const char *const wrong[] = {"[fe80::1%]:5",  "[fe80::1%none-such]:5",
                                        "[::1%lo]:5",    "[fec0::1%lo]:5",
                                        "[fe80::1%lo:5", "127.0.0.1%lo:5"};
    struct kvn_addr a, b;
    char text[KVN_ADDR_TEXT_BYTES];

    cr_assert_eq(kvn_addr_parse(&a, "[fe80::1%lo]:7000"), KVW_OK);
    cr_expect_eq(a.scope, 1);
    cr_expect_str_eq(kvn_addr_format(&a, text), "[fe80::1%lo]:7000");
    cr_assert_eq(kvn_addr_parse(&b, "[fe80::1]:7000"), KVW_OK);
    cr_expect_eq(b.scope, 0);
    cr_expect_not(kvn_addr_equal(&a, &b));
    for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); ++i)
        cr_expect_eq(kvn_addr_parse(&a, wrong[i]), KVW_E_ADDRESS, "%s", wrong[i]);
}

/* A link-local address with its interface is bound, dialled, and known again in what arrives. */
Test(udp, link_local_ends_meet)
{
    const struct kvn_config la = {.local = "[fe80::a%kvt0]:0"};
    const struct kvn_config lb = {.local = "[fe80::b%kvt1]:7000", .listener = true};
    struct kvw_transport *a = NULL, *b = NULL;
    struct kvw_transport_event ev[4];
    char why[KVN_WHY_BYTES];
    kvw_conn_id conn;
    uint32_t ups = 0;
    const char *skip = t_veth_make(1500);

    if (skip != NULL)
        cr_skip_test("%s", skip);
    cr_assert_eq(t_veth_run(0, "ip addr add fe80::a/64 dev kvt0 nodad"), 0);
    cr_assert_eq(t_veth_run(1, "ip addr add fe80::b/64 dev kvt1 nodad"), 0);
    t_veth_enter(1);
    cr_assert_eq(kvn_open(&b, "udp", &lb, why), KVW_OK, "%s", why);
    t_veth_enter(0);
    cr_assert_eq(kvn_open(&a, "udp", &la, why), KVW_OK, "%s", why);
    cr_assert_eq(b->ops->listen(b), KVW_OK);
    cr_assert_eq(a->ops->connect(a, "[fe80::b%kvt0]:7000", now_ns(), &conn), KVW_OK);
    for (int i = 0; i < 2000 && ups < 2; ++i) {
        for (int end = 0; end < 2; ++end) {
            struct kvw_transport *t = end == 0 ? a : b;
            const uint32_t n = t->ops->poll(t, now_ns(), ev, 4);

            for (uint32_t k = 0; k < n; ++k)
                ups += ev[k].kind == KVW_TEV_CONN_UP;
        }
        a->ops->wait(a, now_ns() + 1000000, -1);
    }
    cr_expect_eq(ups, 2);
    a->ops->close(a);
    b->ops->close(b);
}
