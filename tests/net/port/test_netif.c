/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends of an Ethernet find each other and know what is theirs; whoever doesn't answer is given
 * up in time. Their frames are carried by hand and the clock is a number. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "../../../net/port/ether/netif.h"

#define MS 1000000ull

static struct kvn_netif a, b;
static struct kvn_netif_config ca, cb;
static uint64_t now = 1000 * MS;
static const struct kvn_ether_flow *flow;
static struct kvn_rx_packet got;

static void address(struct kvn_netif_config *c, uint8_t host)
{
    *c = (struct kvn_netif_config){
        .mac = {2, 0, 0, 0, 0, host},
        .four = {.set = true, .ip = {10, 0, 0, host}, .prefix = 24},
        .six = {.set = true,
                .ip = {0xfd, [1] = 7, [13] = 0xaa, [14] = 0xbb, [15] = host},
                .prefix = 64},
        .port = 7400,
        .source_count = 4};
}

static void setup(void)
{
    address(&ca, 1);
    address(&cb, 2);
    kvn_netif_init(&a, &ca);
    kvn_netif_init(&b, &cb);
}

TestSuite(netif, .init = setup);

static struct kvn_tx_packet to_host(int family, uint8_t host)
{
    struct kvn_tx_packet p = {.to = {.family = (uint8_t)family, .port = 7402}};
    const struct kvn_netif_ip *ip = family == 4 ? &cb.four : &cb.six;

    memcpy(p.to.ip, ip->ip, 16);
    p.to.ip[family == 4 ? 3 : 15] = host;
    return p;
}

static bool deliver(struct kvn_netif *to, const uint8_t *bytes, uint32_t len, uint16_t tag)
{
    uint8_t *exact = malloc(len); /* so that a sanitizer sees a byte too many */
    struct kvn_netif_in in = {.bytes = exact, .len = len, .tag = tag};
    bool ours;

    memcpy(exact, bytes, len);
    ours = kvn_netif_rx(to, now, &in, &got);
    free(exact);
    return ours;
}

/* All control frames that from has queued go to to. */
static uint32_t carry(struct kvn_netif *from, struct kvn_netif *to)
{
    const uint8_t *frame;
    uint32_t bytes, n = 0;

    for (; (frame = kvn_netif_out(from, &bytes)) != NULL; ++n) {
        cr_expect_geq(bytes, 60);
        cr_expect_not(deliver(to, frame, bytes, 0), "a control frame is no datagram");
        kvn_netif_out_sent(from);
    }
    return n;
}

/* A datagram of five bytes over the flow arrives as it was sent. */
static void expect_datagram(const struct kvn_tx_packet *p, uint8_t source)
{
    uint8_t frame[KVN_ETHER_HDR_MAX + 5 + 20] = {0};

    kvn_ether_flow_put(flow, frame, 5);
    memcpy(frame + flow->bytes, "hello", 5);
    if (flow->family == 6)
        frame[flow->bytes - 1] = 1; /* some checksum */
    cr_assert(deliver(&b, frame, flow->bytes + 5u + 9u, 0), "padding behind it is cut");
    cr_expect_eq(got.len, 5);
    cr_expect_eq(got.source, 2);
    cr_expect_eq(got.ecn, p->ecn);
    cr_expect_eq(got.from.port, 7400 + source);
    cr_expect_eq(got.from.family, p->to.family);
    cr_expect_arr_eq(got.from.ip, p->to.family == 4 ? ca.four.ip : ca.six.ip, 16);
}

static void find_and_send(int family)
{
    struct kvn_tx_packet p = to_host(family, 2), back = to_host(family, 1);

    cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_ASKING);
    cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_ASKING);
    cr_expect_eq(carry(&a, &b), 1, "it asks once, not for every packet");
    cr_expect_eq(carry(&b, &a), 1);
    for (uint8_t source = 0; source < 4; ++source) {
        p.source = source;
        p.ecn = source;
        cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_GO);
        expect_datagram(&p, source);
    }
    /* Who asked is known without a question. */
    cr_expect_eq(kvn_netif_flow(&b, now, &back, &flow), KVN_NETIF_GO);
    cr_expect_eq(b.stats.questions, 0);
    p.source = 4;
    cr_expect_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_NOWHERE);
}

