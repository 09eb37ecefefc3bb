/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - the transports by name, and how one is opened.
 *
 * threads  kvn_open() and every later call on the transport come from the thread that will own it;
 *          with queues it has threads of its own, which that thread doesn't see
 *          (queues/queues.h)
 * memory   the config is read during kvn_open() only; close gives everything back
 * time     kvn_open() blocks until cfg->open_by_ns (CLOCK_MONOTONIC) at most
 */
#ifndef KVN_NET_H
#define KVN_NET_H

#include "../kvwire/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvn_config {
    /*
     * Where this side is.
     *   loop  a name; the two ends in one process that use the same name are joined
     *   udp   "IPV4:PORT", "[IPV6]:PORT" or, link-local, "[IPV6%IFACE]:PORT"; port 0: any
     *         (senders).
     *         ,queues=N   1 to 8 threads, each with connections of its own (queues/queues.h). The
     *                     queues of a listener share its UDP ports; queue k of a sender has the
     *                     paths' ports from PORT + k * paths on
     *   verbs RAIL[+RAIL...], one for each RDMA device, 4 at most. RAIL is an address of the
     *         device's interface, ADDR[:PORT], or DEVICE[/PORT][:TCPPORT] ("rxe0/1"). The port is
     *         where the listener's side channel (TCP) listens. After a RAIL:
     *         ,gid=N              the GID's index
     *         and after the last one:
     *         ,qps=1..4           queue pairs
     *         ,mw=0               no memory windows: keys live as long as the region
     *         ,mtu=256..4096      no more than that
     *         ,tcp=ADDR:PORT      of the side channel
     *         ,cm=1               queue pairs are joined by rdma_cm
     *         ,cm=ADDR[:PORT]     the same, from this address of the device (IPoIB's), and
     *                             listening there
     *   dpdk  path of the link's Unix socket; its directory should be 0700, it joins one trust
     *         domain. Or KIND:WHAT[,KEY=VALUE...] (a path that begins so is written ./KIND:...):
     *           pci:0000:00:04.0,ip=...   a NIC of its own, bound to vfio-pci or uio_pci_generic
     *           af_packet:IFACE,ip=...    a Linux interface, beside the kernel
     *           af_xdp:IFACE,ip=...       a Linux interface, taken from the kernel
     *           memif:PATH                two processes; the peer doesn't see our memory
     *           ring:NAME                 two ends in one process
     *         Of these the first three take, besides mtu, ring and args:
     *         ip=ADDR[/PREFIX]  its own address, not one of the kernel's; one of either family
     *         port=N            its UDP port, 7400; sources=N: it uses N ports from there on
     *         gw=ADDR           the way out of PREFIX      mac=, vlan=  the device's, untagged
     *         neigh=ADDR@MAC    a neighbour who needn't be asked for; up to 8
     *         mtu=N             1500 for pci, else the interface's
     *         csum=on           UDP checksums over IPv4 even if software makes them
     *         ring=N            descriptors of its one queue
     *         args=K=V;K=V      for the driver
     */
    const char *local;
    const char *peer;    /* default for connect(NULL): "ADDR:PORT"; dpdk waits for its answer to
                            ARP or neighbour discovery. Ignored by loop and dpdk's links */
    bool listener;       /* this side will listen(): decode. dpdk: virtio-user server; else vhost */
    const char *fault;   /* NULL, or faults to inject below the protocol, for tests:
                            "loss=0.05,reorder=0.05,dup=0.01,corrupt=0.001,seed=7" */
    const char *trace;   /* NULL, or a file to write what every packet does into; udp and dpdk;
                            packet/README.md lists the events */
    uint64_t open_by_ns; /* 0: 10 s from the call */
    uint8_t paths;       /* udp: UDP ports of this side, PORT, PORT + 1, ..; 0: 1; at most 8 */
    uint32_t slice_bytes; /* udp, dpdk: most bytes of a put in one packet; 0: what suits the port */
    bool busy_poll;     /* udp, dpdk: wait() never sleeps. For a core that has nothing else to do */
    uint32_t dead_ms;   /* udp, dpdk: silence after which a peer is lost; 0: KVW_PEER_DEAD_NS */
    uint32_t conns_max; /* udp, dpdk: connections at the same time; 0: 4096. Each
                           of several queues has a share of 64 */
};

#define KVN_WHY_BYTES 256

struct kvn_transport_entry {
    const char *name;
    const char *what; /* one line for --help */
    /* On an error: *t untouched, nothing kept, a sentence in why naming the address or device. On
     * KVW_OK why is one line on what was opened and what it falls short in, or empty. */
    kvw_err (*open)(struct kvw_transport **t, const struct kvn_config *cfg,
                    char why[KVN_WHY_BYTES]);
};

/* What was built, ended by an entry whose name is NULL. Filled by meson (transports.c.in). */
extern const struct kvn_transport_entry kvn_transports[];

/*
 * Open by name.
 *   KVW_E_UNSUPPORTED  no such name in this build; why lists those there are
 *   KVW_E_ADDRESS      local or peer can't be parsed, or is in use
 *   KVW_E_DEVICE       the device can't be started (DPDK's own reason in why)
 *   KVW_E_DEADLINE     it didn't start in time
 *   KVW_E_INVALID      fault can't be parsed
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_open(struct kvw_transport **t, const char *net,
                               const struct kvn_config *cfg, char why[KVN_WHY_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
