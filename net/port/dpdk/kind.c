/* SPDX-License-Identifier: Apache-2.0 */
#include "kind.h"

#include <stdio.h>
#include <string.h>

#include "job.h"
#include "nic.h"

#define OPEN_NS 10000000000ull

const struct kvn_dpdk_kind kvn_dpdk_kinds[] = {
    {"af_packet", kvn_dpdk_open_af_packet, true}, {"af_xdp", kvn_dpdk_open_af_xdp, true},
    {"memif", kvn_dpdk_open_memif, false},        {"pci", kvn_dpdk_open_pci, true},
    {"ring", kvn_dpdk_open_ring, false},          {NULL, NULL, false},
};

const struct kvn_dpdk_kind *kvn_dpdk_kind_find(const char *local)
{
    for (const struct kvn_dpdk_kind *k = kvn_dpdk_kinds; local != NULL && k->name != NULL; ++k) {
        const size_t n = strlen(k->name);

        if (strncmp(local, k->name, n) == 0 && local[n] == ':')
            return k;
    }
    return NULL;
}

kvw_err kvn_dpdk_kind_open(struct kvn_port **port, const struct kvn_config *cfg,
                           struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    const struct kvn_dpdk_kind *kind = kvn_dpdk_kind_find(cfg->local);
    struct kvn_dpdk_spec spec;
    struct kvn_dpdk_open o = {
        .spec = &spec,
        .listener = cfg->listener,
        .wait = true,
        .open_by_ns = cfg->open_by_ns != 0 ? cfg->open_by_ns : kvn_dpdk_now_ns() + OPEN_NS,
    };
    kvw_err err;

    if (kind == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: '%.80s' names no kind of port",
                 cfg->local != NULL ? cfg->local : "");
        return KVW_E_ADDRESS;
    }
    err = kvn_dpdk_spec_parse(&spec, kind->name, cfg->local + strlen(kind->name) + 1, why);
    if (err != KVW_OK)
        return err;
    if (kind->addresses && !spec.net.four.set && !spec.net.six.set) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: %s: an address of its own is missing: ip=ADDRESS[/PREFIX]", kind->name);
        return KVW_E_ADDRESS;
    }
    if (!kind->addresses && spec.net_set) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: %s joins two ends only, which know each other: no addresses", kind->name);
        return KVW_E_ADDRESS;
    }
    if (kind->addresses && cfg->peer != NULL && kvn_addr_parse(&o.peer, cfg->peer) != KVW_OK) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: peer '%.100s' is not IPV4:PORT or [IPV6]:PORT",
                 cfg->peer);
        return KVW_E_ADDRESS;
    }
    err = kind->open(port, &o, packet, why);
    if (err == KVW_OK && cfg->busy_poll)
        kvn_dpdk_nic_busy_poll(*port);
    return err;
}
