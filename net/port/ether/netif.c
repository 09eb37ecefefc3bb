/* SPDX-License-Identifier: Apache-2.0 */
/* netif.c - datagrams: where one goes, by the table of neighbours, and which are ours. */
#include "netif.h"

#include <string.h>

/* Flows are made anew so often, which shows the neighbour to be in use. */
#define FLOW_NS 1000000000ull

void kvn_netif_init(struct kvn_netif *n, const struct kvn_netif_config *cfg)
{
    memset(n, 0, sizeof(*n));
    n->cfg = *cfg;
    n->tick_ns = UINT64_MAX;
    for (uint32_t i = 0; i < cfg->neighbour_count && i < KVN_STATIC_MAX; ++i) {
        n->neighs[i].state = KVN_NEIGH_STATIC;
        n->neighs[i].ip = cfg->neighbours[i].ip;
        n->neighs[i].ip.port = 0;
        memcpy(n->neighs[i].mac, cfg->neighbours[i].mac, 6);
    }
}

/* Whom to give a frame for ip to: itself, or the gateway. */
static struct kvn_addr next_hop(const struct kvn_netif *n, const struct kvn_addr *to)
{
    const struct kvn_netif_ip *own = to->family == 4 ? &n->cfg.four : &n->cfg.six;
    struct kvn_addr hop = *to;

    hop.port = 0;
    for (uint32_t bit = 0; bit < own->prefix && own->has_gateway; ++bit) {
        const uint8_t mask = (uint8_t)(0x80u >> bit % 8);

        if ((own->ip[bit / 8] ^ to->ip[bit / 8]) & mask) {
            memcpy(hop.ip, own->gateway, sizeof(hop.ip));
            break;
        }
    }
    return hop;
}

static struct kvn_netif_flow *flow_slot(struct kvn_netif *n, const struct kvn_tx_packet *p)
{
    uint32_t x = p->to.port * 40503u + p->source * 7u;

    for (uint32_t i = 0; i < (p->to.family == 4 ? 4u : 16u); ++i)
        x = x * 31u + p->to.ip[i];
    return &n->flows[(x ^ x >> 7) % KVN_NETIF_FLOWS];
}

static void flow_fill(struct kvn_netif *n, struct kvn_netif_flow *f, const struct kvn_tx_packet *p,
                      const uint8_t *mac)
{
    const struct kvn_netif_ip *own = p->to.family == 4 ? &n->cfg.four : &n->cfg.six;
    struct kvn_addr from = {.family = p->to.family, .port = (uint16_t)(n->cfg.port + p->source)};
    const struct kvn_ether_route route = {.src_mac = n->cfg.mac,
                                          .dst_mac = mac,
                                          .vlan = n->cfg.vlan,
                                          .ecn = p->ecn & 3u,
                                          .from = &from,
                                          .to = &p->to};

    memcpy(from.ip, own->ip, sizeof(from.ip));
    f->to = p->to;
    f->source = p->source;
    f->ecn = p->ecn;
    kvn_ether_flow_make(&f->flow, &route);
}

kvn_netif_way kvn_netif_flow(struct kvn_netif *n, uint64_t now_ns, const struct kvn_tx_packet *p,
                             const struct kvn_ether_flow **flow)
{
    struct kvn_netif_flow *f = flow_slot(n, p);
    struct kvn_addr hop;
    struct kvn_neigh *e;

    if (now_ns < f->until_ns && f->source == p->source && f->ecn == p->ecn &&
        kvn_addr_equal(&f->to, &p->to)) {
        *flow = &f->flow;
        return KVN_NETIF_GO;
    }
    if ((p->to.family != 4 || !n->cfg.four.set) && (p->to.family != 6 || !n->cfg.six.set))
        return KVN_NETIF_NOWHERE;
    if (p->source >= n->cfg.source_count)
        return KVN_NETIF_NOWHERE;
    hop = next_hop(n, &p->to);
    e = kvn_netif_neigh(n, now_ns, &hop);
    if (e->state == KVN_NEIGH_SILENT)
        return KVN_NETIF_NOWHERE;
    if (e->state == KVN_NEIGH_ASKING)
        return KVN_NETIF_ASKING;
    e->used = true;
    flow_fill(n, f, p, e->mac);
    f->until_ns = now_ns + FLOW_NS;
    *flow = &f->flow;
    return KVN_NETIF_GO;
}

