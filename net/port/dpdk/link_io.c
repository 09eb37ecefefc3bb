/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets in and out. What each kind of device does with the memory of a packet decides how it is
 * sent (README.md, rules 2 and 6):
 *
 *   vhost        copies inside tx_burst and frees the mbufs there. So the body is lent to it where
 *                it lies, in any memory, and is ours again when tx_burst returns.
 *   virtio-user  leaves the mbuf in the ring until the peer has read it, and the peer can only read
 *                EAL's memory. So everything is copied into an mbuf first, and once copied it
 *                counts as taken, even if the ring is full: it waits in p->late.
 */
#include <assert.h>
#include <string.h>

#include <rte_ethdev.h>

#include "link_impl.h"

/* Bodies up to this long are cheaper to copy behind the head than to lend in a second mbuf. */
#define COPY_MAX 256u
/* How soon rx() should try again to get rid of p->late. No interrupt tells of room in a ring. */
#define LATE_RETRY_NS 200000u

static uint32_t payload_bytes(const struct kvn_tx_packet *packet)
{
    uint64_t bytes = packet->head_bytes;

    for (uint32_t i = 0; i < packet->body_count; ++i)
        bytes += packet->body[i].bytes;
    return bytes <= KVN_ETHER_PAYLOAD_MAX ? (uint32_t)bytes : UINT32_MAX;
}

/* The headers and the head at the start of m, which has room for a whole frame. */
static void put_head(const struct kvn_dpdk_port *p, struct rte_mbuf *m,
                     const struct kvn_tx_packet *packet, uint32_t bytes)
{
    struct kvn_ether_end to = p->peer;
    uint8_t *at = rte_pktmbuf_mtod(m, uint8_t *);

    memcpy(to.ip, packet->to.ip, sizeof(to.ip));
    to.port = packet->to.port;
    kvn_ether_put(at, &p->self, &to, bytes);
    memcpy(at + KVN_ETHER_HDR_BYTES, packet->head, packet->head_bytes);
    m->data_len = (uint16_t)(KVN_ETHER_HDR_BYTES + packet->head_bytes);
    m->pkt_len = m->data_len;
}

static void copy_body(struct rte_mbuf *m, const struct kvn_tx_packet *packet)
{
    uint8_t *at = rte_pktmbuf_mtod_offset(m, uint8_t *, m->data_len);

    for (uint32_t i = 0; i < packet->body_count; ++i) {
        memcpy(at, packet->body[i].base, packet->body[i].bytes);
        at += packet->body[i].bytes;
        m->data_len = (uint16_t)(m->data_len + packet->body[i].bytes);
    }
    m->pkt_len = m->data_len;
}

/* One shell after m for each piece of the body. False: there are no shells. */
static bool lend_body(struct kvn_dpdk_port *p, struct rte_mbuf *m,
                      const struct kvn_tx_packet *packet)
{
    struct rte_mbuf *last = m;

    for (uint32_t i = 0; i < packet->body_count; ++i) {
        const struct kvw_iov *piece = &packet->body[i];
        void *const base = (void *)(uintptr_t)piece->base; /* vhost only reads it */
        struct rte_mbuf *s;

        if (piece->bytes == 0)
            continue;
        if ((s = rte_pktmbuf_alloc(p->shell)) == NULL)
            return false;
        rte_mbuf_ext_refcnt_update(&p->loan, 1);
        rte_pktmbuf_attach_extbuf(s, base, (rte_iova_t)(uintptr_t)base, (uint16_t)piece->bytes,
                                  &p->loan);
        s->data_len = (uint16_t)piece->bytes;
        last->next = s;
        last = s;
        ++m->nb_segs;
        m->pkt_len += piece->bytes;
    }
    return true;
}

/* An mbuf that carries the packet, or NULL: the pool is dry for now. */
static struct rte_mbuf *build(struct kvn_dpdk_port *p, const struct kvn_tx_packet *packet,
                              uint32_t bytes)
{
    struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);

    if (m == NULL)
        return NULL;
    put_head(p, m, packet, bytes);
    if (!p->vhost || bytes - packet->head_bytes <= COPY_MAX) {
        copy_body(m, packet);
    } else if (!lend_body(p, m, packet)) {
        rte_pktmbuf_free(m);
        return NULL;
    }
    return m;
}

/* Put what waits into the ring. True: nothing waits any more. */
static bool flush_late(struct kvn_dpdk_port *p, uint64_t now_ns)
{
    if (p->late_count != 0) {
        const uint16_t n =
            rte_eth_tx_burst(p->id, 0, p->late + p->late_at, (uint16_t)p->late_count);

        p->late_at += n;
        p->late_count -= n;
        p->late_ns = now_ns + LATE_RETRY_NS;
    }
    return p->late_count == 0;
}

