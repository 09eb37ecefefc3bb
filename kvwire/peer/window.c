/* SPDX-License-Identifier: Apache-2.0 */
/* How many landing slots a peer may hold: rate x the time from a GRANT to its put, or its share. */
#include "window.h"

static uint32_t size_now(const struct kvw_window *w)
{
    return w->slots != 0 && w->slots < w->share ? w->slots : w->share;
}

static void change(struct kvw_window *w, uint32_t slots)
{
    w->skip = size_now(w);
    w->slots = slots < w->share ? slots : 0;
}

/* What has failed isn't tried again for a while. */
static void wait(struct kvw_window *w)
{
    w->waited = 0;
    w->wait = w->wait == 0 ? KVW_WINDOW_WAIT : w->wait < UINT32_MAX / 2 ? 2 * w->wait : w->wait;
}

/* Slots that are surely enough. */
static uint32_t need(uint32_t puts_a_ms, uint64_t age_ns)
{
    const uint64_t n = KVW_WINDOW_MIN + 2 * age_ns * puts_a_ms / 1000000;

    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* Whether half the slots of a trial were too few: then they were used no sooner than before. */
static bool judge(struct kvw_window *w)
{
    const bool failed = w->age_ns > w->age_before_ns / 8 * 5;

    w->trial = false;
    if (failed) {
        wait(w);
        change(w, 2 * w->slots);
    } else {
        w->wait = 0;
    }
    return failed;
}

static void stretch(struct kvw_window *w, uint32_t rate, uint32_t puts_a_ms)
{
    uint32_t enough, now = size_now(w);

    if (w->slots == 0) { /* the lower of two: what was sent ahead lands in no time */
        w->best = w->rate = rate < w->last ? rate : w->last;
        w->last = rate;
        if (w->best == 0)
            return; /* the first one */
    }
    w->rate = (uint32_t)((3ull * w->rate + rate) / 4);
    if (w->rate < KVW_WINDOW_SLOW || w->rate < w->best / 2) {
        if (w->slots != 0)
            wait(w);
        w->trial = false;
        change(w, w->share);
        return;
    }
    if (w->trial && judge(w))
        return;
    enough = need(puts_a_ms, w->age_ns);
    if (w->waited < w->wait) {
        ++w->waited;
    } else if (enough < now) {
        change(w, enough);
    } else if (now > KVW_WINDOW_MIN) {
        w->trial = true;
        w->age_before_ns = w->age_ns;
        change(w, now / 2 > KVW_WINDOW_MIN ? now / 2 : KVW_WINDOW_MIN);
    }
}

static void begin(struct kvw_window *w, uint64_t now_ns)
{
    w->puts = 0;
    w->bytes = 0;
    w->age_ns = UINT64_MAX;
    w->began_ns = now_ns;
}

static void end(struct kvw_window *w, uint64_t now_ns)
{
    const uint64_t took_ns = now_ns - w->began_ns + 1, bytes = w->bytes;
    const uint64_t rate = bytes * 1000 / took_ns, puts = KVW_WINDOW_STRETCH * 1000000ull / took_ns;

    stretch(w, rate < UINT32_MAX ? (uint32_t)rate : UINT32_MAX,
            puts < UINT32_MAX ? (uint32_t)puts : UINT32_MAX);
    begin(w, now_ns);
}

void kvw_window_landed(struct kvw_window *w, uint32_t bytes, uint64_t age_ns, uint64_t now_ns)
{
    if (w->last_ns == 0)
        begin(w, now_ns);
    if (w->paused)
        w->began_ns += now_ns - w->last_ns;
    w->paused = false;
    w->last_ns = now_ns;
    if (w->skip > 0) {
        if (--w->skip == 0)
            begin(w, now_ns);
        return;
    }
    w->bytes += bytes;
    w->age_ns = age_ns < w->age_ns ? age_ns : w->age_ns;
    if (++w->puts == KVW_WINDOW_STRETCH)
        end(w, now_ns);
}

uint32_t kvw_window_size(struct kvw_window *w, uint32_t share)
{
    w->share = share;
    return size_now(w);
}
