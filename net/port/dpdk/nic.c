/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing a device with addresses of its own. */
#include "nic.h"

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>

#include "eal.h"
#include "ifc.h"
#include "job.h"
#include "nic_impl.h"

#define CACHE 64u
/* From one start to the next of a driver that looks for its peer only then. */
#define AGAIN_NS 5000000l

static const struct kvn_port_ops ops;

/* The first error is the cause; those after it are callers giving up. */
static void reason(uint64_t mark, int rc, char *text, size_t bytes)
{
    if (!kvn_dpdk_log_error(mark, "No valid MAC", text, bytes))
        snprintf(text, bytes, "%s", rte_strerror(rc < 0 ? -rc : rte_errno));
}

kvw_err kvn_dpdk_nic_attach(const char *kind, const char *bus, const char *device, const char *args,
                            char why[KVN_WHY_BYTES])
{
    const uint64_t mark = kvn_dpdk_log_mark();
    char text[128];
    sigset_t before;
    uint16_t id;
    int rc;

    if (rte_eth_dev_get_port_by_name(device, &id) == 0)
        return KVW_OK;               /* EAL found it when it started */
    kvn_dpdk_signals_block(&before); /* drivers start threads, and write to sockets */
    rc = rte_eal_hotplug_add(bus, device, args != NULL ? args : "");
    kvn_dpdk_signals_restore(&before);
    if (rc == 0 && rte_eth_dev_get_port_by_name(device, &id) == 0)
        return KVW_OK;
    if (rc == 0) {
        (void)rte_eal_hotplug_remove(bus, device);
        rc = -ENODEV;
    }
    reason(mark, rc, text, sizeof(text));
    snprintf(why, KVN_WHY_BYTES, "dpdk: can't make %s device %s: %s", kind, device, text);
    return KVW_E_DEVICE;
}

struct stopping {
    uint16_t id;
    sem_t done;
};

static void stop_alarm(void *arg)
{
    struct stopping *s = arg;

    (void)rte_eth_dev_stop(s->id);
    sem_post(&s->done);
}

/* A driver whose own thread takes things away (a gate says so) is stopped in that thread, where it
 * can't be at it. */
static void stop(struct kvn_dpdk_nic *p)
{
    struct stopping s = {.id = p->id};

    sem_init(&s.done, 0, 0);
    if (p->gate != NULL && rte_eal_alarm_set(1, stop_alarm, &s) == 0) {
        while (sem_wait(&s.done) != 0)
            ;
    } else {
        (void)rte_eth_dev_stop(p->id);
    }
    sem_destroy(&s.done);
}

static void detach(struct kvn_dpdk_nic *p)
{
    struct rte_eth_dev_info info;
    struct rte_device *device = NULL;

    if (rte_eth_dev_info_get(p->id, &info) == 0)
        device = info.device;
    if (p->started)
        stop(p);
    (void)rte_eth_dev_close(p->id);
    if (device != NULL)
        (void)rte_dev_remove(device);
}

static void port_free(struct kvn_dpdk_nic *p)
{
    sigset_t before;

    kvn_dpdk_nic_drop_mbufs(p);
    kvn_dpdk_signals_block(&before);
    if (p->found)
        detach(p);
    kvn_dpdk_signals_restore(&before);
    if (p->sock_fd >= 0)
        kvn_dpdk_ifc_close_left(p->sock_fd);
    if (p->own_pool)
        rte_mempool_free(p->pool);
    rte_mempool_free(p->shell);
    if (p->release != NULL)
        p->release(p->release_arg);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    if (p->entered)
        kvn_dpdk_thread_leave();
    free(p);
}

