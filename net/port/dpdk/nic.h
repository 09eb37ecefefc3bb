/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nic.h - a port over any DPDK Ethernet device (PCI, af_packet, af_xdp, memif, net_ring), with
 * addresses of its own. What tells the kinds apart is in struct kvn_dpdk_nic_config; each kind's
 * file fills one in. The same-host link over vhost and virtio-user is link.c's.
 *
 * threads  the thread that opened a port owns it
 * memory   an mbuf pool out of EAL's memory, at open; nothing between open and close
 * time     open waits for the peer's MAC if there is a default peer, until its deadline; wait()
 *          sleeps on the device's descriptor, or naps where it has none (KVN_DPDK_NAP_NS)
 */
#ifndef KVN_DPDK_NIC_H
#define KVN_DPDK_NIC_H

#include <pthread.h>
#include <stdatomic.h>

#include "spec.h"
#include "../port.h"

struct rte_mempool;
struct kvn_dpdk_ifc;

/* The longest nap of a port whose device can't wake anybody. */
#define KVN_DPDK_NAP_NS 1000000ull

/* What becomes of a packet's body on transmit. */
enum kvn_dpdk_body {
    KVN_DPDK_BODY_COPY,   /* into one buffer behind the head: the device keeps the buffer, or can't
                             take several */
    KVN_DPDK_BODY_BORROW, /* the device copies inside tx_burst: a second mbuf points at it */
    KVN_DPDK_BODY_DMA,    /* as BORROW if it lies in EAL's memory, which stays; else COPY */
};

/* Shut while a driver's own thread takes away what a burst touches; see memif.c. */
struct kvn_dpdk_gate {
    pthread_mutex_t lock; /* held by every burst */
    _Atomic bool shut;    /* bursts do nothing */
};

struct kvn_dpdk_nic_config {
    const char *kind;            /* for sentences: "pci" */
    const char *device;          /* DPDK's name of the device, which is there by now */
    struct kvn_netif_config net; /* mac all zero: the device's */
    struct kvn_addr peer;        /* default_peer; family 0: none */
    enum kvn_dpdk_body body;
    uint32_t mtu;     /* IP bytes of a frame */
    bool set_mtu;     /* the device must be told */
    bool promiscuous; /* to get frames for net.mac, which isn't the device's */
    bool offloads;    /* use what the device says it can do; else plain frames */
    bool checksum;    /* UDP checksums over IPv4 too, whoever makes them */
    uint32_t ring;    /* descriptors of each ring */
    uint32_t queues, queue;
    int wake_fd; /* readable when there are frames; -1: the device's interrupt, or naps.
                    Stays the caller's */
    struct kvn_dpdk_gate *gate; /* or NULL */
    bool await_link;            /* return once the link is up */
    /* Of a driver that looks for its peer once, when it starts: how often one has given up. Until
     * open_by_ns it is started again then. NULL: any other driver. */
    const _Atomic unsigned *given_up;
    struct rte_mempool *pool; /* of kvn_dpdk_nic_pool(), the caller's; NULL: one of its own */
    uint32_t buffer_bytes;    /* of a buffer's room for a frame; 0: from the MTU */
    uint32_t pool_least;      /* buffers that the driver wants at least */
    const struct kvn_dpdk_ifc *sockets; /* or NULL: wake_fd is the queue-th socket that the start
                                           makes */
    uint64_t open_by_ns;
    void (*release)(void *arg); /* after the device is closed, or on an error; may be NULL */
    void *release_arg;
};

/*
 * Set up the device and make a port of it. The device, and what release gives back, is the port's
 * from here on: on an error it has been closed and removed.
 *   KVW_E_DEVICE    the driver refuses, with its reason
 *   KVW_E_DEADLINE  the link's other end doesn't come (await_link, given_up); the default peer, or
 *                   the gateway to it, doesn't answer
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_dpdk_nic_open(struct kvn_port **port,
                                        const struct kvn_dpdk_nic_config *cfg,
                                        char why[KVN_WHY_BYTES]);

/* Buffers for the ports of so many such configs at once. NULL: why says it; rte_mempool_free(). */
struct rte_mempool *kvn_dpdk_nic_pool(const struct kvn_dpdk_nic_config *cfg, uint32_t ports,
                                      char why[KVN_WHY_BYTES]);

/* Make the device appear. Errors as above; args may be NULL. */
KVW_NODISCARD kvw_err kvn_dpdk_nic_attach(const char *kind, const char *bus, const char *device,
                                          const char *args, char why[KVN_WHY_BYTES]);

/* Counters beside tx_errors. */
struct kvn_dpdk_nic_stats {
    struct kvn_netif_stats net;
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes; /* the device's, frames */
    uint64_t rx_rejected;   /* checksums that the device found wrong, frames over one buffer */
    uint64_t rx_no_mbuf;    /* the device's: it had no buffer for a frame */
    uint64_t rx_missed;     /* the device's: the ring was full */
    uint64_t tx_deferred;   /* taken, but waiting in the port for room in the ring */
    uint64_t tx_no_mbuf;    /* times that the pool was dry */
    uint64_t tx_unresolved; /* packets dropped while their neighbour was asked for */
    uint64_t sleeps;
    uint32_t mbufs_in_use; /* a gauge: of this port's pools, rings included */
    bool link_up;
};
void kvn_dpdk_nic_stats(const struct kvn_port *port, struct kvn_dpdk_nic_stats *stats);

/* One line: which way packets take through this device. Static until close. */
const char *kvn_dpdk_nic_path(const struct kvn_port *port);

/* From now on wait() never sleeps: for a core that has nothing else to do. */
void kvn_dpdk_nic_busy_poll(struct kvn_port *port);

#endif
