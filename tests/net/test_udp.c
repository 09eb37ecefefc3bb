/* SPDX-License-Identifier: Apache-2.0 */
/* The UDP port carries packets of every size between addresses of both families, says why it can't
 * open, and is not upset by a peer that isn't there. */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "../../net/net.h"
#include "../../net/port/udp.h"

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
    const struct kvn_udp_config cfg = {.local = "[::1]:0"};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;
    uint32_t queued;

    if (kvn_udp_port_open(&port, &cfg, &queued, why) != KVW_OK)
        cr_skip_test("this machine has no IPv6");
    port->ops->close(port);
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

/* Too long for the route: counted, taken, and the port says what will fit. */
Test(udp, steps_down_when_too_long)
{
    static const uint8_t bytes[65507];
    struct kvn_port *a = open_port("127.0.0.1:0", 65000);
    struct kvn_tx_packet p = {.to = a->local,
                              .head = bytes,
                              .head_bytes = 48,
                              .body = {{bytes, 65000}, {bytes, 1000}},
                              .body_count = 2};

    cr_expect_eq(a->ops->tx(a, 0, &p, 1), 1);
    cr_expect_eq(a->tx_errors, 1);
    cr_expect_lt(a->payload_max, 1500);
    cr_expect_geq(a->payload_max, 1200);
    a->ops->close(a);
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
