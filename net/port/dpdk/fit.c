/* SPDX-License-Identifier: Apache-2.0 */
/* fit.c - what a port's ring holds, told to the protocol over it; for every kind. */
#include "../../packet/wire.h"
#include "kind.h"

void kvn_dpdk_fit_packet(struct kvn_packet_config *packet, const struct kvn_port *port,
                         uint32_t ring)
{
    /* Acknowledgements and questions come beside the slices. */
    const uint64_t fits = (uint64_t)(ring - ring / 8) * port->payload_max;

    if (packet->inflight_bytes == 0)
        packet->inflight_bytes = KVN_INFLIGHT_BYTES;
    if (fits < packet->inflight_bytes)
        packet->inflight_bytes = (uint32_t)fits;
}
