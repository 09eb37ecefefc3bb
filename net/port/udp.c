/* SPDX-License-Identifier: Apache-2.0 */
#include "udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../open.h"
#include "../packet/endpoint.h"
#include "../packet/wire.h"
#include "fault.h"

#define PAYLOAD_DEFAULT (KVN_SLICE_DEFAULT + KVN_DATA_BYTES)
/* Inside one host a packet costs the same whatever its length; the README has the figures. */
#define SLICE_LOCAL   (32u * 1024)
#define PAYLOAD_LOCAL (SLICE_LOCAL + KVN_DATA_BYTES)
/* Room for whatever a peer proposes, so that a smaller size can be agreed on. */
#define RX_BYTES      65536u
#define PAYLOAD_1500  1452u /* what IPv6 leaves of the common MTU */
#define QUEUE_DEFAULT (4u * 1024 * 1024)

union any_addr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

struct udp_port {
    struct kvn_port base;
    int fd;
    uint8_t *buffers; /* KVN_BURST of them, stride bytes each */
    uint32_t stride;
    struct mmsghdr rx_msg[KVN_BURST], tx_msg[KVN_BURST];
    struct iovec rx_iov[KVN_BURST], tx_iov[KVN_BURST][3];
    union any_addr rx_from[KVN_BURST], tx_to[KVN_BURST];
};

static socklen_t to_sockaddr(union any_addr *out, const struct kvn_addr *a)
{
    if (a->family == 4) {
        out->four = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(a->port)};
        memcpy(&out->four.sin_addr, a->ip, 4);
        return sizeof(out->four);
    }
    out->six = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
    memcpy(&out->six.sin6_addr, a->ip, 16);
    return sizeof(out->six);
}

static void from_sockaddr(struct kvn_addr *out, const union any_addr *a)
{
    *out = (struct kvn_addr){.family = 0};
    if (a->any.sa_family == AF_INET) {
        out->family = 4;
        out->port = ntohs(a->four.sin_port);
        memcpy(out->ip, &a->four.sin_addr, 4);
    } else if (a->any.sa_family == AF_INET6) {
        out->family = 6;
        out->port = ntohs(a->six.sin6_port);
        memcpy(out->ip, &a->six.sin6_addr, 16);
    }
}

