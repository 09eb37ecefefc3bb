/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol over UDP sockets keeps the contract. */
#include <criterion/criterion.h>

#include "../../net/net.h"
#include "../../net/packet/endpoint.h"
#include "../../net/port/udp/udp.h"
#include "transport_suite.h"

/* A peer that vanishes is one that isn't polled any more. */
static void forget(struct t_world *w)
{
    w->arg = w->b;
}

static void over(struct t_world *w)
{
    struct kvw_transport *const b = w->arg;

    if (b != NULL)
        b->ops->close(b);
}

/* The listener's port is the kernel's choice, as tests run beside each other; so the port is opened
 * first, and asked. */
void t_world_open(struct t_world *w)
{
    static char peer[KVN_ADDR_TEXT_BYTES];
    const struct kvn_udp_config udp = {.local = "127.0.0.1:0"};
    struct kvn_config sender = {.local = "127.0.0.1:0"};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&port, &udp, &queued, why), KVW_OK, "%s", why);
    sender.peer = kvn_addr_format(&port->local, peer);
    cr_assert_eq(kvn_packet_open(&w->b, port, NULL, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&w->a, "udp", &sender, why), KVW_OK, "%s", why);
    w->peer = peer;
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
