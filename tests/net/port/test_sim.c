/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual network does what its settings say, to the nanosecond and the byte, and the same
 * twice from the same seed. */
#include <criterion/criterion.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "../../../net/port/sim/sim.h"

#define US 1000ull

static struct kvn_sim *sim;
static struct kvn_port *port[4];
static uint64_t start_ns;
static uint64_t seed = 7;

static void begin(uint32_t nodes, const struct kvn_sim_link *l)
{
    sim = kvn_sim_open(seed, 2000);
    cr_assert_not_null(sim);
    kvn_sim_links(sim, l);
    for (uint32_t i = 0; i < nodes; ++i)
        cr_assert_eq(kvn_sim_port_open(&port[i], sim, i), KVW_OK);
    start_ns = kvn_sim_now(sim);
}

/* Number n in its first bytes; returns whether the port took it. */
static bool send_from(uint32_t from, uint32_t source, const struct kvn_addr *to, uint32_t n,
                      uint32_t bytes, uint8_t ecn)
{
    uint8_t packet[2000] = {0};
    struct kvn_tx_packet p = {.to = *to,
                              .head = packet,
                              .head_bytes = 4,
                              .body = {{packet + 4, bytes - 4}},
                              .body_count = 1,
                              .source = (uint8_t)source,
                              .ecn = ecn};

    memcpy(packet, &n, 4);
    return port[from]->ops->tx(port[from], kvn_sim_clock(sim, from), &p, 1) == 1;
}

static void send_to(uint32_t from, uint32_t to, uint32_t n, uint32_t bytes)
{
    const struct kvn_addr a = kvn_sim_addr(sim, to);

    cr_assert(send_from(from, 0, &a, n, bytes, KVN_ECN_ECT0));
}

struct got {
    uint64_t at_ns;
    uint32_t n, len, source;
    uint8_t ecn;
    uint32_t bits; /* that aren't 0 after the number */
};

/* Everything that arrives at a node until nothing is on its way. */
static uint32_t drain(uint32_t node, struct got *got, uint32_t max)
{
    struct kvn_rx_packet rx[KVN_BURST];
    uint32_t n = 0;

    for (;;) {
        const uint32_t k = port[node]->ops->rx(port[node], kvn_sim_clock(sim, node), rx, KVN_BURST);

        for (uint32_t i = 0; i < k && n < max; ++i) {
            got[n] = (struct got){.at_ns = kvn_sim_now(sim) - start_ns,
                                  .len = rx[i].len,
                                  .source = rx[i].source,
                                  .ecn = rx[i].ecn};
            memcpy(&got[n].n, rx[i].bytes, rx[i].len < 4 ? rx[i].len : 4);
            for (uint32_t b = 4; b < rx[i].len; ++b)
                got[n].bits += (uint32_t)__builtin_popcount(rx[i].bytes[b]);
            ++n;
        }
        if (k > 0)
            continue;
        if (port[node]->ops->deadline_ns(port[node]) == UINT64_MAX)
            return n;
        kvn_sim_advance(sim,
                        kvn_sim_clock_to_sim(sim, node, port[node]->ops->deadline_ns(port[node])));
    }
}

static void end(void)
{
    for (uint32_t i = 0; i < 4; ++i)
        if (port[i] != NULL)
            port[i]->ops->close(port[i]);
    kvn_sim_close(sim);
}

static struct got got[20000];

Test(sim, delay_rate_and_queue_are_exact)
{
    /* 1000 bytes at 1 GB/s take 1 us; the queue holds three of them. */
    const struct kvn_sim_link l = {
        .delay_ns = 20 * US, .bytes_per_s = 1000000000, .queue_bytes = 3000};
    struct kvn_sim_stats s;

    begin(2, &l);
    for (uint32_t i = 0; i < 5; ++i)
        send_to(0, 1, i, 1000);
    cr_assert_eq(drain(1, got, 10), 3);
    for (uint32_t i = 0; i < 3; ++i) {
        cr_expect_eq(got[i].n, i);
        cr_expect_eq(got[i].len, 1000);
        cr_expect_eq(got[i].at_ns, 20 * US + (i + 1) * US);
    }
    kvn_sim_stats(sim, &s);
    cr_expect_eq(s.lost, 2);
    cr_expect_eq(s.delivered, 3);
    end();
}

