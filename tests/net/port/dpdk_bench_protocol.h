/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dpdk_bench_protocol.h - the packet protocol over one end of a link: dpdk_bench's mode "protocol".
 *
 * threads  one      memory  its pools, from the caller      time  as long as the caller says
 */
#ifndef T_DPDK_BENCH_PROTOCOL_H
#define T_DPDK_BENCH_PROTOCOL_H

#include "../../../net/port/port.h"

struct t_protocol {
    uint32_t slice;
    uint32_t put_bytes;
    uint8_t *pool; /* pool_bytes to put from, or to place into */
    uint64_t pool_bytes;
    double seconds;
    bool one_cpu; /* yield when there is nothing to do */
};

/* Take port over. The receiver prints the goodput and returns when the sender has gone. */
void t_protocol_send(struct kvn_port *port, const struct t_protocol *p);
void t_protocol_receive(struct kvn_port *port, const struct t_protocol *p);

#endif
