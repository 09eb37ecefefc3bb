/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cost_packet SIDE PUTS: puts of 256 KiB in slices of 8 KiB between two endpoints over a wire of
 * memory, in one thread. All that SIDE (tx: the sender, rx: the receiver) does for them happens
 * inside measured(), for callgrind's --toggle-collect. Prints how many DATA packets that were.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/packet/endpoint.h"
#include "../../net/packet/wire.h"

#define RING    1024u
#define PAYLOAD (8192u + KVN_DATA_BYTES)
#define PUT     (256u * 1024)
#define AHEAD   16u

/* One end of the wire; what it sends lies in the other's ring. */
struct wire {
    struct kvn_port base;
    struct wire *peer;
    uint8_t *bytes;
    uint32_t len[RING];
    uint8_t ecn[RING];
    uint32_t head, tail;
    uint64_t data; /* DATA packets sent */
};

static uint32_t wire_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *p,
                        uint32_t max)
{
    struct wire *w = (struct wire *)port;
    uint32_t n = 0;

    (void)now_ns;
    for (; n < max && w->head != w->tail; ++n, ++w->head) {
        const uint32_t i = w->head % RING;
        p[n] = (struct kvn_rx_packet){.bytes = w->bytes + (size_t)i * PAYLOAD,
                                      .len = w->len[i],
                                      .from = w->base.default_peer};
    }
    return n;
}

static uint32_t wire_tx(struct kvn_port *port, uint64_t now_ns, const struct kvn_tx_packet *p,
                        uint32_t count)
{
    struct wire *w = (struct wire *)port, *to = w->peer;
    uint32_t n = 0;

    (void)now_ns;
    for (; n < count && to->tail - to->head < RING; ++n, ++to->tail) {
        const uint32_t i = to->tail % RING;
        uint8_t *at = to->bytes + (size_t)i * PAYLOAD;

        memcpy(at, p[n].head, p[n].head_bytes);
        to->len[i] = p[n].head_bytes;
        for (uint32_t b = 0; b < p[n].body_count; ++b) {
            memcpy(at + to->len[i], p[n].body[b].base, p[n].body[b].bytes);
            to->len[i] += p[n].body[b].bytes;
        }
        w->data += (p[n].head[0] & 15) == KVN_PACKET_DATA;
    }
    return n;
}

static void wire_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    (void)port;
    (void)until_ns;
    (void)wake_fd;
}

static uint64_t wire_deadline_ns(const struct kvn_port *port)
{
    (void)port;
    return UINT64_MAX;
}

static void wire_close(struct kvn_port *port)
{
    (void)port;
}

static const struct kvn_port_ops wire_ops = {.name = "wire",
                                             .rx = wire_rx,
                                             .tx = wire_tx,
                                             .wait = wire_wait,
                                             .deadline_ns = wire_deadline_ns,
                                             .close = wire_close};

static void open_wire(struct wire *w, struct wire *peer, uint8_t host)
{
    w->base = (struct kvn_port){
        .ops = &wire_ops,
        .payload_max = PAYLOAD,
        .slack_ns = 1000000, /* as between processes: bursts */
        .default_peer = {.family = 4, .ip = {10, 0, 0, (uint8_t)(3 - host)}, .port = 1}};
    w->peer = peer;
    w->bytes = malloc((size_t)RING * PAYLOAD);
}

/* A side, and what its user does: puts, or nothing. */
struct side {
    struct kvw_transport *t;
    kvw_conn_id conn;
    bool up;
    uint32_t puts, done, landed;
    struct kvw_put put;
};

__attribute__((noinline)) static void plain(struct side *s, uint64_t now_ns, uint32_t puts);

/* The only code that is counted. */
__attribute__((noinline)) static void measured(struct side *s, uint64_t now_ns, uint32_t puts)
{
    plain(s, now_ns, puts);
    __asm__ volatile(""); /* not a tail call */
}

static void plain(struct side *s, uint64_t now_ns, uint32_t puts)
{
    struct kvw_transport_event ev[64];
    const uint32_t n = s->t->ops->poll(s->t, now_ns, ev, 64);

    for (uint32_t i = 0; i < n; ++i) {
        if (ev[i].kind == KVW_TEV_CONN_UP) {
            s->up = true;
            s->conn = ev[i].conn;
        }
        s->done += ev[i].kind == KVW_TEV_PUT_DONE;
        s->landed += ev[i].kind == KVW_TEV_PUT_LANDED;
    }
    while (s->up && s->puts < puts && s->puts - s->done < AHEAD &&
           s->t->ops->put(s->t, s->conn, &s->put) == KVW_OK)
        ++s->puts;
}

static uint8_t memory[PUT], source[PUT];

int main(int argc, char **argv)
{
    const bool tx = argc == 3 && strcmp(argv[1], "tx") == 0;
    const uint32_t puts = argc == 3 ? (uint32_t)atoi(argv[2]) : 0;
    const struct kvw_mem mem = {.base = memory, .bytes = PUT, .kind = KVW_MEM_HOST};
    static struct wire a, b;
    static struct side from, to;
    uint64_t now = 1000000000;
    char why[KVN_WHY_BYTES];

    if (puts == 0 || (!tx && strcmp(argv[1], "rx") != 0))
        return fprintf(stderr, "usage: cost_packet tx|rx PUTS\n"), 2;
    open_wire(&a, &b, 1);
    open_wire(&b, &a, 2);
    if (kvn_packet_open(&from.t, &a.base, &(struct kvn_packet_config){.seed = 1}, why) != KVW_OK ||
        kvn_packet_open(&to.t, &b.base, &(struct kvn_packet_config){.seed = 2}, why) != KVW_OK ||
        to.t->ops->region_add(to.t, &mem, NULL, NULL, &from.put.key) != KVW_OK ||
        to.t->ops->listen(to.t) != KVW_OK ||
        from.t->ops->connect(from.t, NULL, now, &from.conn) != KVW_OK)
        return 1;
    from.put.iov[0] = (struct kvw_iov){source, PUT};
    from.put.iov_count = 1;
    for (uint64_t end = now + 10000000000ull; to.landed < puts && now < end; now += 5000) {
        (tx ? measured : plain)(&from, now, puts);
        (tx ? plain : measured)(&to, now, 0);
    }
    from.t->ops->close(from.t);
    to.t->ops->close(to.t);
    free(a.bytes);
    free(b.bytes);
    printf("%llu\n", (unsigned long long)a.data);
    return to.landed == puts ? 0 : 1;
}
