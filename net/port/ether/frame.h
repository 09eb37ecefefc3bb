/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - Ethernet, 802.1Q, IPv4, IPv6 and UDP headers around a payload: built on transmit,
 * checked on receive. Everything a peer sends is untrusted here; nothing is read outside [bytes,
 * bytes + len).
 *
 * threads  any, no state
 * memory   none; a parsed frame points into the caller's bytes
 * time     none
 */
#ifndef KVN_DPDK_FRAME_H
#define KVN_DPDK_FRAME_H

#include "../port.h"

/* Ethernet 14, IPv4 without options 20, UDP 8. */
#define KVN_ETHER_HDR_BYTES 42u
/* The longest we build: Ethernet 14, a tag 4, IPv6 40, UDP 8. */
#define KVN_ETHER_HDR_MAX 66u
/* What an IPv4 total length of 16 bits leaves. */
#define KVN_ETHER_PAYLOAD_MAX (65535u - 28u)

#define KVN_ETHERTYPE_IP4  0x0800u
#define KVN_ETHERTYPE_ARP  0x0806u
#define KVN_ETHERTYPE_VLAN 0x8100u
#define KVN_ETHERTYPE_IP6  0x86ddu

/* Where one end of a link is. */
struct kvn_ether_end {
    uint8_t mac[6];
    uint8_t ip[4]; /* network order */
    uint16_t port; /* host order */
};

/*
 * The two ends of a same-host link. Nobody resolves addresses there: both ends know both. The MACs
 * are locally administered, the addresses link-local (RFC 3927), so that neither can be mistaken
 * for a real host's in a capture.
 */
extern const struct kvn_ether_end kvn_ether_listener;
extern const struct kvn_ether_end kvn_ether_sender;

typedef enum kvn_ether_verdict {
    KVN_ETHER_OK = 0,
    KVN_ETHER_SHORT,    /* ends before its headers do */
    KVN_ETHER_NOT_IP,   /* another EtherType or IP version, or a header length below 20 */
    KVN_ETHER_LENGTH,   /* a length field that doesn't fit the frame or its neighbours */
    KVN_ETHER_CUT,      /* the IP header says that there is more than the frame holds */
    KVN_ETHER_CHECKSUM, /* the IPv4 header's; or none where IPv6 demands UDP's (RFC 8200, 8.1) */
    KVN_ETHER_FRAGMENT, /* a piece of a datagram; we never send any */
    KVN_ETHER_NOT_UDP,  /* another IP protocol, or an IPv6 extension header */
} kvn_ether_verdict;

struct kvn_ether_frame {
    const uint8_t *payload;
    uint32_t payload_bytes;
    uint8_t family; /* 4 or 6 */
    uint8_t ecn;
    uint16_t vlan;                  /* of its tag; 0: none, or one that only carries a priority */
    uint8_t src_ip[16], dst_ip[16]; /* the first 4 bytes in IPv4, the rest zero */
    uint16_t src_port, dst_port;    /* host order */
};

/*
 * The headers of a datagram of payload_bytes (<= KVN_ETHER_PAYLOAD_MAX). The UDP checksum is 0
 * ("none", RFC 768): the packet protocol carries its own digest, and the link is memory.
 */
void kvn_ether_put(uint8_t hdr[KVN_ETHER_HDR_BYTES], const struct kvn_ether_end *from,
                   const struct kvn_ether_end *to, uint32_t payload_bytes);

/* What all packets of a flow have in common. */
struct kvn_ether_flow {
    uint8_t hdr[KVN_ETHER_HDR_MAX];
    uint8_t bytes;  /* of all headers */
    uint8_t ip_at;  /* where the IP header begins; UDP's is the last 8 bytes */
    uint8_t family; /* 4 or 6 */
    uint32_t sum;   /* of the IPv4 header with a length of 0, not folded */
};

struct kvn_ether_route {
    const uint8_t *src_mac, *dst_mac;
    uint16_t vlan; /* 0: no tag */
    uint8_t ecn;
    const struct kvn_addr *from, *to; /* of one family */
};

/* TTL 64, never to be fragmented, a flow label from the ports (RFC 6438). */
void kvn_ether_flow_make(struct kvn_ether_flow *flow, const struct kvn_ether_route *route);
/*
 * The headers of one packet of the flow, flow->bytes of them. The UDP checksum is 0, which only
 * IPv4 allows: for IPv6 the caller computes it over pseudo header, UDP header and payload.
 */
void kvn_ether_flow_put(const struct kvn_ether_flow *flow, uint8_t *hdr, uint32_t payload_bytes);

/*
 * *frame is written on KVN_ETHER_OK only. Ethernet padding behind the datagram is cut off. A UDP
 * checksum isn't verified: senders with offload leave it unfinished inside a host, and the packet
 * protocol has its own digest.
 */
kvn_ether_verdict kvn_ether_parse(struct kvn_ether_frame *frame, const uint8_t *bytes,
                                  uint32_t len);

/* RFC 1071 over an even number of bytes; 0 over a header that carries its right checksum. */
uint16_t kvn_ether_checksum(const uint8_t *bytes, uint32_t len);

/* Network order, at any address. */
static inline uint16_t kvn_load_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void kvn_store_be16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

#endif
