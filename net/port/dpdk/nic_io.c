/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets through a device with addresses of its own. A body goes one of three ways (enum
 * kvn_dpdk_body); with COPY and DMA the device keeps the mbuf after tx_burst, so once built a
 * packet counts as taken, and waits in p->late if the ring is full.
 */
#include <assert.h>
#include <string.h>

#include <rte_ethdev.h>
#include <rte_ip.h>

#include "nic_impl.h"

/* Bodies up to this long are cheaper to copy behind the head than to borrow. */
#define COPY_MAX 256u
/* How soon rx() should try again to get rid of p->late. */
#define LATE_RETRY_NS 100000u

static uint32_t payload_bytes(const struct kvn_tx_packet *packet)
{
    uint64_t bytes = packet->head_bytes;

    for (uint32_t i = 0; i < packet->body_count; ++i)
        bytes += packet->body[i].bytes;
    return bytes <= KVN_ETHER_PAYLOAD_MAX ? (uint32_t)bytes : UINT32_MAX;
}

/* Whether the device can read it where it lies, also after tx() has returned. */
static bool is_dma_memory(const struct kvn_dpdk_nic *p, const struct kvw_iov *piece, rte_iova_t *io)
{
    const char *base = piece->base;
    const struct rte_memseg_list *list = rte_mem_virt2memseg_list(base);

    if (list == NULL || list->external || rte_mem_virt2memseg_list(base + piece->bytes - 1) != list)
        return false;
    *io = p->va_is_iova ? (rte_iova_t)(uintptr_t)base : rte_mem_virt2iova(base);
    return *io != RTE_BAD_IOVA &&
           (p->va_is_iova || rte_mem_virt2iova(base + piece->bytes - 1) == *io + piece->bytes - 1);
}

/* One shell after m for each piece of the body. False: there are no shells, or it can't be read. */
static bool borrow_body(struct kvn_dpdk_nic *p, struct rte_mbuf *m,
                        const struct kvn_tx_packet *packet)
{
    struct rte_mbuf *last = m;

    for (uint32_t i = 0; i < packet->body_count; ++i) {
        const struct kvw_iov *piece = &packet->body[i];
        void *const base = (void *)(uintptr_t)piece->base; /* a device only reads it */
        rte_iova_t io = (rte_iova_t)(uintptr_t)base;
        struct rte_mbuf *s;

        if (piece->bytes == 0)
            continue;
        if ((p->body == KVN_DPDK_BODY_DMA && !is_dma_memory(p, piece, &io)) ||
            (s = rte_pktmbuf_alloc(p->shell)) == NULL)
            return false;
        rte_mbuf_ext_refcnt_update(&p->loan, 1);
        rte_pktmbuf_attach_extbuf(s, base, io, (uint16_t)piece->bytes, &p->loan);
        s->data_len = (uint16_t)piece->bytes;
        last->next = s;
        last = s;
        ++m->nb_segs;
        m->pkt_len += piece->bytes;
    }
    return true;
}

static void unborrow(struct rte_mbuf *m, uint32_t head_bytes)
{
    rte_pktmbuf_free(m->next);
    m->next = NULL;
    m->nb_segs = 1;
    m->pkt_len = m->data_len = (uint16_t)head_bytes;
}

static void copy_in(struct rte_mbuf *m, const void *bytes, uint32_t len)
{
    memcpy(rte_pktmbuf_mtod_offset(m, uint8_t *, m->data_len), bytes, len);
    m->data_len = (uint16_t)(m->data_len + len);
    m->pkt_len = m->data_len;
}

/* Room for headers of hdr_bytes, then the packet. NULL: the pool is dry for now. */
static struct rte_mbuf *build(struct kvn_dpdk_nic *p, const struct kvn_tx_packet *packet,
                              uint32_t hdr_bytes, uint32_t bytes, bool may_borrow)
{
    struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);

    if (m == NULL) {
        ++p->tx_no_mbuf;
        return NULL;
    }
    m->data_len = (uint16_t)hdr_bytes;
    copy_in(m, packet->head, packet->head_bytes);
    if (may_borrow && p->body != KVN_DPDK_BODY_COPY && bytes - packet->head_bytes > COPY_MAX) {
        if (borrow_body(p, m, packet))
            return m;
        unborrow(m, hdr_bytes + packet->head_bytes);
    }
    for (uint32_t i = 0; i < packet->body_count; ++i)
        copy_in(m, packet->body[i].base, packet->body[i].bytes);
    return m;
}