Test(sim, a_mask_loses_exactly_its_packets)
{
    const struct kvn_sim_link l = {.drop_first = 10, .drop_mask = 0x8000000000000005ull};
    uint32_t n;

    begin(2, &l);
    for (uint32_t i = 0; i < 100; ++i)
        send_to(0, 1, i, 100);
    n = drain(1, got, 200);
    cr_assert_eq(n, 97);
    for (uint32_t i = 0; i < n; ++i)
        cr_expect(got[i].n != 10 && got[i].n != 12 && got[i].n != 73);
    end();
}

Test(sim, bursts_of_loss_have_their_share_and_length)
{
    /* Bad a tenth of the time, ten packets long on the average, and half is lost then. */
    const struct kvn_sim_link l = {.burst_begin = 0.1 / 9, .burst_end = 0.1, .burst_loss = 0.5};
    uint32_t n, after_lost = 0, lost = 0;

    begin(2, &l);
    for (uint32_t round = 0, i = 0; round < 2; ++round) {
        static bool here[20000];
        uint32_t first = i;

        memset(here, 0, sizeof(here));
        for (; i < first + 10000; ++i)
            send_to(0, 1, i, 100);
        n = drain(1, got, 20000);
        for (uint32_t k = 0; k < n; ++k)
            here[got[k].n - first] = true;
        for (uint32_t k = 1; k < 10000; ++k) {
            lost += !here[k];
            after_lost += !here[k] && !here[k - 1];
        }
    }
    cr_expect(lost > 700 && lost < 1300, "%u of 20000 lost, 1000 expected", lost);
    /* Independent losses would follow one another 5 % of the time; here 45 %. */
    cr_expect(after_lost > lost / 3 && after_lost < lost * 3 / 5, "%u of %u follow another",
              after_lost, lost);
    end();
}

Test(sim, overtaking_is_bounded_and_loses_nothing)
{
    const struct kvn_sim_link l = {
        .delay_ns = 5 * US, .overtake = 0.1, .overtake_packets = 64, .bytes_per_s = 1000000000};
    uint32_t n, late = 0, worst = 0, highest = 0;

    begin(2, &l);
    for (uint32_t i = 0; i < 5000; ++i)
        send_to(0, 1, i, 100);
    n = drain(1, got, 20000);
    cr_assert_eq(n, 5000);
    for (uint32_t i = 0; i < n; ++i) {
        if (got[i].n >= highest) {
            highest = got[i].n;
            continue;
        }
        ++late;
        if (highest - got[i].n > worst)
            worst = highest - got[i].n;
    }
    cr_expect(late > 400 && late < 600, "%u of 5000 late", late);
    cr_expect(worst > 50 && worst <= 64, "by up to %u", worst);
    end();
}

/* Nothing comes after it, so it comes by itself. */
Test(sim, what_nothing_overtakes_arrives)
{
    const struct kvn_sim_link l = {.delay_ns = 5 * US, .overtake = 1, .overtake_packets = 8};

    begin(2, &l);
    send_to(0, 1, 1, 100);
    cr_assert_eq(kvn_sim_next(sim), start_ns + 5 * US + KVN_SIM_HELD_NS);
    cr_assert_eq(drain(1, got, 2), 1);
    cr_expect_eq(got[0].at_ns, 5 * US + KVN_SIM_HELD_NS);
    end();
}

