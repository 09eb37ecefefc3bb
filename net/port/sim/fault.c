/* SPDX-License-Identifier: Apache-2.0 */
#include "impl.h"

#include <string.h>

/* Into a packet of the network's; KVN_SIM_NONE: none was left. */
static uint32_t copy(struct kvn_sim *sim, uint32_t from, uint32_t to, const struct kvn_tx_packet *p,
                     uint32_t to_source)
{
    const uint32_t n = kvn_sim_packet_take(sim);
    struct kvn_sim_packet *q;

    if (n == KVN_SIM_NONE)
        return n;
    q = &sim->packets[n];
    memcpy(q->bytes, p->head, p->head_bytes);
    q->len = p->head_bytes;
    for (uint32_t i = 0; i < p->body_count; ++i) {
        memcpy(q->bytes + q->len, p->body[i].base, p->body[i].bytes);
        q->len += p->body[i].bytes;
    }
    q->from = (uint8_t)from;
    q->from_source = p->source;
    q->from_place = sim->node[from].place;
    q->from_binding = sim->node[from].binding[p->source];
    q->to_source = (uint8_t)to_source;
    q->to_place = sim->node[to].place;
    q->to_binding = sim->node[to].binding[to_source];
    q->ecn = p->ecn & 3;
    return n;
}

static void damage(struct kvn_sim *sim, const struct kvn_sim_link *l, struct kvn_sim_packet *q)
{
    if (q->len > 0 && kvn_sim_happens(sim, l->corrupt)) {
        const uint64_t bit = kvn_sim_random(sim) % ((uint64_t)q->len * 8);

        q->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ++sim->stats.corrupted;
    }
    if (q->len > 0 && kvn_sim_happens(sim, l->truncate)) {
        q->len = (uint32_t)(kvn_sim_random(sim) % q->len);
        ++sim->stats.corrupted;
    }
}

static void mark(struct kvn_sim *sim, struct kvn_sim_packet *q)
{
    if (q->ecn == KVN_ECN_NOT_ECT)
        return;
    q->ecn = KVN_ECN_CE;
    ++sim->stats.marked;
}

/* Whether the link's faults lose this packet. All of them are asked, so that the random numbers of
 * the others don't depend on one. */
static bool lose(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint64_t index, uint32_t bytes)
{
    const struct kvn_sim_link *l = &s->l;
    const uint64_t at = index - l->drop_first;
    bool lost = l->cut || bytes > sim->payload_limit ||
                (l->payload_limit != 0 && bytes > l->payload_limit) ||
                (at < 64 && (l->drop_mask >> at & 1) != 0);

    if (kvn_sim_happens(sim, s->bad ? l->burst_end : l->burst_begin))
        s->bad = !s->bad;
    lost |= kvn_sim_happens(sim, s->bad ? l->burst_loss : l->loss);
    return lost;
}

/* Through the link's own queue onto the wire: when the last bit leaves; false: the queue
 * is full. */
static bool onto_wire(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t bytes,
                      double *left_ns, bool *marked)
{
    const struct kvn_sim_link *l = &s->l;
    double queue;

    *left_ns = (double)sim->now_ns;
    *marked = false;
    if (l->bytes_per_s == 0)
        return true;
    if (s->wire_free_ns < (double)sim->now_ns)
        s->wire_free_ns = (double)sim->now_ns;
    queue = (s->wire_free_ns - (double)sim->now_ns) * (double)l->bytes_per_s / 1e9;
    if (l->queue_bytes != 0 && queue + bytes > l->queue_bytes)
        return false;
    *marked = l->ecn_bytes != 0 && queue > l->ecn_bytes;
    s->wire_free_ns += (double)bytes * 1e9 / (double)l->bytes_per_s;
    *left_ns = s->wire_free_ns;
    return true;
}

/* --- packets that wait to be overtaken --- */

static bool hold(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t packet, uint64_t at_ns)
{
    if (s->held == NULL || s->helds == KVN_SIM_HELD_MAX)
        return false;
    s->held[s->helds++] = (struct kvn_sim_held){
        .packet = packet,
        .until_index = s->index + kvn_sim_random(sim) % s->l.overtake_packets,
        .until_ns = at_ns + KVN_SIM_HELD_NS,
    };
    ++sim->helds;
    return true;
}

/* Packet `index` of the link arrives at at_ns; who waited for it comes right after. */
static void release(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t to, uint64_t index,
                    uint64_t at_ns)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < s->helds; ++i) {
        const struct kvn_sim_held h = s->held[i];

        if (h.until_index > index && h.until_ns > at_ns)
            s->held[kept++] = h;
        else
            kvn_sim_queue_push(sim, &sim->node[to].way, h.until_index > index ? h.until_ns : at_ns,
                               h.packet);
    }
    sim->helds -= s->helds - kept;
    s->helds = kept;
}

typedef void (*link_fn)(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t to, void *arg);

static void each_link_to(struct kvn_sim *sim, uint32_t to, link_fn fn, void *arg)
{
    for (uint32_t from = 0; from < sim->high; ++from) {
        fn(sim, &sim->link[from][to], to, arg);
        for (uint32_t i = 0; i < KVN_PORT_SOURCES_MAX; ++i)
            if (sim->path[from][to][i] != NULL)
                fn(sim, sim->path[from][to][i], to, arg);
    }
}

