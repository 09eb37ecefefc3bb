/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Linux interface through an AF_XDP socket: a program in the kernel hands every frame of the
 * interface's queue to us, so the kernel sees none of them any more. Needs CAP_NET_ADMIN,
 * CAP_NET_RAW and CAP_BPF. Packets are always copied into one buffer: the driver sends only a
 * frame's first segment, and that with the length of all.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "eal.h"
#include "ifc.h"
#include "job.h"
#include "kind.h"
#include "nic.h"
#include "xdp.h"

/* A frame is one page with room for the kernel's and DPDK's headers. */
#define MTU_MAX 3400u
#define ROOM    3712u
/* What the driver makes its rings of, whatever it is asked for; and buffers for them. */
#define RING    2048u
#define BUFFERS 5120u
#define BUSY_NS 2000000000ull

static kvw_err check_program(const struct kvn_dpdk_ifc *ifc, const char *name,
                             char why[KVN_WHY_BYTES])
{
    uint32_t id;

    if (!kvn_dpdk_xdp_attached(ifc->index, &id)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: af_xdp: the kernel doesn't tell about %s: %s", name,
                 strerror(errno));
        return KVW_E_DEVICE;
    }
    if (id == 0)
        return KVW_OK;
    snprintf(
        why, KVN_WHY_BYTES,
        "dpdk: af_xdp: interface %.15s has an XDP program already (id %u), in use or left by a "
        "process that died; if nobody uses it: ip link set %.15s xdp off",
        name, id, name);
    return KVW_E_ADDRESS;
}

/* One try. On an error the device is gone again. */
static kvw_err open_device(struct kvn_port **port, const struct kvn_dpdk_open *o,
                           struct kvn_dpdk_ifc *ifc, char why[KVN_WHY_BYTES])
{
    static _Atomic unsigned devices;
    const struct kvn_dpdk_spec *s = o->spec;
    char device[32], args[320];
    const struct kvn_dpdk_nic_config nic = {
        .kind = "af_xdp",
        .device = device,
        .net = s->net,
        .peer = o->peer,
        .body = KVN_DPDK_BODY_COPY,
        .mtu = ifc->mtu,
        .promiscuous = ifc->other_mac,
        .queues = 1,
        .checksum = s->checksum,
        .ring = RING,
        .pool_least = BUFFERS,
        .buffer_bytes = ROOM,
        .wake_fd = -1,
        .sockets = ifc,
        .open_by_ns = o->open_by_ns,
    };
    kvw_err err;

    snprintf(device, sizeof(device), "net_af_xdp%u", atomic_fetch_add(&devices, 1));
    snprintf(args, sizeof(args), "iface=%s,start_queue=0,queue_count=1%s%s", s->what,
             s->args[0] != '\0' ? "," : "", s->args);
    if ((err = kvn_dpdk_nic_attach("af_xdp", "vdev", device, args, why)) != KVW_OK)
        return err;
    kvn_dpdk_ifc_sockets_before(ifc, AF_XDP);
    return kvn_dpdk_nic_open(port, &nic, why);
}

kvw_err kvn_dpdk_open_af_xdp(struct kvn_port **port, const struct kvn_dpdk_open *o,
                             struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    const struct kvn_dpdk_spec *s = o->spec;
    struct kvn_dpdk_ifc ifc;
    uint64_t busy_until_ns;
    kvw_err err;

    if ((err = kvn_dpdk_ifc_check(&ifc, "af_xdp", s, why)) != KVW_OK ||
        (err = check_program(&ifc, s->what, why)) != KVW_OK)
        return err;
    if (ifc.kernel_mtu > MTU_MAX) {
        snprintf(
            why, KVN_WHY_BYTES,
            "dpdk: af_xdp: interface %.15s has an MTU of %u, and %u is the most: ip link set %.15s "
            "mtu %u",
            s->what, ifc.kernel_mtu, MTU_MAX, s->what, MTU_MAX);
        return KVW_E_DEVICE;
    }
    if ((err = kvn_dpdk_eal_start(NULL, why)) != KVW_OK)
        return err;
    /* The kernel lets go of a queue some time after its last socket was closed. */
    busy_until_ns = kvn_dpdk_now_ns() + BUSY_NS;
    while ((err = open_device(port, o, &ifc, why)) == KVW_E_DEVICE &&
           strstr(why, "create xsk socket") != NULL && kvn_dpdk_now_ns() < busy_until_ns)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    if (err != KVW_OK)
        return err;
    kvn_dpdk_fit_packet(packet, *port, RING);
    return KVW_OK;
}
