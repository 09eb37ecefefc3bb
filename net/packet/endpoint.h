/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint.h - the packet protocol as a transport: a table of connections over one port.
 *
 * threads  as transport.h: one
 * memory   one allocation in open, given back in close. A connection has 2 MiB of address space,
 *          mapped when it begins and unmapped when it is forgotten; idle ones touch little. What a
 *          long round trip needs on top of it is mapped when it does (sent_max)
 * time     now_ns comes from the caller; only the port's wait() reads a clock
 */
#ifndef KVN_PACKET_ENDPOINT_H
#define KVN_PACKET_ENDPOINT_H

#include "../net.h"
#include "../port/port.h"
#include "stats.h"
#include "trace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVN_CONNS_DEFAULT 4096u
#define KVN_CONNS_MAX     65536u
/* An endpoint of up to so many connections: an id modulo this is a number of its own of each that
 * exists at one time, below conns_max (queues/ counts on it). */
#define KVN_CONNS_STRIDE 64u

/* 0 in a field: the default. */
struct kvn_packet_config {
    uint64_t seed;           /* of connection ids; 0: the kernel's entropy */
    uint64_t dead_ns;        /* silence that ends a connection; KVW_PEER_DEAD_NS */
    uint64_t connect_ns;     /* how long connect() tries; KVW_HELLO_TIMEOUT_NS */
    uint32_t slice_bytes;    /* of a put in one packet; min(KVN_SLICE_DEFAULT, what fits). Rounded
                                down to KVN_SLICE_ALIGN */
    uint32_t inflight_bytes; /* most that may be on its way, to us and from us;
                                KVN_INFLIGHT_BYTES */
    uint32_t sent_max;       /* packets that a path remembers until their fate is known, 32 bytes
                                each; a power of two, KVN_SENT_FIRST .. KVN_SENT_MAX;
                                KVN_SENT_DEFAULT. It begins with KVN_SENT_FIRST */
    uint32_t conns_max;      /* 1 .. KVN_CONNS_MAX; KVN_CONNS_DEFAULT */
    uint8_t queue, queues;   /* this is the queue-th of so many endpoints with one address: its
                                connections' ids say so (../port/steer.h). 0 queues: 1 */
    uint16_t versions;       /* of the protocol that it speaks, versions.h; KVN_VERSIONS. Others are
                                for tests: they differ from it in their number alone */
    struct kvn_trace *trace; /* trace.h; NULL: nobody listens. With KVW_OK it is the transport's,
                                which calls its close() last */
};

/*
 * Make a transport of port. On KVW_OK the transport owns port and closes it; on an error the port
 * is still the caller's, *t is untouched and why holds a sentence. cfg is only read here; NULL: all
 * defaults.
 *   KVW_E_INVALID  a field is out of range, or the port's payload_max is
 *   KVW_E_NOMEM
 *   KVW_E_IO       no entropy
 */
KVW_NODISCARD kvw_err kvn_packet_open(struct kvw_transport **t, struct kvn_port *port,
                                      const struct kvn_packet_config *cfg, char why[KVN_WHY_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
