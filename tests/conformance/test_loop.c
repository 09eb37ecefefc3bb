/* SPDX-License-Identifier: Apache-2.0 */
/* The loop transport keeps the contract. */
#include <criterion/criterion.h>

#include "../../net/net.h"
#include "transport_suite.h"

void t_world_open(struct t_world *w)
{
    const struct kvn_config listener = {.local = "conformance", .listener = true};
    const struct kvn_config sender = {.local = "conformance"};
    char why[KVN_WHY_BYTES] = "";

    cr_assert_eq(kvn_open(&w->b, "loop", &listener, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&w->a, "loop", &sender, why), KVW_OK, "%s", why);
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
}
