/* SPDX-License-Identifier: Apache-2.0 */
/*
 * impl.h - the port's object, shared by udp.c (open, wait, close), socket.c (sockets and
 * what the kernel can do), rx.c and tx.c (packets). Not for anyone else.
 *
 * threads  one      memory  one object a port, and its receive buffers      time  none
 */
#ifndef KVN_UDP_IMPL_H
#define KVN_UDP_IMPL_H

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "../spin.h"
#include "udp.h"

/* Room for whatever a peer proposes and for a burst that the kernel made one (GRO). */
#define KVN_UDP_RX_BYTES 65536u
/* What the kernel cuts into packets for us at once (GSO): its own limits, and UDP's. */
#define KVN_UDP_SEGMENTS_MAX 64u
#define KVN_UDP_GSO_BYTES    65000u

union kvn_sockaddr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

/* Two control messages at most either way: ECN, and the size of a segment. */
union kvn_control {
    size_t align; /* struct cmsghdr's */
    uint8_t bytes[2 * CMSG_SPACE(sizeof(int))];
};

/* What one recvmmsg() entry brought: one packet, or several of seg bytes each. */
struct kvn_udp_slot {
    struct kvn_addr from;
    uint32_t len, seg;
    uint8_t source, ecn;
};

struct kvn_udp_port {
    struct kvn_port port; /* first */
    int fd[KVN_PORT_SOURCES_MAX];
    struct pollfd polled[KVN_PORT_SOURCES_MAX + 1]; /* the last: the caller's wake_fd */
    int epoll_fd; /* of all sockets, where several are slept on by one descriptor; -1: none */
    struct kvn_spin spin;
    bool gso, gro;
    uint32_t payload_open; /* payload_max before it was lowered; 0: it wasn't */
    uint64_t raise_ns;     /* when it is so again */

    uint8_t *buffers; /* KVN_BURST of them, stride bytes each */
    uint32_t stride;
    uint32_t rx_at, rx_offset, rx_count; /* slots [rx_at, rx_count) aren't handed out yet, the
                                            first of them from rx_offset on */
    uint32_t rx_segments;                /* packets in the last slot: how many to ask for */
    uint8_t rx_turn;                     /* the socket to ask first */
    bool empty;                          /* all sockets were, at empty_ns, when last asked */
    uint64_t empty_ns;
    struct kvn_udp_slot slot[KVN_BURST];
    struct mmsghdr rx_msg[KVN_BURST];
    struct iovec rx_iov[KVN_BURST];
    union kvn_sockaddr rx_from[KVN_BURST];
    union kvn_control rx_control[KVN_BURST];

    struct mmsghdr tx_msg[KVN_BURST];
    uint32_t tx_packets[KVN_BURST]; /* how many packets each message is */
    uint8_t tx_source[KVN_BURST];
    struct iovec tx_iov[KVN_BURST * 3];
    union kvn_sockaddr tx_to[KVN_BURST];
    union kvn_control tx_control[KVN_BURST];
};

/* socket.c */
socklen_t kvn_sockaddr_from(union kvn_sockaddr *out, const struct kvn_addr *a);
void kvn_sockaddr_to(struct kvn_addr *out, const union kvn_sockaddr *a);
/* A bound socket with everything set; *local gets the port that was given. shared: beside others
 * that were told kvn_udp_share(). -1: errno says why. */
int kvn_udp_socket(struct kvn_addr *local, bool shared);
/* A socket that had its port to itself takes company. */
bool kvn_udp_share(int fd);
/* Among those that share fd's port, in the order in which they were bound, the kernel chooses by
 * connection id. False: it can't. */
bool kvn_udp_share_by_id(int fd, uint32_t sockets);
/* As large as the kernel lets it be; returns the bytes it gave (each buffer's own accounting, about
 * half of what it calls the size). */
uint32_t kvn_udp_buffer(int fd, bool receive, uint32_t bytes);
bool kvn_udp_can_gso(int fd);
bool kvn_udp_turn_gro_on(int fd);
/* The longest UDP payload that fits the route's interface to a; 0: there is no route. */
uint32_t kvn_udp_route_payload(const struct kvn_addr *a);

/* kvn_port_ops.reaches. */
bool kvn_udp_reaches(struct kvn_port *port, const struct kvn_addr *to,
                     char why[KVN_REACH_WHY_BYTES]);

/* rx.c */
void kvn_udp_rx_prepare(struct kvn_udp_port *u);
uint32_t kvn_udp_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                    uint32_t max);

/* tx.c */
uint32_t kvn_udp_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                    uint32_t count);

#endif
