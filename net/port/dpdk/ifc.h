/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ifc.h - a Linux interface that a DPDK port is to use beside the kernel: is it there, up, as
 * wide as it should be, and which of our descriptors is the driver's socket.
 *
 * threads  the calls of one open come from one thread; another thread that opens sockets of the
 *          same family meanwhile confuses kvn_dpdk_ifc_socket()
 * memory   all inside the struct      time  system calls, which don't block
 */
#ifndef KVN_DPDK_IFC_H
#define KVN_DPDK_IFC_H

#include "spec.h"

#define KVN_DPDK_IFC_FDS 1024

struct kvn_dpdk_ifc {
    uint32_t mtu; /* to be used: the interface's, or a smaller one that was asked for */
    uint32_t kernel_mtu;
    int index;
    uint8_t mac[6];
    bool other_mac; /* the port is to have another one */
    int family;
    bool before[KVN_DPDK_IFC_FDS]; /* descriptors of that family before the driver came */
};

/*
 *   KVW_E_ADDRESS  no such interface, or the kernel has the port's address itself
 *   KVW_E_DEVICE   it is down, or its MTU is below what was asked for
 */
KVW_NODISCARD kvw_err kvn_dpdk_ifc_check(struct kvn_dpdk_ifc *ifc, const char *kind,
                                         const struct kvn_dpdk_spec *spec, char why[KVN_WHY_BYTES]);

/* Around the driver's start: note which sockets of the family there are; then find its n-th one,
 * or -1. The descriptor stays the driver's. */
void kvn_dpdk_ifc_sockets_before(struct kvn_dpdk_ifc *ifc, int family);
int kvn_dpdk_ifc_socket(const struct kvn_dpdk_ifc *ifc, uint32_t n);

/* After the driver's end: af_xdp's leaves its socket open, and the interface's queue taken
 * with it. */
void kvn_dpdk_ifc_close_left(int fd);

#endif
