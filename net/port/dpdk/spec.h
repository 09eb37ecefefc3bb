/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h - how a DPDK port is named: "KIND:WHAT[,KEY=VALUE...]", the table of kinds being in
 * net/open_dpdk.c. Text without a known kind before its first colon is the path of a same-host
 * link's Unix socket. The keys are told in net.h.
 *
 * threads  any      memory  all inside the struct      time  none
 */
#ifndef KVN_DPDK_SPEC_H
#define KVN_DPDK_SPEC_H

#include "../../net.h"
#include "../ether/netif.h"

#define KVN_DPDK_WHAT_BYTES 108 /* a socket's path is the longest */
#define KVN_DPDK_ARGS_BYTES 160

struct kvn_dpdk_spec {
    char what[KVN_DPDK_WHAT_BYTES]; /* interface, PCI address, path, name */
    char args[KVN_DPDK_ARGS_BYTES]; /* for the driver; commas again where semicolons were */
    struct kvn_netif_config net;    /* mac all zero: the device's own */
    bool net_set;                   /* any key of net was given */
    uint32_t mtu;                   /* 0: the device's */
    uint32_t ring;                  /* 0: the kind's */
    bool checksum;                  /* a UDP checksum over IPv4 even where software must make it */
};

/*
 * The text behind "KIND:".
 *   KVW_E_INVALID  queues= isn't 1
 *   KVW_E_ADDRESS  an unknown key, a value that can't be read or is out of range; why names it
 */
KVW_NODISCARD kvw_err kvn_dpdk_spec_parse(struct kvn_dpdk_spec *spec, const char *kind,
                                          const char *text, char why[KVN_WHY_BYTES]);

#endif
