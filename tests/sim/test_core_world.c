/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cores of several nodes over the packet transport, each both sending and receiving, whatever the
 * network and the nodes do: every transfer ends exactly once on each side, what ends well holds the
 * sender's bytes, no block changes once it was given back, and when the faults stop everybody who
 * lives can move state to everybody else.
 *
 * Each node polls only when its core's deadline says so, or when a packet comes. Random lives on a
 * virtual clock; KVN_SIM_SEED=n lives one, KVN_SIM_SEEDS=n the first n.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../kvwire/core/state.h"
#include "../kvwire/kv.h"
#include "nodes.h"

#define SEEDS     60u
#define STEPS     500u
#define NODES_MAX 5u
#define JOBS      12u
#define BLOCKS    64u
#define LAYERS    3u
#define TOKENS    200u

struct node {
    struct t_node sim; /* first: what a call of nodes.h names is found by it */
    struct t_state state;
    kvw_pool_id pool;
    bool taken[BLOCKS];
};

enum part_state { IDLE = 0, OPEN, DONE };

struct part { /* one side of a job */
    struct node *node;
    uint32_t life; /* of the node, when it was opened */
    enum part_state state;
    kvw_xfer_ref ref;
    uint32_t blocks[BLOCKS], block_count;
    bool ok;
};

struct job {
    bool used, committed;
    kvw_key key;
    uint64_t what;
    uint32_t tokens, want_first, pushed[LAYERS];
    struct part r, s;
    uint64_t begun_ns;
};

struct world {
    struct t_nodes net;
    uint64_t count;
    struct node node[NODES_MAX];
    struct job jobs[JOBS];
    bool aborts;
    uint64_t ok, failed;
};

static struct node *node_of(struct t_node *n)
{
    return (struct node *)n; /* sim is its first member */
}

static bool chance(struct world *w, uint32_t percent)
{
    return t_nodes_chance(&w->net, percent);
}

/* --- nodes ------------------------------------------------------------------------------------ */

static void node_open(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct node *n = node_of(sim);
    struct kvw_core_config core = {.codec = chance(w, 50) ? KVW_CODEC_RAW : 0,
                                   .chunk_raw_bytes = 4096 + t_below(&w->net.random, 8192),
                                   .slots = 1 + t_below(&w->net.random, 12),
                                   .stages = 1 + t_below(&w->net.random, 12)};
    char why[257];

    t_node_open(&w->net, sim, &core);
    cr_assert_eq(kvw_core_pool_add(sim->core, &n->state.desc, &n->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
    t_node_dial(&w->net, sim);
}

/* A part of a node that is gone: nobody will hear of its end. */
static void forget_part(struct node *n, struct part *p)
{
    if (p->node != n || p->state != OPEN)
        return;
    p->state = DONE;
    p->ok = false;
}

static void give_blocks_back(struct part *p, const struct job *j, bool receiver)
{
    struct node *n = p->node;

    for (uint32_t i = 0; i < p->block_count; ++i)
        n->taken[p->blocks[i]] = false;
    if (receiver)
        t_state_fill(&n->state, 0, p->blocks, 0, 0,
                     n->state.groups[0].block_entries * p->block_count, FREED);
    (void)j;
}

static void node_close(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct node *n = node_of(sim);

    t_node_close(&w->net, sim);
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &w->jobs[i];

        if (!j->used)
            continue;
        if (j->r.node == n && j->r.state == OPEN)
            give_blocks_back(&j->r, j, true);
        if (j->s.node == n && j->s.state == OPEN)
            give_blocks_back(&j->s, j, false);
        forget_part(n, &j->r);
        forget_part(n, &j->s);
    }
}

/* --- events ----------------------------------------------------------------------------------- */

static void take_done(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &w->jobs[i];
        struct part *p = j->r.node == n && j->r.ref.value == ev->xfer.value && j->r.state == OPEN
                             ? &j->r
                             : &j->s;
        const bool receiver = p == &j->r;

        if (!j->used || p->node != n || p->ref.value != ev->xfer.value || p->state != OPEN)
            continue;
        p->state = DONE;
        p->ok = ev->err == KVW_OK;
        if (p->ok)
            ++w->ok;
        else
            ++w->failed;
        if (p->ok && receiver)
            cr_assert(t_state_is(&n->state, 0, p->blocks, 0, j->want_first, j->tokens, j->what),
                      "seed %llu: ended well with other bytes", (unsigned long long)w->net.seed);
        if (p->ok && !receiver)
            cr_assert(j->r.state == DONE && (j->r.ok || j->r.life != j->r.node->sim.opened),
                      "seed %llu: ended well at the sender alone", (unsigned long long)w->net.seed);
        give_blocks_back(p, j, receiver);
        return;
    }
    cr_assert_fail("seed %llu: an end of nothing that is open", (unsigned long long)w->net.seed);
}

