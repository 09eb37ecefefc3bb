/* SPDX-License-Identifier: Apache-2.0 */
/* What an endpoint is told at open: defaults for what is 0, and limits. */
#include <stdio.h>

#include "../port/steer.h"
#include "conn.h"

kvw_err kvn_packet_resolve(struct kvn_packet_config *cfg, const struct kvn_port *port,
                           char why[KVN_WHY_BYTES])
{
    if (port->payload_max < KVN_PAYLOAD_MIN || port->payload_max > KVN_PAYLOAD_MAX) {
        snprintf(why, KVN_WHY_BYTES, "port %s: payload_max %u is not within %u .. %u",
                 port->ops->name, port->payload_max, KVN_PAYLOAD_MIN, KVN_PAYLOAD_MAX);
        return KVW_E_INVALID;
    }
    if (cfg->dead_ns == 0)
        cfg->dead_ns = KVW_PEER_DEAD_NS;
    if (cfg->connect_ns == 0)
        cfg->connect_ns = KVW_HELLO_TIMEOUT_NS;
    if (cfg->slice_bytes == 0)
        cfg->slice_bytes = KVN_SLICE_DEFAULT;
    if (cfg->inflight_bytes == 0)
        cfg->inflight_bytes = KVN_INFLIGHT_BYTES;
    if (cfg->sent_max == 0)
        cfg->sent_max = KVN_SENT_DEFAULT;
    if (cfg->conns_max == 0)
        cfg->conns_max = KVN_CONNS_DEFAULT;
    if (cfg->queues == 0)
        cfg->queues = 1;
    if (cfg->versions == 0)
        cfg->versions = KVN_VERSIONS;
    if ((cfg->versions & ~KVN_VERSIONS_ALL) != 0) {
        snprintf(why, KVN_WHY_BYTES, "versions 0x%x: bits outside 0x%x", cfg->versions,
                 KVN_VERSIONS_ALL);
        return KVW_E_INVALID;
    }
    if (cfg->queues > KVN_QUEUES_MAX || cfg->queue >= cfg->queues) {
        snprintf(why, KVN_WHY_BYTES, "queue %u of %u; there can be %u queues", cfg->queue,
                 cfg->queues, KVN_QUEUES_MAX);
        return KVW_E_INVALID;
    }
    if (cfg->slice_bytes < KVN_SLICE_MIN) {
        snprintf(why, KVN_WHY_BYTES, "slice_bytes %u is below %u", cfg->slice_bytes, KVN_SLICE_MIN);
        return KVW_E_INVALID;
    }
    if (cfg->inflight_bytes < 2 * port->payload_max) {
        snprintf(why, KVN_WHY_BYTES, "inflight_bytes %u is below two packets of %u",
                 cfg->inflight_bytes, port->payload_max);
        return KVW_E_INVALID;
    }
    if (cfg->sent_max < KVN_SENT_FIRST || cfg->sent_max > KVN_SENT_MAX ||
        (cfg->sent_max & (cfg->sent_max - 1)) != 0) {
        snprintf(why, KVN_WHY_BYTES, "sent_max %u is no power of two within %u .. %u",
                 cfg->sent_max, KVN_SENT_FIRST, KVN_SENT_MAX);
        return KVW_E_INVALID;
    }
    if (cfg->conns_max > KVN_CONNS_MAX) {
        snprintf(why, KVN_WHY_BYTES, "conns_max %u is above %u", cfg->conns_max, KVN_CONNS_MAX);
        return KVW_E_INVALID;
    }
    return KVW_OK;
}
