/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_impl.h - the port's object, shared by link_io.c (packets), link_wait.c (sleeping) and
 * link.c (open and close). Not for anyone else.
 *
 * threads  see the fields      memory  one object a port      time  none
 */
#ifndef KVN_DPDK_IMPL_H
#define KVN_DPDK_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "../ether/frame.h"
#include "link.h"
#include "../spin.h"

struct kvn_dpdk_port {
    struct kvn_port port; /* first */
    bool vhost;           /* else virtio-user */
    uint16_t id;          /* DPDK's number of the port */
    char device[32];      /* DPDK's name of it */
    char path[KVN_DPDK_PATH_BYTES];
    int lock_fd;   /* the listener's; -1: none */
    bool entered;  /* this thread was made known to EAL by us */
    bool attached; /* the device exists; id is valid */
    bool started;

    struct kvn_ether_end self, peer;
    struct rte_mempool *pool;  /* buffers for a whole frame each */
    struct rte_mempool *shell; /* vhost: mbufs without a buffer, for the caller's memory */
    struct rte_mbuf_ext_shared_info loan; /* vhost: counts shells that point at such memory */

    struct rte_mbuf *lent[KVN_BURST]; /* handed out by the last rx() */
    uint32_t lent_count;
    struct rte_mbuf *early[KVN_BURST]; /* received by wait(), for the next rx() */
    uint32_t early_at, early_count;
    struct rte_mbuf *late[KVN_BURST]; /* virtio-user: taken by tx(), not yet in the ring */
    uint32_t late_at, late_count;
    uint64_t late_ns; /* when rx() should try again */

    struct kvn_spin spin;
    int epoll_fd; /* receive interrupts, link_fd, and the caller's wake_fd during wait() */
    int link_fd;  /* an eventfd that link_changed writes to */
    /*
     * Held while wait() arms an interrupt. When a peer goes, DPDK's thread tells us (link_changed)
     * before it frees what arming touches; by taking this lock there, it waits for us.
     */
    pthread_mutex_t arming;
    _Atomic uint32_t changes; /* of the link, so far */
    uint32_t changes_seen;    /* by stop_when_quiet(), in DPDK's interrupt thread */
    sem_t stopped;            /* posted by it */

    uint64_t rx_rejected, tx_deferred, sleeps;
};

/* link_io.c */
uint32_t kvn_dpdk_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                     uint32_t max);
uint32_t kvn_dpdk_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                     uint32_t count);
uint64_t kvn_dpdk_deadline_ns(const struct kvn_port *port);
/* Give every mbuf the port itself holds back to its pool. */
void kvn_dpdk_drop_mbufs(struct kvn_dpdk_port *p);

/* link_wait.c */
void kvn_dpdk_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd);
int kvn_dpdk_fd(struct kvn_port *port);
bool kvn_dpdk_arm(struct kvn_port *port, uint64_t *until_ns);
void kvn_dpdk_disarm(struct kvn_port *port);
/* KVW_E_DEVICE: the device has no receive interrupt. Once it was started. */
KVW_NODISCARD kvw_err kvn_dpdk_wait_setup(struct kvn_dpdk_port *p);

/* link.c */
bool kvn_dpdk_link_up(const struct kvn_dpdk_port *p);

#endif