static void take_event(void *self, struct t_node *n, const struct kvw_core_event *ev)
{
    if (ev->kind == KVW_CEV_XFER_DONE)
        take_done(self, node_of(n), ev);
}

static const struct t_nodes_ops nodes_ops = {node_open, node_close, take_event};

/* --- work ------------------------------------------------------------------------------------- */

static bool take_blocks(struct world *w, struct node *n, struct part *p, uint32_t count)
{
    uint32_t at = t_below(&w->net.random, BLOCKS);

    p->block_count = 0;
    for (uint32_t i = 0; i < BLOCKS && p->block_count < count; ++i) {
        at = (at + 1 + t_below(&w->net.random, 3)) % BLOCKS;
        if (n->taken[at])
            continue;
        n->taken[at] = true;
        p->blocks[p->block_count++] = at;
    }
    if (p->block_count == count)
        return true;
    for (uint32_t i = 0; i < p->block_count; ++i)
        n->taken[p->blocks[i]] = false;
    return false;
}

static uint32_t blocks_for(const struct node *n, uint32_t tokens)
{
    const uint32_t per = n->state.groups[0].block_entries;

    return (tokens + per - 1) / per;
}

static bool open_receiver(struct world *w, struct job *j)
{
    struct node *n = j->r.node;
    const struct kvw_group_blocks blocks = {0, j->r.block_count, j->r.blocks,
                                            0, j->want_first,    j->tokens};
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .lease_ns = 500 * MS, .take_by_ns = 2 * S};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = n->pool,
                                        .key = j->key,
                                        .tokens = j->tokens,
                                        .group_count = 1,
                                        .groups = &blocks,
                                        .sources = &n->sim.peers[j->s.node->sim.at],
                                        .source_count = 1,
                                        .terms = &terms};
    char why[257] = "";
    const kvw_err err =
        kvw_core_offer(n->sim.core, &args, kvn_sim_now(w->net.sim), &j->r.ref, why, sizeof(why));

    if (err == KVW_E_NOTFOUND) /* the peer has been forgotten */
        return false;
    cr_assert_eq(err, KVW_OK, "seed %llu: %s", (unsigned long long)w->net.seed, why);
    cr_assert(t_state_is(&n->state, 0, j->r.blocks, 0, 0,
                         n->state.groups[0].block_entries * j->r.block_count, FREED),
              "seed %llu: a block changed while nobody was lent it",
              (unsigned long long)w->net.seed);
    j->r.state = OPEN;
    j->r.life = n->sim.opened;
    return true;
}

static void open_sender(struct world *w, struct job *j)
{
    struct node *n = j->s.node;
    const struct kvw_group_blocks blocks = {0, j->s.block_count, j->s.blocks, 0, 0, 0};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = n->pool,
                                         .key = j->key,
                                         .tokens = j->tokens,
                                         .group_count = 1,
                                         .groups = &blocks,
                                         .offer_by_ns = kvn_sim_now(w->net.sim) + 2 * S};
    char why[257] = "";

    j->s.state = OPEN;
    j->s.life = n->sim.opened;
    cr_assert_eq(
        kvw_core_stream(n->sim.core, &args, kvn_sim_now(w->net.sim), &j->s.ref, why, sizeof(why)),
        KVW_OK, "seed %llu: %s", (unsigned long long)w->net.seed, why);
}

