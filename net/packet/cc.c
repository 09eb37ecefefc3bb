/* SPDX-License-Identifier: Apache-2.0 */
#include "cc.h"

#include "wire.h"

#define SAMPLES      4u   /* one alone may have been held up by anything */
#define YOUNG_SLICES 40u  /* of growth() */
#define LARGE_SHARE  256u /* a window of more slices grows by this share of itself */
/* So few losses in a round trip, of its window, or so many slices, are damage and no full queue. */
#define DAMAGE_SHARE  32u
#define DAMAGE_SLICES 2u

void kvn_cc_begin(struct kvn_cc *cc, uint32_t slice, uint64_t slack_ns, uint64_t room)
{
    uint64_t floor = (uint64_t)KVN_WINDOW_MIN_SLICES * slice;

    if (floor > room)
        floor = room;
    *cc = (struct kvn_cc){
        .window = (uint64_t)KVN_WINDOW_START_SLICES * slice,
        .floor = floor,
        .room = room,
        .ceiling = room,
        .slice = slice,
        .slack_ns = slack_ns,
        .slow_start = true,
        .young = true,
        .least_ns = UINT64_MAX,
        .marks = 1024,
        .burst_ns = UINT64_MAX / 2, /* no rate is known yet */
    };
    if (cc->window > room)
        cc->window = room;
    cc->round_window = cc->window;
}

void kvn_cc_slice(struct kvn_cc *cc, uint32_t slice)
{
    const uint64_t floor = (uint64_t)KVN_WINDOW_MIN_SLICES * slice;

    cc->slice = slice;
    cc->floor = floor < cc->ceiling ? floor : cc->ceiling;
    if (cc->window < cc->floor)
        cc->window = cc->floor;
}

static uint32_t root(uint64_t x)
{
    uint32_t r = 0;

    for (uint32_t bit = 1u << 15; bit > 0; bit >>= 1)
        if ((uint64_t)(r + bit) * (r + bit) <= x)
            r += bit;
    return r > 0 ? r : 1;
}

/* The delay that the path's queue may cause; more for small windows, as 1 / sqrt. */
static uint64_t target(const struct kvn_cc *cc, uint64_t base_ns)
{
    const uint64_t sixteenths = cc->window * 256 / cc->slice; /* root: sqrt(window) in 1/16 */
    const uint64_t share = base_ns / 4 > cc->slack_ns ? base_ns / 4 : cc->slack_ns;

    return share + base_ns * 16 / root(sixteenths);
}

static void set_window(struct kvn_cc *cc, uint64_t window)
{
    cc->window = window < cc->floor ? cc->floor : window > cc->ceiling ? cc->ceiling : window;
}

static void cut_to(struct kvn_cc *cc, uint64_t window, uint64_t now_ns)
{
    set_window(cc, window);
    cc->slow_start = false;
    cc->cut_ns = now_ns;
    cc->least_ns = UINT64_MAX;
    cc->samples = 0;
    cc->calm = 0;
}

/* The queue is what all that share it have in it; each takes out its own part, and a little more,
 * so that it runs empty now and then and shows the true base to those that came when it was full.
 */
static void delayed(struct kvn_cc *cc, uint64_t rtt_ns, uint64_t base_ns, uint64_t now_ns)
{
    uint64_t window = cc->window * base_ns / rtt_ns;

    window -= window / 16;
    cc->young = false;
    cut_to(cc, window > cc->window / 2 ? window : cc->window / 2, now_ns);
}

/*
 * What the window gains in a round trip without a cut. A flow that begins on a full link sees the
 * queue of the others at once, so it stops doubling far below its share. Until its first cut (it is
 * young) it grows by 3/8 a round trip: the others then reach their targets and make room within 20
 * round trips. Small windows grow more slowly: when many flows start together, each is small and
 * their sum is already a queue. On a long path a slice a round trip would take minutes, and less
 * than what damage takes: windows of many slices grow by a share of themselves.
 */
static uint64_t growth(const struct kvn_cc *cc)
{
    const uint64_t slices = cc->window / cc->slice, calm = cc->calm < 64 ? cc->calm : 64;
    const uint64_t slice = cc->window / 8 < cc->slice ? cc->window / 8 : cc->slice;
    const uint64_t step = slice > cc->window / LARGE_SHARE ? slice : cc->window / LARGE_SHARE;

    if (cc->young)
        return slices < 15 ? cc->window * slices / YOUNG_SLICES : cc->window * 3 / 8;
    return step * (1 + calm / 16);
}

