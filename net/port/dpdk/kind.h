/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kind.h - the kinds of DPDK port by name, each in a file of its own. The table is in
 * net/open_dpdk.c.
 *
 * threads  as net.h      memory  as net.h      time  as net.h
 */
#ifndef KVN_DPDK_KIND_H
#define KVN_DPDK_KIND_H

#include "../../packet/endpoint.h"
#include "spec.h"
#include "../port.h"

struct kvn_dpdk_open {
    const struct kvn_dpdk_spec *spec;
    struct kvn_addr peer; /* of kvn_config; family 0: none */
    bool listener;
    bool wait; /* return once the link is up, where the kind has a link of two ends */
    uint64_t open_by_ns;
};

/*
 * Open a port of this kind. *packet: what the protocol over it should know, its defaults filled in.
 * Errors as kvn_open(); nothing is kept then.
 */
#define KVN_DPDK_KIND_DECLARE(name)                                                                \
    KVW_NODISCARD kvw_err kvn_dpdk_open_##name(                                                    \
        struct kvn_port **port, const struct kvn_dpdk_open *o, struct kvn_packet_config *packet,   \
        char why[KVN_WHY_BYTES])

struct kvn_dpdk_kind {
    const char *name;
    kvw_err (*open)(struct kvn_port **port, const struct kvn_dpdk_open *o,
                    struct kvn_packet_config *packet, char why[KVN_WHY_BYTES]);
    bool addresses; /* it is on a network: ip= is needed, and a peer that connects to it */
};

KVN_DPDK_KIND_DECLARE(af_packet);
KVN_DPDK_KIND_DECLARE(af_xdp);
KVN_DPDK_KIND_DECLARE(memif);
KVN_DPDK_KIND_DECLARE(pci);
KVN_DPDK_KIND_DECLARE(ring);

/* By the text before the first colon of local; NULL: none, it is a link's path. Ended by
 * name NULL. */
extern const struct kvn_dpdk_kind kvn_dpdk_kinds[];
const struct kvn_dpdk_kind *kvn_dpdk_kind_find(const char *local);

/*
 * A port by kvn_config.local, which names a kind. For kvn_open("dpdk"), and for tests that want the
 * port itself.
 */
KVW_NODISCARD kvw_err kvn_dpdk_kind_open(struct kvn_port **port, const struct kvn_config *cfg,
                                         struct kvn_packet_config *packet, char why[KVN_WHY_BYTES]);

/* fit.c: the largest share of a ring of frames that the protocol may have on its way to one end. */
void kvn_dpdk_fit_packet(struct kvn_packet_config *packet, const struct kvn_port *port,
                         uint32_t ring);

#endif