static void begin_job(struct world *w)
{
    struct job *j = NULL;
    uint32_t a, b;

    for (uint32_t i = 0; i < JOBS && j == NULL; ++i)
        if (!w->jobs[i].used)
            j = &w->jobs[i];
    a = t_below(&w->net.random, w->net.count);
    b = (a + 1 + t_below(&w->net.random, w->net.count - 1)) % w->net.count;
    if (j == NULL || w->node[a].sim.t == NULL || w->node[b].sim.t == NULL ||
        w->node[a].sim.peers[b].value == 0)
        return;
    memset(j, 0, sizeof(*j));
    j->what = ++w->count * 7919;
    memcpy(j->key.bytes, &j->what, sizeof(j->what));
    j->tokens = 1 + t_below(&w->net.random, TOKENS);
    j->want_first = chance(w, 30) ? t_below(&w->net.random, j->tokens) : 0;
    j->r.node = &w->node[a];
    j->s.node = &w->node[b];
    j->begun_ns = kvn_sim_now(w->net.sim);
    if (!take_blocks(w, j->r.node, &j->r, blocks_for(j->r.node, j->tokens)))
        return;
    if (!take_blocks(w, j->s.node, &j->s, blocks_for(j->s.node, j->tokens))) {
        for (uint32_t i = 0; i < j->r.block_count; ++i)
            j->r.node->taken[j->r.blocks[i]] = false;
        return;
    }
    j->used = true;
}

static void end_job_if_over(struct job *j)
{
    if (j->r.state == DONE && j->s.state == DONE)
        j->used = false;
}

/* A part that will never be opened: its node went down before. */
static void give_up_part(struct job *j, struct part *p)
{
    if (p->state != IDLE)
        return;
    for (uint32_t i = 0; i < p->block_count; ++i)
        p->node->taken[p->blocks[i]] = false;
    p->state = DONE;
    (void)j;
}

static void push_some(struct world *w, struct job *j)
{
    struct node *n = j->s.node;
    bool all = true;

    for (uint32_t l = 0; l < LAYERS; ++l) {
        uint32_t more = w->net.calm ? j->tokens : t_below(&w->net.random, j->tokens + 1);

        if (l > 0 && more > j->pushed[l - 1])
            more = j->pushed[l - 1];
        if (more > j->pushed[l]) {
            if (l == 0)
                t_state_fill(&n->state, 0, j->s.blocks, 0, j->pushed[0], more, j->what);
            j->pushed[l] = more;
            if (kvw_core_push(n->sim.core, j->s.ref, l, more, NULL) != KVW_OK)
                return; /* it ended, and its event is queued */
        }
        all = all && j->pushed[l] == j->tokens;
    }
    if (all && !j->committed && kvw_core_commit(n->sim.core, j->s.ref, "x", 1) == KVW_OK)
        j->committed = true;
}

static void step_job(struct world *w, struct job *j)
{
    if (j->r.state == IDLE && (j->r.node->sim.t == NULL || !chance(w, 70)))
        ;
    else if (j->r.state == IDLE && !open_receiver(w, j))
        give_up_part(j, &j->r);
    if (j->s.state == IDLE && j->s.node->sim.t != NULL && chance(w, 70))
        open_sender(w, j);
    if (j->r.node->sim.t == NULL)
        give_up_part(j, &j->r);
    if (j->s.node->sim.t == NULL)
        give_up_part(j, &j->s);
    if (j->s.state == OPEN)
        push_some(w, j);
    if (w->aborts && !w->net.calm && chance(w, 3) && j->r.state == OPEN)
        (void)!kvw_core_abort(j->r.node->sim.core, j->r.ref, "the receiver's user went away");
    if (w->aborts && !w->net.calm && chance(w, 3) && j->s.state == OPEN)
        (void)!kvw_core_abort(j->s.node->sim.core, j->s.ref, "the sender's user went away");
    end_job_if_over(j);
}

/* --- faults ----------------------------------------------------------------------------------- */