static void round_over(struct kvn_cc *cc, const struct kvn_cc_ack *a)
{
    const uint32_t share = cc->acked > 0 ? cc->marked * 1024 / cc->acked : 0;

    cc->marks += (share > cc->marks ? share - cc->marks + 15 : 0) / 16;
    cc->marks -= (share < cc->marks ? cc->marks - share + 15 : 0) / 16;
    ++cc->calm;
    if (cc->marked > 0 && a->sent_ns >= cc->cut_ns) {
        cut_to(cc, cc->window - cc->window * cc->marks / 2048, a->now_ns);
        cc->young = false;
    } else if (cc->marked == 0 && a->full && !cc->slow_start) {
        set_window(cc, cc->window + growth(cc));
    }
    cc->acked = cc->marked = 0;
    cc->lost_bytes = cc->lost_cut = 0;
    cc->round_ns = a->now_ns;
    cc->round_window = cc->window;
}

/* A window in the least round trip, and a quarter more so that it is the window which rules; twice
 * while it doubles. Two packets at once, or what the hosts' lateness makes of it. */
static void set_pace(struct kvn_cc *cc, uint64_t rtt_ns, uint64_t now_ns)
{
    const uint64_t before = cc->ns_per_byte;
    const uint64_t window = cc->slow_start ? 2 * cc->window : cc->window + cc->window / 4;

    cc->ns_per_byte = (rtt_ns << KVN_PACE_SHIFT) / window;
    cc->burst_ns = 2 * cc->slice * cc->ns_per_byte >> KVN_PACE_SHIFT;
    if (cc->burst_ns < cc->slack_ns)
        cc->burst_ns = cc->slack_ns;
    /* The pace was wrong, as after a handshake whose other end was away: nothing is owed to it. */
    if (cc->ns_per_byte < before / 2 && cc->due_ns > now_ns)
        cc->due_ns = now_ns;
}

/* The window doubles until the first sign of a queue. By then it is twice what the packet that
 * shows the queue was sent under. */
static void start(struct kvn_cc *cc, const struct kvn_cc_ack *a)
{
    const uint64_t slack = a->base_ns / 4 > cc->slack_ns ? a->base_ns / 4 : cc->slack_ns;

    if (cc->marked > 0 || a->rtt_ns > a->base_ns + slack)
        cut_to(cc, cc->window / 2, a->now_ns);
    else if (a->full)
        set_window(cc, cc->window + a->bytes);
}

void kvn_cc_guess(struct kvn_cc *cc, uint64_t rtt_ns)
{
    set_pace(cc, rtt_ns, 0);
}

void kvn_cc_acked(struct kvn_cc *cc, const struct kvn_cc_ack *a)
{
    cc->acked += a->packets;
    cc->marked += a->marked;
    if (a->rtt_ns != 0 && a->sent_ns >= cc->cut_ns) {
        ++cc->samples;
        if (a->rtt_ns < cc->least_ns)
            cc->least_ns = a->rtt_ns;
    }
    cc->ceiling = kvn_cc_reach(cc->room, a->base_ns, cc->slack_ns);
    if (cc->samples >= SAMPLES) {
        if (cc->least_ns > a->base_ns + target(cc, a->base_ns))
            delayed(cc, cc->least_ns, a->base_ns, a->now_ns);
        cc->least_ns = UINT64_MAX;
        cc->samples = 0;
    }
    if (cc->slow_start)
        start(cc, a);
    if (a->sent_ns != 0 && a->sent_ns >= cc->round_ns)
        round_over(cc, a);
    if (a->base_ns != UINT64_MAX)
        set_pace(cc, a->base_ns, a->now_ns);
}

void kvn_cc_lost(struct kvn_cc *cc, uint64_t bytes)
{
    const uint64_t before = cc->window, least = cc->round_window / 2;
    const uint64_t cut = bytes < before ? bytes : before;

    set_window(cc, before - cut > least ? before - cut : least < before ? least : before);
    cc->lost_bytes += bytes;
    if (cc->lost_bytes > cc->round_window / DAMAGE_SHARE &&
        cc->lost_bytes > (uint64_t)DAMAGE_SLICES * cc->slice)
        cc->slow_start = cc->young = false;
    cc->lost_cut += before - cc->window;
}

void kvn_cc_late(struct kvn_cc *cc, uint64_t bytes)
{
    uint64_t back;

    if (bytes == 0 || cc->lost_bytes < bytes)
        return; /* it weighed nothing (a probe), or is of an earlier round trip: the window has
                   found its size since */
    back = cc->lost_cut * bytes / cc->lost_bytes;
    cc->lost_bytes -= bytes;
    cc->lost_cut -= back;
    set_window(cc, cc->window + back);
}
