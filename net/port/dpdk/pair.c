/* SPDX-License-Identifier: Apache-2.0 */
#include "pair.h"

#include <string.h>

void kvn_dpdk_pair(struct kvn_netif_config *net, struct kvn_addr *peer, bool listener)
{
    const struct kvn_ether_end *self = listener ? &kvn_ether_listener : &kvn_ether_sender;
    const struct kvn_ether_end *other = listener ? &kvn_ether_sender : &kvn_ether_listener;

    *net = (struct kvn_netif_config){.four.set = true,
                                     .port = self->port,
                                     .source_count = KVN_PORT_SOURCES_MAX,
                                     .neighbour_count = 1};
    *peer = (struct kvn_addr){.family = 4, .port = other->port};
    memcpy(net->mac, self->mac, 6);
    memcpy(net->four.ip, self->ip, 4);
    memcpy(peer->ip, other->ip, 4);
    net->neighbours[0].ip = *peer;
    memcpy(net->neighbours[0].mac, other->mac, 6);
}
