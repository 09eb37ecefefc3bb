/* SPDX-License-Identifier: Apache-2.0 */
#include "impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_NS 1000u /* how often the queue's length is looked at */

static uint32_t bucket(uint64_t bytes)
{
    uint32_t power = 0;

    while (bytes >= 2 * KVN_SIM_HIST_SUB) {
        bytes >>= 1;
        ++power;
    }
    /* bytes < 2 * SUB: the first power's buckets are exact, later ones hold the upper half. */
    bytes += (uint64_t)power * KVN_SIM_HIST_SUB;
    return bytes < KVN_SIM_HIST_BUCKETS ? (uint32_t)bytes : KVN_SIM_HIST_BUCKETS - 1;
}

static uint64_t bucket_bytes(uint32_t b)
{
    const uint32_t power = b < KVN_SIM_HIST_SUB ? 0 : b / KVN_SIM_HIST_SUB - 1;

    return (uint64_t)(b - power * KVN_SIM_HIST_SUB) << power;
}

static uint64_t waiting(const struct kvn_sim_egress_state *g, double at_ns)
{
    return g->wire_free_ns > at_ns
               ? (uint64_t)((g->wire_free_ns - at_ns) * (double)g->e.bytes_per_s / 1e9)
               : 0;
}

/* Nothing came between sampled_ns and to_ns, so the queue only drained. */
static void sample(struct kvn_sim_egress_state *g, uint64_t to_ns)
{
    while (g->sampled_ns + SAMPLE_NS <= to_ns && (double)g->sampled_ns < g->wire_free_ns) {
        g->sampled_ns += SAMPLE_NS;
        ++g->samples[bucket(waiting(g, (double)g->sampled_ns))];
    }
    if (g->sampled_ns + SAMPLE_NS <= to_ns) {
        const uint64_t n = (to_ns - g->sampled_ns) / SAMPLE_NS;

        g->samples[0] += n;
        g->sampled_ns += n * SAMPLE_NS;
    }
}

uint64_t kvn_sim_egress_leaves_ns(const struct kvn_sim *sim, const struct kvn_sim_node *node)
{
    const struct kvn_sim_egress_state *g = node->egress;
    const uint64_t at_ns = kvn_sim_queue_first_ns(&node->way);
    double from_ns = (double)at_ns;

    if (at_ns == UINT64_MAX)
        return at_ns;
    if (g->wire_free_ns > from_ns)
        from_ns = g->wire_free_ns;
    return (uint64_t)ceil(from_ns + sim->packets[kvn_sim_queue_first(&node->way)].len * 1e9 /
                                        (double)g->e.bytes_per_s);
}

void kvn_sim_egress_take(struct kvn_sim *sim, struct kvn_sim_node *node, uint64_t at_ns,
                         uint32_t packet)
{
    struct kvn_sim_egress_state *g = node->egress;
    struct kvn_sim_packet *p = &sim->packets[packet];
    const uint64_t queue = waiting(g, (double)at_ns);
    const double ns = p->len * 1e9 / (double)g->e.bytes_per_s;

    sample(g, at_ns);
    if (g->e.buffer_bytes != 0 && queue + p->len > g->e.buffer_bytes) {
        ++g->dropped;
        ++sim->stats.lost;
        kvn_sim_packet_give(sim, packet);
        return;
    }
    if (queue + p->len > g->queue_max)
        g->queue_max = queue + p->len;
    if (g->e.ecn_bytes != 0 && queue > g->e.ecn_bytes && p->ecn != KVN_ECN_NOT_ECT) {
        p->ecn = KVN_ECN_CE;
        ++g->marked;
        ++sim->stats.marked;
    }
    if (g->wire_free_ns < (double)at_ns)
        g->wire_free_ns = (double)at_ns;
    g->wire_free_ns += ns;
    g->busy_ns += ns;
    ++g->packets;
    g->bytes += p->len;
    kvn_sim_queue_push(sim, &node->served, (uint64_t)ceil(g->wire_free_ns), packet);
}

void kvn_sim_egress(struct kvn_sim *sim, uint32_t node, const struct kvn_sim_egress *e)
{
    struct kvn_sim_node *n = &sim->node[node];

    kvn_sim_arrive(sim, node);
    if (n->egress == NULL && e->bytes_per_s != 0)
        n->egress = calloc(1, sizeof(*n->egress));
    if (n->egress == NULL)
        return;
    if (e->bytes_per_s == 0) {
        /* What it had taken arrives when it would have; the next goes past it. */
        free(n->egress);
        n->egress = NULL;
        return;
    }
    n->egress->e = *e;
    kvn_sim_egress_reset(sim, node);
}

void kvn_sim_egress_reset(struct kvn_sim *sim, uint32_t node)
{
    struct kvn_sim_egress_state *g = sim->node[node].egress;

    if (g == NULL)
        return;
    kvn_sim_arrive(sim, node);
    /* What is queued now is this period's work, too. */
    g->busy_ns = g->wire_free_ns > (double)sim->now_ns ? g->wire_free_ns - (double)sim->now_ns : 0;
    g->since_ns = g->sampled_ns = sim->now_ns;
    g->packets = g->bytes = g->dropped = g->marked = g->queue_max = 0;
    memset(g->samples, 0, sizeof(g->samples));
}

static uint64_t quantile(const struct kvn_sim_egress_state *g, double share)
{
    uint64_t all = 0, below = 0;
    uint32_t b = 0;

    for (uint32_t i = 0; i < KVN_SIM_HIST_BUCKETS; ++i)
        all += g->samples[i];
    while (b + 1 < KVN_SIM_HIST_BUCKETS && (double)(below + g->samples[b]) < share * (double)all) {
        below += g->samples[b];
        ++b;
    }
    return bucket_bytes(b);
}

void kvn_sim_egress_stats(struct kvn_sim *sim, uint32_t node, struct kvn_sim_egress_stats *stats)
{
    struct kvn_sim_egress_state *g = sim->node[node].egress;
    double busy_ns, all_ns;

    *stats = (struct kvn_sim_egress_stats){0};
    if (g == NULL)
        return;
    kvn_sim_arrive(sim, node);
    sample(g, sim->now_ns);
    busy_ns = g->busy_ns;
    if (g->wire_free_ns > (double)sim->now_ns)
        busy_ns -= g->wire_free_ns - (double)sim->now_ns;
    all_ns = (double)(sim->now_ns - g->since_ns);
    *stats = (struct kvn_sim_egress_stats){
        .packets = g->packets,
        .bytes = g->bytes,
        .dropped = g->dropped,
        .marked = g->marked,
        .busy = all_ns > 0 ? busy_ns / all_ns : 0,
        .queue_p50 = quantile(g, 0.50),
        .queue_p99 = quantile(g, 0.99),
        .queue_max = g->queue_max,
    };
}
