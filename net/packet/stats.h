/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - what the packet protocol counts beyond kvw_transport_stats, as snapshots. Counters only
 * grow; gauges say what is now.
 *
 * threads  the transport's      memory  the caller's struct      time  none
 */
#ifndef KVN_PACKET_STATS_H
#define KVN_PACKET_STATS_H

#include "../../kvwire/transport.h"
#include "wire.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Why a packet that came was not acted on. */
enum kvn_drop {
    KVN_DROP_TRUNCATED, /* shorter than its type */
    KVN_DROP_CHECKSUM,
    KVN_DROP_VERSION,
    KVN_DROP_MALFORMED, /* an unknown type, or a field out of range */
    KVN_DROP_UNKNOWN,   /* for a connection that isn't here */
    KVN_DROP_ADDRESS,   /* from an address or on a path that isn't the peer's */
    KVN_DROP_DUPLICATE, /* its number came before */
    KVN_DROP_NO_ROOM,   /* beyond credit, limit or window: the peer must send it again */
    KVN_DROPS,
};
extern const char *const kvn_drop_name[KVN_DROPS];

struct kvn_path_stats {
    /* Packets but HELLOs, which come before there is a path; bytes_sent: of DATA, MSG and PING. */
    uint64_t packets_sent, bytes_sent, packets_received, bytes_received;
    uint64_t packets_lost;          /* taken for lost */
    uint64_t packets_retransmitted; /* carried something that was sent before */
    uint64_t packets_spurious;      /* taken for lost, but they had only been late */
    uint64_t packets_marked;        /* received with ECN's CE */
    uint64_t probes;                /* nothing came back for so long that it was asked */
    uint64_t moves;                 /* the peer proved to be at another address */
    /* gauges */
    uint8_t state; /* enum kvn_path_state */
    uint64_t rtt_ns, srtt_ns, rttvar_ns;
    uint64_t rtt_min_ns; /* lately, of a packet of full length; 0: none yet */
    uint64_t cwnd_bytes, inflight_bytes;
    uint64_t pacing_bytes_per_s; /* 0: not paced */
    uint32_t payload;            /* longest packet it is known to carry */
    uint32_t records;            /* packets that it can remember now; more on long paths */
};

struct kvn_conn_stats {
    uint64_t credit_stalls; /* times that puts waited for the peer's credit alone */
    uint64_t stream_stalls; /* times that messages waited for the peer's limit alone */
    /* gauges */
    uint64_t credit_bytes;  /* what may still be sent of it */
    uint32_t payload;       /* longest packet in use: what every path that works carries */
    uint32_t payload_limit; /* what both ends take; more than payload: longer ones are tried */
    uint32_t paths;
    struct kvn_path_stats path[KVN_PATHS_MAX];
};

struct kvn_packet_stats {
    struct kvw_transport_stats all;
    uint64_t dropped[KVN_DROPS];
    uint32_t payload_least; /* gauge: least `payload` of the connections that are up; 0: none is */
    uint32_t conns;         /* gauge: connections that exist, in whatever state */
    uint64_t conns_visited; /* by polls: idle ones aren't */
};

/* t of both: an endpoint. A transport of several queues is none:
 * kvn_queues_stats() (../queues.h). */
void kvn_packet_stats(const struct kvw_transport *t, struct kvn_packet_stats *stats);
/* KVW_E_NOTFOUND: no such connection, or it is over. */
KVW_NODISCARD kvw_err kvn_packet_conn_stats(const struct kvw_transport *t, kvw_conn_id conn,
                                            struct kvn_conn_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
