/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <assert.h>
#include <string.h>

#define ETH_BYTES  14u
#define TAG_BYTES  4u
#define IPV4_BYTES 20u
#define IPV6_BYTES 40u
#define UDP_BYTES  8u
#define PROTO_UDP  17u
#define TTL        64u
#define IP_DF      0x4000u
#define IP_MF      0x2000u
#define IP_OFFSET  0x1fffu

const struct kvn_ether_end kvn_ether_listener = {
    .mac = {0x02, 'k', 'v', 'w', 0, 1}, .ip = {169, 254, 74, 1}, .port = 7400};
const struct kvn_ether_end kvn_ether_sender = {
    .mac = {0x02, 'k', 'v', 'w', 0, 2}, .ip = {169, 254, 74, 2}, .port = 7400};

static uint32_t sum_of(const uint8_t *bytes, uint32_t len)
{
    uint32_t sum = 0;

    assert(len % 2 == 0);
    for (uint32_t i = 0; i < len; i += 2)
        sum += kvn_load_be16(bytes + i);
    return sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint16_t kvn_ether_checksum(const uint8_t *bytes, uint32_t len)
{
    return fold(sum_of(bytes, len));
}

/* All but the lengths and the checksum, which are 0. */
static void put_ipv4(uint8_t *ip, const uint8_t *from, const uint8_t *to, uint8_t ecn)
{
    ip[0] = 0x45; /* version 4, five words */
    ip[1] = ecn;
    kvn_store_be16(ip + 2, 0);
    kvn_store_be16(ip + 4, 0); /* an unfragmentable datagram needs no id (RFC 6864) */
    kvn_store_be16(ip + 6, IP_DF);
    ip[8] = TTL;
    ip[9] = PROTO_UDP;
    kvn_store_be16(ip + 10, 0);
    memcpy(ip + 12, from, 4);
    memcpy(ip + 16, to, 4);
}

static void put_ipv6(uint8_t *ip, const struct kvn_ether_route *r)
{
    const uint32_t label = (uint32_t)(r->from->port * 31u ^ r->to->port) & 0xfffffu;

    ip[0] = 0x60;
    ip[1] = (uint8_t)(r->ecn << 4 | label >> 16);
    kvn_store_be16(ip + 2, label & 0xffffu);
    kvn_store_be16(ip + 4, 0);
    ip[6] = PROTO_UDP;
    ip[7] = TTL;
    memcpy(ip + 8, r->from->ip, 16);
    memcpy(ip + 24, r->to->ip, 16);
}

void kvn_ether_put(uint8_t hdr[KVN_ETHER_HDR_BYTES], const struct kvn_ether_end *from,
                   const struct kvn_ether_end *to, uint32_t payload_bytes)
{
    uint8_t *ip = hdr + ETH_BYTES;
    uint8_t *udp = ip + IPV4_BYTES;

    assert(payload_bytes <= KVN_ETHER_PAYLOAD_MAX);
    memcpy(hdr, to->mac, 6);
    memcpy(hdr + 6, from->mac, 6);
    kvn_store_be16(hdr + 12, KVN_ETHERTYPE_IP4);

    put_ipv4(ip, from->ip, to->ip, KVN_ECN_NOT_ECT);
    kvn_store_be16(ip + 2, IPV4_BYTES + UDP_BYTES + payload_bytes);
    kvn_store_be16(ip + 10, kvn_ether_checksum(ip, IPV4_BYTES));

    kvn_store_be16(udp, from->port);
    kvn_store_be16(udp + 2, to->port);
    kvn_store_be16(udp + 4, UDP_BYTES + payload_bytes);
    kvn_store_be16(udp + 6, 0);
}

void kvn_ether_flow_make(struct kvn_ether_flow *flow, const struct kvn_ether_route *r)
{
    uint8_t *at = flow->hdr + 12;

    assert(r->from->family == r->to->family);
    memset(flow, 0, sizeof(*flow));
    memcpy(flow->hdr, r->dst_mac, 6);
    memcpy(flow->hdr + 6, r->src_mac, 6);
    if (r->vlan != 0) {
        kvn_store_be16(at, KVN_ETHERTYPE_VLAN);
        kvn_store_be16(at + 2, r->vlan);
        at += TAG_BYTES;
    }
    kvn_store_be16(at, r->to->family == 4 ? KVN_ETHERTYPE_IP4 : KVN_ETHERTYPE_IP6);
    at += 2;
    flow->ip_at = (uint8_t)(at - flow->hdr);
    flow->family = r->to->family;
    if (r->to->family == 4) {
        put_ipv4(at, r->from->ip, r->to->ip, r->ecn);
        flow->sum = sum_of(at, IPV4_BYTES);
        at += IPV4_BYTES;
    } else {
        put_ipv6(at, r);
        at += IPV6_BYTES;
    }
    kvn_store_be16(at, r->from->port);
    kvn_store_be16(at + 2, r->to->port);
    flow->bytes = (uint8_t)(at + UDP_BYTES - flow->hdr);
}

void kvn_ether_flow_put(const struct kvn_ether_flow *flow, uint8_t *hdr, uint32_t payload_bytes)
{
    uint8_t *ip = hdr + flow->ip_at;
    const uint32_t udp_bytes = UDP_BYTES + payload_bytes;

    assert(payload_bytes <= KVN_ETHER_PAYLOAD_MAX);
    memcpy(hdr, flow->hdr, flow->bytes);
    if (flow->family == 4) {
        kvn_store_be16(ip + 2, IPV4_BYTES + udp_bytes);
        kvn_store_be16(ip + 10, fold(flow->sum + IPV4_BYTES + udp_bytes));
    } else {
        kvn_store_be16(ip + 4, udp_bytes);
    }
    kvn_store_be16(hdr + flow->bytes - 4, udp_bytes);
}

/* The IP header at ip, with left bytes from there on: *head is its length, *body what UDP has. */
static kvn_ether_verdict parse_ipv4(struct kvn_ether_frame *f, const uint8_t *ip, uint32_t left,
                                    uint32_t *head, uint32_t *body)
{
    if (left < IPV4_BYTES + UDP_BYTES)
        return KVN_ETHER_SHORT;

    const uint32_t ihl = (ip[0] & 15u) * 4u;
    const uint32_t total = kvn_load_be16(ip + 2);

    if (ip[0] >> 4 != 4 || ihl < IPV4_BYTES)
        return KVN_ETHER_NOT_IP;
    if (total > left)
        return KVN_ETHER_CUT;
    if (total < ihl + UDP_BYTES) /* so ihl + 8 <= left as well */
        return KVN_ETHER_LENGTH;
    if (kvn_ether_checksum(ip, ihl) != 0)
        return KVN_ETHER_CHECKSUM;
    if (kvn_load_be16(ip + 6) & (IP_MF | IP_OFFSET))
        return KVN_ETHER_FRAGMENT;
    if (ip[9] != PROTO_UDP)
        return KVN_ETHER_NOT_UDP;
    f->family = 4;
    f->ecn = ip[1] & 3u;
    memcpy(f->src_ip, ip + 12, 4);
    memcpy(f->dst_ip, ip + 16, 4);
    *head = ihl;
    *body = total - ihl;
    return KVN_ETHER_OK;
}

static kvn_ether_verdict parse_ipv6(struct kvn_ether_frame *f, const uint8_t *ip, uint32_t left,
                                    uint32_t *head, uint32_t *body)
{
    if (left < IPV6_BYTES + UDP_BYTES)
        return KVN_ETHER_SHORT;

    const uint32_t bytes = kvn_load_be16(ip + 4);

    if (ip[0] >> 4 != 6)
        return KVN_ETHER_NOT_IP;
    if (bytes > left - IPV6_BYTES)
        return KVN_ETHER_CUT;
    if (bytes < UDP_BYTES || bytes > KVN_ETHER_PAYLOAD_MAX + UDP_BYTES)
        return KVN_ETHER_LENGTH;
    if (ip[6] == 44)
        return KVN_ETHER_FRAGMENT;
    if (ip[6] != PROTO_UDP)
        return KVN_ETHER_NOT_UDP;
    if (kvn_load_be16(ip + IPV6_BYTES + 6) == 0)
        return KVN_ETHER_CHECKSUM;
    f->family = 6;
    f->ecn = ip[1] >> 4 & 3u;
    memcpy(f->src_ip, ip + 8, 16);
    memcpy(f->dst_ip, ip + 24, 16);
    *head = IPV6_BYTES;
    *body = bytes;
    return KVN_ETHER_OK;
}

kvn_ether_verdict kvn_ether_parse(struct kvn_ether_frame *frame, const uint8_t *bytes, uint32_t len)
{
    struct kvn_ether_frame f = {0};
    kvn_ether_verdict v = KVN_ETHER_NOT_IP;
    uint32_t at = ETH_BYTES, type, head = 0, body = 0;

    if (len < KVN_ETHER_HDR_BYTES)
        return KVN_ETHER_SHORT;
    type = kvn_load_be16(bytes + 12);
    if (type == KVN_ETHERTYPE_VLAN) {
        f.vlan = kvn_load_be16(bytes + 14) & 0xfffu;
        type = kvn_load_be16(bytes + 16);
        at += TAG_BYTES;
    }
    if (type == KVN_ETHERTYPE_IP4)
        v = parse_ipv4(&f, bytes + at, len - at, &head, &body);
    else if (type == KVN_ETHERTYPE_IP6)
        v = parse_ipv6(&f, bytes + at, len - at, &head, &body);
    if (v != KVN_ETHER_OK)
        return v;

    const uint8_t *udp = bytes + at + head;

    if (kvn_load_be16(udp + 4) != body)
        return KVN_ETHER_LENGTH;
    f.payload = udp + UDP_BYTES;
    f.payload_bytes = body - UDP_BYTES;
    f.src_port = kvn_load_be16(udp);
    f.dst_port = kvn_load_be16(udp + 2);
    *frame = f;
    return KVN_ETHER_OK;
}
