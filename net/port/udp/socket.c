/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/filter.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../packet/wire.h"
#include "impl.h"

socklen_t kvn_sockaddr_from(union kvn_sockaddr *out, const struct kvn_addr *a)
{
    if (a->family == 4) {
        out->four = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(a->port)};
        memcpy(&out->four.sin_addr, a->ip, 4);
        return sizeof(out->four);
    }
    out->six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
    out->six.sin6_scope_id = a->scope;
    memcpy(&out->six.sin6_addr, a->ip, 16);
    return sizeof(out->six);
}

void kvn_sockaddr_to(struct kvn_addr *out, const union kvn_sockaddr *a)
{
    *out = (struct kvn_addr){.family = 0};
    if (a->any.sa_family == AF_INET) {
        out->family = 4;
        out->port = ntohs(a->four.sin_port);
        memcpy(out->ip, &a->four.sin_addr, 4);
    } else if (a->any.sa_family == AF_INET6) {
        out->family = 6;
        out->port = ntohs(a->six.sin6_port);
        out->scope = a->six.sin6_scope_id; /* the kernel sets it for link-local ones alone */
        memcpy(out->ip, &a->six.sin6_addr, 16);
    }
}

static void set(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

static int new_socket(uint8_t family)
{
    const int fd =
        socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    /* DF always. Not PMTUDISC_DO, which believes any ICMP message about the path's size; only
     * packets that arrived prove one. */
    if (family == 4) {
        set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
        set(fd, IPPROTO_IP, IP_RECVTOS, 1);
    } else {
        set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
        set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1); /* IPv4 peers need a socket of their own family */
    }
    return fd;
}

bool kvn_udp_share(int fd)
{
    const int on = 1;

    return setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0;
}

/*
 * The same choice as steer.c's, at no cost: the low byte of an id, modulo the number of sockets.
 * The id is a HELLO's source, as it names no connection of ours yet, so a client's connections
 * spread over the queues though they come from one address; or the header's. A RESET's packet names
 * none; an index out of range leaves it to the kernel's hash. The filter sees the UDP payload.
 */
bool kvn_udp_share_by_id(int fd, uint32_t sockets)
{
    struct sock_filter choose[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVN_PACKET_RESET, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVN_PACKET_HELLO, 2, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 4),
        BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, KVN_GREETING_BYTES),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, sockets),
        BPF_STMT(BPF_RET | BPF_A, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {sizeof(choose) / sizeof(choose[0]), choose};

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)) == 0;
}

int kvn_udp_socket(struct kvn_addr *local, bool shared)
{
    union kvn_sockaddr a;
    socklen_t len = kvn_sockaddr_from(&a, local);
    const int fd = new_socket(local->family);

    if (fd < 0)
        return -1;
    if ((shared && !kvn_udp_share(fd)) || bind(fd, &a.any, len) != 0 ||
        getsockname(fd, &a.any, &len) != 0) {
        const int error = errno;

        close(fd);
        errno = error;
        return -1;
    }
    kvn_sockaddr_to(local, &a);
    return fd;
}

uint32_t kvn_udp_buffer(int fd, bool receive, uint32_t bytes)
{
    const int plain = receive ? SO_RCVBUF : SO_SNDBUF;
    const int force = receive ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;
    int want = (int)bytes, got = 0;
    socklen_t len = sizeof(got);

    /* The second form needs CAP_NET_ADMIN, the first is held to net.core.*mem_max. */
    if (setsockopt(fd, SOL_SOCKET, force, &want, sizeof(want)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, plain, &want, sizeof(want));
    (void)getsockopt(fd, SOL_SOCKET, plain, &got, &len);
    return got > 0 ? (uint32_t)got / 2 : 0;
}

bool kvn_udp_can_gso(int fd)
{
    int size = 0;
    socklen_t len = sizeof(size);

    return getsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, &len) == 0;
}

bool kvn_udp_turn_gro_on(int fd)
{
    const int on = 1;

    return setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on)) == 0;
}

bool kvn_udp_reaches(struct kvn_port *port, const struct kvn_addr *to,
                     char why[KVN_REACH_WHY_BYTES])
{
    const struct kvn_addr *from = &port->local;
    struct kvn_addr any_port = *from;
    char there[KVN_ADDR_TEXT_BYTES], here[KVN_ADDR_TEXT_BYTES];
    union kvn_sockaddr a;
    uint32_t fits;
    int fd, error;

    kvn_addr_format(to, there);
    kvn_addr_format(from, here);
    if (to->family != from->family) {
        snprintf(why, KVN_REACH_WHY_BYTES, "%s is an IPv%u address, and this side, %s, has IPv%u",
                 there, to->family, here, from->family);
        return false;
    }
    any_port.port = 0;
    fd = kvn_udp_socket(&any_port, false);
    if (fd < 0)
        return true; /* a descriptor is missing, or the address just went: packets will tell */
    error = connect(fd, &a.any, kvn_sockaddr_from(&a, to)) == 0 ? 0 : errno;
    close(fd);
    if (error != 0) {
        snprintf(why, KVN_REACH_WHY_BYTES, "no packet gets from %s to %s: %s", here, there,
                 strerror(error));
        return false;
    }
    fits = kvn_udp_route_payload(to);
    if (fits != 0 && fits < KVN_PAYLOAD_MIN) {
        snprintf(why, KVN_REACH_WHY_BYTES,
                 "the interface towards %s carries packets of %u bytes (MTU %u), and %u is the "
                 "least",
                 there, fits, fits + (to->family == 4 ? 28 : 48), KVN_PAYLOAD_MIN);
        return false;
    }
    return true;
}

uint32_t kvn_udp_route_payload(const struct kvn_addr *a)
{
    const uint32_t headers = a->family == 4 ? 20 + 8 : 40 + 8;
    union kvn_sockaddr to;
    const socklen_t to_len = kvn_sockaddr_from(&to, a);
    const int fd = new_socket(a->family);
    int mtu = 0, known;
    socklen_t len = sizeof(mtu);

    if (fd < 0)
        return 0;
    /* Connecting a datagram socket sends nothing; it looks the route up. */
    known = connect(fd, &to.any, to_len) == 0 &&
            (a->family == 4 ? getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &len)
                            : getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &len)) == 0;
    close(fd);
    if (!known || mtu <= (int)headers)
        return 0;
    return (uint32_t)mtu < 65535 ? (uint32_t)mtu - headers : 65535 - headers;
}
