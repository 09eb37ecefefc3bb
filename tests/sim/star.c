/* SPDX-License-Identifier: Apache-2.0 */
#include "star.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY (16u << 20)
#define AHEAD  32u /* puts queued by each that sends */

static void on_sender_event(struct t_star_sender *s, const struct kvw_transport_event *ev)
{
    s->up |= ev->kind == KVW_TEV_CONN_UP;
    s->down |= ev->kind == KVW_TEV_CONN_DOWN;
    if (ev->kind == KVW_TEV_PUT_DONE) {
        cr_assert_eq(ev->err, KVW_OK);
        --s->queued;
    }
}

static void poll_sender(struct t_star *s, uint32_t i)
{
    struct t_star_sender *c = &s->sender[i];
    struct kvw_transport_event ev[32];
    uint32_t n;

    do {
        n = c->t->ops->poll(c->t, kvn_sim_now(s->sim), ev, 32);
        for (uint32_t e = 0; e < n; ++e)
            on_sender_event(c, &ev[e]);
    } while (n == 32);
    while (c->up && c->sends && c->queued < AHEAD) {
        const struct kvw_put put = {.key = s->key,
                                    .offset = (uint64_t)i * T_STAR_PUT_BYTES,
                                    .iov = {{s->source, T_STAR_PUT_BYTES}},
                                    .iov_count = 1,
                                    .imm = i};
        if (c->t->ops->put(c->t, c->conn, &put) != KVW_OK)
            break;
        ++c->queued;
    }
    c->deadline_ns = c->t->ops->deadline_ns(c->t);
}

static void poll_sink(struct t_star *s)
{
    struct kvw_transport_event ev[32];
    uint32_t n;

    do {
        n = s->sink->ops->poll(s->sink, kvn_sim_now(s->sim), ev, 32);
        for (uint32_t e = 0; e < n; ++e)
            if (ev[e].kind == KVW_TEV_PUT_LANDED)
                s->landed[ev[e].imm] += ev[e].bytes;
    } while (n == 32);
    s->sink_deadline_ns = s->sink->ops->deadline_ns(s->sink);
}

/* When an endpoint wants to be polled: what it said after its last poll, or when a packet comes. */
static uint64_t due(const struct kvn_port *port, uint64_t deadline_ns)
{
    const uint64_t at = port->ops->deadline_ns(port);

    return at < deadline_ns ? at : deadline_ns;
}

void t_star_run(struct t_star *s, uint64_t until_ns)
{
    for (uint32_t i = 0; i < s->senders; ++i)
        s->sender[i].deadline_ns = 0; /* perhaps it was told something */
    while (kvn_sim_now(s->sim) < until_ns) {
        const uint64_t now = kvn_sim_now(s->sim);
        uint64_t next = until_ns, d;

        for (uint32_t i = 0; i < s->senders; ++i)
            if (due(s->sender[i].port, s->sender[i].deadline_ns) <= now)
                poll_sender(s, i);
        if (due(s->sink_port, s->sink_deadline_ns) <= now)
            poll_sink(s);
        for (uint32_t i = 0; i < s->senders; ++i) {
            d = due(s->sender[i].port, s->sender[i].deadline_ns);
            next = d < next ? d : next;
        }
        d = due(s->sink_port, s->sink_deadline_ns);
        kvn_sim_advance(s->sim, d < next ? d : next);
    }
}

void t_star_open(struct t_star *s, uint64_t seed, uint32_t senders, uint32_t buffer_bytes,
                 uint32_t ecn_bytes)
{
    t_star_open_paths(s, seed, senders, buffer_bytes, ecn_bytes, 1);
}

void t_star_open_paths(struct t_star *s, uint64_t seed, uint32_t senders, uint32_t buffer_bytes,
                       uint32_t ecn_bytes, uint32_t paths)
{
    const struct kvn_sim_egress egress = {
        .bytes_per_s = T_BYTES_PER_S, .buffer_bytes = buffer_bytes, .ecn_bytes = ecn_bytes};
    const struct kvn_sim_link link = {.delay_ns = T_RTT_NS / 2, .bytes_per_s = T_BYTES_PER_S};
    struct kvn_packet_config cfg = {.seed = seed * 100 + 1};
    struct kvw_mem mem = {.bytes = MEMORY, .kind = KVW_MEM_HOST};
    char why[KVN_WHY_BYTES];
    struct kvn_port *port;

    memset(s, 0, sizeof(*s));
    s->senders = senders;
    s->sim = kvn_sim_open(seed, 8240);
    kvn_sim_sources(s->sim, paths);
    mem.base = s->memory = malloc(MEMORY);
    s->source = malloc(T_STAR_PUT_BYTES);
    for (uint32_t i = 0; i < T_STAR_PUT_BYTES; ++i)
        s->source[i] = (uint8_t)(i * 2654435761u >> 19);
    kvn_sim_links(s->sim, &link);
    cr_assert_eq(kvn_sim_port_open(&port, s->sim, 0), KVW_OK);
    s->sink_port = port;
    cr_assert_eq(kvn_packet_open(&s->sink, port, &cfg, why), KVW_OK, "%s", why);
    cr_assert_eq(s->sink->ops->region_add(s->sink, &mem, NULL, NULL, &s->key), KVW_OK);
    cr_assert_eq(s->sink->ops->listen(s->sink), KVW_OK);
    for (uint32_t i = 0; i < senders; ++i) {
        struct t_star_sender *c = &s->sender[i];

        cfg.seed = seed * 100 + 2 + i;
        cr_assert_eq(kvn_sim_port_open(&port, s->sim, i + 1), KVW_OK);
        c->port = port;
        cr_assert_eq(kvn_packet_open(&c->t, port, &cfg, why), KVW_OK, "%s", why);
        cr_assert_eq(c->t->ops->connect(c->t, NULL, kvn_sim_now(s->sim), &c->conn), KVW_OK);
    }
    t_star_run(s, kvn_sim_now(s->sim) + 1000000);
    for (uint32_t i = 0; i < senders; ++i)
        cr_assert(s->sender[i].up);
    kvn_sim_egress(s->sim, 0, &egress);
}

void t_star_close(struct t_star *s)
{
    for (uint32_t i = 0; i < s->senders; ++i)
        s->sender[i].t->ops->close(s->sender[i].t);
    s->sink->ops->close(s->sink);
    kvn_sim_close(s->sim);
    free(s->memory);
    free(s->source);
}

void t_star_received(struct t_star *s, uint64_t bytes[T_STAR_MAX])
{
    memcpy(bytes, s->landed, sizeof(s->landed));
}
