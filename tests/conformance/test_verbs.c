/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs transport keeps the contract on real verbs: between KVW_VERBS_A and KVW_VERBS_B, which
 * are soft-RoCE devices of a guest when tests/guest/ runs it. KVW_VERBS_OPTIONS goes after both
 * (",cm=1": joined by rdma_cm). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../net/net.h"
#include "../../net/verbs/verbs.h"
#include "transport_suite.h"

/* A cable that is pulled out: KVW_VERBS_CUT is the command. */
static void cut(struct t_world *w)
{
    w->arg = w->b;
    cr_assert_eq(system(getenv("KVW_VERBS_CUT")), 0);
}

static void over(struct t_world *w)
{
    struct kvw_transport *const b = w->arg;

    if (b == NULL)
        return;
    b->ops->close(b);
    cr_assert_eq(system(getenv("KVW_VERBS_MEND")), 0);
}

void t_world_open(struct t_world *w)
{
    static char peer[128];
    const char *const at_a = getenv("KVW_VERBS_A"), *const at_b = getenv("KVW_VERBS_B");
    const char *const more = getenv("KVW_VERBS_OPTIONS") != NULL ? getenv("KVW_VERBS_OPTIONS") : "";
    char local[128], local_a[128], why[KVN_WHY_BYTES] = "";

    if (at_a == NULL || at_b == NULL)
        cr_skip_test("no KVW_VERBS_A and KVW_VERBS_B, addresses of two RDMA devices");
    snprintf(local, sizeof(local), "%s:0%s", at_b, more);
    snprintf(local_a, sizeof(local_a), "%s%s", at_a, more);
    const struct kvn_config listener = {.local = local, .listener = true};
    const struct kvn_config sender = {.local = local_a};
    cr_assert_eq(kvn_open(&w->b, "verbs", &listener, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&w->a, "verbs", &sender, why), KVW_OK, "%s", why);
    snprintf(peer, sizeof(peer), "%s:%u", at_b, kvn_verbs_port(w->b));
    w->peer = peer;
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = false;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    if (getenv("KVW_VERBS_CUT") != NULL && getenv("KVW_VERBS_MEND") != NULL)
        w->vanish_b = cut;
    w->over = over;
}