/* Whether software must make the UDP checksum of packets to there. */
static bool sums_by_software(const struct kvn_dpdk_nic *p, uint8_t family)
{
    return family == 4 ? p->tx_flags4 == 0 && p->checksum : p->tx_flags6 == 0;
}

/* Of a packet in one piece: DPDK 22.11's sum over several is wrong after one of odd length. */
static uint16_t udp_checksum(const struct rte_mbuf *m, uint32_t udp_at, uint16_t pseudo)
{
    uint32_t sum = pseudo;

    assert(m->nb_segs == 1);
    sum += rte_raw_cksum(rte_pktmbuf_mtod_offset(m, const uint8_t *, udp_at), m->data_len - udp_at);
    sum = (uint16_t) ~((sum & 0xffffu) + (sum >> 16));
    return sum != 0 ? (uint16_t)sum : 0xffff; /* 0 would mean "none" */
}

/* The headers at the start of m, which has room for them, and who makes the checksums. */
static void finish(const struct kvn_dpdk_nic *p, struct rte_mbuf *m,
                   const struct kvn_ether_flow *flow)
{
    uint8_t *at = rte_pktmbuf_mtod(m, uint8_t *);
    uint8_t *ip = at + flow->ip_at;
    const uint32_t udp_at = flow->bytes - 8u;
    const uint64_t flags = flow->family == 4 ? p->tx_flags4 : p->tx_flags6;
    uint16_t sum;

    kvn_ether_flow_put(flow, at, m->pkt_len - flow->bytes);
    if (flags == 0 && !sums_by_software(p, flow->family))
        return;
    sum = flow->family == 4
              ? rte_ipv4_phdr_cksum((const struct rte_ipv4_hdr *)(const void *)ip, flags)
              : rte_ipv6_phdr_cksum((const struct rte_ipv6_hdr *)(const void *)ip, flags);
    if (flags != 0) {
        m->l2_len = flow->ip_at;
        m->l3_len = udp_at - flow->ip_at;
        m->ol_flags |= flags;
        if ((flags & RTE_MBUF_F_TX_IP_CKSUM) != 0)
            kvn_store_be16(ip + 10, 0);
        /* The pseudo header's is what a device expects in the place; virtio and NICs alike. */
    } else {
        sum = udp_checksum(m, udp_at, sum);
    }
    memcpy(at + udp_at + 6, &sum, 2);
}

/* Whether a burst may touch the device; if so, gate_close() comes after it. */
static bool gate_open(struct kvn_dpdk_nic *p)
{
    if (p->gate == NULL)
        return true;
    pthread_mutex_lock(&p->gate->lock);
    if (!atomic_load(&p->gate->shut))
        return true;
    pthread_mutex_unlock(&p->gate->lock);
    return false;
}

static void gate_close(struct kvn_dpdk_nic *p)
{
    if (p->gate != NULL)
        pthread_mutex_unlock(&p->gate->lock);
}

uint32_t kvn_dpdk_nic_take(struct kvn_dpdk_nic *p, struct rte_mbuf **mbufs, uint32_t max)
{
    uint32_t n;

    if (!gate_open(p))
        return 0;
    n = rte_eth_rx_burst(p->id, p->queue, mbufs, (uint16_t)max);
    gate_close(p);
    return n;
}

/* Into the ring, the first of them; the rest is still the caller's. */
static uint32_t burst(struct kvn_dpdk_nic *p, struct rte_mbuf **mbufs, uint32_t count)
{
    uint16_t n = (uint16_t)count;

    if (!gate_open(p))
        return 0;
    if (p->tx_prepare)
        n = rte_eth_tx_prepare(p->id, p->queue, mbufs, n);
    n = rte_eth_tx_burst(p->id, p->queue, mbufs, n);
    gate_close(p);
    return n;
}

/* Put what waits into the ring. True: nothing waits any more. */
static bool flush_late(struct kvn_dpdk_nic *p, uint64_t now_ns)
{
    if (p->late_count != 0) {
        const uint32_t n = burst(p, p->late + p->late_at, p->late_count);

        p->late_at += n;
        p->late_count -= n;
        p->late_ns = now_ns + LATE_RETRY_NS;
    }
    return p->late_count == 0;
}

