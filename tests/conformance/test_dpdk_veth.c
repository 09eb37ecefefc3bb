/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet protocol keeps the contract over a real Ethernet (a veth pair between two network
 * namespaces), between any two of DPDK's ways to an interface and the kernel's sockets. KVN_T_ENDS
 * says which: "A B FAMILY MTU", the connecting end, the listening end, 4 or 6, the link's MTU.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/net.h"
#include "../net/port/veth.h"
#include "transport_suite.h"

static struct {
    char ends[2][16];
    int family;
    unsigned mtu;
} world;

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

/* The end's own address; the kernel's for its sockets, another beside it for DPDK. */
static void address(char text[64], int side, bool port)
{
    const int host = strcmp(world.ends[side], "udp") == 0 ? 100 + side : 1 + side;

    if (world.family == 4)
        snprintf(text, 64, port ? "10.77.0.%d:7400" : "10.77.0.%d", host);
    else
        snprintf(text, 64, port ? "[fd77::%d]:7400" : "fd77::%d", host);
}

static struct kvw_transport *open_end(int side)
{
    struct kvn_config cfg = {.listener = side == 1};
    struct kvw_transport *t = NULL;
    char ip[64], local[160], why[KVN_WHY_BYTES] = "";
    const bool kernel = strcmp(world.ends[side], "udp") == 0;

    address(ip, side, kernel);
    if (kernel)
        snprintf(local, sizeof(local), "%s", ip);
    else
        snprintf(local, sizeof(local), "%s:%s,ip=%s/%d", world.ends[side], T_VETH_DEV(side), ip,
                 world.family == 4 ? 24 : 64);
    cfg.local = local;
    t_veth_enter(side);
    cr_assert_eq(kvn_open(&t, kernel ? "udp" : "dpdk", &cfg, why), KVW_OK, "%s", why);
    return t;
}

void t_world_open(struct t_world *w)
{
    static char peer[64];
    const char *ends = getenv("KVN_T_ENDS"), *why;

    cr_assert_eq(sscanf(ends != NULL ? ends : "af_packet udp 4 9000", "%15s %15s %d %u",
                        world.ends[0], world.ends[1], &world.family, &world.mtu),
                 4);
    if ((why = t_veth_make(world.mtu)) != NULL)
        cr_skip_test("%s", why);
    w->b = open_end(1);
    w->a = open_end(0);
    address(peer, 1, true);
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
