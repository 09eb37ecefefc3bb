/* SPDX-License-Identifier: Apache-2.0 */
/* A transport of several queues, a thread each, keeps the contract as one of one queue does. */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../net/queues/queues.h"
#include "../net/queues/sockets.h"
#include "transport_suite.h"

static uint16_t listener_port;

/*
 * A peer that vanishes: its threads go on, so each of their sockets becomes one that receives
 * nothing and can send nothing to IPv4 (ENETUNREACH). From one that can send, the packets would
 * come from another port, and the connection would move there and live.
 */
static void vanish(struct t_world *w)
{
    int fds[KVN_QUEUES_MAX];
    const int n = t_sockets(listener_port, fds, KVN_QUEUES_MAX);

    cr_assert_geq(n, 2);
    for (int i = 0; i < n; ++i) {
        const int other = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1;

        cr_assert_eq(setsockopt(other, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)), 0);
        cr_assert_geq(dup2(other, fds[i]), 0);
        close(other);
    }
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
    static char peer[64];
    const struct kvn_config listener = {.local = "127.0.0.1:0,queues=2", .listener = true};
    const struct kvn_config sender = {.local = "127.0.0.1:0,queues=2"};
    char why[KVN_WHY_BYTES] = "";
    unsigned port = 0;

    cr_assert_eq(kvn_open(&w->b, "udp", &listener, why), KVW_OK, "%s", why);
    cr_assert_eq(sscanf(why, "udp 127.0.0.1:%u", &port), 1, "%s", why);
    listener_port = (uint16_t)port;
    snprintf(peer, sizeof(peer), "127.0.0.1:%u", port);
    cr_assert_eq(kvn_open(&w->a, "udp", &sender, why), KVW_OK, "%s", why);
    w->peer = peer;
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = vanish;
    w->over = over;
}