static void step_faults(struct world *w)
{
    t_nodes_cuts(&w->net, 2);
    for (uint32_t i = 0; i < w->net.count; ++i)
        t_node_restarts(&w->net, &w->node[i].sim, 1, &nodes_ops, w);
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin_world(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    t_nodes_begin(&w->net, seed, NODES_MAX);
    w->aborts = chance(w, 50);
    t_nodes_links(&w->net, false);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        static const uint32_t entries[] = {1, 4, 16, 17, 32};
        struct node *n = &w->node[i];
        uint32_t all[BLOCKS];

        n->sim.at = i;
        w->net.node[i] = &n->sim;
        t_state_dense(&n->state, LAYERS, 2, 64, KVW_DTYPE_BF16, entries[t_below(&w->net.random, 5)],
                      BLOCKS);
        if (n->state.groups[0].block_entries < 16)
            n->state.groups[0].block_entries = 16; /* so that a sequence fits the pool */
        n->state.groups[0].rows_first = chance(w, 50);
        n->state.groups[0].packed = chance(w, 50);
        n->state.groups[0].own_tensors = chance(w, 50);
        t_state_make(&n->state);
        for (uint32_t b = 0; b < BLOCKS; ++b) {
            all[0] = b; /* each block as if it were a sequence's first */
            t_state_fill(&n->state, 0, all, 0, 0, n->state.groups[0].block_entries, FREED);
        }
        node_open(w, &n->sim);
    }
}

/* Blocks hold FREED as the sequence that they were part of last; one block alone can be compared.
 * */
static void refill_free(struct job *j)
{
    struct node *n = j->r.node;

    t_state_fill(&n->state, 0, j->r.blocks, 0, 0,
                 n->state.groups[0].block_entries * j->r.block_count, FREED);
}

static void live(uint64_t seed)
{
    static struct world w;

    begin_world(&w, seed);
    for (uint32_t step = 0; step < STEPS; ++step) {
        const bool late = step > STEPS * 3 / 4;

        if (late && !w.net.calm)
            t_nodes_calm(&w.net);
        step_faults(&w);
        if (chance(&w, 40) && step < STEPS - 20) {
            struct job before[JOBS];

            memcpy(before, w.jobs, sizeof(before));
            begin_job(&w);
            for (uint32_t i = 0; i < JOBS; ++i)
                if (w.jobs[i].used && !before[i].used)
                    refill_free(&w.jobs[i]);
        }
        for (uint32_t i = 0; i < JOBS; ++i)
            if (w.jobs[i].used)
                step_job(&w, &w.jobs[i]);
        t_nodes_run(&w.net, kvn_sim_now(w.net.sim) + (1 + t_below(&w.net.random, 40)) * MS,
                    &nodes_ops, &w);
    }
    for (uint32_t k = 0; k < 400; ++k) { /* twenty seconds in which all must end */
        for (uint32_t i = 0; i < JOBS; ++i)
            if (w.jobs[i].used)
                step_job(&w, &w.jobs[i]);
        step_faults(&w);
        t_nodes_run(&w.net, kvn_sim_now(w.net.sim) + 50 * MS, &nodes_ops, &w);
    }
    for (uint32_t i = 0; i < JOBS; ++i)
        cr_assert_not(w.jobs[i].used, "seed %llu: a transfer never ended (receiver %u, sender %u)",
                      (unsigned long long)seed, w.jobs[i].r.state, w.jobs[i].s.state);
    cr_expect_gt(w.ok, 0, "seed %llu: nothing went well", (unsigned long long)seed);
    if (!w.net.lossy && !w.net.cuts && !w.net.restarts && !w.aborts)
        cr_expect_eq(w.failed, 0, "seed %llu: %llu failed without a fault",
                     (unsigned long long)seed, (unsigned long long)w.failed);
    for (uint32_t i = 0; i < w.net.count; ++i) {
        node_close(&w, &w.node[i].sim);
        t_state_free(&w.node[i].state);
    }
    kvn_sim_close(w.net.sim);
}

Test(core_world, random_lives)
{
    t_nodes_lives(SEEDS, live);
}
