/* SPDX-License-Identifier: Apache-2.0 */
/* Two processes joined by a vhost/virtio-user link get every byte across, and sleep when idle. */
#include <criterion/criterion.h>

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../net/port/dpdk/kind.h"
#include "dpdk_traffic.h"

#define PACKETS     2000u
#define OUTSTANDING 48u
#define BURST       7u /* divides no ring's length, so that the last burst is taken in part */

TestSuite(dpdk_port, .timeout = 60);

static char path[KVN_DPDK_PATH_BYTES];
static uint8_t bytes[OUTSTANDING][KVN_DPDK_PAYLOAD_MAX]; /* in no memory that DPDK knows */

static uint64_t cpu_ns(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

/* Payload n, in one, two or three pieces. */
static bool send_payload(struct kvn_port *port, uint64_t n)
{
    uint8_t *at = bytes[n % OUTSTANDING];
    const uint32_t len = t_payload_len(n, port->payload_max);
    const uint32_t head = n % 3 == 0 ? len : 1 + (uint32_t)(n % 23);
    const uint32_t first = n % 3 == 2 ? (len - head) / 3 : len - head;

    t_payload_make(at, len, n);

    const struct kvn_tx_packet packet = {
        .to = port->default_peer,
        .head = at,
        .head_bytes = head,
        .body = {{at + head, first}, {at + head + first, len - head - first}},
        .body_count = (uint32_t)(n % 3)};
    const bool sent = port->ops->tx(port, t_now_ns(), &packet, 1) == 1;

    /* Only borrowed during tx(): what is sent later must be a copy. */
    if (sent)
        memset(at, 0xee, len);
    return sent;
}

/* Receive what is there, or sleep a little. Counts each number's echo. */
static uint32_t collect(struct kvn_port *port, uint8_t *seen, uint64_t count)
{
    struct kvn_rx_packet in[KVN_BURST];
    const uint32_t n = port->ops->rx(port, t_now_ns(), in, KVN_BURST);

    for (uint32_t i = 0; i < n; ++i) {
        uint64_t number;

        cr_assert(t_payload_check(in[i].bytes, in[i].len, &number), "a payload of %u bytes is hurt",
                  in[i].len);
        cr_assert(kvn_addr_equal(&in[i].from, &port->default_peer));
        if (number < count)
            ++seen[number];
    }
    if (n == 0)
        port->ops->wait(port, t_now_ns() + 20000000u, -1);
    return n;
}

static void exchange(struct kvn_port *port)
{
    static uint8_t seen[PACKETS];
    const uint64_t end_ns = t_now_ns() + 20000000000u;
    uint64_t sent = 1, back = 1;

    memset(seen, 0, sizeof(seen));
    seen[0] = 1;
    while (back < PACKETS) {
        cr_assert_lt(t_now_ns(), end_ns, "%lu of %u came back", (unsigned long)back, PACKETS);
        while (sent < PACKETS && sent - back < OUTSTANDING && send_payload(port, sent))
            ++sent;
        back += collect(port, seen, PACKETS);
    }
    for (uint32_t i = 1; i < PACKETS; ++i) /* 0 was the greeting, perhaps more than once */
        cr_assert_eq(seen[i], 1, "packet %u came back %u times", i, seen[i]);
}

static void whole_story(bool listener)
{
    struct kvn_dpdk_port_stats stats;
    struct kvn_rx_packet in[KVN_BURST];
    cpu_set_t before, after;
    sigset_t mask_before, mask_after;
    struct kvn_port *port;
    pid_t peer;

    t_link_path(path);
    sched_getaffinity(0, sizeof(before), &before);
    sigprocmask(SIG_BLOCK, NULL, &mask_before);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cr_assert_not_null(port = t_open(path, listener, 20000));
    sched_getaffinity(0, sizeof(after), &after);
    sigprocmask(SIG_BLOCK, NULL, &mask_after);
    cr_expect(CPU_EQUAL(&before, &after), "the thread was pinned");
    for (int i = 1; i < 32; ++i)
        cr_expect_eq(sigismember(&mask_before, i), sigismember(&mask_after, i), "signal %d", i);
    cr_expect_eq(port->payload_max, KVN_DPDK_PAYLOAD_MAX);
    cr_expect(port->one_host);

    cr_assert(t_greet(port, 0, 20000), "no echo of the greeting");
    exchange(port);
    cr_expect_eq(port->tx_errors, 0);
    (void)port->ops->rx(port, t_now_ns(), in, KVN_BURST); /* ends the loan of the last ones */
    kvn_dpdk_port_stats(port, &stats);
    cr_expect_eq(stats.rx_rejected, 0);
    cr_expect(stats.link_up);
    if (!listener)
        cr_expect_eq(stats.mbufs_in_use, 0, "%u mbufs are still out", stats.mbufs_in_use);
    port->ops->close(port);
    cr_expect_eq(t_peer_end(peer, SIGTERM), 0, "the peer ends in good order");
    t_link_remove(path);
}

Test(dpdk_port, sender_gets_every_byte_across_and_back)
{
    whole_story(false);
}

Test(dpdk_port, listener_gets_every_byte_across_and_back)
{
    whole_story(true);
}

struct slept {
    unsigned calls;
    uint64_t cpu_ns, late_ns;
};

static struct slept sleep_once(struct kvn_port *port)
{
    const uint64_t end_ns = t_now_ns() + 400000000u, cpu = cpu_ns();
    struct kvn_rx_packet in[KVN_BURST];
    struct slept s = {.calls = 0};

    for (; t_now_ns() < end_ns; ++s.calls) {
        (void)port->ops->rx(port, t_now_ns(), in, KVN_BURST);
        port->ops->wait(port, end_ns, -1);
    }
    s.late_ns = t_now_ns() - end_ns;
    s.cpu_ns = cpu_ns() - cpu;
    return s;
}

/* 0.4 s without input: few calls, hardly any CPU, and back at the deadline. */
static void expect_sleep(struct kvn_port *port, const char *when)
{
    const struct slept s = sleep_once(port);

    cr_expect_lt(s.calls, 100, "%s: wait() returned %u times in 0.4 s", when, s.calls);
    cr_expect_lt(s.cpu_ns, 40000000u, "%s: %lu us of CPU in 0.4 s", when,
                 (unsigned long)s.cpu_ns / 1000);
    cr_expect_lt(s.late_ns, 100000000u, "%s: wait() came back late", when);
}

/* How late wait() returns for a descriptor that becomes readable in so many milliseconds. */
static uint64_t wake_by_fd_late_ns(struct kvn_port *port, unsigned ms)
{
    const int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    const struct itimerspec soon = {.it_value = {.tv_nsec = (long)ms * 1000000}};
    const uint64_t due_ns = t_now_ns() + ms * 1000000ull;
    uint64_t expired = 0, woke_ns;

    timerfd_settime(fd, 0, &soon, NULL);
    do
        port->ops->wait(port, due_ns + 1000000000u, fd);
    while ((woke_ns = t_now_ns()) < due_ns);
    cr_expect_eq(read(fd, &expired, sizeof(expired)), 8, "wait() must not read wake_fd");
    close(fd);
    return woke_ns - due_ns;
}

/* Without it, a nap's end would be 10 ms late on average. */
static void expect_wake_by_fd(struct kvn_port *port)
{
    unsigned prompt = 0;

    for (unsigned i = 0; i < 10; ++i)
        prompt += wake_by_fd_late_ns(port, 21 + 4 * i) < 3000000;
    cr_expect_geq(prompt, 7, "%u of 10 wakes were prompt", prompt);
    /* A descriptor that is gone, or still readable, does not haunt later calls. */
    expect_sleep(port, "after a wake_fd");
}

static uint64_t round_trips_ns(struct kvn_port *port)
{
    const uint64_t begin_ns = t_now_ns();
    uint8_t seen[101] = {0};

    for (uint64_t n = 1; n <= 100; ++n) {
        while (!send_payload(port, n))
            t_sleep_ms(1);
        while (seen[n] == 0) {
            cr_assert_lt(t_now_ns(), begin_ns + 10000000000u, "packet %lu", (unsigned long)n);
            (void)collect(port, seen, 101);
        }
    }
    return t_now_ns() - begin_ns;
}

/* Both sides sleep before every packet. One that slept through it would come 20 ms late. */
static void expect_wake_by_packets(struct kvn_port *port)
{
    const uint64_t took_ns = round_trips_ns(port);

    cr_expect_lt(took_ns, 1000000000u, "100 round trips took %lu ms",
                 (unsigned long)(took_ns / 1000000));
}

static void sleep_story(bool listener)
{
    struct kvn_port *port;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cr_assert_not_null(port = t_open(path, listener, 20000));
    cr_assert(t_greet(port, 0, 20000), "no echo of the greeting");
    expect_wake_by_packets(port);
    expect_sleep(port, "with an idle peer");
    expect_wake_by_fd(port);
    (void)t_peer_end(peer, SIGKILL);
    t_sleep_ms(200);
    expect_sleep(port, "without a peer");
    port->ops->close(port);
    t_link_remove(path);
}

Test(dpdk_port, sender_sleeps)
{
    sleep_story(false);
}

Test(dpdk_port, listener_sleeps)
{
    sleep_story(true);
}

/* What can't be sent is counted and taken, and does not stop what stands behind it. */
Test(dpdk_port, unsendable_packets_are_counted)
{
    static uint8_t big[KVN_DPDK_PAYLOAD_MAX + 1];
    struct kvn_port *port;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, "listener", "echo");
    cr_assert_not_null(port = t_open(path, false, 20000));
    cr_assert(t_greet(port, 0, 20000), "no echo of the greeting");

    const struct kvn_tx_packet packets[] = {
        {.to = port->default_peer,
         .head = big,
         .head_bytes = 24,
         .body = {{big, sizeof(big)}},
         .body_count = 1},
        {.to = {.family = 6, .port = 7400}, .head = big, .head_bytes = 24},
        {.to = port->default_peer, /* one byte too long */
         .head = big,
         .head_bytes = 24,
         .body = {{big, port->payload_max + 1 - 24}},
         .body_count = 1},
        {.to = port->default_peer,
         .head = big,
         .head_bytes = UINT32_MAX,
         .body = {{big, UINT32_MAX}, {big, 42}},
         .body_count = 2},
    };

    cr_expect_eq(port->ops->tx(port, t_now_ns(), packets, 4), 4);
    cr_expect_eq(port->tx_errors, 4);
    cr_expect(t_greet(port, 0, 20000), "nothing gets through any more");
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

/* Payloads first .. first + BURST - 1 of 300 bytes, most of each lent; how many were taken. */
static uint32_t send_burst(struct kvn_port *port, uint64_t first)
{
    struct kvn_tx_packet packets[BURST];

    for (uint32_t i = 0; i < BURST; ++i) {
        t_payload_make(bytes[i], 300, first + i);
        packets[i] = (struct kvn_tx_packet){.to = port->default_peer,
                                            .head = bytes[i],
                                            .head_bytes = 24,
                                            .body = {{bytes[i] + 24, 276}},
                                            .body_count = 1};
    }
    return port->ops->tx(port, t_now_ns(), packets, BURST);
}

/* The peer stands still until the ring is full. What counted as taken arrives once when it goes on,
 * and what didn't isn't sent. */
static void peer_stands_still(bool listener)
{
    static uint8_t seen[4096];
    struct kvn_port *port;
    uint64_t sent = 1, back = 1;
    uint32_t taken;
    pid_t peer;

    memset(seen, 0, sizeof(seen));
    t_link_path(path);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cr_assert_not_null(port = t_open(path, listener, 10000));
    cr_assert(t_greet(port, 0, 20000), "no echo of the greeting");
    kill(peer, SIGSTOP);
    cr_assert_eq(waitpid(peer, NULL, WUNTRACED), peer);
    while ((taken = send_burst(port, sent)) > 0) {
        sent += taken;
        cr_assert_lt(sent, sizeof(seen) - BURST, "the ring is never full");
    }
    if (listener) /* it copies, so some of what counts as taken waits here */
        cr_expect_leq(port->ops->deadline_ns(port), t_now_ns() + 1000000, "nobody looks after it");
    kill(peer, SIGCONT);
    while (back < sent)
        back += collect(port, seen, sizeof(seen));
    for (uint64_t i = 1; i < sent + BURST; ++i)
        cr_assert_eq(seen[i], i < sent, "packet %lu of %lu came back %u times", (unsigned long)i,
                     (unsigned long)sent, seen[i]);
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_port, a_full_ring_loses_nothing_of_a_sender)
{
    peer_stands_still(false);
}

Test(dpdk_port, a_full_ring_loses_nothing_of_a_listener)
{
    peer_stands_still(true);
}

/* A datagram for another port of the same address isn't taken; the one behind it is. */
Test(dpdk_port, another_ports_datagrams_are_not_taken)
{
    static uint8_t other[24];
    uint8_t seen[3] = {0};
    struct kvn_port *port;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, "listener", "echo");
    cr_assert_not_null(port = t_open(path, false, 10000));
    cr_assert(t_greet(port, 0, 20000), "no echo of the greeting");
    t_payload_make(other, sizeof(other), 1);

    struct kvn_tx_packet packet = {
        .to = port->default_peer, .head = other, .head_bytes = sizeof(other)};

    ++packet.to.port;
    cr_assert_eq(port->ops->tx(port, t_now_ns(), &packet, 1), 1);
    cr_assert(send_payload(port, 2));
    while (seen[2] == 0)
        (void)collect(port, seen, 3);
    cr_expect_eq(seen[1], 0, "it was for another port");
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

/* A listener whose buffers are smaller than the sender's frames drops those, and only those. */
Test(dpdk_port, longer_frames_than_a_buffer_are_rejected)
{
    const struct kvn_dpdk_config cfg = {.path = path,
                                        .listener = true,
                                        .open_by_ns = t_now_ns() + 10000000000u,
                                        .payload_max = 2048};
    struct kvn_dpdk_port_stats stats;
    struct kvn_rx_packet in[KVN_BURST];
    struct kvn_port *port;
    char why[KVN_WHY_BYTES];
    uint64_t number, good = 0, end_ns;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, "sender", "blast"); /* 64 .. 3164 bytes */
    cr_assert_eq(kvn_dpdk_port_open(&port, &cfg, why), KVW_OK, "%s", why);
    end_ns = t_now_ns() + 10000000000u;
    do {
        const uint32_t n = port->ops->rx(port, t_now_ns(), in, KVN_BURST);

        for (uint32_t i = 0; i < n; ++i) {
            cr_assert(t_payload_check(in[i].bytes, in[i].len, &number));
            cr_assert_leq(in[i].len, 2048);
            ++good;
        }
        if (n == 0)
            port->ops->wait(port, t_now_ns() + 1000000u, -1);
        kvn_dpdk_port_stats(port, &stats);
    } while ((good < 500 || stats.rx_rejected < 100) && t_now_ns() < end_ns);
    cr_expect_geq(good, 500);
    cr_expect_geq(stats.rx_rejected, 100);
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

static struct kvn_port *open_ring(bool listener)
{
    struct kvn_packet_config packet = {0};
    struct kvn_dpdk_spec spec;
    const struct kvn_dpdk_open o = {
        .spec = &spec, .listener = listener, .open_by_ns = t_now_ns() + 10000000000u};
    struct kvn_port *port = NULL;
    char why[KVN_WHY_BYTES] = "";

    cr_assert_eq(kvn_dpdk_spec_parse(&spec, "ring", "late", why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_dpdk_open_ring(&port, &o, &packet, why), KVW_OK, "%s", why);
    return port;
}

/* A packet counts as taken and the ring has no room for it: the port says that it must be looked
 * after soon, though nothing arrives; when there is room, that look sends it. */
Test(dpdk_port, what_is_late_has_a_deadline)
{
    static uint8_t head[100];
    struct kvn_port *const b = open_ring(true), *const a = open_ring(false);
    const struct kvn_tx_packet packet = {.to = a->default_peer, .head = head, .head_bytes = 100};
    struct kvn_rx_packet in[KVN_BURST];
    uint32_t sent = 0, received = 0, n;

    while (a->ops->tx(a, t_now_ns(), &packet, 1) == 1)
        cr_assert_lt(++sent, 100000, "the ring is never full");
    cr_expect_gt(sent, 0);
    cr_expect_leq(a->ops->deadline_ns(a), t_now_ns() + 1000000, "one is late, and nobody knows");
    while ((n = b->ops->rx(b, t_now_ns(), in, KVN_BURST)) > 0)
        received += n;
    cr_expect_eq(received, sent - 1);
    (void)a->ops->rx(a, t_now_ns() + 1000000, in, KVN_BURST);
    received += b->ops->rx(b, t_now_ns(), in, KVN_BURST);
    cr_expect_eq(received, sent);
    cr_expect_gt(a->ops->deadline_ns(a), t_now_ns() + 1000000, "nothing is late any more");
    a->ops->close(a);
    b->ops->close(b);
}
