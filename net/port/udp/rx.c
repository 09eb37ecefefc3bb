/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving. With GRO, packets of one size that came in a row are one entry of recvmmsg(), with a
 * control message that says the size of each. They are handed out one by one where they lie; what
 * doesn't fit into one rx() is kept for the next, in slots that aren't received into meanwhile.
 */
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

#include "impl.h"

void kvn_udp_rx_prepare(struct kvn_udp_port *u)
{
    u->rx_segments = 1;
    for (uint32_t i = 0; i < KVN_BURST; ++i) {
        struct msghdr *m = &u->rx_msg[i].msg_hdr;

        u->rx_iov[i] = (struct iovec){u->buffers + (size_t)i * u->stride, KVN_UDP_RX_BYTES};
        m->msg_name = &u->rx_from[i];
        m->msg_iov = &u->rx_iov[i];
        m->msg_iovlen = 1;
    }
}

static int read_int(const struct cmsghdr *c)
{
    int value = 0;
    const size_t bytes = c->cmsg_len - CMSG_LEN(0);

    /* IP_TOS comes as one byte, the others as an int. */
    memcpy(&value, CMSG_DATA(c), bytes < sizeof(value) ? bytes : sizeof(value));
    return value;
}

static void open_slot(struct kvn_udp_port *u, uint32_t i, uint8_t source)
{
    struct msghdr *m = &u->rx_msg[i].msg_hdr;
    struct kvn_udp_slot *s = &u->slot[i];

    s->len = u->rx_msg[i].msg_len;
    s->seg = s->len;
    s->source = source;
    s->ecn = KVN_ECN_NOT_ECT;
    kvn_sockaddr_to(&s->from, &u->rx_from[i]);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            const int seg = read_int(c);

            if (seg > 0 && (uint32_t)seg < s->len)
                s->seg = (uint32_t)seg;
        } else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
                   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS)) {
            s->ecn = (uint8_t)(read_int(c) & 3);
        }
    }
    /* Longer than any packet can be: its digest is gone with its tail, so it is dropped. */
    if (m->msg_flags & MSG_TRUNC)
        s->len = s->seg = 0;
    u->rx_segments = s->seg == 0 ? 1 : (s->len + s->seg - 1) / s->seg;
}

/* What one socket has, into up to want slots from rx_count on. */
static uint32_t receive(struct kvn_udp_port *u, uint8_t source, uint32_t want)
{
    int n = -1;

    for (uint32_t i = u->rx_count; i < u->rx_count + want; ++i) {
        struct msghdr *m = &u->rx_msg[i].msg_hdr;

        m->msg_namelen = sizeof(u->rx_from[i]);
        m->msg_control = &u->rx_control[i];
        m->msg_controllen = sizeof(u->rx_control[i]);
    }
    /* An ICMP error (the peer's port is closed) is reported once, in place of packets; it says
     * nothing that silence doesn't, so look again. */
    for (int tries = 0; tries < 4 && n < 0; ++tries) {
        n = recvmmsg(u->fd[source], &u->rx_msg[u->rx_count], want, MSG_DONTWAIT, NULL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
    }
    if (n < 0)
        return 0;
    for (int i = 0; i < n; ++i)
        open_slot(u, u->rx_count++, source);
    return (uint32_t)n;
}

/* Packets of what lies in the slots, up to max. */
static uint32_t hand_out(struct kvn_udp_port *u, struct kvn_rx_packet *packets, uint32_t max)
{
    uint32_t n = 0;

    while (n < max && u->rx_at < u->rx_count) {
        const struct kvn_udp_slot *s = &u->slot[u->rx_at];
        const uint32_t left = s->len - u->rx_offset;

        packets[n++] = (struct kvn_rx_packet){
            .bytes = u->buffers + (size_t)u->rx_at * u->stride + u->rx_offset,
            .len = left < s->seg ? left : s->seg,
            .source = s->source,
            .ecn = s->ecn,
            .from = s->from,
        };
        u->rx_offset += s->seg;
        if (s->seg == 0 || u->rx_offset >= s->len) {
            u->rx_offset = 0;
            ++u->rx_at;
        }
    }
    return n;
}

uint32_t kvn_udp_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                    uint32_t max)
{
    struct kvn_udp_port *u = (struct kvn_udp_port *)port;
    uint32_t n = hand_out(u, packets, max), empty = 0;

    /* Who looks twice at the same time, as a core does that has something to send, is spared the
     * system call: it was empty, and what has come since wakes it. */
    if (u->empty && u->empty_ns == now_ns && n == 0) {
        u->empty = false;
        return 0;
    }
    /* The slots of what was just handed out stay as they are until the next call. */
    if (n == 0)
        u->rx_at = u->rx_count = 0;
    while (n < max && empty < port->source_count && u->rx_count < KVN_BURST) {
        const uint32_t room = KVN_BURST - u->rx_count;
        /* No more than will be handed out now: fewer buffers, so that they stay in the cache. */
        const uint32_t need = (max - n + u->rx_segments - 1) / u->rx_segments;
        const uint32_t want = need < room ? need : room;

        if (receive(u, u->rx_turn, want) < want) {
            u->rx_turn = (uint8_t)((u->rx_turn + 1) % port->source_count);
            ++empty;
        }
        n += hand_out(u, packets + n, max - n);
    }
    u->empty = empty == port->source_count;
    u->empty_ns = now_ns;
    return n;
}
