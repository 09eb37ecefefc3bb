/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - a port over a DPDK device. Today: the two ends of a same-host link, a vhost device
 * and a virtio-user device that meet at a Unix socket (README.md tells which end is which, and
 * why).
 *
 * threads  the thread that opened a port owns it. DPDK's own threads accept and lose peers
 *          meanwhile; they touch only what link.c says
 * memory   mbuf pools out of EAL's memory, at open; nothing between open and close
 * time     open blocks until the peer is there, or its deadline; close until the driver is done,
 *          or CLOSE_NS (link.c)
 */
#ifndef KVN_DPDK_PORT_H
#define KVN_DPDK_PORT_H

#include "../../net.h"
#include "sock.h"
#include "../port.h"

/*
 * Longest UDP payload. A receive buffer holds a whole frame, so the two pools are what this costs;
 * README.md has the measurements behind it.
 */
#define KVN_DPDK_PAYLOAD_MAX (32768u + 128u)

/* Descriptors of each ring of the link; the virtio-user end decides. */
#define KVN_DPDK_RING 128u

struct kvn_dpdk_config {
    const char *path;    /* of the socket; copied */
    bool listener;       /* virtio-user in server mode; else vhost, connecting */
    bool wait_peer;      /* not for a listener, whose driver waits in any case: return only once the
                            link is up. False lets one thread open both ends, this one first */
    uint64_t open_by_ns; /* CLOCK_MONOTONIC */
    uint32_t payload_max; /* 0: KVN_DPDK_PAYLOAD_MAX; 1200 .. KVN_ETHER_PAYLOAD_MAX - 64 */
    bool busy_poll;       /* wait() never sleeps: for a core of its own */
    uint32_t ring;        /* 0: KVN_DPDK_RING; a power of two, 64 .. 1024. The listener's counts */
};

/*
 * Open one end of a link. On an error nothing is kept.
 *   KVW_E_ADDRESS   the path can't be used, or is in use
 *   KVW_E_IO        the lock file beside it can't be made
 *   KVW_E_DEVICE    DPDK can't start it, with its reason
 *   KVW_E_DEADLINE  no peer came in time
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_dpdk_port_open(struct kvn_port **port, const struct kvn_dpdk_config *cfg,
                                         char why[KVN_WHY_BYTES]);

/* Counters beside tx_errors; for tests and curious eyes. */
struct kvn_dpdk_port_stats {
    uint64_t rx_rejected;  /* not a UDP datagram to this end, or longer than a buffer */
    uint64_t tx_deferred;  /* copied, but waiting in the port for room in the ring */
    uint64_t sleeps;       /* of wait() */
    uint32_t mbufs_in_use; /* a gauge: of this port's pools, rings included */
    bool link_up;
};
void kvn_dpdk_port_stats(const struct kvn_port *port, struct kvn_dpdk_port_stats *stats);

#endif
