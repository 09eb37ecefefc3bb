/* SPDX-License-Identifier: Apache-2.0 */
/* Over real sockets: a listener that opens its port and then computes for a second or two before it
 * polls gets packets as long as one that polled at once. */
#include <criterion/criterion.h>
#include <time.h>

#include "../../../net/packet/endpoint.h"
#include "../../../net/packet/wire.h"
#include "../../../net/port/udp/udp.h"

#define MS      1000000ull
#define PAYLOAD (8192u + KVN_DATA_BYTES)

static struct end {
    struct kvw_transport *t;
    kvw_conn_id conn;
    bool up;
} end[2];

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

static void open_end(struct end *e, const char *peer, char local[KVN_ADDR_TEXT_BYTES])
{
    const struct kvn_udp_config cfg = {
        .local = "127.0.0.1:0", .peer = peer, .payload_max = PAYLOAD};
    struct kvn_port *port;
    char why[KVN_WHY_BYTES];
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&port, &cfg, &queued, why), KVW_OK, "%s", why);
    kvn_addr_format(&port->local, local);
    cr_assert_eq(kvn_packet_open(&e->t, port, NULL, why), KVW_OK, "%s", why);
}

static void poll_end(struct end *e)
{
    struct kvw_transport_event ev[8];
    const uint32_t n = e->t->ops->poll(e->t, now_ns(), ev, 8);

    for (uint32_t i = 0; i < n; ++i) {
        cr_assert_neq(ev[i].kind, KVW_TEV_CONN_DOWN, "%s", ev[i].text);
        if (ev[i].kind == KVW_TEV_CONN_UP) {
            e->up = true;
            e->conn = ev[i].conn;
        }
    }
}

static uint32_t in_use(const struct end *e)
{
    struct kvn_conn_stats stats = {.paths = 0};

    if (e->up)
        cr_assert_eq(kvn_packet_conn_stats(e->t, e->conn, &stats), KVW_OK);
    return stats.path[0].payload;
}

/* Both poll until packets are long, for 900 ms at most: less than the second after which a path
 * that seemed narrow is tried again. */
static void first_poll_after(uint64_t wait_ns)
{
    char local[2][KVN_ADDR_TEXT_BYTES];
    uint64_t until;

    open_end(&end[1], NULL, local[1]);
    open_end(&end[0], local[1], local[0]);
    cr_assert_eq(end[1].t->ops->listen(end[1].t), KVW_OK);
    cr_assert_eq(end[0].t->ops->connect(end[0].t, NULL, now_ns(), &end[0].conn), KVW_OK);
    for (until = now_ns() + wait_ns; now_ns() < until;) {
        const uint64_t next = end[0].t->ops->deadline_ns(end[0].t);

        poll_end(&end[0]);
        end[0].t->ops->wait(end[0].t, next < until ? next : until, -1);
    }
    cr_assert(!end[0].up && !end[1].up);
    for (until = now_ns() + 900 * MS;
         now_ns() < until && (in_use(&end[0]) < PAYLOAD || in_use(&end[1]) < PAYLOAD);) {
        poll_end(&end[0]);
        poll_end(&end[1]);
    }
    cr_assert(end[0].up && end[1].up);
    cr_expect(in_use(&end[0]) == PAYLOAD && in_use(&end[1]) == PAYLOAD, "%u and %u of %u",
              in_use(&end[0]), in_use(&end[1]), PAYLOAD);
    end[0].t->ops->close(end[0].t);
    end[1].t->ops->close(end[1].t);
}

Test(udp_size, first_poll_after_1200_ms)
{
    first_poll_after(1200 * MS);
}

Test(udp_size, first_poll_after_1700_ms)
{
    first_poll_after(1700 * MS);
}
