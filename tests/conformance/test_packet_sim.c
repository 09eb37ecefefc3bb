/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol keeps the contract over a network that loses, repeats, reorders and damages
 * packets. */
#include <criterion/criterion.h>

#include "../../net/packet/endpoint.h"
#include "../../net/port/sim/sim.h"
#include "transport_suite.h"

static uint64_t sim_now(struct t_world *w)
{
    return kvn_sim_now(w->arg);
}

static void sim_idle(struct t_world *w, uint64_t until_ns)
{
    const uint64_t next = kvn_sim_next(w->arg);

    kvn_sim_advance(w->arg, next < until_ns ? next : until_ns);
}

static void vanish(struct t_world *w)
{
    struct kvn_sim_link cut = {.cut = true};

    kvn_sim_links(w->arg, &cut);
    w->b->ops->close(w->b);
}

static void over(struct t_world *w)
{
    kvn_sim_close(w->arg);
}

void t_world_open(struct t_world *w)
{
    const struct kvn_sim_link link = {.delay_ns = 15000,
                                      .jitter_ns = 30000,
                                      .bytes_per_s = 1250000000,
                                      .queue_bytes = 512 * 1024,
                                      .loss = 0.03,
                                      .dup = 0.02,
                                      .corrupt = 0.01,
                                      .reorder = 0.05,
                                      .reorder_ns = 100000};
    const struct kvn_packet_config ca = {.seed = 1}, cb = {.seed = 2};
    char why[KVN_WHY_BYTES] = "";
    struct kvn_port *pa, *pb;
    struct kvn_sim *sim = kvn_sim_open(7, 8240);

    cr_assert_not_null(sim);
    kvn_sim_links(sim, &link);
    cr_assert_eq(kvn_sim_port_open(&pa, sim, 0), KVW_OK);
    cr_assert_eq(kvn_sim_port_open(&pb, sim, 1), KVW_OK);
    cr_assert_eq(kvn_packet_open(&w->a, pa, &ca, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_packet_open(&w->b, pb, &cb, why), KVW_OK, "%s", why);
    w->bad_peer = "10.0.0.2";
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = sim_now;
    w->idle = sim_idle;
    w->vanish_b = vanish;
    w->over = over;
    w->arg = sim;
}
