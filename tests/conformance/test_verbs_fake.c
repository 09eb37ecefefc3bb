/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs transport keeps the contract, on a pretended fabric of two devices. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "../../net/net.h"
#include "../../net/verbs/verbs.h"
#include "../verbs/fake.h"
#include "transport_suite.h"

/* Nobody polls it, and nothing moves: with its device alive, puts would still arrive. */
static void forget(struct t_world *w)
{
    vf.stuck = true;
    w->arg = w->b;
}

static void over(struct t_world *w)
{
    struct kvw_transport *const b = w->arg;

    if (b != NULL)
        b->ops->close(b);
    cr_expect_eq(vf.live, 0, "%d objects of the device are left", vf.live);
}

void t_world_open(struct t_world *w)
{
    static char peer[64];
    const struct kvn_config listener = {.local = "127.0.0.1:0+fake1", .listener = true};
    const struct kvn_config sender = {.local = "fake0+fake1"};
    char why[KVN_WHY_BYTES] = "";

    vf_reset(1);
    cr_assert_eq(kvn_open(&w->b, "verbs", &listener, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&w->a, "verbs", &sender, why), KVW_OK, "%s", why);
    snprintf(peer, sizeof(peer), "127.0.0.1:%u", kvn_verbs_port(w->b));
    w->peer = peer;
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = false;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
