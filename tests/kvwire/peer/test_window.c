/* SPDX-License-Identifier: Apache-2.0 */
/* A peer holds as few landing slots as its rate and its distance need, and loses no rate by it. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/peer/window.h"

#define US    1000ull
#define MS    (1000 * US)
#define SLOTS 64u
#define PUT   (256u * 1024)

/* A sender and a receiver that share one CPU, or are a link apart. */
struct model {
    struct kvw_window w;
    uint64_t now;
    uint64_t send_ns, take_ns; /* what a put costs each end */
    uint64_t away_ns;          /* from a grant to a put that uses it at once; 0: on this CPU */
    uint64_t lent[SLOTS];      /* when each slot that is held was granted, oldest first */
    uint32_t held, most;       /* most: held since it was cleared */
    uint64_t free_ns;          /* the receiver takes the next put then */
};

static void open_model(struct model *m)
{
    memset(m, 0, sizeof(*m));
    m->now = 1000 * MS;
    m->send_ns = m->take_ns = 20 * US;
    m->held = kvw_window_size(&m->w, SLOTS);
    for (uint32_t i = 0; i < m->held; ++i)
        m->lent[i] = m->now;
}

static void grant(struct model *m, uint64_t at)
{
    while (m->held < kvw_window_size(&m->w, SLOTS))
        m->lent[m->held++] = at;
    m->most = m->held > m->most ? m->held : m->most;
}

static uint64_t use_oldest(struct model *m)
{
    const uint64_t lent = m->lent[0];

    memmove(m->lent, m->lent + 1, --m->held * sizeof(m->lent[0]));
    return lent;
}

/* The sender uses all that it holds before the receiver runs, and so on in turns. Returns ns. */
static uint64_t run_here(struct model *m, uint32_t puts)
{
    const uint64_t began = m->now;

    while (puts > 0) {
        uint32_t landed = 0;
        uint64_t at[SLOTS];

        for (; m->held > 0 && puts > 0; --puts) {
            at[landed++] = use_oldest(m);
            m->now += m->send_ns;
        }
        for (uint32_t i = 0; i < landed; ++i)
            kvw_window_landed(&m->w, PUT, m->now - at[i], m->now);
        for (uint32_t i = 0; i < landed; ++i) {
            m->now += m->take_ns;
            if (i % 4 == 3 && landed - i - 1 + m->held < kvw_window_size(&m->w, SLOTS))
                grant(m, m->now);
        }
        grant(m, m->now);
    }
    return m->now - began;
}

/* Each slot is used as soon as its grant is there and the link is free. */
static uint64_t run_far(struct model *m, uint32_t puts)
{
    const uint64_t began = m->now;

    for (; puts > 0; --puts) {
        const uint64_t lent = use_oldest(m);
        const uint64_t at = lent + m->away_ns;

        m->now = at > m->now + m->send_ns ? at : m->now + m->send_ns;
        kvw_window_landed(&m->w, PUT, m->now - lent, m->now);
        grant(m, m->now);
    }
    return m->now - began;
}

Test(window, a_peer_on_this_cpu_holds_few)
{
    struct model m;

    open_model(&m);
    run_here(&m, 40 * SLOTS);
    m.most = 0;
    run_here(&m, 40 * SLOTS);
    cr_expect_leq(m.most, 2 * KVW_WINDOW_MIN, "it holds up to %u", m.most);
    cr_expect_geq(m.most, KVW_WINDOW_MIN);
}

/* 64 slots of 256 KiB in 3 ms are what the link can carry: fewer would be fewer bytes. */
Test(window, a_far_peer_keeps_what_it_needs)
{
    struct model m, all;
    uint64_t with, without;

    open_model(&m);
    m.away_ns = 3 * MS;
    all = m;
    with = run_far(&m, 400 * SLOTS);
    without = (400 - 1) * m.away_ns;
    (void)all;
    cr_expect_leq(with * 100, without * 104, "%lu instead of %lu us", (unsigned long)(with / US),
                  (unsigned long)(without / US));
    cr_expect_eq(kvw_window_size(&m.w, SLOTS), SLOTS);
}

/* 13 slots are on their way at any time: twice as many are enough, with some in reserve. */
Test(window, a_peer_in_the_next_rack_holds_a_part)
{
    struct model m;
    uint64_t took;

    open_model(&m);
    m.away_ns = 250 * US;
    run_far(&m, 100 * SLOTS);
    m.most = 0;
    took = run_far(&m, 300 * SLOTS);
    cr_expect_lt(m.most, SLOTS * 3 / 4, "it holds up to %u", m.most);
    cr_expect_leq(took * 100, 300 * SLOTS * m.send_ns * 103, "%lu us", (unsigned long)(took / US));
}

/* Below that, memory's speed is nobody's concern. */
Test(window, a_slow_peer_has_its_share)
{
    struct model m;

    open_model(&m);
    m.send_ns = 2 * MS;
    m.away_ns = 100 * US;
    run_far(&m, 40 * SLOTS);
    cr_expect_eq(kvw_window_size(&m.w, SLOTS), SLOTS);
}

/* The same peer by a longer way: it is seen, and what was held for it comes back. */
Test(window, a_peer_that_moves_away_gets_its_share_again)
{
    struct model m;
    uint64_t took;

    open_model(&m);
    m.away_ns = 30 * US;
    run_far(&m, 60 * SLOTS);
    cr_expect_leq(kvw_window_size(&m.w, SLOTS), 2 * KVW_WINDOW_MIN);
    m.away_ns = 1200 * US;
    run_far(&m, 16 * SLOTS);
    took = run_far(&m, 100 * SLOTS);
    cr_expect_leq(took * 100, 100 * SLOTS * m.send_ns * 108, "%lu us", (unsigned long)(took / US));
}

/* Between two transfers nothing is asked for: that is no slow peer. */
Test(window, pauses_do_not_count)
{
    struct model m;

    open_model(&m);
    m.away_ns = 30 * US;
    for (uint32_t i = 0; i < 120; ++i) {
        run_far(&m, 41);
        kvw_window_pause(&m.w);
        m.now += 50 * MS;
    }
    cr_expect_leq(kvw_window_size(&m.w, SLOTS), 2 * KVW_WINDOW_MIN);
}

/* More peers, a smaller share; it is never exceeded. */
Test(window, the_share_is_the_limit)
{
    struct kvw_window w = {0};

    cr_expect_eq(kvw_window_size(&w, 64), 64);
    cr_expect_eq(kvw_window_size(&w, 5), 5);
    for (uint64_t i = 1; i <= 2000; ++i) {
        kvw_window_landed(&w, PUT, 20 * US, i * 20 * US);
        cr_assert_leq(kvw_window_size(&w, 5), 5);
        cr_assert_geq(kvw_window_size(&w, 5), KVW_WINDOW_MIN);
    }
    cr_expect_eq(kvw_window_size(&w, KVW_WINDOW_MIN - 1), KVW_WINDOW_MIN - 1);
}