/* Whether a frame to this MAC can be for us: ours, everybody's, or IPv6's groups. */
static bool mac_is_ours(const struct kvn_netif *n, const uint8_t *mac)
{
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    return memcmp(mac, n->cfg.mac, 6) == 0 || memcmp(mac, all, 6) == 0 ||
           (mac[0] == 0x33 && mac[1] == 0x33);
}

/* No datagram, perhaps a question or an answer. */
static void rx_other(struct kvn_netif *n, uint64_t now_ns, const struct kvn_netif_in *in)
{
    const uint8_t *bytes = in->bytes;
    const uint32_t len = in->len;
    uint32_t at = 14;
    uint16_t type = kvn_load_be16(bytes + 12), vlan = in->tag;

    if (type == KVN_ETHERTYPE_VLAN && len >= 18) {
        vlan = kvn_load_be16(bytes + 14) & 0xfffu;
        type = kvn_load_be16(bytes + 16);
        at = 18;
    }
    if (vlan != n->cfg.vlan)
        ++n->stats.not_ours;
    else if (type == KVN_ETHERTYPE_ARP)
        kvn_netif_arp(n, now_ns, bytes + at, len - at);
    else if (type == KVN_ETHERTYPE_IP6)
        kvn_netif_icmp6(n, now_ns, bytes + at, len - at);
    else
        ++n->stats.not_ours;
}

bool kvn_netif_rx(struct kvn_netif *n, uint64_t now_ns, const struct kvn_netif_in *in,
                  struct kvn_rx_packet *packet)
{
    struct kvn_ether_frame f;
    kvn_ether_verdict v;
    const struct kvn_netif_ip *own;

    if (in->len < 14 || !mac_is_ours(n, in->bytes)) {
        ++n->stats.not_ours;
        return false;
    }
    v = kvn_ether_parse(&f, in->bytes, in->len);
    if (v == KVN_ETHER_LENGTH || v == KVN_ETHER_CUT || v == KVN_ETHER_CHECKSUM) {
        ++n->stats.malformed;
        n->stats.cut += v == KVN_ETHER_CUT;
        return false;
    }
    if (v != KVN_ETHER_OK) {
        rx_other(n, now_ns, in);
        return false;
    }
    own = f.family == 4 ? &n->cfg.four : &n->cfg.six;
    if (!own->set || memcmp(f.dst_ip, own->ip, sizeof(f.dst_ip)) != 0 ||
        (f.vlan != 0 ? f.vlan : in->tag) != n->cfg.vlan || f.dst_port < n->cfg.port ||
        f.dst_port - n->cfg.port >= n->cfg.source_count) {
        ++n->stats.not_ours;
        return false;
    }
    *packet = (struct kvn_rx_packet){
        .bytes = f.payload,
        .len = f.payload_bytes,
        .source = (uint8_t)(f.dst_port - n->cfg.port),
        .ecn = f.ecn,
        .from = {.family = f.family, .port = f.src_port},
    };
    memcpy(packet->from.ip, f.src_ip, sizeof(f.src_ip));
    return true;
}

const uint8_t *kvn_netif_out(const struct kvn_netif *n, uint32_t *bytes)
{
    if (n->out_count == 0)
        return NULL;
    *bytes = n->out_bytes[n->out_at];
    return n->out[n->out_at];
}

void kvn_netif_out_sent(struct kvn_netif *n)
{
    n->out_at = (n->out_at + 1) % KVN_NETIF_OUT_MAX;
    --n->out_count;
}
