/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "open.h"
#include "packet/trace_file.h"
#include "packet/endpoint.h"
#include "port/dpdk/job.h"
#include "port/dpdk/kind.h"
#include "port/dpdk/link.h"
#include "port/fault.h"
#include "port/steer.h"

#define OPEN_NS 10000000000ull
/* The longest slice whose packet fits; the port's README has the figures for it. */
#define SLICE 32768u

static kvw_err open_link(struct kvn_port **port, const struct kvn_config *cfg,
                         struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    const struct kvn_dpdk_config dpdk = {
        .path = cfg->local,
        .listener = cfg->listener,
        .wait_peer = true,
        .busy_poll = cfg->busy_poll,
        .open_by_ns = cfg->open_by_ns != 0 ? cfg->open_by_ns : kvn_dpdk_now_ns() + OPEN_NS,
    };

    if (cfg->local != NULL && strstr(cfg->local, ",queues=") != NULL) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: '%.80s': a DPDK port has one queue; leave queues= out, or take udp, which "
                 "has up to %u",
                 cfg->local, KVN_QUEUES_MAX);
        return KVW_E_INVALID;
    }
    if (packet->slice_bytes == 0)
        packet->slice_bytes = SLICE;
    return kvn_dpdk_port_open(port, &dpdk, why);
}

KVN_OPEN_DECLARE(dpdk);
KVN_OPEN_DECLARE(dpdk)
{
    struct kvn_packet_config packet = {0};
    struct kvn_fault_spec spec;
    struct kvn_port *port;
    kvw_err err;

    /* Before the wait for a peer, not after it. */
    if (cfg->fault != NULL && (err = kvn_fault_parse(&spec, cfg->fault, why)) != KVW_OK)
        return err;
    packet.slice_bytes = cfg->slice_bytes;
    packet.dead_ns = (uint64_t)cfg->dead_ms * 1000000u;
    packet.conns_max = cfg->conns_max;
    err = kvn_dpdk_kind_find(cfg->local) != NULL ? kvn_dpdk_kind_open(&port, cfg, &packet, why)
                                                 : open_link(&port, cfg, &packet, why);
    if (err != KVW_OK)
        return err;
    if ((cfg->fault != NULL && (err = kvn_fault_wrap(&port, cfg->fault, why)) != KVW_OK) ||
        (err = kvn_trace_config(&packet.trace, cfg, "dpdk", why)) != KVW_OK ||
        (err = kvn_packet_open(t, port, &packet, why)) != KVW_OK) {
        kvn_trace_file_close(packet.trace);
        port->ops->close(port);
        return err;
    }
    return KVW_OK;
}
