/* SPDX-License-Identifier: Apache-2.0 */
/* ARP (RFC 826) and the two messages of neighbour discovery (RFC 4861, 4.3 and 4.4). */
#include <string.h>

#include "netif.h"

#define FRAME_MIN  60u /* Ethernet's shortest, without its checksum */
#define ARP_BYTES  28u
#define IPV6_BYTES 40u
#define ND_BYTES   32u /* message 24, one link-layer address option 8 */

enum { ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { ND_SOLICIT = 135, ND_ADVERTISE = 136 };
enum { ND_OPTION_SOURCE = 1, ND_OPTION_TARGET = 2 };

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* The Ethernet header of a control frame of so many bytes behind it; NULL: the queue is full. */
static uint8_t *begin(struct kvn_netif *n, const uint8_t *to, uint16_t type, uint32_t bytes)
{
    const uint32_t slot = (n->out_at + n->out_count) % KVN_NETIF_OUT_MAX;
    uint8_t *f = n->out[slot], *at = f + 12;

    if (n->out_count == KVN_NETIF_OUT_MAX)
        return NULL;
    ++n->out_count;
    memset(f, 0, KVN_NETIF_OUT_SIZE);
    memcpy(f, to, 6);
    memcpy(f + 6, n->cfg.mac, 6);
    if (n->cfg.vlan != 0) {
        kvn_store_be16(at, KVN_ETHERTYPE_VLAN);
        kvn_store_be16(at + 2, n->cfg.vlan);
        at += 4;
    }
    kvn_store_be16(at, type);
    at += 2;
    bytes += (uint32_t)(at - f);
    n->out_bytes[slot] = (uint8_t)(bytes < FRAME_MIN ? FRAME_MIN : bytes);
    return at;
}

static void put_arp(struct kvn_netif *n, uint16_t op, const uint8_t *frame_to, const uint8_t *mac,
                    const uint8_t *ip)
{
    static const uint8_t head[6] = {0, 1, 0x08, 0x00, 6, 4}; /* Ethernet, IPv4 */
    uint8_t *a = begin(n, frame_to, KVN_ETHERTYPE_ARP, ARP_BYTES);

    if (a == NULL)
        return;
    memcpy(a, head, sizeof(head));
    kvn_store_be16(a + 6, op);
    memcpy(a + 8, n->cfg.mac, 6);
    memcpy(a + 14, n->cfg.four.ip, 4);
    memcpy(a + 18, mac, 6);
    memcpy(a + 24, ip, 4);
}

/* The checksum of an ICMPv6 message of even length, over its pseudo header; 0 if it holds. */
static uint16_t icmp6_checksum(const uint8_t *ip, uint32_t bytes)
{
    uint32_t sum = 58u + bytes;

    for (uint32_t i = 8; i < IPV6_BYTES + bytes; i += 2) /* both addresses, then the message */
        sum += kvn_load_be16(ip + i);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

struct nd {
    uint8_t type, flags, option;
    const uint8_t *frame_to, *to, *target;
};

static void put_nd(struct kvn_netif *n, const struct nd *m)
{
    uint8_t *ip = begin(n, m->frame_to, KVN_ETHERTYPE_IP6, IPV6_BYTES + ND_BYTES);
    uint8_t *icmp;

    if (ip == NULL)
        return;
    icmp = ip + IPV6_BYTES;
    ip[0] = 0x60;
    kvn_store_be16(ip + 4, ND_BYTES);
    ip[6] = 58;
    ip[7] = 255; /* so that the receiver knows that no router passed it on */
    memcpy(ip + 8, n->cfg.six.ip, 16);
    memcpy(ip + 24, m->to, 16);
    icmp[0] = m->type;
    icmp[4] = m->flags;
    memcpy(icmp + 8, m->target, 16);
    icmp[24] = m->option;
    icmp[25] = 1; /* times 8 bytes */
    memcpy(icmp + 26, n->cfg.mac, 6);
    kvn_store_be16(icmp + 2, icmp6_checksum(ip, ND_BYTES));
}

void kvn_netif_ask(struct kvn_netif *n, const struct kvn_addr *ip, const uint8_t *known_mac)
{
    static const uint8_t nobody[6];

    ++n->stats.questions;
    if (ip->family == 4) {
        put_arp(n, ARP_REQUEST, known_mac != NULL ? known_mac : everybody, nobody, ip->ip);
        return;
    }

    /* RFC 4291, 2.7.1: the group of everybody whose address ends in these three bytes. */
    uint8_t group[16] = {0xff, 0x02, [11] = 1, [12] = 0xff, ip->ip[13], ip->ip[14], ip->ip[15]};
    const uint8_t mac[6] = {0x33, 0x33, 0xff, ip->ip[13], ip->ip[14], ip->ip[15]};

    put_nd(n, &(struct nd){.type = ND_SOLICIT,
                           .option = ND_OPTION_SOURCE,
                           .frame_to = known_mac != NULL ? known_mac : mac,
                           .to = known_mac != NULL ? ip->ip : group,
                           .target = ip->ip});
}

void kvn_netif_answer(struct kvn_netif *n, const struct kvn_addr *to, const uint8_t *mac)
{
    ++n->stats.answers;
    if (to->family == 4)
        put_arp(n, ARP_REPLY, mac, mac, to->ip);
    else
        put_nd(n, &(struct nd){.type = ND_ADVERTISE,
                               .flags = 0x60, /* solicited, overrides what was known */
                               .option = ND_OPTION_TARGET,
                               .frame_to = mac,
                               .to = to->ip,
                               .target = n->cfg.six.ip});
}

/* What may stand for one host's interface. */
static bool mac_is_sound(const uint8_t *mac)
{
    static const uint8_t none[6];

    return (mac[0] & 1u) == 0 && memcmp(mac, none, 6) != 0;
}

void kvn_netif_arp(struct kvn_netif *n, uint64_t now_ns, const uint8_t *a, uint32_t len)
{
    static const uint8_t head[6] = {0, 1, 0x08, 0x00, 6, 4}, none[4];
    struct kvn_addr from = {.family = 4};
    uint16_t op;

    if (len < ARP_BYTES || memcmp(a, head, sizeof(head)) != 0 || !mac_is_sound(a + 8)) {
        ++n->stats.malformed;
        return;
    }
    op = kvn_load_be16(a + 6);
    memcpy(from.ip, a + 14, 4);
    if (n->cfg.four.set && memcmp(from.ip, n->cfg.four.ip, 4) == 0) {
        if (memcmp(a + 8, n->cfg.mac, 6) != 0)
            ++n->stats.conflicts;
        return;
    }
    if (!n->cfg.four.set || memcmp(a + 24, n->cfg.four.ip, 4) != 0 ||
        memcmp(from.ip, none, 4) == 0) {
        ++n->stats.not_ours; /* a probe (RFC 5227) of 0.0.0.0 for our address is answered below */
        if (!n->cfg.four.set || memcmp(a + 24, n->cfg.four.ip, 4) != 0 || op != ARP_REQUEST)
            return;
        kvn_netif_answer(n, &from, a + 8);
        return;
    }
    kvn_netif_learn(n, now_ns, &from, a + 8, op != ARP_REQUEST);
    if (op == ARP_REQUEST)
        kvn_netif_answer(n, &from, a + 8);
}

/* The link-layer address in the options of a message; NULL: none, or they are malformed. */
static const uint8_t *nd_option(const uint8_t *icmp, uint32_t bytes, uint8_t type)
{
    for (uint32_t at = 24; at + 8 <= bytes;) {
        const uint32_t option_bytes = icmp[at + 1] * 8u;

        if (option_bytes == 0 || option_bytes > bytes - at)
            return NULL;
        if (icmp[at] == type)
            return icmp + at + 2;
        at += option_bytes;
    }
    return NULL;
}

void kvn_netif_icmp6(struct kvn_netif *n, uint64_t now_ns, const uint8_t *ip, uint32_t len)
{
    static const uint8_t none[16];
    struct kvn_addr from = {.family = 6};
    const uint8_t *icmp, *mac;
    uint32_t bytes;

    if (!n->cfg.six.set || len < IPV6_BYTES + 24 || ip[0] >> 4 != 6 || ip[6] != 58 ||
        ip[7] != 255) {
        ++n->stats.not_ours;
        return;
    }
    bytes = kvn_load_be16(ip + 4);
    icmp = ip + IPV6_BYTES;
    if ((icmp[0] != ND_SOLICIT && icmp[0] != ND_ADVERTISE) || icmp[1] != 0) {
        ++n->stats.not_ours;
        return;
    }
    if (bytes < 24 || bytes > len - IPV6_BYTES || bytes % 8 != 0 ||
        icmp6_checksum(ip, bytes) != 0) {
        ++n->stats.malformed;
        return;
    }
    memcpy(from.ip, ip + 8, 16);
    if (icmp[0] == ND_ADVERTISE) {
        memcpy(from.ip, icmp + 8, 16); /* the target speaks for itself */
        mac = nd_option(icmp, bytes, ND_OPTION_TARGET);
        if (memcmp(from.ip, n->cfg.six.ip, 16) == 0)
            ++n->stats.conflicts;
        else if (mac != NULL && mac_is_sound(mac))
            kvn_netif_learn(n, now_ns, &from, mac, true);
        return;
    }
    mac = nd_option(icmp, bytes, ND_OPTION_SOURCE);
    if (memcmp(icmp + 8, n->cfg.six.ip, 16) != 0 || memcmp(from.ip, none, 16) == 0 || mac == NULL ||
        !mac_is_sound(mac)) {
        ++n->stats.not_ours; /* a probe without a source is for duplicates; nobody waits for us */
        return;
    }
    kvn_netif_learn(n, now_ns, &from, mac, false);
    kvn_netif_answer(n, &from, mac);
}
