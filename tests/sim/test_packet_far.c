/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A link whose round trip holds more packets, and more puts, than a path remembers at first is full
 * all the same, with losses too. Control: with no more records than at first it carries less than
 * half. A near link's path never has more than at first.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../../net/packet/endpoint.h"
#include "../../net/packet/wire.h"
#include "../../net/port/sim/sim.h"

#define S         1000000000ull
#define PAYLOAD   1472u
#define PUT_BYTES 16384u
#define PLACES    64u /* in the receiver's region; each put's bytes are the same */

struct end {
    struct kvw_transport *t;
    const struct kvn_port *port;
    uint64_t deadline_ns;
    kvw_conn_id conn;
    bool up;
    uint32_t puts, done, landed, twice; /* puts: given to put(), of those that it took */
};

static struct kvn_sim *sim;
static struct end ends[2]; /* 1 listens and receives */
static uint8_t from[PUT_BYTES], to[PLACES * PUT_BYTES], seen[1u << 16];
static struct kvw_region_key key;
static uint32_t puts_most = 1200;

static void on_event(struct end *e, const struct kvw_transport_event *ev)
{
    if (ev->kind == KVW_TEV_CONN_UP) {
        e->up = true;
        e->conn = ev->conn;
    }
    cr_assert_neq(ev->kind, KVW_TEV_CONN_DOWN, "%s", ev->text);
    e->done += ev->kind == KVW_TEV_PUT_DONE;
    if (ev->kind != KVW_TEV_PUT_LANDED)
        return;
    ++e->landed;
    e->twice += seen[ev->imm]++;
}

/* As many as the transport takes, up to what the whole link holds and half as much again. */
static void put_all(struct end *e)
{
    kvw_err err = KVW_OK;

    for (; err == KVW_OK && e->puts < sizeof(seen) && e->puts - e->done < puts_most; ++e->puts) {
        const struct kvw_put put = {.key = key,
                                    .offset = e->puts % PLACES * PUT_BYTES,
                                    .iov = {{from, PUT_BYTES}},
                                    .iov_count = 1,
                                    .imm = e->puts,
                                    .cookie = e->puts};

        err = e->t->ops->put(e->t, e->conn, &put);
        e->puts -= err != KVW_OK;
    }
    cr_assert(err == KVW_OK || err == KVW_E_AGAIN);
}

static void run(uint64_t ns, bool busy)
{
    const uint64_t until_ns = kvn_sim_now(sim) + ns;
    struct kvw_transport_event ev[64];

    while (kvn_sim_now(sim) < until_ns) {
        const uint64_t now = kvn_sim_now(sim);
        uint64_t next = until_ns;

        for (struct end *e = ends; e < ends + 2; ++e) {
            const uint64_t at = e->port->ops->deadline_ns(e->port);
            uint32_t n = 64;

            if ((at < e->deadline_ns ? at : e->deadline_ns) <= now) {
                while (n == 64) {
                    n = e->t->ops->poll(e->t, now, ev, 64);
                    for (uint32_t i = 0; i < n; ++i)
                        on_event(e, &ev[i]);
                }
                if (busy && e == &ends[0])
                    put_all(e);
            }
            e->deadline_ns = e->t->ops->deadline_ns(e->t);
        }
        for (struct end *e = ends; e < ends + 2; ++e) {
            const uint64_t at = e->port->ops->deadline_ns(e->port);

            next = at < next ? at : next;
            next = e->deadline_ns < next ? e->deadline_ns : next;
        }
        kvn_sim_advance(sim, next > now ? next : now + 1);
    }
}

static void open_both(const struct kvn_sim_link *link, uint32_t sent_max)
{
    const struct kvw_mem mem = {.base = to, .bytes = sizeof(to), .kind = KVW_MEM_HOST};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;

    memset(ends, 0, sizeof(ends));
    memset(seen, 0, sizeof(seen));
    sim = kvn_sim_open_for(1, PAYLOAD, 1u << 16);
    kvn_sim_links(sim, link);
    for (uint32_t i = 0; i < 2; ++i) {
        const struct kvn_packet_config cfg = {.seed = i + 1, .sent_max = sent_max};

        cr_assert_eq(kvn_sim_port_open(&port, sim, i), KVW_OK);
        ends[i].port = port;
        cr_assert_eq(kvn_packet_open(&ends[i].t, port, &cfg, why), KVW_OK, "%s", why);
    }
    cr_assert_eq(ends[1].t->ops->region_add(ends[1].t, &mem, NULL, NULL, &key), KVW_OK);
    cr_assert_eq(ends[1].t->ops->listen(ends[1].t), KVW_OK);
    cr_assert_eq(ends[0].t->ops->connect(ends[0].t, NULL, kvn_sim_now(sim), &ends[0].conn), KVW_OK);
    run(S / 2, false);
    cr_assert(ends[0].up && ends[1].up);
}

/* What of the link the puts have in the second after the first two, and the records of its path. */
static double share(const struct kvn_sim_link *link, uint32_t sent_max, uint32_t *records)
{
    const double most =
        (double)link->bytes_per_s / PUT_BYTES * (PAYLOAD - KVN_DATA_BYTES) / PAYLOAD;
    struct kvn_conn_stats conn;
    uint32_t before;

    open_both(link, sent_max);
    run(2 * S, true);
    before = ends[1].landed;
    run(S, true);
    before = ends[1].landed - before;
    cr_assert_eq(kvn_packet_conn_stats(ends[0].t, ends[0].conn, &conn), KVW_OK);
    *records = conn.path[0].records;
    run(3 * S, false);
    cr_expect(ends[1].landed == ends[0].puts && ends[0].done == ends[0].puts && ends[1].twice == 0,
              "%u landed, %u twice, %u done of %u", ends[1].landed, ends[1].twice, ends[0].done,
              ends[0].puts);
    cr_expect_eq(memcmp(to, from, PUT_BYTES), 0);
    for (uint32_t i = 0; i < 2; ++i)
        ends[i].t->ops->close(ends[i].t);
    kvn_sim_close(sim);
    return before / most;
}

static struct kvn_sim_link far_link(double loss)
{
    return (struct kvn_sim_link){.delay_ns = S / 20, .bytes_per_s = 125000000, .loss = loss};
}

Test(far, a_round_trip_of_8500_packets)
{
    const struct kvn_sim_link clean = far_link(0), lossy = far_link(1e-3);
    uint32_t records;
    double got;

    for (uint32_t i = 0; i < PUT_BYTES; ++i)
        from[i] = (uint8_t)(i * 7 + i / 256);
    got = share(&clean, 0, &records);
    printf("# clean: %.3f of the link, %u records\n", got, records);
    cr_expect(got > 0.95 && records > KVN_SENT_FIRST && records <= 32768, "%.3f, %u", got, records);
    got = share(&lossy, 0, &records);
    printf("# loss 1e-3: %.3f of the link, %u records\n", got, records);
    cr_expect(got > 0.90 && records > KVN_SENT_FIRST && records <= 32768, "%.3f, %u", got, records);
    got = share(&clean, KVN_SENT_FIRST, &records);
    printf("# no more records than at first: %.3f of the link\n", got);
    cr_expect(got < 0.5 && records == KVN_SENT_FIRST, "%.3f, %u", got, records);
}

Test(far, a_near_link_keeps_to_the_first_records)
{
    const struct kvn_sim_link near = {.delay_ns = 10000, .bytes_per_s = 12500000};
    uint32_t records;
    double got;

    puts_most = 300;
    got = share(&near, 0, &records);
    cr_expect(got > 0.95 && records == KVN_SENT_FIRST, "%.3f, %u", got, records);
}
