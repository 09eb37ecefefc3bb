/* SPDX-License-Identifier: Apache-2.0 */
/* What is always true of a connection between two calls, looked at in debug builds. */
#include "conn.h"

#ifndef NDEBUG

#include <assert.h>

#define LONG_SHARE 64u

static void check_inflight(const struct kvn_inflight *f)
{
    uint64_t bytes = 0;
    uint32_t packets = 0;

    assert(f->base >= 1 && f->base <= f->next && f->next - f->base <= f->mask + 1ull);
    assert(f->largest_acked < f->next);
    for (uint64_t pn = f->base; pn < f->next; ++pn) {
        const struct kvn_sent *s = kvn_inflight_at(f, pn);

        if (s->state != KVN_SENT_FLYING)
            continue;
        assert(pn >= f->low);
        bytes += s->bytes;
        ++packets;
    }
    assert(bytes == f->bytes && packets == f->packets);
}

static void check_path(const struct kvn_path *p, const struct kvn_conn *c)
{
    assert(p->conn == c && p->id == p - c->path);
    assert(p->loss.reorder_packets >= KVN_REORDER_MIN &&
           p->loss.reorder_packets <= KVN_REORDER_MAX);
    assert(p->loss.reorder_eighths >= 1 && p->loss.reorder_eighths <= 8);
    assert(p->nack_doubt <= KVN_NACK_DOUBT_MAX);
    assert(p->seen.ranges.count <= KVN_RANGES_MAX);
    assert(p->fit.payload >= KVN_PAYLOAD_MIN);
    if (c->state != KVN_CONN_UP)
        return; /* GOODBYE's number has no record */
    check_inflight(&p->out);
    assert(p->fit.payload <= c->payload);
    assert(p->state != KVN_PATH_LIVE || c->fits <= p->fit.payload);
    assert(p->cc.window >= p->cc.floor && p->cc.window <= p->cc.ceiling);
}

static uint32_t bits(const uint64_t *map, uint32_t words)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < words; ++i)
        if (map[i] != 0) /* few are, and counting is a call where the CPU may be any */
            n += (uint32_t)__builtin_popcountll(map[i]);
    return n;
}

static void check_puts_out(const struct kvn_puts_out *p, bool ended)
{
    uint32_t lost = 0;

    assert(p->next - p->first <= p->mask + 1 && p->fresh - p->first <= p->next - p->first);
    assert(p->sent <= p->credit);
    for (uint32_t put = p->first; put != p->next; ++put) {
        const struct kvn_put_out *o = &p->slot[put & p->mask];

        if (o->state != KVN_PUT_OUT_ACTIVE)
            continue;
        assert(!ended);
        assert(o->fresh <= o->slices && o->arrived_count <= o->fresh);
        assert(o->arrived_count == bits(o->arrived, KVN_SLICE_WORDS));
        assert(o->lost_count == bits(o->lost, KVN_SLICE_WORDS));
        for (uint32_t i = 0; i < KVN_SLICE_WORDS; ++i)
            assert((o->lost[i] & o->arrived[i]) == 0);
        lost += o->lost_count;
    }
    assert(lost == p->lost_count);
}

/* Only the puts between first and end, and one beyond either: all slots before and after each call
 * were a third of the time that random lives took. */
static void check_puts_in(const struct kvn_puts_in *p)
{
    uint32_t open = 0;

    assert(p->taken <= p->credit && p->end - p->first <= p->mask + 1);
    if (p->end - p->first <= p->mask) {
        assert(p->slot[p->end & p->mask].state == KVN_PUT_IN_AHEAD);
        assert(p->slot[(p->first - 1) & p->mask].state == KVN_PUT_IN_AHEAD);
    }
    for (uint32_t put = p->first; put != p->end; ++put) {
        const struct kvn_put_in *in = &p->slot[put & p->mask];

        if (in->state != KVN_PUT_IN_OPEN)
            continue;
        ++open;
        assert(in->got < in->slices && in->got == bits(in->map, KVN_SLICES_MAX / 64));
    }
    assert(open == p->open);
}

static void check_streams(const struct kvn_conn *c)
{
    const struct kvn_stream_out *out = &c->stream_out;
    const struct kvn_stream_in *in = &c->stream_in;

    assert(out->tail <= out->next && out->next <= out->head && out->next <= out->limit);
    assert(out->head - out->tail <= KVN_STREAM_BYTES);
    assert(in->released <= in->delivered && in->delivered <= in->end && in->end <= in->told);
    assert(in->told <= in->released + KVN_STREAM_BYTES);
}

void kvn_conn_assert_consistent(const struct kvn_conn *c)
{
    if (c->state == KVN_CONN_FREE) {
        assert(c->local_id == 0 && kvn_timers_next(&c->timers) == UINT64_MAX);
        return;
    }
    /* Thousands of records are looked at once in so many packets: each time would take hours. */
    if (c->path[0].out.next - c->path[0].out.base > KVN_SENT_FIRST / 2 &&
        c->path[0].out.next % LONG_SHARE != 0)
        return;
    assert(c->local_id != 0 && c->api_id != 0);
    assert(c->paths >= 1 && c->paths <= KVN_PATHS_MAX && c->turn < KVN_PATHS_MAX);
    for (uint32_t i = 0; i < c->paths; ++i)
        check_path(&c->path[i], c);
    check_puts_out(&c->puts_out, c->state == KVN_CONN_ENDED);
    check_puts_in(&c->puts_in);
    check_streams(c);
    if (c->state == KVN_CONN_CONNECTING || c->state == KVN_CONN_ACCEPTING)
        assert(c->timers.at_ns[KVN_TIMER_CONNECT] != UINT64_MAX);
    if (c->state == KVN_CONN_ENDED)
        assert(c->timers.at_ns[KVN_TIMER_LINGER] != UINT64_MAX);
    if (c->state != KVN_CONN_UP)
        return;
    assert(c->timers.at_ns[KVN_TIMER_DEAD] != UINT64_MAX);
    assert(c->peer_id != 0 && c->fits >= KVN_PAYLOAD_MIN && c->fits <= c->payload);
    assert(c->slice >= KVN_SLICE_MIN && c->slice + KVN_DATA_BYTES <= c->fits);
}

#endif
