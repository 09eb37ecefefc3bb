/* SPDX-License-Identifier: Apache-2.0 */
/* Over real sockets: a peer behind something that binds it to another UDP port in the middle of a
 * transfer is asked there, then followed, and nothing is lost by it. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../../kvwire/wire/le.h"
#include "../../../net/packet/endpoint.h"
#include "../../../net/packet/wire.h"
#include "../../../net/port/udp/udp.h"

#define S          1000000000ull
#define SLOTS      16u
#define SLOT_BYTES (64u * 1024)
#define PUTS       200u
#define MOVES      4u

/* Stands between the two as a NAT does. face[i] is what peer i talks to; what it says leaves by the
 * other face. */
static struct relay {
    int face[2];
    struct sockaddr_in peer[2]; /* [0] is learnt from what it sends */
    uint32_t asked, too_early;  /* CHALLENGE and others that came to a new face before its proof */
    bool proved[2];
} relay;

static struct end {
    struct kvw_transport *t;
    kvw_conn_id conn;
    bool up;
    uint32_t msgs_sent, msgs_got;
} end[2];

static uint8_t region[SLOTS * SLOT_BYTES], source[SLOT_BYTES + PUTS];
static struct kvw_region_key key;
static uint32_t puts_sent, puts_landed, puts_done;
static uint8_t slot_waits[SLOTS]; /* for so many of PUT_LANDED and PUT_DONE */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

/* --- the relay --- */

static int face_open(void)
{
    const struct sockaddr_in any = {.sin_family = AF_INET,
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int room = 4 << 20, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, (const struct sockaddr *)&any, sizeof(any)), 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    return fd;
}

static uint16_t face_port(int fd)
{
    struct sockaddr_in a;
    socklen_t len = sizeof(a);

    cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    return ntohs(a.sin_port);
}

static void note(uint32_t from, const uint8_t *packet)
{
    const uint8_t type = packet[0] & 15;

    if (type == KVN_PACKET_RESPONSE)
        relay.proved[1 - from] = true;
    if (relay.proved[from])
        return;
    if (type == KVN_PACKET_CHALLENGE)
        ++relay.asked;
    else
        ++relay.too_early;
}

static void relay_run(void)
{
    static uint8_t packet[65536];

    for (uint32_t i = 0; i < 2; ++i)
        for (uint32_t n = 0; n < 64; ++n) {
            struct sockaddr_in from;
            socklen_t len = sizeof(from);
            const ssize_t got =
                recvfrom(relay.face[i], packet, sizeof(packet), 0, (struct sockaddr *)&from, &len);

            if (got < KVN_HEADER_BYTES)
                break;
            relay.peer[i] = from;
            note(i, packet);
            if (relay.peer[1 - i].sin_port != 0) /* what finds no room is lost, as anywhere */
                (void)sendto(relay.face[1 - i], packet, (size_t)got, 0,
                             (const struct sockaddr *)&relay.peer[1 - i], len);
        }
}

/* To peer i the other one is at another port from now on; what is on its way to the old one is
 * lost. */
static void relay_rebind(uint32_t i)
{
    const int fresh = face_open(); /* before the old one is closed, or it could be the same port */

    close(relay.face[i]);
    relay.face[i] = fresh;
    relay.proved[i] = false;
}

/* --- the ends --- */

static void ends_open(void)
{
    const struct kvn_packet_config cfg = {.dead_ns = 10 * S, .connect_ns = 10 * S};
    const struct kvn_udp_config udp = {.local = "127.0.0.1:0"};
    const struct kvw_mem mem = {.base = region, .bytes = sizeof(region), .kind = KVW_MEM_HOST};
    char why[KVN_WHY_BYTES] = "", to[64];

    for (uint32_t i = 0; i < 2; ++i) {
        struct kvn_port *port;
        uint32_t queued;

        cr_assert_eq(kvn_udp_port_open(&port, &udp, &queued, why), KVW_OK, "%s", why);
        relay.face[i] = face_open();
        relay.proved[i] = true;
        if (i == 1)
            relay.peer[1] = (struct sockaddr_in){.sin_family = AF_INET,
                                                 .sin_port = htons(port->local.port),
                                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        cr_assert_eq(kvn_packet_open(&end[i].t, port, &cfg, why), KVW_OK, "%s", why);
    }
    cr_assert_eq(end[1].t->ops->listen(end[1].t), KVW_OK);
    cr_assert_eq(end[1].t->ops->region_add(end[1].t, &mem, NULL, NULL, &key), KVW_OK);
    snprintf(to, sizeof(to), "127.0.0.1:%u", face_port(relay.face[0]));
    cr_assert_eq(end[0].t->ops->connect(end[0].t, to, now_ns(), &end[0].conn), KVW_OK);
}

static void slot_heard(uint32_t put)
{
    cr_assert_gt(slot_waits[put % SLOTS], 0, "put %u was heard of too often", put);
    --slot_waits[put % SLOTS];
}

static void on_event(struct end *e, const struct kvw_transport_event *ev)
{
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        cr_assert(!e->up);
        e->up = true;
        e->conn = ev->conn;
        return;
    case KVW_TEV_CONN_DOWN:
        cr_assert_fail("%s", ev->text);
        return;
    case KVW_TEV_MESSAGE:
        cr_assert_eq(ev->bytes, 4);
        cr_assert_eq(kvw_load_le32(ev->msg), e->msgs_got++);
        return;
    case KVW_TEV_PUT_LANDED:
        cr_assert(memcmp(region + ev->offset, source + ev->imm, SLOT_BYTES) == 0, "put %u",
                  ev->imm);
        ++puts_landed;
        slot_heard(ev->imm);
        return;
    case KVW_TEV_PUT_DONE:
        cr_assert_eq(ev->err, KVW_OK);
        ++puts_done;
        slot_heard((uint32_t)ev->cookie);
        return;
    }
}

