/* SPDX-License-Identifier: Apache-2.0 */
/*
 * udp.h - a port over a kernel UDP socket: the floor, which runs in any container.
 *
 * threads  one
 * memory   KVN_BURST receive buffers of payload_max bytes, taken at open
 * time     wait() reads CLOCK_MONOTONIC and blocks; nothing else does
 */
#ifndef KVN_UDP_H
#define KVN_UDP_H

#include "../net.h"
#include "port.h"

struct kvn_udp_config {
    const char *local;    /* "IPV4:PORT" or "[IPV6]:PORT"; port 0: any */
    const char *peer;     /* default_peer, or NULL */
    uint32_t payload_max; /* 0: a slice of 8 KiB with its header */
    uint32_t queue_bytes; /* of each of the socket's buffers, best effort; 0: 4 MiB */
};

/*
 * Bind a socket. queued_max: how many payload bytes the socket's receive buffer surely holds.
 *   KVW_E_ADDRESS  local or peer can't be parsed, isn't ours, or is in use; why names it
 *   KVW_E_DEVICE   the kernel gave no socket
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_udp_port_open(struct kvn_port **port, const struct kvn_udp_config *cfg,
                                        uint32_t *queued_max, char why[KVN_WHY_BYTES]);

#endif
