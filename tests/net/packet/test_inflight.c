/* SPDX-License-Identifier: Apache-2.0 */
/* Of everything that was sent the owner is told once that it arrived or once that it is lost, and
 * what is in flight is counted exactly. */
#include <criterion/criterion.h>

#include "../../../net/packet/inflight.h"

static struct kvn_sent ring[KVN_SENT_FIRST];
static struct kvn_inflight f;
static uint32_t arrivals, lates, losses;
static uint64_t last_pn;

static void arrived(void *arg, const struct kvn_sent *sent, uint64_t pn, bool late)
{
    (void)arg, (void)sent;
    ++arrivals;
    lates += late;
    last_pn = pn;
}

static void lost(void *arg, const struct kvn_sent *sent)
{
    (void)arg, (void)sent;
    ++losses;
}

static const struct kvn_inflight_events events = {.arrived = arrived, .lost = lost};

static void begin(void)
{
    kvn_inflight_begin(&f, ring);
    arrivals = lates = losses = 0;
}

static uint64_t add(uint8_t state, uint64_t sent_ns, uint32_t bytes)
{
    return kvn_inflight_add(&f,
                            &(struct kvn_sent){.sent_ns = sent_ns, .bytes = bytes, .state = state});
}

static void ack(uint64_t first, uint64_t end)
{
    kvn_inflight_ack(&f, &(struct kvn_range){first, end}, &events, NULL);
}

Test(inflight, numbers_and_bytes)
{
    begin();
    cr_expect_eq(add(KVN_SENT_FLYING, 10, 100), 1);
    cr_expect_eq(add(KVN_SENT_QUIET, 20, 7), 2);
    cr_expect_eq(add(KVN_SENT_FLYING, 30, 200), 3);
    cr_expect(f.bytes == 300 && f.packets == 2 && f.last_asking_ns == 30);
    cr_expect_eq(kvn_inflight_oldest(&f), 1);
    ack(1, 3);
    cr_expect(f.bytes == 200 && f.packets == 1 && arrivals == 1 && f.largest_acked == 2);
    cr_expect_eq(kvn_inflight_oldest(&f), 3);
    ack(1, 4);
    cr_expect(f.bytes == 0 && f.packets == 0 && arrivals == 2 && lates == 0);
    cr_expect_eq(last_pn, 3);
    cr_expect_eq(kvn_inflight_oldest(&f), 0);
    ack(1, 4);
    cr_expect_eq(arrivals, 2, "told twice");
    ack(1, 2);
    cr_expect_eq(f.largest_acked, 3, "it never falls");
}

Test(inflight, lost_then_late)
{
    begin();
    add(KVN_SENT_FLYING, 10, 100);
    add(KVN_SENT_FLYING, 20, 50);
    kvn_inflight_lose(&f, 1, &events, NULL);
    cr_expect(losses == 1 && f.bytes == 50 && f.packets == 1);
    ack(1, 2);
    cr_expect(arrivals == 1 && lates == 1 && f.bytes == 50 && f.packets == 1);
    ack(1, 2);
    cr_expect_eq(arrivals, 1);
}

/* What lies below base isn't there any more: another packet may have its record. */
Test(inflight, an_ack_below_base_is_cut)
{
    begin();
    for (uint32_t i = 0; i < 4; ++i)
        add(KVN_SENT_FLYING, i, 1);
    ack(1, 3);
    kvn_inflight_trim(&f, UINT64_MAX);
    cr_expect_eq(f.base, 3);
    kvn_inflight_at(&f, 2)->state = KVN_SENT_FLYING; /* as if it were */
    ack(1, 4);
    cr_expect_eq(arrivals, 3);
    cr_expect_eq(f.packets, 1);
}

Test(inflight, lost_ones_are_kept_until_their_time)
{
    begin();
    add(KVN_SENT_FLYING, 100, 1);
    add(KVN_SENT_FLYING, 200, 1);
    kvn_inflight_lose(&f, 1, &events, NULL);
    kvn_inflight_trim(&f, 100);
    cr_expect_eq(f.base, 1, "left at 100, kept from 100 on");
    kvn_inflight_trim(&f, 101);
    cr_expect_eq(f.base, 2);
    kvn_inflight_trim(&f, UINT64_MAX);
    cr_expect_eq(f.base, 2, "what flies stays");
}

Test(inflight, the_ring_is_full_at_its_size)
{
    begin();
    for (uint32_t i = 0; i < KVN_SENT_FIRST; ++i) {
        cr_assert(kvn_inflight_room(&f), "%u", i);
        add(KVN_SENT_FLYING, i, 1);
    }
    cr_expect_not(kvn_inflight_room(&f));
    ack(1, 2);
    kvn_inflight_trim(&f, 0);
    cr_expect(kvn_inflight_room(&f));
}

/* From half of the ring on, a lost packet isn't worth its record. */
Test(inflight, half_a_ring_of_lost_ones)
{
    begin();
    for (uint32_t i = 0; i < KVN_SENT_FIRST / 2 - 1; ++i)
        add(KVN_SENT_FLYING, 10, 1);
    kvn_inflight_lose(&f, 1, &events, NULL);
    kvn_inflight_trim(&f, 0);
    cr_expect_eq(f.base, 1);
    add(KVN_SENT_FLYING, 10, 1);
    kvn_inflight_trim(&f, 0);
    cr_expect_eq(f.base, 2);
}

