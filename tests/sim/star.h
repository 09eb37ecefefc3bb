/* SPDX-License-Identifier: Apache-2.0 */
/*
 * star.h - many senders and one receiver (node 0) behind a shared link: who gets how much of it,
 * and what it costs. Puts are kept in the queues of those that are told to send.
 */
#ifndef T_STAR_H
#define T_STAR_H

#include "../../kvwire/wire.h"
#include "../../net/packet/endpoint.h"
#include "../../net/port/sim/sim.h"

#define T_STAR_MAX 16u

struct t_star_sender {
    struct kvw_transport *t;
    const struct kvn_port *port; /* the transport's */
    kvw_conn_id conn;
    bool up, down, sends;
    uint32_t queued;    /* puts */
    uint64_t put_bytes; /* of one put; T_STAR_PUT_BYTES */
    uint64_t deadline_ns;
};

struct t_star {
    struct kvn_sim *sim;
    uint32_t senders;
    struct t_star_sender sender[T_STAR_MAX];
    struct kvw_transport *sink;
    const struct kvn_port *sink_port;
    struct kvw_region_key key;
    uint8_t *memory, *source;
    uint64_t landed[T_STAR_MAX]; /* bytes */
    uint64_t sink_deadline_ns;
};

#define T_STAR_PUT_BYTES (64u * 1024)

/* All connected, quiet, at 100 Gb/s and 20 us: link towards node 0 with a buffer of buffer_bytes
 * that marks from ecn_bytes on (0: neither). Payload 8240: slices of 8 KiB. */
void t_star_open(struct t_star *s, uint64_t seed, uint32_t senders, uint32_t buffer_bytes,
                 uint32_t ecn_bytes);
/* The same, over so many paths. */
void t_star_open_paths(struct t_star *s, uint64_t seed, uint32_t senders, uint32_t buffer_bytes,
                       uint32_t ecn_bytes, uint32_t paths);
void t_star_close(struct t_star *s);
/* Until time. */
void t_star_run(struct t_star *s, uint64_t until_ns);
/* Bytes that have arrived from this sender; from the counters, so to the slice. */
void t_star_received(struct t_star *s, uint64_t bytes[T_STAR_MAX]);

#define T_BYTES_PER_S 12500000000ull /* 100 Gb/s */
#define T_RTT_NS      20000ull
#define T_BDP         250000u

#endif
