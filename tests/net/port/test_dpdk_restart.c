/* SPDX-License-Identifier: Apache-2.0 */
/* kill -9 of either process at a random moment: the other keeps its port, and the next peer gets
 * traffic through it again. */
#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dpdk_traffic.h"

#define KILLS       20u
#define RESUME_MS   20000u
#define BACK_BEFORE 20u /* echoes that show traffic flows both ways */

TestSuite(dpdk_restart, .timeout = 120);

/* Run both directions until the peer has echoed some of ours, numbered from *number on. */
static uint64_t flow(struct kvn_port *port, uint64_t *number, unsigned run_ms, unsigned want)
{
    static uint8_t bytes[8256];
    const uint64_t begin_ns = t_now_ns();
    const uint64_t first = *number;
    struct kvn_rx_packet in[KVN_BURST];
    unsigned back = 0;

    while (t_now_ns() - begin_ns < run_ms * 1000000ull && (want == 0 || back < want)) {
        t_payload_make(bytes, 24 + (uint32_t)(*number * 37 % 8000), *number);

        const struct kvn_tx_packet packet = {
            .to = port->default_peer,
            .head = bytes,
            .head_bytes = 24,
            .body = {{bytes + 24, (uint32_t)(*number * 37 % 8000)}},
            .body_count = 1};
        const uint32_t sent = port->ops->tx(port, t_now_ns(), &packet, 1);
        const uint32_t n = port->ops->rx(port, t_now_ns(), in, KVN_BURST);

        *number += sent;
        for (uint32_t i = 0; i < n; ++i) {
            uint64_t got;

            cr_assert(t_payload_check(in[i].bytes, in[i].len, &got), "a payload is hurt");
            back += got >= first && got < *number;
        }
        if (n == 0)
            port->ops->wait(port, t_now_ns() + 1000000u, -1);
    }
    return back >= want ? t_now_ns() - begin_ns : UINT64_MAX;
}

static void survive(bool listener, unsigned seed)
{
    const char *role = listener ? "sender" : "listener";
    uint64_t number = 1ull << 40; /* apart from what the peer numbers itself */
    uint64_t worst_ns = 0;
    char path[KVN_DPDK_PATH_BYTES];
    struct kvn_port *port;
    pid_t peer;

    printf("# seed %u\n", seed);
    srandom(seed);
    t_link_path(path);
    peer = t_peer_start(path, role, "blast");
    cr_assert_not_null(port = t_open(path, listener, 20000));
    cr_assert_neq(flow(port, &number, RESUME_MS, BACK_BEFORE), UINT64_MAX, "no traffic at first");
    for (unsigned i = 0; i < KILLS; ++i) {
        uint64_t took_ns;

        (void)flow(port, &number, (unsigned)random() % 30, 0);
        (void)t_peer_end(peer, SIGKILL);
        /* Traffic goes on into the void for a while, or the next peer is there at once. */
        (void)flow(port, &number, (unsigned)random() % 60, 0);
        peer = t_peer_start(path, role, "blast");
        took_ns = flow(port, &number, RESUME_MS, BACK_BEFORE);
        cr_assert_neq(took_ns, UINT64_MAX, "seed %u: no traffic after kill %u", seed, i);
        worst_ns = took_ns > worst_ns ? took_ns : worst_ns;
    }
    printf("# %s survived %u kills, longest way back %.0f ms\n", listener ? "listener" : "sender",
           KILLS, (double)worst_ns * 1e-6);
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

static unsigned seed_of_now(void)
{
    const char *given = getenv("KVWIRE_SEED");

    return given != NULL ? (unsigned)atoi(given) : (unsigned)time(NULL);
}

Test(dpdk_restart, sender_survives)
{
    survive(false, seed_of_now());
}

Test(dpdk_restart, listener_survives)
{
    survive(true, seed_of_now());
}