/* virtio-user: what was built is taken, in the ring or not. */
static void send_copies(struct kvn_dpdk_port *p, uint64_t now_ns, struct rte_mbuf **mbufs,
                        uint32_t built)
{
    const uint32_t sent = rte_eth_tx_burst(p->id, 0, mbufs, (uint16_t)built);

    if (sent == built)
        return;
    p->late_at = 0;
    p->late_count = built - sent;
    p->late_ns = now_ns + LATE_RETRY_NS;
    p->tx_deferred += p->late_count;
    memcpy(p->late, mbufs + sent, p->late_count * sizeof(mbufs[0]));
}

/* vhost: what isn't sent is given back to the caller; returns how many were sent. */
static uint32_t send_loans(struct kvn_dpdk_port *p, struct rte_mbuf **mbufs, uint32_t built)
{
    const uint32_t sent = rte_eth_tx_burst(p->id, 0, mbufs, (uint16_t)built);

    if (sent != built)
        rte_pktmbuf_free_bulk(mbufs + sent, built - sent);
    assert(rte_mbuf_ext_refcnt_read(&p->loan) == 1); /* no shell points at the caller's memory */
    return sent;
}

uint32_t kvn_dpdk_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                     uint32_t count)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    struct rte_mbuf *mbufs[KVN_BURST];
    uint32_t source[KVN_BURST]; /* of each mbuf: its packet's index */
    uint32_t built = 0, at = 0;

    if (!flush_late(p, now_ns))
        return 0;
    for (; at < count && built < KVN_BURST; ++at) {
        const struct kvn_tx_packet *packet = &packets[at];
        const uint32_t bytes = payload_bytes(packet);

        if (packet->to.family != 4 || bytes > p->port.payload_max) {
            ++p->port.tx_errors;
            continue;
        }
        if ((mbufs[built] = build(p, packet, bytes)) == NULL)
            break;
        source[built++] = at;
    }
    if (built == 0)
        return at;
    if (!p->vhost) {
        send_copies(p, now_ns, mbufs, built);
        return at;
    }

    const uint32_t sent = send_loans(p, mbufs, built);

    return sent == built ? at : source[sent];
}

/* The frame in m as a packet to this end. False: it is none, and m is still to be freed. */
static bool open_frame(struct kvn_dpdk_port *p, struct rte_mbuf *m, struct kvn_rx_packet *packet)
{
    struct kvn_ether_frame frame;

    /* A peer with larger packets than ours: its frame came in pieces that one buffer can't hold. */
    if (m->nb_segs > 1 && rte_pktmbuf_linearize(m) != 0)
        return false;
    if (kvn_ether_parse(&frame, rte_pktmbuf_mtod(m, const uint8_t *), m->data_len) != KVN_ETHER_OK)
        return false;
    if (frame.family != 4 || memcmp(frame.dst_ip, p->self.ip, sizeof(p->self.ip)) != 0 ||
        frame.dst_port != p->self.port)
        return false;
    *packet = (struct kvn_rx_packet){
        .bytes = frame.payload,
        .len = frame.payload_bytes,
        .from = {.family = 4, .port = frame.src_port},
    };
    memcpy(packet->from.ip, frame.src_ip, sizeof(frame.src_ip));
    packet->ecn = frame.ecn;
    return true;
}

uint32_t kvn_dpdk_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                     uint32_t max)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    uint32_t n = 0, got;

    rte_pktmbuf_free_bulk(p->lent, p->lent_count);
    p->lent_count = 0;
    (void)flush_late(p, now_ns);
    if (p->early_count != 0) {
        got = p->early_count < max ? p->early_count : max;
        memcpy(p->lent, p->early + p->early_at, got * sizeof(p->lent[0]));
        p->early_at += got;
        p->early_count -= got;
    } else {
        got = rte_eth_rx_burst(p->id, 0, p->lent, (uint16_t)max);
    }
    for (uint32_t i = 0; i < got; ++i)
        rte_prefetch0(rte_pktmbuf_mtod(p->lent[i], const void *));
    for (uint32_t i = 0; i < got; ++i) {
        struct rte_mbuf *m = p->lent[i];

        if (open_frame(p, m, &packets[n])) {
            p->lent[n++] = m;
        } else {
            ++p->rx_rejected;
            rte_pktmbuf_free(m);
        }
    }
    p->lent_count = n;
    return n;
}

uint64_t kvn_dpdk_deadline_ns(const struct kvn_port *port)
{
    const struct kvn_dpdk_port *p = (const struct kvn_dpdk_port *)port;

    if (p->early_count != 0)
        return 0;
    return p->late_count != 0 ? p->late_ns : UINT64_MAX;
}

void kvn_dpdk_drop_mbufs(struct kvn_dpdk_port *p)
{
    rte_pktmbuf_free_bulk(p->lent, p->lent_count);
    rte_pktmbuf_free_bulk(p->early + p->early_at, p->early_count);
    rte_pktmbuf_free_bulk(p->late + p->late_at, p->late_count);
    p->lent_count = p->early_count = p->late_count = 0;
}
