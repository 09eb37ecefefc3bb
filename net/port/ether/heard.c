/* SPDX-License-Identifier: Apache-2.0 */
/* heard.c - questions and answers of others (ask.c): they teach the table of neighbours. */
#include <string.h>

#include "nd.h"

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
        kvn_netif_icmp6_checksum(ip, bytes) != 0) {
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
