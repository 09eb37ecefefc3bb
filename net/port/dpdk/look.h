/* SPDX-License-Identifier: Apache-2.0 */
/*
 * look.h - looking at a DPDK queue before sleeping on it (spin.h says when that is worth it).
 * Shared by link_wait.c and nic_wait.c.
 *
 * threads  the port's      memory  none      time  reads CLOCK_MONOTONIC, ends at until_ns
 */
#ifndef KVN_DPDK_LOOK_H
#define KVN_DPDK_LOOK_H

#include <rte_mbuf.h>

#include "../port.h"
#include "../spin.h"

/*
 * True: no need to sleep, since *count packets (KVN_BURST at most) came into early, or wake_fd is
 * readable, or it is until_ns. False: nothing came, go to sleep.
 */
bool kvn_dpdk_look(struct kvn_spin *spin, uint16_t id, uint16_t queue, struct rte_mbuf **early,
                   uint32_t *count, uint64_t until_ns, int wake_fd);

#endif