static kvw_err no_buffers(const struct kvn_dpdk_nic_config *cfg, uint32_t count, uint32_t room,
                          char why[KVN_WHY_BYTES])
{
    if (rte_errno == EINVAL) { /* an operation that mempools don't know */
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: no driver for buffer pools is here (Debian's librte-mempool-ring23)");
        return KVW_E_DEVICE;
    }
    snprintf(why, KVN_WHY_BYTES,
             "dpdk: %s: no memory for %u buffers of %u bytes (%s); make ring or mtu smaller%s",
             cfg->kind, count, room, rte_strerror(rte_errno),
             rte_eal_has_hugepages() ? ", or give it more hugepages" : "");
    return KVW_E_NOMEM;
}

/*
 * Buffers: what both rings can hold, a mempool's cache (it keeps up to 1.5 times its size), and
 * what the port holds: lent, early, late, a burst being built, and those held.
 */
struct rte_mempool *kvn_dpdk_nic_pool(const struct kvn_dpdk_nic_config *cfg, uint32_t ports,
                                      char why[KVN_WHY_BYTES])
{
    static _Atomic unsigned pools;
    const uint32_t each = 2 * cfg->ring + 2 * CACHE + 4 * KVN_BURST + KVN_DPDK_HELD_MAX;
    const uint32_t count = (each > cfg->pool_least ? each : cfg->pool_least) * ports;
    /* A driver may round a buffer down to a multiple of 1 KiB; Ethernet's header, a tag, and what
     * af_packet's frames are longer on top. */
    const uint32_t fits = (cfg->mtu + 96u + 1023u) / 1024u * 1024u;
    const uint32_t room =
        RTE_PKTMBUF_HEADROOM + (cfg->buffer_bytes != 0 ? cfg->buffer_bytes : fits);
    struct rte_mempool *pool;
    char name[RTE_MEMPOOL_NAMESIZE];

    if (room > UINT16_MAX) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s: an MTU of %u doesn't fit a buffer", cfg->kind,
                 cfg->mtu);
        return NULL;
    }
    snprintf(name, sizeof(name), "kvp%u", atomic_fetch_add(&pools, 1));
    pool = rte_pktmbuf_pool_create(name, count, CACHE, 0, (uint16_t)room, SOCKET_ID_ANY);
    if (pool == NULL)
        (void)no_buffers(cfg, count, room, why);
    return pool;
}

static kvw_err make_pools(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                          char why[KVN_WHY_BYTES])
{
    const uint32_t shells = cfg->ring + 2 * CACHE + 2 * KVN_BURST;
    char name[RTE_MEMPOOL_NAMESIZE];

    p->pool = cfg->pool;
    if (p->pool == NULL) {
        p->own_pool = true;
        if ((p->pool = kvn_dpdk_nic_pool(cfg, 1, why)) == NULL)
            return rte_errno == EINVAL ? KVW_E_DEVICE : KVW_E_NOMEM;
    }
    if (cfg->body == KVN_DPDK_BODY_COPY)
        return KVW_OK;
    snprintf(name, sizeof(name), "kvq%p", (void *)p);
    p->shell = rte_pktmbuf_pool_create(name, shells, CACHE, 0, 0, SOCKET_ID_ANY);
    return p->shell != NULL ? KVW_OK : no_buffers(cfg, shells, 0, why);
}

