/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of a transport of several queues are spread over them and each stays on its own; what
 * the kernel gives to the wrong queue is handed to the right one and counted; one connection's end
 * is nobody else's.
 */
#include <criterion/criterion.h>
#include <linux/filter.h>
#include <stdio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../../net/queues/impl.h"
#include "../../../net/queues/queues.h"
#include "sockets.h"

#define MS     1000000ull
#define CONNS  8u
#define PUTS   24u
#define BYTES  (192u * 1024)
#define REGION (CONNS * PUTS * BYTES)

static struct {
    struct kvw_transport *a, *b; /* a connects */
    uint16_t port;               /* b's */
    uint8_t *from, *to;
    struct kvw_region_key key;
    kvw_conn_id conn[CONNS]; /* a's */
    kvw_conn_id at_b[CONNS]; /* in the order of their coming */
    uint32_t ups, arrived, landed, done, failed, a_downs, b_downs, msgs;
    uint8_t times[CONNS * PUTS];               /* each put landed */
    _Atomic uint32_t gates_of[KVN_QUEUES_MAX]; /* by the queue that the connection's id names */
    _Atomic uint32_t gates;                    /* asked by b's queues, each from its thread */
} w;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    (void)arg;
    ++w.gates;
    ++w.gates_of[conn.value % KVN_QUEUES_MAX];
    return conn.value != 0 && bytes == BYTES && offset == (uint64_t)imm * BYTES;
}

static void on_a(const struct kvw_transport_event *ev)
{
    w.ups += ev->kind == KVW_TEV_CONN_UP;
    w.a_downs += ev->kind == KVW_TEV_CONN_DOWN;
    if (ev->kind == KVW_TEV_PUT_DONE)
        ++*(ev->err == KVW_OK ? &w.done : &w.failed);
}

static void on_b(const struct kvw_transport_event *ev)
{
    if (ev->kind == KVW_TEV_CONN_UP && w.arrived < CONNS)
        w.at_b[w.arrived++] = ev->conn;
    w.b_downs += ev->kind == KVW_TEV_CONN_DOWN;
    w.msgs += ev->kind == KVW_TEV_MESSAGE;
    if (ev->kind == KVW_TEV_PUT_LANDED) {
        cr_assert_lt(ev->imm, CONNS * PUTS);
        ++w.times[ev->imm];
        ++w.landed;
    }
}

static void step(void)
{
    struct kvw_transport_event ev[16];
    uint32_t n, m;

    do {
        n = w.a->ops->poll(w.a, now_ns(), ev, 16);
        for (uint32_t i = 0; i < n; ++i)
            on_a(&ev[i]);
        m = w.b->ops->poll(w.b, now_ns(), ev, 16);
        for (uint32_t i = 0; i < m; ++i)
            on_b(&ev[i]);
    } while (n == 16 || m == 16);
    w.a->ops->wait(w.a, now_ns() + MS / 5, -1);
}

#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        const uint64_t until_end = now_ns() + 20000 * MS;                                          \
        while (!(condition)) {                                                                     \
            cr_assert_lt(now_ns(), until_end, "never came true: " #condition);                     \
            step();                                                                                \
        }                                                                                          \
    } while (0)

