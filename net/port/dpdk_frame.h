/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dpdk_frame.h - Ethernet, IPv4 and UDP headers around a payload: built on transmit, checked on
 * receive. Everything a peer sends is untrusted here; nothing is read outside [bytes, bytes + len).
 *
 * threads  any, no state
 * memory   none; a parsed frame points into the caller's bytes
 * time     none
 */
#ifndef KVN_DPDK_FRAME_H
#define KVN_DPDK_FRAME_H

#include <stdint.h>

/* Ethernet 14, IPv4 without options 20, UDP 8. */
#define KVN_ETHER_HDR_BYTES 42u
/* What an IPv4 total length of 16 bits leaves. */
#define KVN_ETHER_PAYLOAD_MAX (65535u - 28u)

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
    KVN_ETHER_NOT_IPV4, /* another EtherType or IP version, or a header length below 20 */
    KVN_ETHER_LENGTH,   /* a length field that doesn't fit the frame or its neighbours */
    KVN_ETHER_CHECKSUM, /* the IPv4 header's */
    KVN_ETHER_FRAGMENT, /* a piece of a datagram; we never send any */
    KVN_ETHER_NOT_UDP,  /* another IP protocol */
} kvn_ether_verdict;

struct kvn_ether_frame {
    const uint8_t *payload;
    uint32_t payload_bytes;
    uint8_t src_ip[4], dst_ip[4];
    uint16_t src_port, dst_port; /* host order */
};

/*
 * The headers of a datagram of payload_bytes (<= KVN_ETHER_PAYLOAD_MAX). The UDP checksum is 0
 * ("none", RFC 768): the packet protocol carries its own digest, and the link is memory.
 */
void kvn_ether_put(uint8_t hdr[KVN_ETHER_HDR_BYTES], const struct kvn_ether_end *from,
                   const struct kvn_ether_end *to, uint32_t payload_bytes);

/* *frame is written on KVN_ETHER_OK only. Ethernet padding behind the datagram is cut off. */
kvn_ether_verdict kvn_ether_parse(struct kvn_ether_frame *frame, const uint8_t *bytes,
                                  uint32_t len);

/* RFC 1071 over an even number of bytes; 0 over a header that carries its right checksum. */
uint16_t kvn_ether_checksum(const uint8_t *bytes, uint32_t len);

#endif
