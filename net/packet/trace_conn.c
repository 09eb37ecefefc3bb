/* SPDX-License-Identifier: Apache-2.0 */
/* Counters and tracepoints of connections. What happens per packet costs a few additions and one
 * branch; what is told is put together only if somebody listens. */
#include "conn.h"

#include <stdio.h>
#include <string.h>

/* Not inlined, so that nothing of it stands in the callers' way. */
__attribute__((noinline)) static void tell(const struct kvn_conn *c, uint8_t path,
                                           struct kvn_trace_event *ev)
{
    ev->now_ns = c->env->now_ns;
    ev->conn = c->api_id;
    ev->path = path;
    c->env->trace->event(c->env->trace, ev);
}

void kvn_tell_packet(const struct kvn_path *p, enum kvn_trace_kind kind, const struct kvn_frame *f,
                     uint32_t bytes)
{
    tell(p->conn, p->id, &(struct kvn_trace_event){.kind = kind, .bytes = bytes, .frame = f});
}

void kvn_note_dropped(struct kvn_env *env, const struct kvn_conn *conn, const struct kvn_frame *f,
                      uint32_t bytes, enum kvn_drop why)
{
    ++env->dropped[why];
    if (!KVN_TRACING(env->trace))
        return;
    env->trace->event(env->trace, &(struct kvn_trace_event){
                                      .kind = KVN_TRACE_PACKET_DROPPED,
                                      .now_ns = env->now_ns,
                                      .conn = conn == NULL ? 0 : conn->api_id,
                                      .path = f == NULL ? 0 : f->path,
                                      .drop = why,
                                      .bytes = bytes,
                                      .frame = f,
                                  });
}

void kvn_note_lost(struct kvn_path *p, const struct kvn_sent *sent)
{
    const uint64_t slot = (uint64_t)(sent - p->out.ring);

    ++p->count.packets_lost;
    if (KVN_TRACING(p->conn->env->trace))
        tell(p->conn, p->id,
             &(struct kvn_trace_event){
                 .kind = KVN_TRACE_PACKET_LOST,
                 .pn = p->out.base + ((slot - (p->out.base - p->out.origin)) & p->out.mask),
                 .bytes = sent->bytes,
                 .what = sent->what,
                 .part = sent->part,
                 .sent_kind = sent->kind,
             });
}

void kvn_tell_metrics(const struct kvn_path *p)
{
    struct kvn_path_stats now;

    kvn_path_stats(p, &now);
    tell(p->conn, p->id, &(struct kvn_trace_event){.kind = KVN_TRACE_METRICS, .metrics = &now});
}

void kvn_note_conn(const struct kvn_conn *c, const char *text)
{
    if (KVN_TRACING(c->env->trace))
        tell(c, 0, &(struct kvn_trace_event){.kind = KVN_TRACE_CONN_STATE, .text = text});
}

void kvn_note_payload(const struct kvn_conn *c)
{
    char text[48];

    snprintf(text, sizeof(text), "packets of up to %u bytes", c->fits);
    kvn_note_conn(c, text);
}

void kvn_note_path(const struct kvn_path *p, const char *text)
{
    if (KVN_TRACING(p->conn->env->trace))
        tell(p->conn, p->id, &(struct kvn_trace_event){.kind = KVN_TRACE_PATH_STATE, .text = text});
}

/* Returns whether a stall has just begun: nothing was sent since one was seen. */
static bool begins(bool now, uint64_t sent, uint64_t *at)
{
    if (!now || *at == sent + 1)
        return false;
    *at = sent + 1;
    return true;
}

void kvn_note_stalls(struct kvn_conn *c)
{
    if (begins(kvn_puts_out_blocked(&c->puts_out), c->puts_out.sent, &c->credit_stalled_at)) {
        ++c->credit_stalls;
        ++c->env->stats.credit_stalls;
        if (KVN_TRACING(c->env->trace))
            tell(c, 0, &(struct kvn_trace_event){.kind = KVN_TRACE_BLOCKED, .text = "credit"});
    }
    if (begins(kvn_stream_out_blocked(&c->stream_out), c->stream_out.next, &c->stream_stalled_at)) {
        ++c->stream_stalls;
        if (KVN_TRACING(c->env->trace))
            tell(c, 0,
                 &(struct kvn_trace_event){.kind = KVN_TRACE_BLOCKED, .text = "stream limit"});
    }
}

void kvn_path_stats(const struct kvn_path *p, struct kvn_path_stats *stats)
{
    *stats = (struct kvn_path_stats){
        .bytes_sent = p->count.bytes_sent,
        .packets_received = p->count.packets_received,
        .bytes_received = p->count.bytes_received,
        .packets_lost = p->count.packets_lost,
        .packets_retransmitted = p->count.packets_retransmitted,
        .probes = p->count.probes,
        .moves = p->count.moves,
    };
    stats->packets_sent = p->out.next - 1;
    stats->packets_spurious = p->late;
    stats->packets_marked = p->seen.ce;
    stats->state = (uint8_t)p->state;
    stats->rtt_ns = p->loss.latest_rtt_ns;
    stats->rtt_min_ns = p->loss.base_ns == UINT64_MAX ? 0 : p->loss.base_ns;
    stats->srtt_ns = p->loss.srtt_ns;
    stats->rttvar_ns = p->loss.rttvar_ns;
    stats->cwnd_bytes = p->cc.window;
    stats->inflight_bytes = p->out.bytes;
    if (p->cc.ns_per_byte != 0)
        stats->pacing_bytes_per_s = (1000000000ull << KVN_PACE_SHIFT) / p->cc.ns_per_byte;
    stats->payload = p->fit.payload;
    stats->records = p->out.mask + 1;
}
