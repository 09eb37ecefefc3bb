/* SPDX-License-Identifier: Apache-2.0 */
#include "loss.h"

void kvn_loss_begin(struct kvn_loss *l)
{
    *l = (struct kvn_loss){
        .srtt_ns = KVN_RTT_START_NS,
        .rttvar_ns = KVN_RTT_START_NS / 2,
        .base_ns = UINT64_MAX,
        .base_now_ns = UINT64_MAX,
        .latest_rtt_ns = KVN_RTT_START_NS,
        .loss_at_ns = UINT64_MAX,
        .reorder_packets = KVN_REORDER_MIN,
        .reorder_eighths = 1,
    };
}

void kvn_loss_guess(struct kvn_loss *l, uint64_t rtt_ns, uint64_t now_ns)
{
    l->base_ns = l->base_now_ns = rtt_ns;
    l->base_since_ns = now_ns;
    if (rtt_ns >= l->srtt_ns)
        return; /* perhaps the peer was only late to start */
    l->srtt_ns = rtt_ns;
    l->rttvar_ns = rtt_ns / 2;
}

/* One time of reordering doesn't make losses slow to be seen for ever. */
static void calm_down(struct kvn_loss *l)
{
    if (!l->late) {
        l->reorder_packets -= (l->reorder_packets - KVN_REORDER_MIN + 1) / 2;
        l->reorder_eighths -= l->reorder_eighths > 1;
    }
    l->late = false;
}

/* The least of the present span and the one before, so that a path that has become longer is
 * believed in the end. */
bool kvn_loss_base(struct kvn_loss *l, uint64_t now_ns)
{
    const uint64_t rtt = l->latest_rtt_ns;
    const bool over = now_ns - l->base_since_ns > KVN_BASE_NS;

    if (over) {
        l->base_ns = l->base_now_ns;
        l->base_now_ns = rtt;
        l->base_since_ns = now_ns;
        calm_down(l);
    }
    if (rtt < l->base_now_ns)
        l->base_now_ns = rtt;
    if (rtt < l->base_ns)
        l->base_ns = rtt;
    return over;
}

void kvn_loss_longer(struct kvn_loss *l)
{
    l->base_ns = l->base_now_ns = UINT64_MAX;
}

void kvn_loss_rtt(struct kvn_loss *l, uint64_t rtt_ns, uint64_t delay_ns)
{
    uint64_t away;

    /* Two clocks: the difference may come out below nothing. */
    rtt_ns =
        rtt_ns > delay_ns + (1u << KVN_DELAY_SHIFT) ? rtt_ns - delay_ns : 1u << KVN_DELAY_SHIFT;
    l->latest_rtt_ns = rtt_ns;
    if (!l->sampled) {
        l->sampled = true;
        l->srtt_ns = rtt_ns;
        l->rttvar_ns = rtt_ns / 2;
        return;
    }
    away = l->srtt_ns > rtt_ns ? l->srtt_ns - rtt_ns : rtt_ns - l->srtt_ns;
    l->rttvar_ns = (3 * l->rttvar_ns + away) / 4;
    l->srtt_ns = (7 * l->srtt_ns + rtt_ns) / 8;
}

void kvn_loss_was_late(struct kvn_loss *l, uint64_t distance)
{
    l->late = true;
    if (distance >= l->reorder_packets)
        l->reorder_packets = distance < KVN_REORDER_MAX ? (uint32_t)distance + 1 : KVN_REORDER_MAX;
    if (l->reorder_eighths < 8)
        ++l->reorder_eighths;
}

uint64_t kvn_loss_delay(const struct kvn_loss *l)
{
    const uint64_t rtt = l->srtt_ns > l->latest_rtt_ns ? l->srtt_ns : l->latest_rtt_ns;
    const uint64_t delay = rtt + rtt * l->reorder_eighths / 8;

    return delay > KVN_LOSS_DELAY_MIN_NS ? delay : KVN_LOSS_DELAY_MIN_NS;
}

uint64_t kvn_loss_detect(struct kvn_loss *l, struct kvn_inflight *f, uint64_t now_ns,
                         const struct kvn_inflight_events *ev, void *arg)
{
    const uint64_t delay = kvn_loss_delay(l);
    const uint64_t before = f->bytes;
    uint64_t pn = kvn_inflight_low(f);

    l->loss_at_ns = UINT64_MAX;
    for (; pn < f->largest_acked; ++pn) {
        const struct kvn_sent *s = kvn_inflight_at(f, pn);

        if (s->state != KVN_SENT_FLYING)
            continue;
        if (f->largest_acked - pn >= l->reorder_packets || s->sent_ns + delay <= now_ns) {
            kvn_inflight_lose(f, pn, ev, arg);
        } else {
            /* Sent in order: those after it are due no earlier. */
            l->loss_at_ns = s->sent_ns + delay;
            break;
        }
    }
    f->low = pn;
    kvn_inflight_trim(f, now_ns > 4 * delay ? now_ns - 4 * delay : 0);
    return before - f->bytes;
}

uint64_t kvn_loss_probe_at(const struct kvn_loss *l, uint64_t last_asking_ns)
{
    uint64_t wait = l->srtt_ns + 4 * l->rttvar_ns + KVN_ACK_DELAY_NS, most;

    if (wait < KVN_PTO_MIN_NS)
        wait = KVN_PTO_MIN_NS;
    most = wait > KVN_PTO_MAX_NS ? wait : KVN_PTO_MAX_NS; /* no answer can come sooner */
    wait <<= l->probes < 8 ? l->probes : 8;
    return last_asking_ns + (wait < most ? wait : most);
}
