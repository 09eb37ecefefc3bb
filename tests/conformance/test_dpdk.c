/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol over a vhost/virtio-user link keeps the contract. */
#include <criterion/criterion.h>

#include "../../net/packet/endpoint.h"
#include "../net/port/dpdk_traffic.h"
#include "transport_suite.h"

static char path[KVN_DPDK_PATH_BYTES];

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
    t_link_remove(path);
}

/*
 * Both ends in one process and thread: the sender first, without waiting, since the listener's
 * driver waits until a sender has connected, which takes up to a second (vhost's own timer).
 */
void t_world_open(struct t_world *w)
{
    struct kvn_dpdk_config cfg = {.path = path, .open_by_ns = t_now_ns() + 10000000000u};
    const struct kvn_packet_config packet = {.slice_bytes = 32768};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *port;

    t_link_path(path);
    cr_assert_eq(kvn_dpdk_port_open(&port, &cfg, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_packet_open(&w->a, port, &packet, why), KVW_OK, "%s", why);
    cfg.listener = true;
    cr_assert_eq(kvn_dpdk_port_open(&port, &cfg, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_packet_open(&w->b, port, &packet, why), KVW_OK, "%s", why);
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