Test(netif, finds_a_neighbour_by_arp)
{
    find_and_send(4);
}

Test(netif, finds_a_neighbour_by_neighbour_discovery)
{
    find_and_send(6);
}

Test(netif, finds_a_neighbour_in_a_vlan)
{
    ca.vlan = cb.vlan = 77;
    setup();
    ca.vlan = cb.vlan = 77;
    kvn_netif_init(&a, &ca);
    kvn_netif_init(&b, &cb);
    find_and_send(4);
    find_and_send(6);
}

/* Frames of another VLAN, or none, are not ours; a tag that the device took off counts. */
Test(netif, vlans_are_apart)
{
    struct kvn_tx_packet p = to_host(4, 2);
    uint8_t frame[128] = {0};

    cb.vlan = 5;
    kvn_netif_init(&b, &cb);
    (void)kvn_netif_flow(&a, now, &p, &flow);
    (void)carry(&a, &b);
    cr_expect_eq(b.stats.not_ours, 1);
    cr_expect_eq(b.stats.answers, 0);
    kvn_netif_learn(&a, now, &(struct kvn_addr){.family = 4, .ip = {10, 0, 0, 2}}, cb.mac, false);
    cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_GO);
    kvn_ether_flow_put(flow, frame, 5);
    cr_expect_not(deliver(&b, frame, 60, 0));
    cr_expect_not(deliver(&b, frame, 60, 6));
    cr_expect(deliver(&b, frame, 60, 5));
}

/* Every prefix of a question, an answer or a datagram is dropped without a look past its end. */
Test(netif, no_prefix_is_taken)
{
    for (int family = 4; family <= 6; family += 2) {
        struct kvn_tx_packet p = to_host(family, 2);
        const uint8_t *frame;
        uint32_t bytes;

        setup();
        (void)kvn_netif_flow(&a, now, &p, &flow);
        frame = kvn_netif_out(&a, &bytes);
        for (uint32_t len = 0; len < (family == 4 ? 42u : 86u); ++len)
            cr_expect_not(deliver(&b, frame, len, 0));
        cr_expect_eq(b.stats.answers, 0);
        cr_expect_not(deliver(&b, frame, bytes, 0));
        cr_expect_eq(b.stats.answers, 1);
    }
}

/* Nobody there: asked again and again, then packets fail at once, then it is asked anew. */
Test(netif, gives_up_in_time)
{
    struct kvn_tx_packet p = to_host(4, 9);
    const uint64_t begin = now;
    uint32_t asked = 0;

    cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_ASKING);
    while (kvn_netif_flow(&a, now, &p, &flow) == KVN_NETIF_ASKING) {
        asked += carry(&a, &b);
        cr_assert_leq(now - begin, 5000 * MS);
        cr_assert_neq(a.tick_ns, UINT64_MAX);
        now = a.tick_ns;
        kvn_netif_tick(&a, now);
    }
    cr_expect_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_NOWHERE);
    cr_expect_geq(now - begin, KVN_NEIGH_ASK_NS);
    cr_expect_leq(now - begin, KVN_NEIGH_ASK_NS + KVN_NEIGH_EVERY_NS);
    cr_expect_geq(asked, 14);
    cr_expect_leq(asked, 16);
    cr_expect_eq(a.stats.unanswered, 1);
    now = a.tick_ns;
    kvn_netif_tick(&a, now);
    cr_expect_eq(a.tick_ns, UINT64_MAX, "nothing is left to do");
    cr_expect_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_ASKING);
}

/* A neighbour in use is asked about again, and used meanwhile; one with a new MAC is followed. */
Test(netif, follows_a_neighbour)
{
    struct kvn_tx_packet p = to_host(4, 2);
    const uint64_t begin = now;

    (void)kvn_netif_flow(&a, now, &p, &flow);
    (void)carry(&a, &b);
    (void)carry(&b, &a);
    for (; now < begin + KVN_NEIGH_FRESH_NS + 100 * MS; now += 500 * MS)
        cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_GO);
    cb.mac[5] = 0x77;
    kvn_netif_init(&b, &cb);
    kvn_netif_tick(&a, now);
    /* Unicast to the old MAC, which nobody has; then, silent for long, to everybody. */
    for (uint32_t i = 0; i < 200 && a.neighs[0].mac[5] != 0x77; ++i) {
        (void)carry(&a, &b);
        (void)carry(&b, &a);
        now += 100 * MS;
        if (now >= a.tick_ns)
            kvn_netif_tick(&a, now);
    }
    cr_assert_eq(kvn_netif_flow(&a, now, &p, &flow), KVN_NETIF_GO);
    cr_expect_eq(flow->hdr[5], 0x77);
}

