/* SPDX-License-Identifier: Apache-2.0 */
#include "dpdk_frame.h"

#include <assert.h>
#include <string.h>

#define ETH_BYTES     14u
#define IPV4_BYTES    20u
#define UDP_BYTES     8u
#define ETHERTYPE_IP4 0x0800u
#define PROTO_UDP     17u
#define IP_DF         0x4000u
#define IP_MF         0x2000u
#define IP_OFFSET     0x1fffu

const struct kvn_ether_end kvn_ether_listener = {
    .mac = {0x02, 'k', 'v', 'w', 0, 1}, .ip = {169, 254, 74, 1}, .port = 7400};
const struct kvn_ether_end kvn_ether_sender = {
    .mac = {0x02, 'k', 'v', 'w', 0, 2}, .ip = {169, 254, 74, 2}, .port = 7400};

static uint16_t load_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void store_be16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

uint16_t kvn_ether_checksum(const uint8_t *bytes, uint32_t len)
{
    uint32_t sum = 0;

    assert(len % 2 == 0);
    for (uint32_t i = 0; i < len; i += 2)
        sum += load_be16(bytes + i);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

void kvn_ether_put(uint8_t hdr[KVN_ETHER_HDR_BYTES], const struct kvn_ether_end *from,
                   const struct kvn_ether_end *to, uint32_t payload_bytes)
{
    uint8_t *ip = hdr + ETH_BYTES;
    uint8_t *udp = ip + IPV4_BYTES;

    assert(payload_bytes <= KVN_ETHER_PAYLOAD_MAX);
    memcpy(hdr, to->mac, 6);
    memcpy(hdr + 6, from->mac, 6);
    store_be16(hdr + 12, ETHERTYPE_IP4);

    ip[0] = 0x45; /* version 4, five words */
    ip[1] = 0;
    store_be16(ip + 2, IPV4_BYTES + UDP_BYTES + payload_bytes);
    store_be16(ip + 4, 0); /* an unfragmentable datagram needs no id (RFC 6864) */
    store_be16(ip + 6, IP_DF);
    ip[8] = 64;
    ip[9] = PROTO_UDP;
    store_be16(ip + 10, 0);
    memcpy(ip + 12, from->ip, 4);
    memcpy(ip + 16, to->ip, 4);
    store_be16(ip + 10, kvn_ether_checksum(ip, IPV4_BYTES));

    store_be16(udp, from->port);
    store_be16(udp + 2, to->port);
    store_be16(udp + 4, UDP_BYTES + payload_bytes);
    store_be16(udp + 6, 0);
}

kvn_ether_verdict kvn_ether_parse(struct kvn_ether_frame *frame, const uint8_t *bytes, uint32_t len)
{
    if (len < KVN_ETHER_HDR_BYTES)
        return KVN_ETHER_SHORT;

    const uint8_t *ip = bytes + ETH_BYTES;
    const uint32_t left = len - ETH_BYTES;
    const uint32_t ihl = (ip[0] & 15u) * 4u;
    const uint32_t total = load_be16(ip + 2);

    if (load_be16(bytes + 12) != ETHERTYPE_IP4 || ip[0] >> 4 != 4 || ihl < IPV4_BYTES)
        return KVN_ETHER_NOT_IPV4;
    if (total > left || total < ihl + UDP_BYTES) /* so ihl + 8 <= left as well */
        return KVN_ETHER_LENGTH;
    if (kvn_ether_checksum(ip, ihl) != 0)
        return KVN_ETHER_CHECKSUM;
    if (load_be16(ip + 6) & (IP_MF | IP_OFFSET))
        return KVN_ETHER_FRAGMENT;
    if (ip[9] != PROTO_UDP)
        return KVN_ETHER_NOT_UDP;

    const uint8_t *udp = ip + ihl;

    if (load_be16(udp + 4) != total - ihl)
        return KVN_ETHER_LENGTH;
    frame->payload = udp + UDP_BYTES;
    frame->payload_bytes = total - ihl - UDP_BYTES;
    memcpy(frame->src_ip, ip + 12, 4);
    memcpy(frame->dst_ip, ip + 16, 4);
    frame->src_port = load_be16(udp);
    frame->dst_port = load_be16(udp + 2);
    return KVN_ETHER_OK;
}