Test(sim, copies_and_damage)
{
    struct kvn_sim_link l = {.dup = 1, .dup_ns = 50 * US};
    struct kvn_sim_stats s;

    begin(2, &l);
    send_to(0, 1, 1, 100);
    cr_assert_eq(drain(1, got, 4), 2);
    cr_expect(got[1].n == 1 && got[1].at_ns <= 50 * US);
    l = (struct kvn_sim_link){.corrupt = 1};
    kvn_sim_links(sim, &l);
    for (uint32_t i = 0; i < 50; ++i)
        send_to(0, 1, 0, 1000);
    cr_assert_eq(drain(1, got, 100), 50);
    for (uint32_t i = 0; i < 50; ++i)
        cr_expect_eq(got[i].bits + (uint32_t)__builtin_popcount(got[i].n), 1);
    l = (struct kvn_sim_link){.truncate = 1};
    kvn_sim_links(sim, &l);
    send_to(0, 1, 0, 1000);
    cr_assert_eq(drain(1, got, 4), 1);
    cr_expect_lt(got[0].len, 1000);
    kvn_sim_stats(sim, &s);
    cr_expect_eq(s.duplicated, 1);
    cr_expect_eq(s.corrupted, 51);
    end();
}

Test(sim, an_egress_is_shared_marked_and_measured)
{
    const struct kvn_sim_link l = {.delay_ns = 1 * US};
    /* 1000 bytes take 1 us. */
    const struct kvn_sim_egress e = {
        .bytes_per_s = 1000000000, .buffer_bytes = 50000, .ecn_bytes = 20000};
    struct kvn_sim_egress_stats s;
    uint32_t n, ce = 0, from[4] = {0};

    begin(4, &l);
    kvn_sim_egress(sim, 0, &e);
    for (uint32_t i = 0; i < 60; ++i)
        send_to(1 + i % 3, 0, i % 3, 1000);
    n = drain(0, got, 100);
    cr_assert_eq(n, 50, "the buffer takes 50,000 bytes, got %u packets", n);
    for (uint32_t i = 0; i < n; ++i) {
        cr_expect_eq(got[i].at_ns, (i + 2) * US);
        ++from[got[i].n];
        ce += got[i].ecn == KVN_ECN_CE;
    }
    cr_expect(from[0] == 17 && from[1] == 17 && from[2] == 16);
    cr_expect_eq(ce, 29, "%u marked; the 22nd to the 50th find more than 20,000 bytes", ce);
    kvn_sim_egress_stats(sim, 0, &s);
    cr_expect_eq(s.packets, 50);
    cr_expect_eq(s.bytes, 50000);
    cr_expect_eq(s.dropped, 10);
    cr_expect_eq(s.marked, 29);
    cr_expect_eq(s.queue_max, 50000);
    cr_expect_float_eq(s.busy, 50.0 / 51, 0.001);
    cr_expect(s.queue_p50 > 23000 && s.queue_p50 < 27000, "p50 %llu",
              (unsigned long long)s.queue_p50);
    cr_expect(s.queue_p99 > 48000 && s.queue_p99 <= 50000, "p99 %llu",
              (unsigned long long)s.queue_p99);
    kvn_sim_egress_reset(sim, 0);
    kvn_sim_advance(sim, kvn_sim_now(sim) + 100 * US);
    kvn_sim_egress_stats(sim, 0, &s);
    cr_expect(s.packets == 0 && s.busy == 0 && s.queue_p99 == 0);
    end();
}

Test(sim, marks_need_the_right_and_can_be_bleached)
{
    struct kvn_sim_link l = {.mark = 1};
    struct kvn_addr a;

    begin(2, &l);
    a = kvn_sim_addr(sim, 1);
    send_from(0, 0, &a, 0, 100, KVN_ECN_NOT_ECT);
    send_from(0, 0, &a, 1, 100, KVN_ECN_ECT1);
    l.bleach = true;
    kvn_sim_links(sim, &l);
    send_from(0, 0, &a, 2, 100, KVN_ECN_ECT1);
    cr_assert_eq(drain(1, got, 4), 3);
    cr_expect_eq(got[0].ecn, KVN_ECN_NOT_ECT);
    cr_expect_eq(got[1].ecn, KVN_ECN_CE);
    cr_expect_eq(got[2].ecn, KVN_ECN_NOT_ECT);
    end();
}