static void defer(struct kvn_dpdk_nic *p, uint64_t now_ns, struct rte_mbuf **mbufs, uint32_t count)
{
    p->late_at = 0;
    p->late_count = count;
    p->late_ns = now_ns + LATE_RETRY_NS;
    p->tx_deferred += count;
    memcpy(p->late, mbufs, count * sizeof(mbufs[0]));
}

/* One mbuf by itself: a control frame, or a packet that was held. Only when nothing is late. */
static void send_one(struct kvn_dpdk_nic *p, uint64_t now_ns, struct rte_mbuf *m)
{
    if (burst(p, &m, 1) == 0)
        defer(p, now_ns, &m, 1);
}

/* Questions and answers that wait to be sent. */
static void send_control(struct kvn_dpdk_nic *p, uint64_t now_ns)
{
    const uint8_t *frame;
    uint32_t bytes;

    while (p->late_count == 0 && (frame = kvn_netif_out(&p->netif, &bytes)) != NULL) {
        struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);

        if (m == NULL) {
            ++p->tx_no_mbuf;
            return;
        }
        copy_in(m, frame, bytes);
        send_one(p, now_ns, m);
        kvn_netif_out_sent(&p->netif);
    }
}

/* Keep a packet until its neighbour has answered; the last room is somebody else's. */
static void hold(struct kvn_dpdk_nic *p, const struct kvn_tx_packet *packet, uint32_t bytes)
{
    struct kvn_dpdk_held *h = p->held;
    const uint32_t hdr = packet->to.family == 4 ? KVN_ETHER_HDR_BYTES : KVN_ETHER_HDR_BYTES + 20u;

    while (h < p->held + KVN_DPDK_HELD_MAX && h->m != NULL)
        ++h;
    if (h == p->held + KVN_DPDK_HELD_MAX ||
        (h->m = build(p, packet, hdr + (p->netif.cfg.vlan != 0 ? 4u : 0u), bytes, false)) == NULL) {
        ++p->tx_unresolved;
        return;
    }
    h->packet =
        (struct kvn_tx_packet){.to = packet->to, .source = packet->source, .ecn = packet->ecn};
    ++p->held_count;
}

/* Send those whose neighbour is known by now; drop those that go nowhere. */
static void send_held(struct kvn_dpdk_nic *p, uint64_t now_ns)
{
    for (uint32_t i = 0; i < KVN_DPDK_HELD_MAX && p->held_count != 0 && p->late_count == 0; ++i) {
        struct kvn_dpdk_held *h = &p->held[i];
        const struct kvn_ether_flow *flow;
        kvn_netif_way way;

        if (h->m == NULL)
            continue;
        way = kvn_netif_flow(&p->netif, now_ns, &h->packet, &flow);
        if (way == KVN_NETIF_ASKING)
            continue;
        if (way == KVN_NETIF_GO) {
            finish(p, h->m, flow);
            send_one(p, now_ns, h->m);
        } else {
            ++p->port.tx_errors;
            rte_pktmbuf_free(h->m);
        }
        h->m = NULL;
        --p->held_count;
    }
}

static void do_chores(struct kvn_dpdk_nic *p, uint64_t now_ns)
{
    if (now_ns >= p->netif.tick_ns)
        kvn_netif_tick(&p->netif, now_ns);
    if (p->netif.out_count != 0)
        send_control(p, now_ns);
    if (p->held_count != 0)
        send_held(p, now_ns);
}

/* The mbuf for a packet that can go now; NULL: it is dealt with otherwise, or *full is set. */
static struct rte_mbuf *prepare(struct kvn_dpdk_nic *p, uint64_t now_ns,
                                const struct kvn_tx_packet *packet, bool *full)
{
    const uint32_t bytes = payload_bytes(packet);
    const struct kvn_ether_flow *flow;
    struct rte_mbuf *m;

    if (bytes > p->port.payload_max) {
        ++p->port.tx_errors;
        return NULL;
    }
    switch (kvn_netif_flow(&p->netif, now_ns, packet, &flow)) {
    case KVN_NETIF_GO:
        break;
    case KVN_NETIF_ASKING:
        hold(p, packet, bytes);
        return NULL;
    default:
        ++p->port.tx_errors;
        return NULL;
    }
    if ((m = build(p, packet, flow->bytes, bytes, !sums_by_software(p, packet->to.family))) ==
        NULL) {
        *full = true;
        return NULL;
    }
    finish(p, m, flow);
    return m;
}

