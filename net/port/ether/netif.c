/* SPDX-License-Identifier: Apache-2.0 */
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

static struct kvn_neigh *neigh_find(struct kvn_netif *n, const struct kvn_addr *ip)
{
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i)
        if (n->neighs[i].state != KVN_NEIGH_FREE && kvn_addr_equal(&n->neighs[i].ip, ip))
            return &n->neighs[i];
    return NULL;
}

/* A free entry, or the one whose state is oldest of those that nobody configured. */
static struct kvn_neigh *neigh_take(struct kvn_netif *n, const struct kvn_addr *ip)
{
    struct kvn_neigh *best = NULL;

    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i) {
        struct kvn_neigh *e = &n->neighs[i];

        if (e->state == KVN_NEIGH_STATIC)
            continue;
        if (e->state == KVN_NEIGH_FREE) {
            best = e;
            break;
        }
        if (best == NULL || e->since_ns < best->since_ns)
            best = e;
    }
    /* There are more entries than static neighbours, so there is one. */
    *best = (struct kvn_neigh){.ip = *ip, .next_ns = UINT64_MAX};
    return best;
}

static void forget_flows(struct kvn_netif *n)
{
    for (uint32_t i = 0; i < KVN_NETIF_FLOWS; ++i)
        n->flows[i].until_ns = 0;
}

static void schedule(struct kvn_netif *n)
{
    n->tick_ns = UINT64_MAX;
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i) {
        const struct kvn_neigh *e = &n->neighs[i];

        if (e->state != KVN_NEIGH_FREE && e->state != KVN_NEIGH_STATIC && e->next_ns < n->tick_ns)
            n->tick_ns = e->next_ns;
    }
}

void kvn_netif_learn(struct kvn_netif *n, uint64_t now_ns, const struct kvn_addr *ip,
                     const uint8_t mac[6], bool asked)
{
    struct kvn_neigh *e = neigh_find(n, ip);

    if ((e == NULL && asked) || (e != NULL && e->state == KVN_NEIGH_STATIC))
        return;
    if (e == NULL)
        e = neigh_take(n, ip);
    if (e->state != KVN_NEIGH_KNOWN || memcmp(e->mac, mac, 6) != 0)
        forget_flows(n);
    e->state = KVN_NEIGH_KNOWN;
    e->used = false;
    memcpy(e->mac, mac, 6);
    e->since_ns = now_ns;
    e->next_ns = now_ns + KVN_NEIGH_FRESH_NS;
    schedule(n);
}

static void neigh_tick(struct kvn_netif *n, uint64_t now_ns, struct kvn_neigh *e)
{
    switch (e->state) {
    case KVN_NEIGH_ASKING:
        if (now_ns - e->since_ns >= KVN_NEIGH_ASK_NS) {
            e->state = KVN_NEIGH_SILENT;
            e->since_ns = now_ns;
            e->next_ns = now_ns + KVN_NEIGH_SILENT_NS;
            ++n->stats.unanswered;
        } else {
            e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
            kvn_netif_ask(n, &e->ip, NULL);
        }
        break;
    case KVN_NEIGH_KNOWN:
        if (now_ns - e->since_ns >= KVN_NEIGH_FRESH_NS + KVN_NEIGH_ASK_NS) {
            e->state = KVN_NEIGH_ASKING;
            e->since_ns = e->next_ns = now_ns;
            forget_flows(n);
        } else if (e->used) {
            e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
            kvn_netif_ask(n, &e->ip, e->mac);
        } else {
            e->state = KVN_NEIGH_FREE; /* nobody needs it */
        }
        break;
    case KVN_NEIGH_SILENT:
        e->state = KVN_NEIGH_FREE;
        break;
    default:
        break;
    }
}

void kvn_netif_tick(struct kvn_netif *n, uint64_t now_ns)
{
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i)
        if (n->neighs[i].next_ns <= now_ns)
            neigh_tick(n, now_ns, &n->neighs[i]);
    schedule(n);
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
    if ((e = neigh_find(n, &hop)) == NULL) {
        e = neigh_take(n, &hop);
        e->state = KVN_NEIGH_ASKING;
        e->since_ns = now_ns;
        e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
        kvn_netif_ask(n, &hop, NULL);
        schedule(n);
    }
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
