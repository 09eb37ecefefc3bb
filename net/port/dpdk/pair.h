/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h - the addresses of the kinds that join exactly two ends (memif, ring): nobody is
 * asked for there, both ends know both.
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVN_DPDK_PAIR_H
#define KVN_DPDK_PAIR_H

#include "../ether/netif.h"

/* The listener's or the sender's end of it, with the other as its only neighbour. */
void kvn_dpdk_pair(struct kvn_netif_config *net, struct kvn_addr *peer, bool listener);

#endif