/* A side that only acknowledges gets no ACK: its numbers move on all the same. */
Test(inflight, quiet_packets_need_no_ack)
{
    begin();
    for (uint32_t i = 0; i < 3 * KVN_SENT_FIRST; ++i) {
        cr_assert(kvn_inflight_room(&f), "%u", i);
        add(KVN_SENT_QUIET, i, 60);
    }
    cr_expect(f.bytes == 0 && f.packets == 0);
}

/* Who lost a packet and has only acknowledged since is told nothing any more, and can go on. */
Test(inflight, lost_and_then_quiet_for_ever)
{
    begin();
    add(KVN_SENT_FLYING, 1, 100);
    kvn_inflight_lose(&f, 1, &events, NULL);
    for (uint32_t i = 0; i < KVN_SENT_FIRST / 2 - 1; ++i)
        add(KVN_SENT_QUIET, 2, 10);
    cr_expect_eq(f.base, 1, "the lost one may still come in late");
    for (uint32_t i = 0; i < 2 * KVN_SENT_FIRST; ++i) {
        cr_assert(kvn_inflight_room(&f), "after %u more", i);
        add(KVN_SENT_QUIET, 3, 10);
    }
    cr_expect(f.packets == 0 && losses == 1 && arrivals == 0);
}

/* Who sends little and hears of each touches the ring's beginning alone. */
Test(inflight, who_sends_little_touches_little)
{
    begin();
    for (uint32_t i = 0; i < 3 * KVN_SENT_FIRST; ++i) {
        const uint64_t pn = add(KVN_SENT_FLYING, i, 1);

        cr_assert_eq(kvn_inflight_at(&f, pn)->sent_ns, i);
        cr_assert_eq(add(KVN_SENT_QUIET, i, 1), pn + 1);
        ack(pn, pn + 1);
        cr_assert_eq(f.packets, 0);
    }
    for (uint32_t i = 4; i < KVN_SENT_FIRST; ++i)
        cr_assert_eq(ring[i].bytes, 0, "record %u", i);
}

/* Twice the ring: every record is where its number says, at any offset, and the bound holds. */
Test(inflight, a_longer_ring_has_the_same_records)
{
    begin();
    for (uint32_t i = 0; i < KVN_SENT_FIRST + 1000; ++i) {
        add(KVN_SENT_FLYING, i, i);
        if (i < 3000)
            ack(i + 1, i + 2);
        if (i == 3000)
            kvn_inflight_trim(&f, 0);
    }
    cr_expect_not(kvn_inflight_grow(&f, KVN_SENT_FIRST), "beyond its bound");
    cr_assert(kvn_inflight_grow(&f, 4 * KVN_SENT_FIRST));
    cr_assert(kvn_inflight_grow(&f, 4 * KVN_SENT_FIRST));
    cr_expect_not(kvn_inflight_grow(&f, 4 * KVN_SENT_FIRST));
    for (uint64_t pn = f.base; pn < f.next; ++pn)
        cr_assert(kvn_inflight_at(&f, pn)->sent_ns == pn - 1 &&
                      kvn_inflight_at(&f, pn)->bytes == pn - 1,
                  "record of %llu", (unsigned long long)pn);
    while (kvn_inflight_room(&f))
        add(KVN_SENT_FLYING, f.next, 1);
    cr_expect_eq(f.next - f.base, 4 * KVN_SENT_FIRST);
    ack(f.base, f.next);
    cr_expect(f.packets == 0 && f.bytes == 0);
    kvn_inflight_end(&f);
    begin();
    cr_expect(f.ring == ring && kvn_inflight_room(&f));
}

/* Ranges that are named again and again, as in the ACKs after a loss: each packet is told once,
 * those that fill a gap too, and nothing beyond what an ACK names. */
Test(inflight, ranges_named_again)
{
    begin();
    for (uint32_t i = 0; i < 1000; ++i)
        add(i % 5 == 4 ? KVN_SENT_QUIET : KVN_SENT_FLYING, i, 1);
    ack(2, 301); /* 1 is missing, and keeps them all */
    ack(302, 500);
    cr_expect_eq(arrivals, 239 + 159);
    kvn_inflight_trim(&f, 0);
    cr_expect_eq(f.base, 1);
    ack(302, 700);
    ack(2, 301);
    cr_expect_eq(arrivals, 239 + 319);
    ack(302, 400); /* an ACK that was overtaken */
    cr_expect_eq(arrivals, 239 + 319);
    ack(2, 700); /* 301 was late */
    cr_expect_eq(arrivals, 239 + 319 + 1);
    kvn_inflight_lose(&f, 1, &events, NULL);
    ack(1, 1001);
    cr_expect(arrivals == 800 && lates == 1 && losses == 1 && f.packets == 0);
    ack(1, 1001);
    cr_expect_eq(arrivals, 800, "told twice");
    kvn_inflight_trim(&f, 0);
    cr_expect_eq(f.base, 1001);
}
