/* SPDX-License-Identifier: Apache-2.0 */
/* A packet is lost exactly when a later one has arrived and it is three numbers behind, or out for
 * 9/8 of a round trip; the time at which the next one will be is always told. */
#include <criterion/criterion.h>

#include "../../../net/packet/loss.h"

#define US 1000ull
#define MS (1000 * US)

static struct kvn_sent ring[KVN_SENT_FIRST];
static struct kvn_inflight out;
static struct kvn_loss loss;
static uint32_t lost_parts; /* bit n: the packet with part n was reported */

static void arrived(void *arg, const struct kvn_sent *sent, uint64_t pn, bool late)
{
    (void)arg, (void)sent, (void)pn, (void)late;
}

static void lost(void *arg, const struct kvn_sent *sent)
{
    (void)arg;
    lost_parts |= 1u << sent->part;
}

static const struct kvn_inflight_events events = {.arrived = arrived, .lost = lost};

/* Packets 1 .. n, 10 us apart, the first at 1 ms; 100 bytes each. */
static void send(uint32_t n)
{
    kvn_inflight_begin(&out, ring);
    kvn_loss_begin(&loss);
    lost_parts = 0;
    for (uint32_t i = 1; i <= n; ++i)
        kvn_inflight_add(&out, &(struct kvn_sent){.sent_ns = MS + i * 10 * US,
                                                  .part = i,
                                                  .bytes = 100,
                                                  .state = KVN_SENT_FLYING,
                                                  .kind = KVN_SENT_DATA});
}

static void ack(uint64_t pn)
{
    kvn_inflight_ack(&out, &(struct kvn_range){pn, pn + 1}, &events, NULL);
}

Test(loss, three_numbers_behind_and_not_two)
{
    send(6);
    ack(3);
    cr_expect_eq(kvn_loss_detect(&loss, &out, MS + 60 * US, &events, NULL), 0);
    cr_expect_eq(lost_parts, 0, "two behind");
    ack(4);
    cr_expect_eq(kvn_loss_detect(&loss, &out, MS + 60 * US, &events, NULL), 100);
    cr_expect_eq(lost_parts, 1u << 1, "%x", lost_parts);
    ack(5);
    cr_expect_eq(kvn_loss_detect(&loss, &out, MS + 60 * US, &events, NULL), 100);
    cr_expect_eq(lost_parts, 1u << 1 | 1u << 2, "%x", lost_parts);
}

Test(loss, nothing_is_lost_before_something_later_arrives)
{
    send(6);
    cr_expect_eq(kvn_loss_detect(&loss, &out, 1000 * MS, &events, NULL), 0);
    cr_expect_eq(loss.loss_at_ns, UINT64_MAX);
    ack(1);
    cr_expect_eq(kvn_loss_detect(&loss, &out, 1000 * MS, &events, NULL), 0);
    cr_expect_eq(loss.loss_at_ns, UINT64_MAX);
}

/* The timer stands at the very time at which the oldest is lost; then at the next one's. */
Test(loss, time_is_told_and_kept)
{
    const uint64_t delay = 4500 * US; /* 9/8 of 4 ms */

    send(3);
    kvn_loss_rtt(&loss, 4 * MS, 0);
    cr_expect_eq(kvn_loss_delay(&loss), delay);
    ack(3);
    kvn_loss_detect(&loss, &out, MS + 100 * US, &events, NULL);
    cr_assert_eq(loss.loss_at_ns, MS + 10 * US + delay);
    kvn_loss_detect(&loss, &out, loss.loss_at_ns - 1, &events, NULL);
    cr_expect_eq(lost_parts, 0);
    kvn_loss_detect(&loss, &out, loss.loss_at_ns, &events, NULL);
    cr_expect_eq(lost_parts, 1u << 1, "%x", lost_parts);
    cr_assert_eq(loss.loss_at_ns, MS + 20 * US + delay);
    kvn_loss_detect(&loss, &out, loss.loss_at_ns, &events, NULL);
    cr_expect_eq(lost_parts, 1u << 1 | 1u << 2, "%x", lost_parts);
    cr_expect_eq(loss.loss_at_ns, UINT64_MAX);
}

Test(loss, delay_is_of_the_longer_round_trip_and_bounded_below)
{
    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, 80 * MS, 0);
    kvn_loss_rtt(&loss, 8 * MS, 0); /* srtt 71 ms, the latest 8 */
    cr_expect_eq(loss.srtt_ns, 71 * MS);
    cr_expect_eq(loss.rttvar_ns, (3 * 40 + 72) * MS / 4);
    cr_expect_eq(kvn_loss_delay(&loss), 71 * MS * 9 / 8);
    kvn_loss_rtt(&loss, 160 * MS, 0);
    cr_expect_eq(kvn_loss_delay(&loss), 160 * MS * 9 / 8);
    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, 100 * US, 0);
    cr_expect_eq(kvn_loss_delay(&loss), KVN_LOSS_DELAY_MIN_NS);
}