/* Which of the device's abilities are used; said in p->path. */
static void choose_offloads(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                            const struct rte_eth_dev_info *info, struct rte_eth_conf *conf)
{
    const uint64_t tx = cfg->offloads ? info->tx_offload_capa : 0;
    const uint64_t rx = cfg->offloads ? info->rx_offload_capa : 0;
    const bool udp = (tx & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
    const bool ip = (tx & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
    static const char *const bodies[] = {"copied", "borrowed", "read in place from EAL memory"};

    conf->rxmode.offloads = rx & RTE_ETH_RX_OFFLOAD_CHECKSUM;
    conf->txmode.offloads = tx & (RTE_ETH_TX_OFFLOAD_UDP_CKSUM | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
    if (p->body == KVN_DPDK_BODY_DMA) {
        if (tx & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
            conf->txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
        else
            p->body = KVN_DPDK_BODY_COPY;
    }
    if (udp) {
        p->tx_flags4 =
            RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_UDP_CKSUM | (ip ? RTE_MBUF_F_TX_IP_CKSUM : 0);
        p->tx_flags6 = RTE_MBUF_F_TX_IPV6 | RTE_MBUF_F_TX_UDP_CKSUM;
        p->tx_prepare = true;
    }
    snprintf(p->path, sizeof(p->path),
             "%s %s: bodies %s; UDP checksums by %s; IPv4 header's by %s; received ones %s",
             cfg->kind, cfg->device, bodies[p->body],
             udp             ? "the device"
             : cfg->checksum ? "software"
                             : "software in IPv6, none in IPv4",
             udp && ip ? "the device" : "software",
             conf->rxmode.offloads != 0 ? "checked by the device" : "left to the packets' digest");
}

struct set_up {
    const char *step; /* that failed */
    int rc;
    bool interrupts, can_start; /* can_start: only the start failed */
};

static int queues(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                  const struct rte_eth_dev_info *info, const struct rte_eth_conf *conf)
{
    struct rte_eth_txconf tx = info->default_txconf;
    uint16_t rx_ring = (uint16_t)cfg->ring, tx_ring = (uint16_t)cfg->ring;
    int rc;

    if ((rc = rte_eth_dev_adjust_nb_rx_tx_desc(p->id, &rx_ring, &tx_ring)) < 0)
        return rc;
    if (rx_ring > cfg->ring || tx_ring > cfg->ring)
        return -ENOBUFS; /* the pool was made for cfg->ring */
    tx.offloads = conf->txmode.offloads;
    for (uint16_t q = 0; q < cfg->queues; ++q)
        if ((rc = rte_eth_rx_queue_setup(p->id, q, rx_ring, SOCKET_ID_ANY, NULL, p->pool)) < 0 ||
            (rc = rte_eth_tx_queue_setup(p->id, q, tx_ring, SOCKET_ID_ANY, &tx)) < 0)
            return rc;
    return 0;
}

static int start(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg)
{
    int rc;

    if (cfg->given_up != NULL)
        p->given_up = atomic_load(cfg->given_up);
    rc = rte_eth_dev_start(p->id);
    p->started = rc >= 0;
    return rc;
}

/* Configure with what the driver can do; receive interrupts if it has them. */
static struct set_up configure(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg)
{
    struct set_up s = {.step = "ask"};
    struct rte_eth_dev_info info;
    struct rte_eth_conf conf = {0};
    const uint16_t n = (uint16_t)cfg->queues;

    if ((s.rc = rte_eth_dev_info_get(p->id, &info)) < 0)
        return s;
    s.step = "give that many queues to";
    if (n > info.max_rx_queues || n > info.max_tx_queues) {
        s.rc = -ERANGE;
        return s;
    }
    choose_offloads(p, cfg, &info, &conf);
    if (cfg->set_mtu)
        conf.rxmode.mtu = cfg->mtu;
    s.step = cfg->set_mtu && (cfg->mtu > info.max_mtu || cfg->mtu < info.min_mtu)
                 ? "give that MTU to"
                 : "set up";
    conf.intr_conf.rxq = cfg->wake_fd < 0 && cfg->sockets == NULL;
    s.rc = rte_eth_dev_configure(p->id, n, n, &conf);
    s.interrupts = conf.intr_conf.rxq;
    if (s.rc < 0 && conf.intr_conf.rxq) {
        conf.intr_conf.rxq = 0;
        s.interrupts = false;
        s.rc = rte_eth_dev_configure(p->id, n, n, &conf);
    }
    if (s.rc < 0)
        return s;
    s.step = "make the rings of";
    if ((s.rc = queues(p, cfg, &info, &conf)) < 0)
        return s;
    s.step = "start";
    s.can_start = true;
    s.rc = start(p, cfg);
    if (s.rc < 0 && s.interrupts) { /* drivers say so late: uio_pci_generic has none per queue */
        conf.intr_conf.rxq = 0;
        s.interrupts = false;
        if ((s.rc = rte_eth_dev_configure(p->id, n, n, &conf)) == 0 &&
            (s.rc = queues(p, cfg, &info, &conf)) == 0)
            s.rc = start(p, cfg);
        else
            s.can_start = false;
    }
    return s;
}

static kvw_err bring_up(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                        char why[KVN_WHY_BYTES])
{
    const uint64_t mark = kvn_dpdk_log_mark();
    struct set_up s;
    sigset_t before;
    char text[96];
    int wake_fd;

    kvn_dpdk_signals_block(&before);
    s = configure(p, cfg);
    kvn_dpdk_signals_restore(&before);
    if (s.rc < 0 && (cfg->given_up == NULL || !s.can_start)) {
        reason(mark, s.rc, text, sizeof(text));
        snprintf(why, KVN_WHY_BYTES, "dpdk: can't %s %s device %s (mtu %u, ring %u, queues %u): %s",
                 s.step, cfg->kind, cfg->device, cfg->mtu, cfg->ring, cfg->queues, text);
        return KVW_E_DEVICE;
    }
    /* Frames to IPv6's groups; a driver that can't choose gives all of them, or says so. */
    if (cfg->net.six.set && rte_eth_allmulticast_enable(p->id) != 0)
        (void)rte_eth_promiscuous_enable(p->id);
    if (cfg->promiscuous)
        (void)rte_eth_promiscuous_enable(p->id);
    wake_fd = cfg->wake_fd;
    if (cfg->sockets != NULL)
        wake_fd = p->sock_fd = kvn_dpdk_ifc_socket(cfg->sockets, cfg->queue);
    if (kvn_dpdk_nic_wait_setup(p, wake_fd, s.interrupts) != KVW_OK &&
        kvn_dpdk_nic_wait_setup(p, -1, false) != KVW_OK)
        p->wakes = false;
    return KVW_OK;
}

static void set_addresses(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg)
{
    static const uint8_t none[6];
    struct kvn_netif_config net = cfg->net;
    const struct kvn_netif_ip *own = net.four.set ? &net.four : &net.six;
    struct rte_ether_addr mac;

    if (memcmp(net.mac, none, 6) == 0 && rte_eth_macaddr_get(p->id, &mac) == 0)
        memcpy(net.mac, mac.addr_bytes, 6);
    if (cfg->peer.family == 6 && net.six.set)
        own = &net.six;
    kvn_netif_init(&p->netif, &net);
    p->port.local = (struct kvn_addr){.family = own == &net.four ? 4 : 6, .port = net.port};
    memcpy(p->port.local.ip, own->ip, sizeof(own->ip));
    p->port.default_peer = cfg->peer;
    p->port.source_count = net.source_count;
    /* Two families share one size: the longer header counts. */
    p->port.payload_max = cfg->mtu - (net.six.set ? 48u : 28u);
    if (p->port.payload_max > KVN_ETHER_PAYLOAD_MAX - 32u)
        p->port.payload_max = KVN_ETHER_PAYLOAD_MAX - 32u;
}

static bool link_up(const struct kvn_dpdk_nic *p)
{
    struct rte_eth_link link = {0};

    return rte_eth_link_get_nowait(p->id, &link) == 0 && link.link_status;
}

/* A listener may be there but not yet ready: it refuses, or turns its client away. */
static void start_again(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg)
{
    sigset_t before;

    nanosleep(&(struct timespec){.tv_nsec = AGAIN_NS}, NULL);
    kvn_dpdk_signals_block(&before);
    if (p->started)
        stop(p);
    (void)start(p, cfg);
    kvn_dpdk_signals_restore(&before);
}

static kvw_err await_link(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                          char why[KVN_WHY_BYTES])
{
    while (!p->started || (cfg->await_link && !link_up(p))) {
        if (kvn_dpdk_now_ns() >= cfg->open_by_ns) {
            snprintf(why, KVN_WHY_BYTES, "dpdk: %s %s: no peer came in time", cfg->kind,
                     cfg->device);
            return KVW_E_DEADLINE;
        }
        if (!p->started || (cfg->given_up != NULL && atomic_load(cfg->given_up) != p->given_up))
            start_again(p, cfg);
        else
            kvn_dpdk_nic_wait(&p->port, cfg->open_by_ns, -1);
    }
    return KVW_OK;
}

/* Until the neighbour on the way to the default peer has answered. */
static kvw_err await_peer(struct kvn_dpdk_nic *p, const struct kvn_dpdk_nic_config *cfg,
                          char why[KVN_WHY_BYTES])
{
    const struct kvn_tx_packet to = {.to = cfg->peer};
    const struct kvn_ether_flow *flow;
    struct kvn_rx_packet none[KVN_BURST];
    char text[KVN_ADDR_TEXT_BYTES];

    if (cfg->peer.family == 0)
        return KVW_OK;
    if (cfg->peer.family == 4 ? !cfg->net.four.set : !cfg->net.six.set) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s %s: peer %s is of a family without an ip= here",
                 cfg->kind, cfg->device, kvn_addr_format(&cfg->peer, text));
        return KVW_E_ADDRESS;
    }
    while (kvn_netif_flow(&p->netif, kvn_dpdk_now_ns(), &to, &flow) != KVN_NETIF_GO) {
        if (kvn_dpdk_now_ns() >= cfg->open_by_ns) {
            snprintf(why, KVN_WHY_BYTES,
                     "dpdk: %s %s: nobody answers for %s (%s); is the peer up, the cable in, the "
                     "VLAN right?",
                     cfg->kind, cfg->device, kvn_addr_format(&cfg->peer, text),
                     cfg->peer.family == 4 ? "ARP" : "neighbour discovery");
            return KVW_E_DEADLINE;
        }
        (void)kvn_dpdk_nic_rx(&p->port, kvn_dpdk_now_ns(), none, KVN_BURST);
        kvn_dpdk_nic_wait(&p->port, cfg->open_by_ns, -1);
    }
    return KVW_OK;
}

kvw_err kvn_dpdk_nic_open(struct kvn_port **port, const struct kvn_dpdk_nic_config *cfg,
                          char why[KVN_WHY_BYTES])
{
    struct kvn_dpdk_nic *p = calloc(1, sizeof(*p));
    kvw_err err = KVW_E_DEVICE;

    if (p == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory");
        if (cfg->release != NULL)
            cfg->release(cfg->release_arg);
        return KVW_E_NOMEM;
    }
    p->port.ops = &ops;
    p->body = cfg->body;
    p->sock_fd = -1;
    p->checksum = cfg->checksum;
    p->queue = (uint16_t)cfg->queue;
    p->release = cfg->release;
    p->release_arg = cfg->release_arg;
    p->gate = cfg->gate;
    p->va_is_iova = rte_eal_iova_mode() == RTE_IOVA_VA;
    rte_mbuf_ext_refcnt_set(&p->loan, 1);
    snprintf(p->device, sizeof(p->device), "%s", cfg->device);
    p->entered = kvn_dpdk_thread_enter();
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->found = rte_eth_dev_get_port_by_name(cfg->device, &p->id) == 0;
    if (!p->found || p->epoll_fd < 0)
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s %s: no descriptor: %s", cfg->kind, cfg->device,
                 strerror(errno));
    else if ((err = make_pools(p, cfg, why)) == KVW_OK && (err = bring_up(p, cfg, why)) == KVW_OK) {
        set_addresses(p, cfg);
        kvn_dpdk_log_note(p->path);
        if ((err = await_link(p, cfg, why)) == KVW_OK &&
            (err = await_peer(p, cfg, why)) == KVW_OK) {
            *port = &p->port;
            return KVW_OK;
        }
    }
    port_free(p);
    return err;
}

void kvn_dpdk_nic_stats(const struct kvn_port *port, struct kvn_dpdk_nic_stats *stats)
{
    const struct kvn_dpdk_nic *p = (const struct kvn_dpdk_nic *)port;
    struct rte_eth_stats device = {0};

    (void)rte_eth_stats_get(p->id, &device);
    *stats = (struct kvn_dpdk_nic_stats){
        .net = p->netif.stats,
        .rx_packets = device.ipackets,
        .rx_bytes = device.ibytes,
        .tx_packets = device.opackets,
        .tx_bytes = device.obytes,
        .rx_rejected = p->rx_rejected,
        .rx_no_mbuf = device.rx_nombuf,
        .rx_missed = device.imissed,
        .tx_deferred = p->tx_deferred,
        .tx_no_mbuf = p->tx_no_mbuf,
        .tx_unresolved = p->tx_unresolved,
        .sleeps = p->sleeps,
        .mbufs_in_use = rte_mempool_in_use_count(p->pool) +
                        (p->shell != NULL ? rte_mempool_in_use_count(p->shell) : 0),
        .link_up = link_up(p),
    };
}

/* What came of it, for whoever asked for the log. */
static void note_stats(const struct kvn_port *port)
{
    struct kvn_dpdk_nic_stats s;
    char line[440];

    kvn_dpdk_nic_stats(port, &s);
    snprintf(line, sizeof(line),
             "%s: received %lu frames, %lu bytes, sent %lu, %lu; "
             "not ours %lu, malformed %lu (cut %lu), rejected %lu; no buffer %lu in, %lu out; "
             "ring full %lu in, %lu out; "
             "neighbours asked %lu, answered %lu, silent %lu, conflicts %lu, "
             "dropped meanwhile %lu; unsendable %lu; slept %lu times",
             ((const struct kvn_dpdk_nic *)port)->device, s.rx_packets, s.rx_bytes, s.tx_packets,
             s.tx_bytes, s.net.not_ours, s.net.malformed, s.net.cut, s.rx_rejected, s.rx_no_mbuf,
             s.tx_no_mbuf, s.rx_missed, s.tx_deferred, s.net.questions, s.net.answers,
             s.net.unanswered, s.net.conflicts, s.tx_unresolved, port->tx_errors, s.sleeps);
    kvn_dpdk_log_note(line);
}

static void nic_close(struct kvn_port *port)
{
    if (port == NULL || kvn_dpdk_eal_forked())
        return;
    note_stats(port);
    port_free((struct kvn_dpdk_nic *)port);
}

const char *kvn_dpdk_nic_path(const struct kvn_port *port)
{
    return ((const struct kvn_dpdk_nic *)port)->path;
}

static bool nic_reaches(struct kvn_port *port, const struct kvn_addr *to,
                        char why[KVN_REACH_WHY_BYTES])
{
    const struct kvn_netif_config *c = &((const struct kvn_dpdk_nic *)port)->netif.cfg;
    char there[KVN_ADDR_TEXT_BYTES];

    if (to->scope == 0 && (to->family == 4 ? c->four.set : c->six.set))
        return true;
    snprintf(why, KVN_REACH_WHY_BYTES,
             to->scope != 0 ? "%s names an interface of the kernel's, and this port is its own"
                            : "%s is of an IP version that this port has no address of (ip=)",
             kvn_addr_format(to, there));
    return false;
}

static const struct kvn_port_ops ops = {
    .name = "dpdk",
    .rx = kvn_dpdk_nic_rx,
    .tx = kvn_dpdk_nic_tx,
    .wait = kvn_dpdk_nic_wait,
    .fd = kvn_dpdk_nic_fd,
    .arm = kvn_dpdk_nic_arm,
    .disarm = kvn_dpdk_nic_disarm,
    .deadline_ns = kvn_dpdk_nic_deadline_ns,
    .close = nic_close,
    .reaches = nic_reaches,
};
