/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any Linux interface through an AF_PACKET socket: needs CAP_NET_RAW and nothing else, and the
 * kernel keeps the interface. So the address must be one that the kernel hasn't: it would answer
 * our packets itself, with "port unreachable".
 */
#include <stdio.h>
#include <sys/socket.h>

#include "eal.h"
#include "ifc.h"
#include "kind.h"
#include "nic.h"

/* The driver takes frame n to be at n times its length, so blocks must hold whole frames, and the
 * kernel wants whole pages of them: of a frame of n KiB, 1, 2 or 4. */
#define FRAME_ALIGN 1024u
#define PAGE_BYTES  4096u
/* What the kernel puts before a frame in its ring (66), Ethernet's header and a tag (18). */
#define FRAME_EXTRA 96u
#define RING        512u
/* As udp's: processes that share cores look this late. */
#define SLACK_NS 8000000u

/* What the socket's buffer has no room for stays in the driver's ring until the next burst, which
 * may only come when that was acknowledged. So there is room for all of the ring; the second form
 * is for those who may not have the first. */
static void fit_socket(int fd, uint32_t ring, uint32_t frame)
{
    const int bytes = (int)(ring * (frame + PAGE_BYTES));

    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

kvw_err kvn_dpdk_open_af_packet(struct kvn_port **port, const struct kvn_dpdk_open *o,
                                struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    static _Atomic unsigned devices;
    const struct kvn_dpdk_spec *s = o->spec;
    const uint32_t ring = s->ring != 0 ? s->ring : RING;
    uint32_t frame, block;
    struct kvn_dpdk_ifc ifc;
    char device[32], args[192 + KVN_DPDK_ARGS_BYTES];
    struct kvn_dpdk_nic_config nic;
    kvw_err err;

    if ((err = kvn_dpdk_ifc_check(&ifc, "af_packet", s, why)) != KVW_OK ||
        (err = kvn_dpdk_eal_start(NULL, why)) != KVW_OK)
        return err;
    frame = (ifc.mtu + FRAME_EXTRA + FRAME_ALIGN - 1) / FRAME_ALIGN * FRAME_ALIGN;
    for (block = frame; block % PAGE_BYTES != 0;)
        block += frame;
    snprintf(device, sizeof(device), "net_af_packet%u", devices++);
    snprintf(args, sizeof(args), "iface=%s,qpairs=1,framesz=%u,blocksz=%u,framecnt=%u%s%s", s->what,
             frame, block, ring, s->args[0] != '\0' ? "," : "", s->args);
    kvn_dpdk_ifc_sockets_before(&ifc, AF_PACKET);
    if ((err = kvn_dpdk_nic_attach("af_packet", "vdev", device, args, why)) != KVW_OK)
        return err;
    nic = (struct kvn_dpdk_nic_config){
        .kind = "af_packet",
        .device = device,
        .net = s->net,
        .peer = o->peer,
        .body = KVN_DPDK_BODY_BORROW,
        .mtu = ifc.mtu,
        .promiscuous = ifc.other_mac,
        .queues = 1,
        .checksum = s->checksum,
        .ring = ring,
        .wake_fd = kvn_dpdk_ifc_socket(&ifc, 0),
        .open_by_ns = o->open_by_ns,
    };
    fit_socket(nic.wake_fd, ring, frame);
    if ((err = kvn_dpdk_nic_open(port, &nic, why)) != KVW_OK)
        return err;
    (*port)->slack_ns = SLACK_NS;
    kvn_dpdk_fit_packet(packet, *port, ring);
    return KVW_OK;
}