Test(loss, a_round_trip_never_comes_out_below_the_grain_of_the_delay)
{
    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, 1000, 1000 - 64);
    cr_expect_eq(loss.latest_rtt_ns, 64);
    kvn_loss_rtt(&loss, 1000, 1000 - 65);
    cr_expect_eq(loss.latest_rtt_ns, 65);
    kvn_loss_rtt(&loss, 1000, 5000);
    cr_expect_eq(loss.latest_rtt_ns, 64);
}

Test(loss, lateness_is_learnt_up_to_its_bounds)
{
    kvn_loss_begin(&loss);
    kvn_loss_was_late(&loss, 2);
    cr_expect(loss.reorder_packets == 3 && loss.reorder_eighths == 2);
    kvn_loss_was_late(&loss, 3);
    cr_expect(loss.reorder_packets == 4 && loss.reorder_eighths == 3);
    kvn_loss_was_late(&loss, 126);
    cr_expect_eq(loss.reorder_packets, 127);
    for (uint32_t i = 0; i < 9; ++i)
        kvn_loss_was_late(&loss, 5000);
    cr_expect(loss.reorder_packets == KVN_REORDER_MAX && loss.reorder_eighths == 8);
}

/* A bad moment is forgotten: after each span without a late packet, half of what it taught. */
Test(loss, lateness_is_forgotten)
{
    uint64_t now = 100 * MS;

    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, MS, 0);
    kvn_loss_base(&loss, now = KVN_BASE_NS + 1);
    for (uint32_t i = 0; i < 9; ++i)
        kvn_loss_was_late(&loss, 5000);
    cr_expect_not(kvn_loss_base(&loss, now + KVN_BASE_NS));
    cr_expect(kvn_loss_base(&loss, now += KVN_BASE_NS + 1));
    cr_expect(loss.reorder_packets == 128 && loss.reorder_eighths == 8, "late in that span");
    cr_expect(kvn_loss_base(&loss, now += KVN_BASE_NS + 1));
    cr_expect_eq(loss.reorder_packets, 65, "%u", loss.reorder_packets);
    cr_expect_eq(loss.reorder_eighths, 7);
    for (uint32_t i = 0; i < 10; ++i)
        kvn_loss_base(&loss, now += KVN_BASE_NS + 1);
    cr_expect(loss.reorder_packets == 3 && loss.reorder_eighths == 1, "%u %u", loss.reorder_packets,
              loss.reorder_eighths);
}

Test(loss, base_is_the_least_of_two_spans)
{
    uint64_t now = KVN_BASE_NS + 1;

    kvn_loss_begin(&loss);
    cr_expect_eq(loss.base_ns, UINT64_MAX);
    kvn_loss_rtt(&loss, 50 * US, 0);
    kvn_loss_base(&loss, now);
    kvn_loss_rtt(&loss, 90 * US, 0);
    kvn_loss_base(&loss, now + KVN_BASE_NS);
    cr_expect_eq(loss.base_ns, 50 * US);
    kvn_loss_base(&loss, now += KVN_BASE_NS + 1);
    cr_expect_eq(loss.base_ns, 50 * US, "the span before counts");
    kvn_loss_base(&loss, now += KVN_BASE_NS + 1);
    cr_expect_eq(loss.base_ns, 90 * US, "the path has become longer");
    kvn_loss_rtt(&loss, 40 * US, 0);
    kvn_loss_base(&loss, now);
    cr_expect_eq(loss.base_ns, 40 * US);
    kvn_loss_longer(&loss);
    kvn_loss_rtt(&loss, 95 * US, 0);
    kvn_loss_base(&loss, now);
    cr_expect_eq(loss.base_ns, 95 * US, "of longer packets");
    cr_expect_eq(loss.base_now_ns, 95 * US);
}

Test(loss, the_handshake_is_a_guess)
{
    kvn_loss_begin(&loss);
    kvn_loss_guess(&loss, 20 * MS, 7);
    cr_expect(loss.base_ns == 20 * MS && loss.srtt_ns == KVN_RTT_START_NS, "perhaps a late start");
    kvn_loss_guess(&loss, MS, 7);
    cr_expect(loss.base_ns == MS && loss.srtt_ns == MS && loss.rttvar_ns == MS / 2);
    kvn_loss_rtt(&loss, 3 * MS, 0);
    cr_expect(loss.srtt_ns == 3 * MS && loss.rttvar_ns == 3 * MS / 2,
              "the first sample replaces it");
}

Test(loss, probes_double_within_bounds)
{
    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, 100 * US, 0);
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 7 * MS, "never before 2 ms");
    kvn_loss_begin(&loss);
    kvn_loss_rtt(&loss, 4 * MS, 0); /* 4 + 4 * 2 + 1 */
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 18 * MS);
    loss.probes = 2;
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 57 * MS);
    loss.probes = 3;
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 105 * MS, "never after 100 ms");
    loss.srtt_ns = 120 * MS;
    loss.rttvar_ns = 0;
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 126 * MS, "but never before an answer can come");
    loss.srtt_ns = MS;
    loss.probes = 70;
    cr_expect_eq(kvn_loss_probe_at(&loss, 5 * MS), 105 * MS);
}
