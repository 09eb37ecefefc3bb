/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other end of a link, as a process that tests can stop and kill: dpdk_peer PATH ROLE MODE
 * PARENT (dpdk_traffic.h, t_peer_start). Ends on SIGTERM, or when its parent has gone.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dpdk_traffic.h"

static volatile sig_atomic_t ended;

static void on_term(int signal)
{
    (void)signal;
    ended = 1;
}

/* Send back what was received, or give up after a while: a peer that doesn't read is no friend. */
static void echo(struct kvn_port *port, const struct kvn_rx_packet *in, uint32_t count)
{
    for (uint32_t i = 0; i < count; ++i) {
        uint64_t number;

        if (!t_payload_check(in[i].bytes, in[i].len, &number))
            continue; /* the test misses it, and fails */

        const struct kvn_tx_packet out = {.to = in[i].from,
                                          .head = in[i].bytes,
                                          .head_bytes = 24,
                                          .body = {{in[i].bytes + 24, in[i].len - 24}},
                                          .body_count = 1};

        for (int tries = 0; tries < 20000 && !ended; ++tries) {
            if (port->ops->tx(port, t_now_ns(), &out, 1) != 0)
                break;
            usleep(100);
        }
    }
}

static void blast(struct kvn_port *port)
{
    static uint8_t bytes[KVN_BURST][4096];
    static uint64_t number;
    struct kvn_tx_packet packets[KVN_BURST];

    for (uint32_t i = 0; i < KVN_BURST; ++i) {
        t_payload_make(bytes[i], 64 + i * 100, number + i);
        packets[i] = (struct kvn_tx_packet){
            .to = port->default_peer, .head = bytes[i], .head_bytes = 64 + i * 100};
    }
    number += port->ops->tx(port, t_now_ns(), packets, KVN_BURST);
}

/* By number 2: the answer to number 1 has arrived by then, and isn't lost with this process. */
static bool told_to_leave(const struct kvn_rx_packet *in, uint32_t count)
{
    uint64_t number;

    for (uint32_t i = 0; i < count; ++i)
        if (t_payload_check(in[i].bytes, in[i].len, &number) && number == 2)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    struct kvn_rx_packet in[KVN_BURST];
    struct kvn_port *port;

    if (argc != 5)
        return 2;
    signal(SIGTERM, on_term);
    port = t_open(argv[1], strcmp(argv[2], "listener") == 0, 20000);
    if (port == NULL)
        return 1;
    while (!ended && getppid() == atoi(argv[4])) {
        const uint32_t n = port->ops->rx(port, t_now_ns(), in, KVN_BURST);

        echo(port, in, n);
        if (strcmp(argv[3], "leave") == 0 && told_to_leave(in, n))
            exit(0); /* as a program that doesn't care: the port is open */
        if (strcmp(argv[3], "blast") == 0)
            blast(port);
        if (n == 0)
            port->ops->wait(port, t_now_ns() + (argv[3][0] == 'b' ? 200000u : 50000000u), -1);
    }
    port->ops->close(port);
    return 0;
}