/* CONNS connections between a, of so many queues, and b of two. */
static void join(const char *a_local)
{
    const struct kvn_config listener = {.local = "127.0.0.1:0,queues=2", .listener = true};
    const struct kvn_config sender = {.local = a_local, .paths = 2};
    struct kvw_mem mem = {.bytes = REGION, .kind = KVW_MEM_HOST};
    char why[KVN_WHY_BYTES] = "", peer[64];
    unsigned port = 0;

    memset(&w, 0, sizeof(w));
    w.from = malloc(REGION);
    mem.base = w.to = calloc(1, REGION);
    cr_assert(w.from != NULL && w.to != NULL);
    for (uint32_t i = 0; i < REGION; ++i)
        w.from[i] = (uint8_t)(i * 2654435761u >> 23);
    cr_assert_eq(kvn_open(&w.b, "udp", &listener, why), KVW_OK, "%s", why);
    cr_assert_not_null(strstr(why, "2 queues, steered by connection"), "%s", why);
    cr_assert_eq(sscanf(why, "udp 127.0.0.1:%u", &port), 1, "%s", why);
    w.port = (uint16_t)port;
    snprintf(peer, sizeof(peer), "127.0.0.1:%u", port);
    cr_assert_eq(kvn_open(&w.a, "udp", &sender, why), KVW_OK, "%s", why);
    cr_assert_eq(w.b->ops->region_add(w.b, &mem, gate, NULL, &w.key), KVW_OK);
    cr_assert_eq(w.b->ops->listen(w.b), KVW_OK);
    for (uint32_t i = 0; i < CONNS; ++i)
        cr_assert_eq(w.a->ops->connect(w.a, peer, now_ns(), &w.conn[i]), KVW_OK);
    UNTIL(w.ups == CONNS && w.arrived == CONNS);
}

static void part(void)
{
    w.a->ops->close(w.a);
    w.b->ops->close(w.b);
    free(w.from);
    free(w.to);
}

static kvw_err put(uint32_t conn, uint32_t n)
{
    const struct kvw_put p = {.key = w.key,
                              .offset = (uint64_t)n * BYTES,
                              .iov = {{w.from + (size_t)n * BYTES, BYTES}},
                              .iov_count = 1,
                              .imm = n};

    return w.a->ops->put(w.a, w.conn[conn], &p);
}

/* Every connection but skip moves its share, and each byte arrives in its place, once. */
static void move_all(uint32_t skip)
{
    const uint32_t moved = (skip < CONNS ? CONNS - 1 : CONNS) * PUTS;
    const uint32_t landed = w.landed, done = w.done;

    memset(w.times, 0, sizeof(w.times));
    memset(w.to, 0, REGION);
    for (uint32_t i = 0; i < CONNS * PUTS; ++i) {
        if (i % CONNS == skip)
            continue;
        while (put(i % CONNS, i) == KVW_E_AGAIN)
            step();
    }
    UNTIL(w.landed - landed == moved && w.done - done == moved);
    for (uint32_t i = 0; i < CONNS * PUTS; ++i) {
        cr_assert_eq(w.times[i], i % CONNS == skip ? 0 : 1, "put %u landed %u times", i,
                     w.times[i]);
        cr_assert(i % CONNS == skip ||
                      memcmp(w.from + (size_t)i * BYTES, w.to + (size_t)i * BYTES, BYTES) == 0,
                  "put %u differs", i);
    }
}

static struct kvn_queues_stats stats_of(const struct kvw_transport *t)
{
    struct kvn_queues_stats s;

    cr_assert_eq(kvn_queues_stats(t, &s), KVW_OK);
    return s;
}

static void expect_quiet_rings(const struct kvn_queues_stats *s)
{
    for (uint32_t i = 0; i < s->queues; ++i) {
        cr_expect_eq(s->queue[i].steer.forwarded, 0, "queue %u sent %lu packets on", i,
                     (unsigned long)s->queue[i].steer.forwarded);
        cr_expect_eq(s->queue[i].steer.dropped, 0);
    }
}

/* Pinned by id: each queue carries half of the connections and of the bytes, and nothing of another
 * queue's ever comes to it, over two paths each. */
Test(queues, each_carries_its_connections)
{
    struct kvn_queues_stats a, b;
    uint32_t at_first = 0;

    join("127.0.0.1:0,queues=2");
    move_all(CONNS);
    a = stats_of(w.a);
    b = stats_of(w.b);
    for (uint32_t i = 0; i < CONNS; ++i)
        at_first += kvn_queues_of(w.b, w.at_b[i]) == 0;
    cr_expect_eq(a.queues, 2);
    cr_expect_eq(a.queue[0].conns, CONNS / 2);
    cr_expect_eq(a.queue[1].conns, CONNS / 2);
    cr_expect_eq(b.queue[0].conns, CONNS / 2);
    cr_expect_eq(b.queue[1].conns, CONNS / 2);
    cr_expect_eq(at_first, CONNS / 2);
    for (uint32_t i = 0; i < 2; ++i) {
        cr_expect_eq(a.queue[i].packets.all.put_bytes_sent, REGION / 2);
        cr_expect_eq(b.queue[i].packets.all.put_bytes_received, REGION / 2);
    }
    expect_quiet_rings(&a);
    expect_quiet_rings(&b);
    cr_expect_eq(w.gates, CONNS * PUTS);
    cr_expect_eq(w.gates_of[0], CONNS * PUTS / 2);
    cr_expect_eq(w.gates_of[1], CONNS * PUTS / 2);
    cr_expect_eq(w.a_downs + w.b_downs, 0);
    part();
}