uint32_t kvn_dpdk_nic_tx(struct kvn_port *port, uint64_t now_ns,
                         const struct kvn_tx_packet *packets, uint32_t count)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;
    struct rte_mbuf *mbufs[KVN_BURST];
    uint32_t source[KVN_BURST]; /* of each mbuf: its packet's index */
    uint32_t built = 0, at = 0, sent;
    bool full = false;

    if (!flush_late(p, now_ns))
        return 0;
    for (; at < count && built < KVN_BURST; ++at) {
        struct rte_mbuf *m = prepare(p, now_ns, &packets[at], &full);

        if (full)
            break;
        if (m == NULL)
            continue;
        mbufs[built] = m;
        source[built++] = at;
    }
    if (built == 0) {
        do_chores(p, now_ns); /* a question may have been asked */
        return at;
    }
    sent = burst(p, mbufs, built);
    if (p->body != KVN_DPDK_BODY_BORROW && sent != built) {
        defer(p, now_ns, mbufs + sent, built - sent);
        return at;
    }
    if (sent != built)
        rte_pktmbuf_free_bulk(mbufs + sent, built - sent);
    else
        do_chores(p, now_ns);
    assert(p->body != KVN_DPDK_BODY_BORROW ||
           rte_mbuf_ext_refcnt_read(&p->loan) == 1); /* no shell points at the caller's memory */
    return sent == built ? at : source[sent];
}

/* The frame in m as a packet to this end. False: it is none, and m is still to be freed. */
static bool open_frame(struct kvn_dpdk_nic *p, uint64_t now_ns, struct rte_mbuf *m,
                       struct kvn_rx_packet *packet)
{
    const uint64_t wrong = RTE_MBUF_F_RX_IP_CKSUM_MASK | RTE_MBUF_F_RX_L4_CKSUM_MASK;
    const uint64_t sums = m->ol_flags & wrong;
    struct kvn_netif_in in;

    if ((sums & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD ||
        (sums & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_BAD ||
        (m->nb_segs > 1 && rte_pktmbuf_linearize(m) != 0)) {
        ++p->rx_rejected;
        return false;
    }
    in = (struct kvn_netif_in){.bytes = rte_pktmbuf_mtod(m, const uint8_t *), .len = m->data_len};
    if (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED)
        in.tag = m->vlan_tci & 0xfffu;
    return kvn_netif_rx(&p->netif, now_ns, &in, packet);
}

uint32_t kvn_dpdk_nic_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                         uint32_t max)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;
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
        got = kvn_dpdk_nic_take(p, p->lent, max);
    }
    for (uint32_t i = 0; i < got; ++i)
        rte_prefetch0(rte_pktmbuf_mtod(p->lent[i], const void *));
    for (uint32_t i = 0; i < got; ++i) {
        struct rte_mbuf *m = p->lent[i];

        if (open_frame(p, now_ns, m, &packets[n]))
            p->lent[n++] = m;
        else
            rte_pktmbuf_free(m);
    }
    p->lent_count = n;
    do_chores(p, now_ns);
    return n;
}

uint64_t kvn_dpdk_nic_deadline_ns(const struct kvn_port *port)
{
    const struct kvn_dpdk_nic *p = (const struct kvn_dpdk_nic *)port;
    uint64_t at = p->netif.tick_ns;

    if (p->early_count != 0)
        return 0;
    if ((p->late_count != 0 || p->netif.out_count != 0) && p->late_ns < at)
        at = p->late_ns;
    return at;
}

void kvn_dpdk_nic_drop_mbufs(struct kvn_dpdk_nic *p)
{
    rte_pktmbuf_free_bulk(p->lent, p->lent_count);
    rte_pktmbuf_free_bulk(p->early + p->early_at, p->early_count);
    rte_pktmbuf_free_bulk(p->late + p->late_at, p->late_count);
    p->lent_count = p->early_count = p->late_count = 0;
    for (uint32_t i = 0; i < KVN_DPDK_HELD_MAX; ++i) {
        rte_pktmbuf_free(p->held[i].m);
        p->held[i].m = NULL;
    }
    p->held_count = 0;
}