static void release_late(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t to, void *arg)
{
    (void)arg;
    if (s->helds > 0)
        release(sim, s, to, 0, sim->now_ns);
}

void kvn_sim_release_held(struct kvn_sim *sim, uint32_t to)
{
    each_link_to(sim, to, release_late, NULL);
}

static void first_held(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t to, void *arg)
{
    uint64_t *first_ns = arg;

    (void)sim;
    (void)to;
    for (uint32_t i = 0; i < s->helds; ++i)
        if (s->held[i].until_ns < *first_ns)
            *first_ns = s->held[i].until_ns;
}

uint64_t kvn_sim_held_ns(const struct kvn_sim *sim, uint32_t to)
{
    uint64_t first_ns = UINT64_MAX;

    each_link_to((struct kvn_sim *)(uintptr_t)sim, to, first_held, &first_ns);
    return first_ns;
}

/* --- sending --- */

/* One copy under way, to arrive at at_ns. */
static void launch(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t to, uint32_t packet,
                   uint64_t at_ns)
{
    const struct kvn_sim_link *l = &s->l;

    if (packet == KVN_SIM_NONE) {
        ++sim->stats.overflowed;
        return;
    }
    damage(sim, l, &sim->packets[packet]);
    if (l->overtake_packets == 0 || !kvn_sim_happens(sim, l->overtake) ||
        !hold(sim, s, packet, at_ns))
        kvn_sim_queue_push(sim, &sim->node[to].way, at_ns, packet);
}

/* Which node and UDP port an address is; false: nobody's. */
static bool reach(const struct kvn_sim *sim, const struct kvn_addr *a, uint32_t *node,
                  uint32_t *source)
{
    const uint32_t last = a->family == 6 ? 15 : 3;
    const uint32_t n = a->ip[last] - 1u;
    struct kvn_addr is;

    if (n >= KVN_SIM_NODES_MAX)
        return false;
    *node = n;
    for (*source = 0; *source < KVN_PORT_SOURCES_MAX; ++*source) {
        is = kvn_sim_addr_of(sim, n, sim->node[n].place, *source, sim->node[n].binding[*source]);
        if (is.port == a->port)
            return kvn_addr_equal(&is, a);
    }
    return false;
}

static void send_on(struct kvn_sim *sim, struct kvn_sim_link_state *s, uint32_t from, uint32_t to,
                    uint32_t to_source, const struct kvn_tx_packet *p, uint32_t bytes)
{
    const struct kvn_sim_link *l = &s->l;
    const uint64_t index = s->index++;
    double left_ns;
    uint64_t at_ns;
    uint32_t packet;
    bool marked;

    if (lose(sim, s, index, bytes) || !onto_wire(sim, s, bytes, &left_ns, &marked)) {
        ++sim->stats.lost;
        return;
    }
    at_ns = (uint64_t)left_ns + l->delay_ns;
    if (l->jitter_ns > 0)
        at_ns += kvn_sim_random(sim) % l->jitter_ns;
    if (kvn_sim_happens(sim, l->reorder))
        at_ns += l->reorder_ns;
    packet = copy(sim, from, to, p, to_source);
    if (packet != KVN_SIM_NONE) {
        if (l->bleach)
            sim->packets[packet].ecn = KVN_ECN_NOT_ECT;
        if (marked || kvn_sim_happens(sim, l->mark))
            mark(sim, &sim->packets[packet]);
    }
    launch(sim, s, to, packet, at_ns);
    if (s->helds > 0)
        release(sim, s, to, index, at_ns);
    if (kvn_sim_happens(sim, l->dup)) {
        const uint64_t later = l->dup_ns > 0 ? l->dup_ns : l->delay_ns;

        ++sim->stats.duplicated;
        launch(sim, s, to, copy(sim, from, to, p, to_source),
               at_ns + kvn_sim_random(sim) % (later + 1));
    }
}

void kvn_sim_send(struct kvn_sim *sim, uint32_t from, const struct kvn_tx_packet *p)
{
    uint32_t to, to_source, bytes = p->head_bytes;
    struct kvn_sim_link_state *s;

    ++sim->stats.sent;
    for (uint32_t i = 0; i < p->body_count; ++i)
        bytes += p->body[i].bytes;
    if (bytes > sim->payload_max || p->source >= KVN_PORT_SOURCES_MAX) {
        ++sim->node[from].port->base.tx_errors;
        return;
    }
    if (!reach(sim, &p->to, &to, &to_source)) {
        ++sim->stats.unreachable;
        return;
    }
    if (to >= sim->high)
        sim->high = to + 1;
    if (sim->node[to].port == NULL)
        kvn_sim_arrive(sim, to); /* nobody else takes what came there */
    s = sim->path[from][to][p->source];
    if (s == NULL)
        s = &sim->link[from][to];
    if (sim->tap != NULL) {
        const struct kvn_sim_sight sight = {from, to, p->source, s->index, p};

        if (!sim->tap(sim->tap_arg, &sight)) {
            ++s->index;
            ++sim->stats.lost;
            return;
        }
    }
    send_on(sim, s, from, to, to_source, p, bytes);
}