/* A client of one queue and one address: its connections spread all the same, by the ids that it
 * chose; and a burst that the kernel made of several connections' packets is sorted. */
Test(queues, one_clients_connections_spread)
{
    struct kvn_queues_stats b;
    uint32_t first;

    for (int tries = 0; tries < 3; ++tries) { /* 2 of 256 times all are on one side by chance */
        join("127.0.0.1:0");
        move_all(CONNS);
        b = stats_of(w.b);
        first = b.queue[0].conns;
        cr_expect_eq(first + b.queue[1].conns, CONNS);
        cr_expect_eq(b.queue[0].packets.all.put_bytes_received +
                         b.queue[1].packets.all.put_bytes_received,
                     REGION);
        part();
        if (first > 0 && first < CONNS)
            return;
    }
    cr_expect_fail("all connections came to one queue, three times");
}

/* The kernel gives everything to queue 0 from now on. */
static void misdirect(void)
{
    struct sock_filter zero = BPF_STMT(BPF_RET | BPF_K, 0);
    const struct sock_fprog program = {1, &zero};
    int fds[2 * KVN_QUEUES_MAX];

    cr_assert_geq(t_sockets(w.port, fds, 2 * KVN_QUEUES_MAX), 2);
    cr_assert_eq(
        setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)), 0);
}

Test(queues, a_packet_at_the_wrong_queue_arrives)
{
    const uint64_t end = now_ns() + 60000 * MS;
    struct kvn_queues_stats b;

    join("127.0.0.1:0,queues=2");
    misdirect();
    move_all(CONNS);
    /* The queues are asked one after the other; when nothing moves any more they agree. */
    do {
        step();
        b = stats_of(w.b);
        cr_assert_lt(now_ns(), end, "what was sent on never arrived");
    } while (b.queue[1].steer.received != b.queue[0].steer.forwarded);
    cr_expect_gt(b.queue[0].steer.forwarded, 0);
    cr_expect_eq(b.queue[1].steer.forwarded, 0);
    cr_expect_eq(b.queue[1].packets.all.put_bytes_received, REGION / 2);
    cr_expect_eq(b.queue[0].packets.dropped[KVN_DROP_UNKNOWN], 0, "nobody's");
    cr_expect_eq(w.a_downs + w.b_downs, 0);
    part();
}

/* Either end closes one; the other seven move their bytes, and a new one takes its place. */
Test(queues, one_ends_and_the_others_live)
{
    char peer[64];
    kvw_conn_id again;

    join("127.0.0.1:0,queues=2");
    for (uint32_t n = 3; n < 3 + 4 * CONNS; n += CONNS)
        cr_assert_eq(put(3, n), KVW_OK);
    w.a->ops->disconnect(w.a, w.conn[3], now_ns());
    cr_expect_eq(put(3, 3), KVW_E_NOTFOUND);
    UNTIL(w.b_downs == 1 && w.done + w.failed == 4);
    cr_expect_eq(w.a_downs, 0);
    w.done = w.failed = w.landed = 0;
    move_all(3);
    w.b->ops->disconnect(w.b, w.at_b[0], now_ns());
    UNTIL(w.a_downs == 1);
    snprintf(peer, sizeof(peer), "127.0.0.1:%u", w.port);
    w.arrived = CONNS - 1;
    cr_assert_eq(w.a->ops->connect(w.a, peer, now_ns(), &again), KVW_OK);
    UNTIL(w.ups == CONNS + 1 && w.arrived == CONNS);
    cr_assert_eq(w.a->ops->send(w.a, again, "x", 1), KVW_OK);
    UNTIL(w.msgs == 1);
    cr_expect_eq(w.b_downs, 1);
    part();
}

