/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.h - where the packet protocol's packets come from and go to: bursts of UDP payloads with an
 * address. A port knows nothing of connections; the protocol core (../packet/) does no I/O.
 * Implemented by udp/ (sockets), dpdk/ (any DPDK device), sim/ (virtual network) and
 * fault.c (wraps another port and loses, reorders, repeats and corrupts).
 *
 * threads  one thread owns a port
 * memory   taken at open; nothing between open and close
 * time     now_ns is the caller's; only wait() reads a clock and blocks
 */
#ifndef KVN_PORT_H
#define KVN_PORT_H

#include "../../kvwire/transport.h"

/* An IPv4 (family 4, ip[0..3]) or IPv6 (family 6) address and UDP port. Compared with
 * kvn_addr_equal. */
struct kvn_addr {
    uint8_t family; /* 4 or 6; 0: none */
    uint8_t ip[16]; /* network order */
    uint16_t port;  /* host order */
    uint32_t scope; /* of a link-local IPv6 address: the interface's index; else 0 */
};

bool kvn_addr_equal(const struct kvn_addr *a, const struct kvn_addr *b);

#define KVN_ADDR_TEXT_BYTES 80
/* "1.2.3.4:5", "[::1]:5" or "[fe80::1%eth0]:5"; returns buf. */
const char *kvn_addr_format(const struct kvn_addr *a, char buf[KVN_ADDR_TEXT_BYTES]);
/* The same backwards, no look-up of names but an interface's. KVW_E_ADDRESS; *a untouched. */
KVW_NODISCARD kvw_err kvn_addr_parse(struct kvn_addr *a, const char *text);

/* The two ECN bits of the IP header (RFC 3168). A port that can't carry them says
 * NOT_ECT always. */
enum { KVN_ECN_NOT_ECT = 0, KVN_ECN_ECT1 = 1, KVN_ECN_ECT0 = 2, KVN_ECN_CE = 3 };

/* A received UDP payload. bytes are the port's until the next rx(). */
struct kvn_rx_packet {
    const uint8_t *bytes;
    uint32_t len;
    uint8_t source; /* which of the port's own UDP ports it came to, < source_count */
    uint8_t ecn;
    struct kvn_addr from;
};

/* A UDP payload to send: head then body, gathered in order. All borrowed until tx() returns. */
struct kvn_tx_packet {
    struct kvn_addr to;
    const uint8_t *head;
    uint32_t head_bytes;
    struct kvw_iov body[2];
    uint32_t body_count; /* 0 .. 2 */
    uint8_t source;      /* which of the port's own UDP ports to send from, < source_count */
    uint8_t ecn;
};

#define KVN_BURST 32

/* A port sends from and listens on up to so many UDP ports of its own: ECMP and RSS spread packets
 * by them, so each is a path through the network. */
#define KVN_PORT_SOURCES_MAX 8

#define KVN_REACH_WHY_BYTES 224

struct kvn_port;

struct kvn_port_ops {
    const char *name;
    /* Up to max (<= KVN_BURST) packets, never blocks. */
    uint32_t (*rx)(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                   uint32_t max);
    /* Takes the first n' <= count packets (<= KVN_BURST) and returns n'; fewer: the device is full
     * now. A packet that can never be sent is counted in tx_errors and taken. Never blocks. */
    uint32_t (*tx)(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *packets,
                   uint32_t count);
    /* As kvw_transport_ops.wait. */
    void (*wait)(struct kvn_port *port, uint64_t until_ns, int wake_fd);
    /* As kvw_transport_ops', and NULL as there. */
    int (*fd)(struct kvn_port *port);
    bool (*arm)(struct kvn_port *port, uint64_t *until_ns);
    void (*disarm)(struct kvn_port *port);
    /* When rx() must run even without input (delayed packets of sim and fault);
     * UINT64_MAX: never. */
    uint64_t (*deadline_ns)(const struct kvn_port *port);
    void (*close)(struct kvn_port *port);
    /* Whether packets to an address can leave, as far as the system knows now. False: why is a
     * sentence with its reason. NULL: the port can't tell. Not for the data path. */
    bool (*reaches)(struct kvn_port *port, const struct kvn_addr *to,
                    char why[KVN_REACH_WHY_BYTES]);
};

/* Every implementation's object starts with this. */
struct kvn_port {
    const struct kvn_port_ops *ops;
    uint32_t payload_max;  /* longest UDP payload that fits one packet, >= 1200 */
    struct kvn_addr local; /* of source 0; family 0: unknown */
    /* Scheduling noise of the two hosts: how late their processes may look at packets and clocks.
     * Changes of the round trip below it aren't taken for congestion, and packets aren't paced more
     * finely. */
    uint64_t slack_ns;
    bool one_host;                /* as kvw_transport.one_host */
    uint8_t source_count;         /* UDP ports of its own; 0 reads as 1 */
    struct kvn_addr default_peer; /* of a link with one peer; family 0: none */
    uint64_t tx_errors;
};

#endif
