/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp.h - a port over kernel UDP sockets: the floor, which runs in any container.
 *
 * Uses what the kernel has: sendmmsg and recvmmsg always; UDP_SEGMENT and UDP_GRO where they are
 * (found out at open; and a device that refuses a segmented burst turns it off). DF is always set.
 * ECN goes both ways. Errors of a route, an interface or a peer (ENETDOWN, ENETUNREACH,
 * ECONNREFUSED ...) cost the packets concerned, counted in tx_errors, and nothing else. EMSGSIZE
 * lowers payload_max to what the interface carries. KVN_UDP_RAISE_NS later tx() takes that back, as
 * the interface's MTU may have grown: connections probe, and the next EMSGSIZE lowers it again.
 *
 * threads  one
 * memory   KVN_BURST receive buffers of 64 KiB, taken at open
 * time     wait() reads CLOCK_MONOTONIC and blocks; nothing else does
 */
#ifndef KVN_UDP_H
#define KVN_UDP_H

#include "../../net.h"
#include "../port.h"

#define KVN_UDP_PAYLOAD_1500 1452u          /* what IPv6 leaves of the common MTU */
#define KVN_UDP_RAISE_NS     30000000000ull /* payload_max is as at open again after so long */

struct kvn_udp_config {
    const char *local;      /* "IPV4:PORT" or "[IPV6]:PORT"; port 0: any */
    const char *peer;       /* default_peer, or NULL */
    uint32_t payload_max;   /* 0: a slice of 8 KiB with its header */
    uint32_t queue_bytes;   /* of each of the sockets' buffers, best effort; 0: 4 MiB */
    uint8_t sources;        /* UDP ports: PORT, PORT + 1, ..; 0: 1, most KVN_PORT_SOURCES_MAX */
    bool plain;             /* no UDP_SEGMENT and UDP_GRO, as if the kernel had none */
    bool busy_poll;         /* wait() never sleeps: for a core of its own */
    struct kvn_port *group; /* NULL, or the first port of several that share its UDP ports: local
                               and sources are read as its own */
};

/*
 * Bind the sockets. queued_max: how many payload bytes a socket's receive buffer surely holds. On
 * KVW_OK why holds one line: what the kernel can do, and what falls short of what was asked for.
 *   KVW_E_ADDRESS  local or peer can't be parsed, isn't ours, or is in use; why names it
 *   KVW_E_INVALID  sources is more than KVN_PORT_SOURCES_MAX, or reaches past port 65535
 *   KVW_E_DEVICE   the kernel gave no socket
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_udp_port_open(struct kvn_port **port, const struct kvn_udp_config *cfg,
                                        uint32_t *queued_max, char why[KVN_WHY_BYTES]);

/*
 * Of several ports that share UDP ports (group), each gets the packets of its own connections: by
 * their ids, and the first one of a connection by the id its sender chose (steer.h). Where the
 * kernel can't be told that it goes by a hash of the addresses, and false is returned. queues: how
 * many there are, in the order in which they were opened. Once all are open.
 */
bool kvn_udp_steer(struct kvn_port *first, uint32_t queues);

#endif