/* Only a polls. */
static void step_a(void)
{
    struct kvw_transport_event ev[16];
    const uint32_t n = w.a->ops->poll(w.a, now_ns(), ev, 16);

    for (uint32_t i = 0; i < n; ++i)
        on_a(&ev[i]);
    w.a->ops->wait(w.a, now_ns() + MS / 5, -1);
}

/* Whoever was told KVW_E_AGAIN hears of the room that comes: by deadline_ns() and wait(), which a
 * message too long to wait for a timer is sent by. Lanes take 256 KiB; b says nothing. */
Test(queues, room_is_told)
{
    static uint8_t big[KVW_MSG_BYTES_MAX];
    const uint32_t messages = 200;
    uint64_t end;
    uint32_t refused = 0;

    join("127.0.0.1:0,queues=2");
    end = now_ns() + 10000 * MS;
    for (uint32_t n = 0; n < messages;) {
        const uint64_t begin = now_ns(), at = begin + 1000 * MS;
        struct kvw_transport_event ev[16];

        if (w.a->ops->send(w.a, w.conn[0], big, sizeof(big)) == KVW_OK) {
            ++n;
            continue;
        }
        ++refused;
        while (w.b->ops->poll(w.b, now_ns(), ev, 16) == 16)
            ; /* b takes what there is, at once */
        if (w.a->ops->deadline_ns(w.a) > now_ns())
            w.a->ops->wait(w.a, at, -1);
        cr_assert_lt(now_ns(), at, "nobody told that there is room");
        (void)w.a->ops->poll(w.a, now_ns(), ev, 16);
        cr_assert_lt(now_ns(), end);
    }
    cr_expect_gt(refused, 0, "the lane never was full");
    part();
}

/* A lane takes 128 puts between two polls and not one more: each of them lands once, in its place,
 * and the next one after them. */
Test(queues, a_full_lane_takes_no_more)
{
    const uint32_t lane = 128;

    join("127.0.0.1:0,queues=2");
    for (uint32_t n = 0; n < lane; ++n)
        cr_assert_eq(put(0, n), KVW_OK, "put %u", n);
    cr_assert_eq(put(0, lane), KVW_E_AGAIN, "a full lane took another put");
    UNTIL(w.landed == lane && w.done == lane);
    cr_assert_eq(put(0, lane), KVW_OK);
    UNTIL(w.landed == lane + 1 && w.done == lane + 1);
    for (uint32_t n = 0; n <= lane; ++n)
        cr_assert_eq(w.times[n], 1, "put %u landed %u times", n, w.times[n]);
    cr_expect_eq(memcmp(w.from, w.to, (size_t)(lane + 1) * BYTES), 0);
    cr_expect_eq(w.failed, 0);
    part();
}

/*
 * b's application calls nothing for three times as long as silence ends a connection, and puts
 * whose gate must be asked come meanwhile. Its queues answer by themselves: the puts are done at a
 * long before b is back, and no connection is lost.
 */
