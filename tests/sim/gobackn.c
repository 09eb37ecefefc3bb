/* SPDX-License-Identifier: Apache-2.0 */
#include "gobackn.h"

#include <string.h>

#define TIMER_NS 5000000ull

static uint8_t zeros[65536];

static void send(struct kvn_port *port, uint64_t now_ns, uint64_t number, uint32_t bytes)
{
    uint8_t head[8];
    const struct kvn_tx_packet p = {.to = port->default_peer,
                                    .head = head,
                                    .head_bytes = sizeof(head),
                                    .body = {{zeros, bytes - 8}},
                                    .body_count = bytes > 8};

    memcpy(head, &number, 8);
    (void)port->ops->tx(port, now_ns, &p, 1);
}

/* All that came: numbers to out. */
static uint32_t receive(struct kvn_port *port, uint64_t now_ns, uint64_t out[KVN_BURST])
{
    struct kvn_rx_packet p[KVN_BURST];
    const uint32_t n = port->ops->rx(port, now_ns, p, KVN_BURST);

    for (uint32_t i = 0; i < n; ++i)
        memcpy(&out[i], p[i].bytes, 8);
    return n;
}

uint64_t t_gobackn(struct kvn_sim *sim, uint32_t payload, uint32_t window, uint64_t for_ns)
{
    const uint64_t end = kvn_sim_now(sim) + for_ns;
    uint64_t expected = 1, next = 1, acked = 0, timer = 0, got[KVN_BURST];
    struct kvn_port *to, *from;

    if (kvn_sim_port_open(&to, sim, 0) != KVW_OK || kvn_sim_port_open(&from, sim, 1) != KVW_OK)
        return 0;
    for (uint64_t now = kvn_sim_now(sim); now < end; now = kvn_sim_now(sim)) {
        uint32_t n = receive(to, now, got);
        uint64_t wake;

        for (uint32_t i = 0; i < n; ++i) {
            expected += got[i] == expected; /* what is out of order is dropped */
            send(to, now, expected - 1, 64);
        }
        n = receive(from, now, got);
        for (uint32_t i = 0; i < n; ++i)
            if (got[i] > acked) {
                acked = got[i];
                timer = now + TIMER_NS;
            }
        if (next > acked + 1 && now >= timer)
            next = acked + 1;
        if (next <= acked)
            next = acked + 1;
        while (next <= acked + window) {
            if (next == acked + 1)
                timer = now + TIMER_NS;
            send(from, now, next++, payload);
        }
        wake = kvn_sim_next(sim);
        kvn_sim_advance(sim, wake < timer ? wake : timer);
    }
    to->ops->close(to);
    from->ops->close(from);
    return (expected - 1) * payload;
}
