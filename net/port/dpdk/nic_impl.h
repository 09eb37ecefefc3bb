/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nic_impl.h - the object behind nic.h, shared by nic.c (open and close),
 * nic_io.c (packets) and nic_wait.c (sleeping). Not for anyone else.
 *
 * threads  one      memory  one object a port      time  none
 */
#ifndef KVN_DPDK_NIC_IMPL_H
#define KVN_DPDK_NIC_IMPL_H

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "nic.h"
#include "../gather.h"
#include "../spin.h"

/* Packets held while their neighbour is asked for; more are dropped. */
#define KVN_DPDK_HELD_MAX 16u

struct kvn_dpdk_held {
    struct rte_mbuf *m;          /* room for the headers, then head and body; NULL: free */
    struct kvn_tx_packet packet; /* only to, source and ecn count */
};

struct kvn_dpdk_nic {
    struct kvn_port port; /* first */
    uint16_t id;          /* DPDK's number of the device */
    uint16_t queue;
    bool entered, found, started;
    enum kvn_dpdk_body body;
    char device[64];
    void (*release)(void *arg);
    void *release_arg;
    struct kvn_dpdk_gate *gate; /* or NULL */
    unsigned given_up;          /* what cfg.given_up counted when the device was started */
    int sock_fd;                /* the driver's socket, if cfg.sockets found it; else -1 */
    bool own_pool;

    /* mbuf flags of every packet that asks the device for checksums, by family; 0: software. */
    uint64_t tx_flags4, tx_flags6;
    bool tx_prepare; /* the driver wants to see such packets before they are sent */
    bool checksum;   /* software makes UDP's over IPv4 too */
    bool va_is_iova;

    struct kvn_netif netif;
    struct rte_mempool *pool;  /* buffers for a whole frame each */
    struct rte_mempool *shell; /* mbufs without a buffer, for memory that isn't a pool's; or NULL */
    struct rte_mbuf_ext_shared_info loan;

    struct rte_mbuf *lent[KVN_BURST]; /* handed out by the last rx() */
    uint32_t lent_count;
    struct rte_mbuf *early[KVN_BURST]; /* received by wait(), for the next rx() */
    uint32_t early_at, early_count;
    struct rte_mbuf *late[KVN_BURST]; /* taken by tx(), not yet in the ring */
    uint32_t late_at, late_count;
    uint64_t late_ns; /* when rx() should try again */
    struct kvn_dpdk_held held[KVN_DPDK_HELD_MAX];
    uint32_t held_count;

    struct kvn_spin spin;
    struct kvn_gather gather;
    bool gathers;    /* each packet wakes, and no device holds that back */
    int epoll_fd;    /* the device's descriptor, and the caller's wake_fd during wait() */
    bool interrupts; /* receive interrupts, to be armed for each sleep */
    bool wakes;      /* something in epoll_fd tells of frames; else naps */
    uint64_t nap_ns; /* the next one */

    uint64_t rx_rejected, tx_deferred, tx_no_mbuf, tx_unresolved, sleeps;
    char path[240];
};

/* nic_io.c */
uint32_t kvn_dpdk_nic_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                         uint32_t max);
uint32_t kvn_dpdk_nic_tx(struct kvn_port *port, uint64_t now_ns,
                         const struct kvn_tx_packet *packets, uint32_t count);
uint64_t kvn_dpdk_nic_deadline_ns(const struct kvn_port *port);
/* rte_eth_rx_burst() through the gate. */
uint32_t kvn_dpdk_nic_take(struct kvn_dpdk_nic *p, struct rte_mbuf **mbufs, uint32_t max);
/* Give every mbuf the port itself holds back to its pool. */
void kvn_dpdk_nic_drop_mbufs(struct kvn_dpdk_nic *p);

/* nic_wait.c */
void kvn_dpdk_nic_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd);
int kvn_dpdk_nic_fd(struct kvn_port *port);
bool kvn_dpdk_nic_arm(struct kvn_port *port, uint64_t *until_ns);
void kvn_dpdk_nic_disarm(struct kvn_port *port);
/* wake_fd: as in the config. KVW_E_DEVICE: no descriptor. Once the device was started. */
KVW_NODISCARD kvw_err kvn_dpdk_nic_wait_setup(struct kvn_dpdk_nic *p, int wake_fd, bool interrupts);

#endif