Test(sim, sources_are_paths_of_their_own)
{
    const struct kvn_sim_link l = {.delay_ns = 10 * US}, slow = {.delay_ns = 30 * US},
                              cut = {.cut = true};
    struct kvn_addr a;

    sim = kvn_sim_open(seed, 2000);
    kvn_sim_links(sim, &l);
    kvn_sim_sources(sim, 3);
    for (uint32_t i = 0; i < 2; ++i)
        cr_assert_eq(kvn_sim_port_open(&port[i], sim, i), KVW_OK);
    start_ns = kvn_sim_now(sim);
    cr_assert_eq(port[0]->source_count, 3);
    kvn_sim_path(sim, 0, 1, 1, &slow);
    kvn_sim_path(sim, 0, 1, 2, &cut);
    a = kvn_sim_addr(sim, 1);
    for (uint32_t i = 0; i < 3; ++i) {
        a.port = (uint16_t)(9000 + i);
        send_from(0, i, &a, i, 100, 0);
    }
    cr_assert_eq(drain(1, got, 4), 2);
    cr_expect(got[0].n == 0 && got[0].source == 0 && got[0].at_ns == 10 * US);
    cr_expect(got[1].n == 1 && got[1].source == 1 && got[1].at_ns == 30 * US);
    end();
}

Test(sim, closed_and_moved_nodes_lose_what_comes)
{
    const struct kvn_sim_link l = {.delay_ns = 10 * US};
    struct kvn_sim_stats s;
    struct kvn_addr old;

    begin(2, &l);
    send_to(0, 1, 0, 100);
    port[1]->ops->close(port[1]);
    kvn_sim_advance(sim, start_ns + 15 * US);
    send_to(0, 1, 1, 100);
    cr_assert_eq(kvn_sim_port_open(&port[1], sim, 1), KVW_OK);
    cr_assert_eq(drain(1, got, 4), 1, "the first came while it was closed");
    cr_expect_eq(got[0].n, 1);
    old = kvn_sim_addr(sim, 1);
    kvn_sim_move(sim, 1);
    send_from(0, 0, &old, 2, 100, 0);
    send_to(0, 1, 3, 100);
    cr_assert_eq(drain(1, got, 4), 1);
    cr_expect_eq(got[0].n, 3);
    kvn_sim_stats(sim, &s);
    cr_expect_eq(s.unreachable, 2);
    end();
}

Test(sim, a_clock_may_step_both_ways)
{
    const struct kvn_sim_link l = {.delay_ns = 10 * US};

    begin(2, &l);
    kvn_sim_clock_step(sim, 1, 5000000);
    cr_expect_eq(kvn_sim_clock(sim, 1), start_ns + 5000000);
    cr_expect_eq(kvn_sim_clock(sim, 0), start_ns);
    send_to(0, 1, 0, 100);
    cr_expect_eq(port[1]->ops->deadline_ns(port[1]), start_ns + 5000000 + 10 * US);
    kvn_sim_clock_step(sim, 1, -9000000);
    cr_expect_eq(port[1]->ops->deadline_ns(port[1]), start_ns - 4000000 + 10 * US);
    cr_assert_eq(drain(1, got, 4), 1);
    cr_expect_eq(got[0].at_ns, 10 * US);
    cr_expect_eq(kvn_sim_clock_to_sim(sim, 1, UINT64_MAX), UINT64_MAX);
    end();
}

static bool every_third(void *arg, const struct kvn_sim_sight *s)
{
    ++*(uint32_t *)arg;
    return s->index % 3 != 0;
}

