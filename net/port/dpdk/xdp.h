/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xdp.h - which XDP program an interface has.
 *
 * threads  any      memory  none      time  one question to the kernel
 */
#ifndef KVN_DPDK_XDP_H
#define KVN_DPDK_XDP_H

#include <stdbool.h>
#include <stdint.h>

/* Its id; 0: none. False: the kernel can't be asked, errno says why. */
bool kvn_dpdk_xdp_attached(int index, uint32_t *id);

#endif
