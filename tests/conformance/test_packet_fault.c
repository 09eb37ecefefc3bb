/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol over UDP sockets keeps the contract when packets are lost, late, repeated and
 * damaged on the way. */
#include <criterion/criterion.h>

#include "../../net/net.h"
#include "../../net/packet/endpoint.h"
#include "../../net/port/fault.h"
#include "../../net/port/udp/udp.h"
#include "transport_suite.h"

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

void t_world_open(struct t_world *w)
{
    static const char faults[] = "loss=0.05,reorder=0.05,dup=0.02,corrupt=0.01,seed=3";
    static char peer[KVN_ADDR_TEXT_BYTES];
    const struct kvn_udp_config udp = {.local = "127.0.0.1:0"};
    struct kvn_config sender = {.local = "127.0.0.1:0", .fault = faults};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;
    uint32_t queued;

    cr_assert_eq(kvn_udp_port_open(&port, &udp, &queued, why), KVW_OK, "%s", why);
    sender.peer = kvn_addr_format(&port->local, peer);
    cr_assert_eq(kvn_fault_wrap(&port, faults, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_packet_open(&w->b, port, NULL, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&w->a, "udp", &sender, why), KVW_OK, "%s", why);
    w->peer = peer;
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
