/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending. With GSO, packets in a row to one address and of one size, the last perhaps shorter, are
 * one message that the kernel (or the NIC) cuts: one walk through the stack instead of many.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

#include "../../packet/wire.h"
#include "impl.h"

static uint32_t bytes_of(const struct kvn_tx_packet *p)
{
    uint32_t bytes = p->head_bytes;

    for (uint32_t b = 0; b < p->body_count; ++b)
        bytes += p->body[b].bytes;
    return bytes;
}

static bool alike(const struct kvn_tx_packet *a, const struct kvn_tx_packet *b)
{
    return a->source == b->source && a->ecn == b->ecn && kvn_addr_equal(&a->to, &b->to);
}

static void add_control(struct msghdr *m, union kvn_control *space, int level, int type,
                        const void *value, size_t bytes)
{
    struct cmsghdr *c = (struct cmsghdr *)(space->bytes + m->msg_controllen);

    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), value, bytes);
    m->msg_control = space;
    m->msg_controllen += CMSG_SPACE(bytes);
}

/* Message i, of as many packets as can go in one. Returns how many those are; *iov moves on. */
static uint32_t add_message(struct kvn_udp_port *u, uint32_t i, const struct kvn_tx_packet *packets,
                            uint32_t count, bool gso, struct iovec **iov)
{
    const struct kvn_tx_packet *first = &packets[0];
    const uint32_t size = bytes_of(first);
    struct msghdr *m = &u->tx_msg[i].msg_hdr;
    uint32_t n = 0, total = 0;
    bool open = true;

    *m = (struct msghdr){.msg_name = &u->tx_to[i], .msg_iov = *iov};
    m->msg_namelen = kvn_sockaddr_from(&u->tx_to[i], &first->to);
    do {
        const struct kvn_tx_packet *p = &packets[n];
        const uint32_t bytes = bytes_of(p);

        if (n > 0 && (bytes > size || total + bytes > KVN_UDP_GSO_BYTES || !alike(first, p)))
            break;
        *(*iov)++ = (struct iovec){(void *)(uintptr_t)p->head, p->head_bytes};
        for (uint32_t b = 0; b < p->body_count; ++b)
            *(*iov)++ = (struct iovec){(void *)(uintptr_t)p->body[b].base, p->body[b].bytes};
        total += bytes;
        open = bytes == size;
    } while (++n < count && gso && open && n < KVN_UDP_SEGMENTS_MAX);
    m->msg_iovlen = (size_t)(*iov - m->msg_iov);
    if (first->ecn != KVN_ECN_NOT_ECT) {
        const int tos = first->ecn;

        if (first->to.family == 4)
            add_control(m, &u->tx_control[i], IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
        else
            add_control(m, &u->tx_control[i], IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    }
    if (n > 1) {
        const uint16_t segment = (uint16_t)size;

        add_control(m, &u->tx_control[i], SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment));
    }
    u->tx_packets[i] = n;
    u->tx_source[i] = first->source < u->port.source_count ? first->source : 0;
    return n;
}

static void lower(struct kvn_udp_port *u, uint64_t now_ns, uint32_t payload)
{
    if (payload >= u->port.payload_max)
        return;
    if (u->payload_open == 0)
        u->payload_open = u->port.payload_max;
    u->port.payload_max = payload;
    u->raise_ns = now_ns + KVN_UDP_RAISE_NS;
}

static void raise_again(struct kvn_udp_port *u, uint64_t now_ns)
{
    if (u->payload_open == 0 || now_ns < u->raise_ns)
        return;
    u->port.payload_max = u->payload_open;
    u->payload_open = 0;
}

/* Message i can never be sent. If it is too long for the interface, what will fit is looked up:
 * payload_max is how connections hear of it. */
static void failed(struct kvn_udp_port *u, uint64_t now_ns, uint32_t i,
                   const struct kvn_tx_packet *packet, int error)
{
    const uint32_t size = bytes_of(packet);
    uint32_t fits;

    u->port.tx_errors += u->tx_packets[i];
    if (error != EMSGSIZE)
        return;
    fits = kvn_udp_route_payload(&packet->to);
    if (fits == 0 || fits >= size) /* the route says nothing, or not the truth */
        fits = size > KVN_UDP_PAYLOAD_1500 ? KVN_UDP_PAYLOAD_1500 : KVN_PAYLOAD_MIN;
    if (fits < KVN_PAYLOAD_MIN)
        fits = KVN_PAYLOAD_MIN;
    lower(u, now_ns, fits);
}

/* Messages [at, end) of one socket. Returns how many went; fewer: *error says why the next didn't,
 * 0: the socket is full. */
static uint32_t send_run(struct kvn_udp_port *u, uint32_t at, uint32_t end, int *error)
{
    uint32_t done = 0, again = 0;

    *error = 0;
    while (at + done < end) {
        const int n =
            sendmmsg(u->fd[u->tx_source[at]], u->tx_msg + at + done, end - at - done, MSG_DONTWAIT);

        if (n > 0) {
            done += (uint32_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
            return done;
        } else if ((errno == EINTR || errno == ECONNREFUSED) && again < KVN_BURST) {
            ++again; /* an ICMP error of an earlier packet; this one wasn't tried */
        } else {
            *error = errno;
            return done;
        }
    }
    return done;
}

uint32_t kvn_udp_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                    uint32_t count)
{
    struct kvn_udp_port *u = (struct kvn_udp_port *)port;
    bool suspect = false; /* whether it is GSO that the device won't have */
    uint32_t done = 0;

    raise_again(u, now_ns);
    while (done < count) {
        struct iovec *iov = u->tx_iov;
        uint32_t messages = 0, at = 0, built = done;
        int error = 0;

        while (built < count)
            built += add_message(u, messages++, packets + built, count - built, u->gso && !suspect,
                                 &iov);
        while (at < messages && error == 0) {
            uint32_t end = at + 1, sent;

            while (end < messages && u->tx_source[end] == u->tx_source[at])
                ++end;
            sent = send_run(u, at, end, &error);
            if (suspect && sent > 0)
                u->gso = false; /* the same packets, one by one, do leave */
            suspect = false;
            for (; sent > 0; --sent)
                done += u->tx_packets[at++];
            if (at < end && error == 0)
                return done;
        }
        if (error == 0)
            return done;
        /* Not every device can be given a burst in one piece (EIO: it computes no checksums). */
        if (u->tx_packets[at] > 1 && (error == EIO || error == EINVAL)) {
            suspect = true;
            continue;
        }
        failed(u, now_ns, at, &packets[done], error);
        done += u->tx_packets[at];
    }
    return done;
}
