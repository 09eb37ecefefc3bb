/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The packet protocol keeps the contract over two PCI NICs that DPDK drives itself. They are those
 * of KVW_PCI0 and KVW_PCI1, joined by a wire and bound to a driver for user space: in CI the
 * emulated ones of tests/guest/guest.py --pci.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "../../net/net.h"
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

static struct kvw_transport *open_end(int side, const char *address)
{
    struct kvn_config cfg = {.listener = side == 1};
    char local[128], why[KVN_WHY_BYTES] = "";
    struct kvw_transport *t = NULL;

    snprintf(local, sizeof(local), "pci:%s,ip=10.77.2.%d/24,mtu=%s", address, side + 1,
             getenv("KVN_T_MTU") != NULL ? getenv("KVN_T_MTU") : "1500");
    cfg.local = local;
    cr_assert_eq(kvn_open(&t, "dpdk", &cfg, why), KVW_OK, "%s", why);
    return t;
}

/* Both ends in one process and thread: a second NIC is attached to DPDK while it runs. */
void t_world_open(struct t_world *w)
{
    const char *first = getenv("KVW_PCI0"), *second = getenv("KVW_PCI1");

    if (first == NULL || second == NULL)
        cr_skip_test("no two PCI NICs (KVW_PCI0, KVW_PCI1): tests/guest/guest.py --pci has them");
    w->b = open_end(1, second);
    w->a = open_end(0, first);
    w->peer = "10.77.2.2:7400";
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