static uint32_t udp_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                       uint32_t max)
{
    struct udp_port *u = (struct udp_port *)port;
    int n = -1;

    (void)now_ns;
    for (uint32_t i = 0; i < max; ++i)
        u->rx_msg[i].msg_hdr.msg_namelen = sizeof(u->rx_from[i]);
    /* An ICMP error (the peer's port is closed) is reported once, in place of packets; it says
     * nothing that silence doesn't, so look again. */
    for (int tries = 0; tries < 4 && n < 0; ++tries) {
        n = recvmmsg(u->fd, u->rx_msg, max, MSG_DONTWAIT, NULL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
    }
    if (n < 0)
        return 0;
    for (int i = 0; i < n; ++i) {
        packets[i].bytes = u->buffers + (size_t)i * u->stride;
        packets[i].len = u->rx_msg[i].msg_len;
        packets[i].source = 0;
        packets[i].ecn = KVN_ECN_NOT_ECT;
        /* Longer than any packet of ours: the digest is gone with its tail, so it is dropped. */
        if (u->rx_msg[i].msg_hdr.msg_flags & MSG_TRUNC)
            packets[i].len = 0;
        from_sockaddr(&packets[i].from, &u->rx_from[i]);
    }
    return (uint32_t)n;
}

/* The first packet couldn't be sent, for a reason that won't pass. */
static void tx_failed(struct udp_port *u, int error)
{
    ++u->base.tx_errors;
    if (error == EMSGSIZE && u->base.payload_max > PAYLOAD_1500)
        u->base.payload_max = PAYLOAD_1500;
    else if (error == EMSGSIZE)
        u->base.payload_max = KVN_PAYLOAD_MIN;
}

static uint32_t udp_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                       uint32_t count)
{
    struct udp_port *u = (struct udp_port *)port;
    uint32_t done = 0, again = 0;

    (void)now_ns;
    for (uint32_t i = 0; i < count; ++i) {
        const struct kvn_tx_packet *p = &packets[i];
        struct msghdr *m = &u->tx_msg[i].msg_hdr;

        u->tx_iov[i][0] = (struct iovec){(void *)(uintptr_t)p->head, p->head_bytes};
        for (uint32_t b = 0; b < p->body_count; ++b)
            u->tx_iov[i][1 + b] =
                (struct iovec){(void *)(uintptr_t)p->body[b].base, p->body[b].bytes};
        m->msg_name = &u->tx_to[i];
        m->msg_namelen = to_sockaddr(&u->tx_to[i], &p->to);
        m->msg_iov = u->tx_iov[i];
        m->msg_iovlen = 1 + p->body_count;
    }
    while (done < count) {
        const int n = sendmmsg(u->fd, u->tx_msg + done, count - done, MSG_DONTWAIT);

        if (n > 0) {
            done += (uint32_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
            break;
        } else if (errno == EINTR || (errno == ECONNREFUSED && again < count)) {
            ++again; /* an ICMP error of an earlier packet; this one wasn't tried */
        } else {
            tx_failed(u, errno);
            ++done;
        }
    }
    return done;
}

static void udp_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct udp_port *u = (struct udp_port *)port;
    struct pollfd fds[2] = {{.fd = u->fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
    struct timespec now, left;
    uint64_t now_ns, left_ns;

    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (until_ns <= now_ns)
        return;
    left_ns = until_ns - now_ns;
    left.tv_sec = (time_t)(left_ns / 1000000000u);
    left.tv_nsec = (long)(left_ns % 1000000000u);
    (void)ppoll(fds, wake_fd >= 0 ? 2 : 1, until_ns == UINT64_MAX ? NULL : &left, NULL);
}

static uint64_t udp_deadline_ns(const struct kvn_port *port)
{
    (void)port;
    return UINT64_MAX;
}

static void udp_close(struct kvn_port *port)
{
    struct udp_port *u = (struct udp_port *)port;

    close(u->fd);
    free(u->buffers);
    free(u);
}

static const struct kvn_port_ops udp_ops = {
    .name = "udp",
    .rx = udp_rx,
    .tx = udp_tx,
    .wait = udp_wait,
    .deadline_ns = udp_deadline_ns,
    .close = udp_close,
};

/* As large as the kernel lets it be; the second form needs a capability, so it may fail. */
static uint32_t raise_buffer(int fd, int plain, int force, uint32_t bytes)
{
    int want = (int)bytes, got = 0;
    socklen_t len = sizeof(got);

    if (setsockopt(fd, SOL_SOCKET, force, &want, sizeof(want)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, plain, &want, sizeof(want));
    (void)getsockopt(fd, SOL_SOCKET, plain, &got, &len);
    return got > 0 ? (uint32_t)got : 0;
}

static void never_fragment(int fd, uint8_t family)
{
    const int four = IP_PMTUDISC_DO, six = IPV6_PMTUDISC_DO;

    if (family == 4)
        (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &four, sizeof(four));
    else
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &six, sizeof(six));
}

/* A bound socket; *local gets the port that was given. -1: errno says why. */
static int bind_socket(struct kvn_addr *local)
{
    union any_addr a;
    socklen_t len = to_sockaddr(&a, local);
    const int fd = socket(local->family == 4 ? AF_INET : AF_INET6,
                          SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, &a.any, len) != 0 || getsockname(fd, &a.any, &len) != 0) {
        const int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    from_sockaddr(local, &a);
    return fd;
}

static void prepare_rx(struct udp_port *u)
{
    for (uint32_t i = 0; i < KVN_BURST; ++i) {
        u->rx_iov[i] = (struct iovec){u->buffers + (size_t)i * u->stride, RX_BYTES};
        u->rx_msg[i].msg_hdr.msg_name = &u->rx_from[i];
        u->rx_msg[i].msg_hdr.msg_iov = &u->rx_iov[i];
        u->rx_msg[i].msg_hdr.msg_iovlen = 1;
    }
}

kvw_err kvn_udp_port_open(struct kvn_port **port, const struct kvn_udp_config *cfg,
                          uint32_t *queued_max, char why[KVN_WHY_BYTES])
{
    struct kvn_addr local, peer = {.family = 0};
    struct udp_port *u;
    int error;

    if (cfg->local == NULL || kvn_addr_parse(&local, cfg->local) != KVW_OK) {
        snprintf(why, KVN_WHY_BYTES, "local '%.100s' is not IPV4:PORT or [IPV6]:PORT",
                 cfg->local != NULL ? cfg->local : "");
        return KVW_E_ADDRESS;
    }
    if (cfg->peer != NULL && kvn_addr_parse(&peer, cfg->peer) != KVW_OK) {
        snprintf(why, KVN_WHY_BYTES, "peer '%.100s' is not IPV4:PORT or [IPV6]:PORT", cfg->peer);
        return KVW_E_ADDRESS;
    }
    u = calloc(1, sizeof(*u));
    if (u == NULL)
        goto nomem;
    u->base.ops = &udp_ops;
    u->base.payload_max = cfg->payload_max != 0 ? cfg->payload_max : PAYLOAD_DEFAULT;
    u->base.default_peer = peer;
    /* Buffers a page multiple apart would all compete for the same cache sets. */
    u->stride = RX_BYTES + 64;
    u->buffers = malloc((size_t)KVN_BURST * u->stride);
    if (u->buffers == NULL)
        goto free_port;
    u->fd = bind_socket(&local);
    if (u->fd < 0) {
        error = errno;
        snprintf(why, KVN_WHY_BYTES, "udp %.100s: %s", cfg->local, strerror(error));
        goto free_buffers;
    }
    u->base.local = local;
    never_fragment(u->fd, local.family);
    (void)raise_buffer(u->fd, SO_SNDBUF, SO_SNDBUFFORCE,
                       cfg->queue_bytes != 0 ? cfg->queue_bytes : QUEUE_DEFAULT);
    /* The kernel charges a packet's buffers, not its bytes: about twice as much. */
    *queued_max = raise_buffer(u->fd, SO_RCVBUF, SO_RCVBUFFORCE,
                               cfg->queue_bytes != 0 ? cfg->queue_bytes : QUEUE_DEFAULT) /
                  2;
    prepare_rx(u);
    *port = &u->base;
    return KVW_OK;

free_buffers:
    free(u->buffers);
    free(u);
    return error == EADDRINUSE || error == EADDRNOTAVAIL || error == EACCES ? KVW_E_ADDRESS
                                                                            : KVW_E_DEVICE;
free_port:
    free(u);
nomem:
    snprintf(why, KVN_WHY_BYTES, "udp %.100s: no memory", cfg->local);
    return KVW_E_NOMEM;
}

static bool is_loopback(const char *text)
{
    static const uint8_t one[16] = {[15] = 1};
    struct kvn_addr a;

    if (text == NULL || kvn_addr_parse(&a, text) != KVW_OK)
        return false;
    return a.family == 4 ? a.ip[0] == 127 : memcmp(a.ip, one, sizeof(one)) == 0;
}

KVN_OPEN_DECLARE(udp);
KVN_OPEN_DECLARE(udp)
{
    /* The client proposes the size and the handshake proves it, so a listener takes any. */
    const bool big = cfg->listener || is_loopback(cfg->local) || is_loopback(cfg->peer);
    const struct kvn_udp_config udp = {.local = cfg->local,
                                       .peer = cfg->peer,
                                       .payload_max = big ? PAYLOAD_LOCAL : PAYLOAD_DEFAULT};
    struct kvn_packet_config packet = {.slice_bytes = SLICE_LOCAL};
    struct kvn_port *port;
    uint32_t queued_max;
    kvw_err err;

    err = kvn_udp_port_open(&port, &udp, &queued_max, why);
    if (err != KVW_OK)
        return err;
    if (cfg->fault != NULL) {
        err = kvn_fault_wrap(&port, cfg->fault, why);
        if (err != KVW_OK)
            goto close_port;
    }
    packet.inflight_bytes = queued_max < KVN_INFLIGHT_BYTES ? queued_max : KVN_INFLIGHT_BYTES;
    if (packet.inflight_bytes < 2 * port->payload_max)
        packet.inflight_bytes = 2 * port->payload_max;
    err = kvn_packet_open(t, port, &packet, why);
    if (err != KVW_OK)
        goto close_port;
    return KVW_OK;

close_port:
    port->ops->close(port);
    return err;
}