/* What isn't on the link goes to the gateway; a static neighbour is never asked for. */
Test(netif, gateway_and_static_neighbour)
{
    struct kvn_tx_packet far = {.to = {.family = 4, .ip = {192, 0, 2, 9}, .port = 1}};

    ca.four.has_gateway = true;
    memcpy(ca.four.gateway, "\x0a\0\0\xfe", 4);
    ca.neighbours[0] = (struct kvn_netif_static){.ip = {.family = 4, .ip = {10, 0, 0, 254}},
                                                 .mac = {2, 0xfe, 0, 0, 0, 1}};
    ca.neighbour_count = 1;
    kvn_netif_init(&a, &ca);
    cr_assert_eq(kvn_netif_flow(&a, now, &far, &flow), KVN_NETIF_GO);
    cr_expect_eq(flow->hdr[1], 0xfe);
    cr_expect_eq(a.stats.questions, 0);
    kvn_netif_learn(&a, now, &ca.neighbours[0].ip, cb.mac, false);
    now += 2000 * MS;
    cr_assert_eq(kvn_netif_flow(&a, now, &far, &flow), KVN_NETIF_GO);
    cr_expect_eq(flow->hdr[1], 0xfe, "nobody takes a static neighbour's place");
}

/* An answer that nobody asked for teaches nothing, nor does one from a group's MAC. */
Test(netif, unasked_answers_are_ignored)
{
    struct kvn_tx_packet p = to_host(4, 1);
    const struct kvn_addr to = {.family = 4, .ip = {10, 0, 0, 2}};

    kvn_netif_answer(&a, &to, cb.mac);
    (void)carry(&a, &b);
    cr_expect_eq(kvn_netif_flow(&b, now, &p, &flow), KVN_NETIF_ASKING);
    ca.mac[0] = 3;
    kvn_netif_init(&a, &ca);
    kvn_netif_answer(&a, &to, cb.mac);
    (void)carry(&a, &b);
    cr_expect_eq(b.stats.malformed, 1);
    cr_expect_eq(kvn_netif_flow(&b, now, &p, &flow), KVN_NETIF_ASKING);
}

/* Two ends with one address notice. */
Test(netif, conflicts_are_counted)
{
    const struct kvn_addr other = {.family = 4, .ip = {10, 0, 0, 9}};

    memcpy(cb.four.ip, ca.four.ip, 16);
    kvn_netif_init(&b, &cb);
    kvn_netif_ask(&a, &other, NULL);
    (void)carry(&a, &b);
    cr_expect_eq(b.stats.conflicts, 1);
}

/* The table is bounded: more neighbours than it holds push out the oldest, not static ones. */
Test(netif, more_neighbours_than_room)
{
    struct kvn_addr ip = {.family = 4, .ip = {10, 0, 0, 0}};
    uint32_t known = 0;

    ca.neighbours[0] = (struct kvn_netif_static){.ip = {.family = 4, .ip = {10, 0, 0, 254}},
                                                 .mac = {2, 0xfe, 0, 0, 0, 1}};
    ca.neighbour_count = 1;
    kvn_netif_init(&a, &ca);
    for (uint32_t i = 0; i < 1000; ++i) {
        ip.ip[2] = (uint8_t)(1 + i / 256);
        ip.ip[3] = (uint8_t)i;
        kvn_netif_learn(&a, now + i, &ip, cb.mac, false);
    }
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i)
        known += a.neighs[i].state == KVN_NEIGH_KNOWN;
    cr_expect_eq(known, KVN_NEIGHS_MAX - 1);
    cr_expect_eq(a.neighs[0].state, KVN_NEIGH_STATIC);
}