static void step(void)
{
    struct kvw_transport_event ev[8];
    uint32_t events = 0, got;

    for (uint32_t i = 0; i < 2; ++i)
        do {
            got = end[i].t->ops->poll(end[i].t, now_ns(), ev, 8);
            for (uint32_t n = 0; n < got; ++n)
                on_event(&end[i], &ev[n]);
            events += got;
        } while (got == 8);
    relay_run();
    if (events == 0)
        end[0].t->ops->wait(end[0].t, now_ns() + 50000, -1);
}

static void say(struct end *e)
{
    uint8_t msg[4];

    kvw_store_le32(msg, e->msgs_sent);
    if (e->t->ops->send(e->t, e->conn, msg, sizeof(msg)) == KVW_OK)
        ++e->msgs_sent;
}

/* One more put, if its slot is free, and a message either way. */
static void work(void)
{
    const uint32_t slot = puts_sent % SLOTS;
    struct kvw_put put = {.key = key,
                          .offset = (uint64_t)slot * SLOT_BYTES,
                          .iov = {{source + puts_sent, SLOT_BYTES}},
                          .iov_count = 1,
                          .imm = puts_sent,
                          .cookie = puts_sent};

    if (slot_waits[slot] > 0 || end[0].t->ops->put(end[0].t, end[0].conn, &put) != KVW_OK)
        return;
    slot_waits[slot] = 2;
    ++puts_sent;
    say(&end[0]);
    say(&end[1]);
}

static uint64_t moves(uint32_t i)
{
    struct kvn_conn_stats s;

    cr_assert_eq(kvn_packet_conn_stats(end[i].t, end[i].conn, &s), KVW_OK);
    return s.path[0].moves;
}

Test(udp, follows_a_peer_that_is_bound_anew, .timeout = 110)
{
    const uint64_t give_up = now_ns() + 100 * S;
    uint32_t rebound = 0;

    for (uint32_t i = 0; i < sizeof(source); ++i)
        source[i] = (uint8_t)(i * 7 + i / 251);
    ends_open();
    while (!end[0].up || !end[1].up) {
        cr_assert_lt(now_ns(), give_up);
        step();
    }
    while (puts_done < PUTS || puts_landed < PUTS || end[0].msgs_got < end[1].msgs_sent ||
           end[1].msgs_got < end[0].msgs_sent) {
        const bool followed = moves(0) + moves(1) == rebound;

        cr_assert_lt(now_ns(), give_up, "%u puts of %u done, %u times bound anew, %lu followed",
                     puts_done, PUTS, rebound, moves(0) + moves(1));
        /* The listener's peer first, then the client's, and so on. */
        if (rebound < MOVES && followed && puts_landed > (rebound + 1) * PUTS / (MOVES + 2)) {
            relay_rebind(1 - rebound % 2);
            ++rebound;
        }
        if (puts_sent < PUTS)
            work();
        step();
    }
    cr_expect_eq(moves(0), MOVES / 2);
    cr_expect_eq(moves(1), MOVES / 2);
    cr_expect_geq(relay.asked, MOVES);
    cr_expect_eq(relay.too_early, 0, "%u packets before the proof", relay.too_early);
    for (uint32_t i = 0; i < 2; ++i) {
        end[i].t->ops->close(end[i].t);
        close(relay.face[i]);
    }
}