Test(queues, the_application_may_be_away)
{
    const uint32_t puts = 2 * CONNS;
    uint64_t end;

    join("127.0.0.1:0,queues=2");
    end = now_ns() + 3 * KVW_PEER_DEAD_NS;
    for (uint32_t i = 0; i < puts; ++i)
        cr_assert_eq(put(i % CONNS, i), KVW_OK);
    while (now_ns() < end - 2 * KVW_PEER_DEAD_NS)
        step_a();
    cr_expect_eq(w.done, puts, "%u of %u puts done while b was away", w.done, puts);
    cr_expect_eq(w.gates, puts);
    while (now_ns() < end)
        step_a();
    cr_expect_eq(w.a_downs, 0, "%u connections lost", w.a_downs);
    cr_expect_eq(w.landed, 0, "b was told without asking");
    UNTIL(w.landed == puts);
    cr_expect_eq(w.a_downs + w.b_downs, 0);
    part();
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

/* A sleeper that is up again before who woke it has written: what is written late ends one more
 * sleep, and not each one from then on. */
Test(queues, a_wake_that_is_written_late_ends_one_sleep)
{
    const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    _Atomic bool asleep = true;
    uint64_t owed = 0;

    cr_assert_geq(fd, 0);
    cr_assert(atomic_exchange(&asleep, false)); /* it is woken, */
    kvn_queue_awake(&asleep, fd, &owed);        /* and up again */
    cr_expect_eq(owed, 1);
    asleep = true;
    cr_assert_eq(eventfd_write(fd, 1), 0); /* the late word */
    kvn_queue_awake(&asleep, fd, &owed);
    cr_expect_not(is_readable(fd), "the next sleep ends at once, too");
    cr_expect_eq(owed, 0);
    asleep = true; /* two at once: the late one and one in time */
    cr_assert(atomic_exchange(&asleep, false));
    kvn_queue_awake(&asleep, fd, &owed);
    asleep = true;
    cr_assert(atomic_exchange(&asleep, false));
    cr_assert_eq(eventfd_write(fd, 1), 0);
    cr_assert_eq(eventfd_write(fd, 1), 0);
    kvn_queue_awake(&asleep, fd, &owed);
    cr_expect(!is_readable(fd) && owed == 0);
    close(fd);
}

/* What can't be is refused in a sentence that names it; a stranger's port is in use as ever. */
Test(queues, refuses_what_cannot_be)
{
    static const char *const bad[] = {
        "127.0.0.1:0,queues=0", "127.0.0.1:0,queues=9",  "127.0.0.1:0,queues=",
        "127.0.0.1:0,queues=x", "127.0.0.1:0,queues=-1", "127.0.0.1:0,queues=2,queues=2",
    };
    struct kvn_config cfg = {.listener = true};
    struct kvw_transport *t = NULL, *other = NULL;
    char why[KVN_WHY_BYTES], local[64];
    unsigned port = 0;

    for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        cfg.local = bad[i];
        cr_expect_eq(kvn_open(&t, "udp", &cfg, why), KVW_E_INVALID, "%s", bad[i]);
        cr_expect_not_null(strstr(why, "1 to 8"), "%s: %s", bad[i], why);
        cr_expect_null(t);
    }
    cfg.local = "127.0.0.1:0,queues=3";
    cr_assert_eq(kvn_open(&t, "udp", &cfg, why), KVW_OK, "%s", why);
    cr_assert_eq(sscanf(why, "udp 127.0.0.1:%u", &port), 1);
    snprintf(local, sizeof(local), "127.0.0.1:%u,queues=2", port);
    cfg.local = local;
    cr_expect_eq(kvn_open(&other, "udp", &cfg, why), KVW_E_ADDRESS, "%s", why);
    t->ops->close(t);
    cfg.local = "127.0.0.1:65530,queues=8";
    cfg.listener = false;
    cr_expect_eq(kvn_open(&other, "udp", &cfg, why), KVW_E_INVALID, "%s", why);
    cr_expect_not_null(strstr(why, "65535"), "%s", why);
}

/* Ports with one queue say so before they start anything, and one queue is no more than that. */
Test(queues, ports_of_one_queue_say_so)
{
    static const char *const bad[] = {"ring:kvq,queues=2", "af_packet:lo,ip=10.9.9.9,queues=4",
                                      "/nowhere/link,queues=2"};
    struct kvw_transport *t = NULL;
    char why[KVN_WHY_BYTES];

    for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        const struct kvn_config cfg = {.local = bad[i]};
        const kvw_err err = kvn_open(&t, "dpdk", &cfg, why);

        if (err == KVW_E_UNSUPPORTED)
            cr_skip_test("this build has no DPDK");
        cr_expect_eq(err, KVW_E_INVALID, "%s: %s", bad[i], why);
        cr_expect_not_null(strstr(why, "one queue"), "%s: %s", bad[i], why);
        cr_expect_null(t);
    }
}
