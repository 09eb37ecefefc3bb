/* SPDX-License-Identifier: Apache-2.0 */
/* ask.c - questions and answers that we send: ARP (RFC 826) and the two messages of neighbour
 * discovery (RFC 4861, 4.3 and 4.4). heard.c reads them. */
#include <string.h>

#include "nd.h"

#define FRAME_MIN 60u /* Ethernet's shortest, without its checksum */

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

uint16_t kvn_netif_icmp6_checksum(const uint8_t *ip, uint32_t bytes)
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
    kvn_store_be16(icmp + 2, kvn_netif_icmp6_checksum(ip, ND_BYTES));
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
