/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol keeps the contract over DPDK's other ways between two ends of one host:
 * KVN_T_KIND says which, memif or ring. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "../../net/port/dpdk/kind.h"
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
    if (path[0] != '\0')
        t_link_remove(path);
}

static struct kvw_transport *open_end(const char *kind, const char *what, bool listener)
{
    struct kvn_packet_config packet = {0};
    struct kvn_dpdk_spec spec;
    const struct kvn_dpdk_open o = {
        .spec = &spec, .listener = listener, .open_by_ns = t_now_ns() + 10000000000u};
    struct kvw_transport *t = NULL;
    struct kvn_port *port = NULL;
    char why[KVN_WHY_BYTES] = "";
    kvw_err err;

    cr_assert_eq(kvn_dpdk_spec_parse(&spec, kind, what, why), KVW_OK, "%s", why);
    /* Both ends are this thread's, so neither may wait for the other (o.wait). */
    err = strcmp(kind, "memif") == 0 ? kvn_dpdk_open_memif(&port, &o, &packet, why)
                                     : kvn_dpdk_open_ring(&port, &o, &packet, why);
    cr_assert_eq(err, KVW_OK, "%s", why);
    cr_assert_eq(kvn_packet_open(&t, port, &packet, why), KVW_OK, "%s", why);
    return t;
}

void t_world_open(struct t_world *w)
{
    const char *kind = getenv("KVN_T_KIND") != NULL ? getenv("KVN_T_KIND") : "ring";
    const char *what = "conformance";

    if (strcmp(kind, "memif") == 0) {
        t_link_path(path);
        what = path;
    }
    w->b = open_end(kind, what, true);
    w->a = open_end(kind, what, false);
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
