/* SPDX-License-Identifier: Apache-2.0 */
#include "trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "inflight.h"

const char *const kvn_drop_name[KVN_DROPS] = {
    [KVN_DROP_TRUNCATED] = "truncated", [KVN_DROP_CHECKSUM] = "checksum",
    [KVN_DROP_VERSION] = "version",     [KVN_DROP_MALFORMED] = "malformed",
    [KVN_DROP_UNKNOWN] = "unknown",     [KVN_DROP_ADDRESS] = "address",
    [KVN_DROP_DUPLICATE] = "duplicate", [KVN_DROP_NO_ROOM] = "no_room",
};

static const char *const type_name[16] = {
    [KVN_PACKET_HELLO] = "hello",
    [KVN_PACKET_HELLO_ACK] = "hello_ack",
    [KVN_PACKET_DATA] = "data",
    [KVN_PACKET_MSG] = "msg",
    [KVN_PACKET_ACK] = "ack",
    [KVN_PACKET_PING] = "ping",
    [KVN_PACKET_GOODBYE] = "goodbye",
    [KVN_PACKET_RESET] = "reset",
    [KVN_PACKET_CHALLENGE] = "challenge",
    [KVN_PACKET_RESPONSE] = "response",
    [KVN_PACKET_NACK] = "nack",
};

/* After qlog's main schema, where it has such an event. */
static const char *const event_name[KVN_TRACE_KINDS] = {
    [KVN_TRACE_PACKET_SENT] = "transport:packet_sent",
    [KVN_TRACE_PACKET_RECEIVED] = "transport:packet_received",
    [KVN_TRACE_PACKET_DROPPED] = "transport:packet_dropped",
    [KVN_TRACE_PACKET_LOST] = "recovery:packet_lost",
    [KVN_TRACE_METRICS] = "recovery:metrics_updated",
    [KVN_TRACE_CONN_STATE] = "connectivity:connection_state_updated",
    [KVN_TRACE_PATH_STATE] = "connectivity:path_state_updated",
    [KVN_TRACE_BLOCKED] = "transport:blocked",
};

/* A line that grows; what doesn't fit is left out, and two bytes are kept for the end. */
struct line {
    char *at;
    uint32_t used;
};

KVW_PRINTF(2, 3) static void add(struct line *l, const char *format, ...)
{
    const uint32_t room = KVN_TRACE_LINE_BYTES - 4 - l->used;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(l->at + l->used, room, format, args);
    va_end(args);
    if (n > 0 && (uint32_t)n < room)
        l->used += (uint32_t)n;
}

/* Texts are ours, but hold addresses and the like: nothing that JSON would need to escape may get
 * through. */
static void add_text(struct line *l, const char *name, const char *text)
{
    char clean[160];
    uint32_t n = 0;

    for (; text[n] != '\0' && n + 1 < sizeof(clean); ++n)
        clean[n] =
            text[n] < ' ' || text[n] == '"' || text[n] == '\\' || text[n] > '~' ? '?' : text[n];
    clean[n] = '\0';
    add(l, ",\"%s\":\"%s\"", name, clean);
}

static void add_frame(struct line *l, const struct kvn_frame *f)
{
    const char *type = type_name[f->type & 15];

    add(l, ",\"type\":\"%s\",\"pn\":%" PRIu64, type != NULL ? type : "?", f->pn);
    if (f->flags & KVN_FLAG_ACK_NOW)
        add(l, ",\"ack_now\":true");
    if (f->flags & KVN_FLAG_AGAIN)
        add(l, ",\"again\":true");
    if (f->type == KVN_PACKET_DATA && (f->flags & KVN_FLAG_HEAD_ONLY) != 0)
        add(l, ",\"head_only\":true");
    switch (f->type) {
    case KVN_PACKET_DATA:
        add(l, ",\"put\":%u,\"slice\":%u,\"slice_bytes\":%u,\"put_bytes\":%u", f->data.put,
            f->slice, f->data.slice, f->data.bytes);
        break;
    case KVN_PACKET_MSG:
        add(l, ",\"stream_at\":%" PRIu64, f->stream_at);
        break;
    case KVN_PACKET_ACK:
        add(l,
            ",\"about\":%u,\"largest\":%" PRIu64 ",\"ranges\":%u,\"credit\":%" PRIu64
            ",\"stream_limit\":%" PRIu64 ",\"ce\":%u",
            f->ack.path, f->ack.largest, f->ack.count, f->ack.credit, f->ack.stream_ends,
            f->ack.ce);
        break;
    case KVN_PACKET_HELLO:
    case KVN_PACKET_HELLO_ACK:
        add(l, ",\"source\":%u,\"payload\":%u,\"paths\":%u", f->hello.source, f->hello.payload,
            f->hello.paths);
        break;
    default:
        break;
    }
}

static void add_lost(struct line *l, const struct kvn_trace_event *ev)
{
    add(l, ",\"pn\":%" PRIu64 ",\"bytes\":%u", ev->pn, ev->bytes);
    if (ev->sent_kind == KVN_SENT_DATA)
        add(l, ",\"type\":\"data\",\"put\":%" PRIu64 ",\"slice\":%u", ev->what, ev->part);
    else if (ev->sent_kind == KVN_SENT_MSG)
        add(l, ",\"type\":\"msg\",\"stream_at\":%" PRIu64, ev->what);
    else
        add(l, ",\"type\":\"ping\"");
}

static void add_metrics(struct line *l, const struct kvn_path_stats *m)
{
    add(l,
        ",\"latest_rtt\":%.3f,\"min_rtt\":%.3f,\"smoothed_rtt\":%.3f,\"rtt_variance\":%.3f"
        ",\"congestion_window\":%" PRIu64 ",\"bytes_in_flight\":%" PRIu64
        ",\"pacing_rate\":%" PRIu64,
        (double)m->rtt_ns / 1e6, (double)m->rtt_min_ns / 1e6, (double)m->srtt_ns / 1e6,
        (double)m->rttvar_ns / 1e6, m->cwnd_bytes, m->inflight_bytes, 8 * m->pacing_bytes_per_s);
}

uint32_t kvn_trace_json(char line[KVN_TRACE_LINE_BYTES], const struct kvn_trace_event *ev)
{
    struct line l = {.at = line};

    add(&l, "{\"time\":%.6f,\"name\":\"%s\",\"data\":{\"conn\":%u,\"path\":%u",
        (double)ev->now_ns / 1e6, event_name[ev->kind], ev->conn, ev->path);
    if (ev->kind == KVN_TRACE_PACKET_DROPPED)
        add(&l, ",\"cause\":\"%s\"", kvn_drop_name[ev->drop]);
    if (ev->kind <= KVN_TRACE_PACKET_DROPPED)
        add(&l, ",\"bytes\":%u", ev->bytes);
    if (ev->frame != NULL)
        add_frame(&l, ev->frame);
    if (ev->kind == KVN_TRACE_PACKET_LOST)
        add_lost(&l, ev);
    if (ev->metrics != NULL)
        add_metrics(&l, ev->metrics);
    if (ev->text != NULL)
        add_text(&l, "text", ev->text);
    line[l.used++] = '}';
    line[l.used++] = '}';
    line[l.used++] = '\n';
    line[l.used] = '\0';
    return l.used;
}