Test(sim, rings_limits_and_taps)
{
    const struct kvn_sim_link l = {0};
    struct kvn_sim_stats s;
    struct kvn_addr a;
    uint32_t seen = 0;

    begin(2, &l);
    a = kvn_sim_addr(sim, 1);
    kvn_sim_rx_ring(sim, 1, 10);
    for (uint32_t i = 0; i < 15; ++i)
        send_to(0, 1, i, 100);
    cr_assert_eq(drain(1, got, 100), 10);
    kvn_sim_stats(sim, &s);
    cr_expect_eq(s.ring_full, 5);
    kvn_sim_tx_limit_of(sim, 0, 0);
    cr_expect_not(send_from(0, 0, &a, 0, 100, 0));
    kvn_sim_tx_limit_of(sim, 0, UINT32_MAX);
    kvn_sim_payload_limit(sim, 500);
    send_to(0, 1, 1, 501);
    send_to(0, 1, 2, 500);
    cr_assert_eq(drain(1, got, 4), 1);
    cr_expect_eq(got[0].n, 2);
    kvn_sim_tap(sim, every_third, &seen);
    for (uint32_t i = 0; i < 9; ++i)
        send_to(0, 1, i, 100);
    cr_expect_eq(drain(1, got, 20), 6);
    cr_expect_eq(seen, 9);
    end();
}

Test(sim, ipv6)
{
    const struct kvn_sim_link l = {0};
    struct kvn_addr a;

    sim = kvn_sim_open(seed, 2000);
    kvn_sim_links(sim, &l);
    kvn_sim_family(sim, 6);
    for (uint32_t i = 0; i < 2; ++i)
        cr_assert_eq(kvn_sim_port_open(&port[i], sim, i), KVW_OK);
    cr_assert_eq(kvn_addr_parse(&a, "[fd00::2]:9000"), KVW_OK);
    cr_assert(kvn_addr_equal(&a, &port[1]->local));
    send_from(0, 0, &a, 5, 100, 0);
    cr_assert_eq(drain(1, got, 4), 1);
    end();
}

#ifdef __SANITIZE_ADDRESS__
/* Who reads past the end of a packet that rx() handed out is caught, until the next rx(). */
Test(sim, packets_are_guarded_behind_their_end)
{
    static const uint32_t bytes[2] = {101, 2000};
    const struct kvn_sim_link l = {0};
    struct kvn_rx_packet rx[KVN_BURST];

    begin(2, &l);
    for (uint32_t i = 0; i < 2; ++i)
        send_to(0, 1, i, bytes[i]);
    cr_assert_eq(port[1]->ops->rx(port[1], kvn_sim_clock(sim, 1), rx, KVN_BURST), 2);
    for (uint32_t i = 0; i < 2; ++i) {
        cr_expect_null(__asan_region_is_poisoned((void *)(uintptr_t)rx[i].bytes, rx[i].len));
        cr_expect(__asan_address_is_poisoned(rx[i].bytes + rx[i].len), "%u bytes", bytes[i]);
    }
    cr_assert_eq(port[1]->ops->rx(port[1], kvn_sim_clock(sim, 1), rx + 2, KVN_BURST - 2), 0);
    for (uint32_t i = 0; i < 2; ++i)
        cr_expect_not(__asan_address_is_poisoned(rx[i].bytes + rx[i].len), "%u bytes", bytes[i]);
    end();
}
#endif

static uint64_t one_run(uint64_t with)
{
    const struct kvn_sim_link l = {.delay_ns = 10 * US,
                                   .jitter_ns = 5 * US,
                                   .loss = 0.1,
                                   .dup = 0.1,
                                   .corrupt = 0.1,
                                   .overtake = 0.1,
                                   .overtake_packets = 5};
    uint64_t hash;

    seed = with;
    begin(2, &l);
    for (uint32_t i = 0; i < 1000; ++i)
        send_to(0, 1, i, 100);
    drain(1, got, 20000);
    hash = kvn_sim_hash(sim);
    end();
    return hash;
}

Test(sim, the_same_again)
{
    const uint64_t a = one_run(3);

    cr_expect_eq(a, one_run(3));
    cr_expect_neq(a, one_run(4));
}
