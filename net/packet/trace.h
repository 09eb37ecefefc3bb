/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - tracepoints of the packet protocol. When nobody listens each costs one branch on a
 * pointer that is NULL; the event is only put together behind it. README.md lists the events.
 *
 * threads  the transport's
 * memory   an event borrows everything until event() returns
 * time     as given
 */
#ifndef KVN_PACKET_TRACE_H
#define KVN_PACKET_TRACE_H

#include "frame.h"
#include "stats.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvn_trace_kind {
    KVN_TRACE_PACKET_SENT,
    KVN_TRACE_PACKET_RECEIVED,
    KVN_TRACE_PACKET_DROPPED,
    KVN_TRACE_PACKET_LOST,
    KVN_TRACE_METRICS,    /* of a path, after an ACK */
    KVN_TRACE_CONN_STATE, /* text: why, or which */
    KVN_TRACE_PATH_STATE,
    KVN_TRACE_BLOCKED, /* text: by what */
    KVN_TRACE_KINDS,
};

struct kvn_trace_event {
    enum kvn_trace_kind kind;
    uint64_t now_ns;
    uint32_t conn; /* kvw_conn_id's value; 0: none */
    uint8_t path;
    enum kvn_drop drop;            /* PACKET_DROPPED */
    uint32_t bytes;                /* PACKET_* */
    const struct kvn_frame *frame; /* PACKET_SENT, _RECEIVED; NULL for _DROPPED if unreadable */
    uint64_t pn, what;             /* PACKET_LOST: number; put, or offset in the stream */
    uint32_t part;                 /* slice, or bytes */
    uint8_t sent_kind;             /* enum kvn_sent_kind */
    const struct kvn_path_stats *metrics;
    const char *text;
};

/* Who listens; its object starts with this. */
struct kvn_trace {
    void (*event)(struct kvn_trace *trace, const struct kvn_trace_event *ev);
    void (*close)(struct kvn_trace *trace); /* with the transport; NULL: the caller's matter */
};

/* Whether anybody listens to trace. */
#define KVN_TRACING(trace) __builtin_expect((trace) != NULL, 0)

/* The event as one line of JSON, with its newline; returns its length, < bytes. Long texts
 * are cut. */
#define KVN_TRACE_LINE_BYTES 640
uint32_t kvn_trace_json(char line[KVN_TRACE_LINE_BYTES], const struct kvn_trace_event *ev);

#ifdef __cplusplus
}
#endif
#endif
