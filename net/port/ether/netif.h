/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netif.h - this end's place on a real Ethernet: its addresses, its neighbours' (ARP, RFC 826;
 * neighbour discovery, RFC 4861), and which frames are for it. Frames in, frames out; the device
 * below is somebody else's (dpdk/nic.c), as is the clock.
 *
 * threads  one
 * memory   all inside struct kvn_netif; nothing is allocated
 * time     now_ns comes from the caller and only grows
 *
 * A neighbour's life: FREE --kvn_netif_flow()--> ASKING --answer--> KNOWN; ASKING --no answer in
 * KVN_NEIGH_ASK_NS--> SILENT --KVN_NEIGH_SILENT_NS--> FREE. A KNOWN one that is used and old is
 * asked again and goes on being used meanwhile; without an answer it is ASKING again. Who asks for
 * our address is learnt too, since it is about to send. STATIC ones were configured and stay.
 */
#ifndef KVN_NETIF_H
#define KVN_NETIF_H

#include "frame.h"

#define KVN_NEIGHS_MAX     64u
#define KVN_STATIC_MAX     8u
#define KVN_NETIF_FLOWS    16u /* header templates kept, a power of two */
#define KVN_NETIF_OUT_MAX  16u /* control frames waiting to be sent */
#define KVN_NETIF_OUT_SIZE 96u

#define KVN_NEIGH_EVERY_NS  200000000ull   /* between two questions */
#define KVN_NEIGH_ASK_NS    3000000000ull  /* how long is asked */
#define KVN_NEIGH_SILENT_NS 1000000000ull  /* then packets to it fail at once */
#define KVN_NEIGH_FRESH_NS  30000000000ull /* an older answer is asked for again */

/* One of this end's two addresses. */
struct kvn_netif_ip {
    bool set;
    uint8_t ip[16];
    uint8_t prefix; /* bits that say who is on the link; 0: everybody */
    bool has_gateway;
    uint8_t gateway[16];
};

struct kvn_netif_static {
    struct kvn_addr ip; /* its port is not looked at */
    uint8_t mac[6];
};

struct kvn_netif_config {
    uint8_t mac[6];
    struct kvn_netif_ip four, six; /* at least one is set */
    uint16_t vlan;                 /* 0: untagged; 1 .. 4094 */
    uint16_t port;                 /* of source 0; source n has port + n */
    uint8_t source_count;          /* 1 .. KVN_PORT_SOURCES_MAX */
    struct kvn_netif_static neighbours[KVN_STATIC_MAX];
    uint32_t neighbour_count;
};

enum kvn_neigh_state {
    KVN_NEIGH_FREE = 0,
    KVN_NEIGH_ASKING,
    KVN_NEIGH_KNOWN,
    KVN_NEIGH_SILENT,
    KVN_NEIGH_STATIC,
};

struct kvn_neigh {
    uint8_t state; /* enum kvn_neigh_state; the file's head says what leads where */
    bool used;     /* since it was last asked about */
    uint8_t mac[6];
    struct kvn_addr ip; /* port 0 */
    uint64_t since_ns;  /* of the state; of the last answer if KNOWN */
    uint64_t next_ns;   /* the next question, or change of state */
};

struct kvn_netif_flow {
    struct kvn_addr to;
    uint8_t source, ecn;
    uint64_t until_ns; /* 0: not in use */
    struct kvn_ether_flow flow;
};

struct kvn_netif_stats {
    uint64_t not_ours;  /* frames for others, of other protocols, fragments, other ports or VLANs */
    uint64_t malformed; /* lengths or checksums that don't fit */
    uint64_t cut; /* of these: longer than their frame, as several datagrams are that a sender in
                     this host left in one piece (README.md) */
    uint64_t questions;  /* ARP requests and neighbour solicitations sent */
    uint64_t answers;    /* sent to others' questions */
    uint64_t unanswered; /* neighbours that never answered */
    uint64_t conflicts;  /* somebody else claims our address */
};

struct kvn_netif {
    struct kvn_netif_config cfg;
    struct kvn_neigh neighs[KVN_NEIGHS_MAX];
    uint64_t tick_ns; /* when kvn_netif_tick() has something to do */
    struct kvn_netif_flow flows[KVN_NETIF_FLOWS];
    uint8_t out[KVN_NETIF_OUT_MAX][KVN_NETIF_OUT_SIZE];
    uint8_t out_bytes[KVN_NETIF_OUT_MAX];
    uint32_t out_at, out_count;
    struct kvn_netif_stats stats;
};

void kvn_netif_init(struct kvn_netif *n, const struct kvn_netif_config *cfg);

typedef enum kvn_netif_way {
    KVN_NETIF_GO = 0,  /* *flow is the packet's header */
    KVN_NETIF_ASKING,  /* the neighbour is being asked for; try again later */
    KVN_NETIF_NOWHERE, /* it doesn't answer, or we have no address of that family */
} kvn_netif_way;

/* The headers for packets to there; asks for the neighbour's MAC if need be. *flow is good until
 * the next call of any function here. */
kvn_netif_way kvn_netif_flow(struct kvn_netif *n, uint64_t now_ns, const struct kvn_tx_packet *p,
                             const struct kvn_ether_flow **flow);

struct kvn_netif_in {
    const uint8_t *bytes;
    uint32_t len;
    uint16_t tag; /* the VLAN whose tag the device has taken off already, or 0 */
};

/*
 * A frame came. True: *packet is its datagram (bytes point into it). False: it was a question or
 * an answer, which has been dealt with, or isn't ours, which is counted.
 */
bool kvn_netif_rx(struct kvn_netif *n, uint64_t now_ns, const struct kvn_netif_in *in,
                  struct kvn_rx_packet *packet);

/* Time passes: ask again, give up. Call when now_ns >= n->tick_ns. */
void kvn_netif_tick(struct kvn_netif *n, uint64_t now_ns);

/* The next control frame to send, or NULL; kvn_netif_out_sent() takes it off the queue. */
const uint8_t *kvn_netif_out(const struct kvn_netif *n, uint32_t *bytes);
void kvn_netif_out_sent(struct kvn_netif *n);

/* ask.c: queue a question about, or an answer to, an address. A full queue drops it. */
void kvn_netif_ask(struct kvn_netif *n, const struct kvn_addr *ip, const uint8_t *known_mac);
void kvn_netif_answer(struct kvn_netif *n, const struct kvn_addr *to, const uint8_t *mac);
/* heard.c: an ARP packet or ICMPv6 message, behind the Ethernet header. Not ours or wrong:
 * counted. */
void kvn_netif_arp(struct kvn_netif *n, uint64_t now_ns, const uint8_t *arp, uint32_t len);
void kvn_netif_icmp6(struct kvn_netif *n, uint64_t now_ns, const uint8_t *ip, uint32_t len);

/* neigh.c: the entry of ip; where there was none, one whose question has just gone out. */
struct kvn_neigh *kvn_netif_neigh(struct kvn_netif *n, uint64_t now_ns, const struct kvn_addr *ip);
/* neigh.c: somebody said where ip is. asked: only if we wanted to know. */
void kvn_netif_learn(struct kvn_netif *n, uint64_t now_ns, const struct kvn_addr *ip,
                     const uint8_t mac[6], bool asked);

#endif
