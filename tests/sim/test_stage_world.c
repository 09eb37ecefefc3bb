/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serial mode between nodes, whatever the network and the nodes do: a stage ends once, and so does
 * each pull; what is pulled well is what was staged under that reference, although its blocks were
 * put to other use at once; a reference that was used up, forged, of an earlier life or whose time
 * is over brings nothing; no block changes that nobody lent; and staging memory is free in the end.
 *
 * Every node stages from some desks of four blocks and pulls into others. Random lives on a virtual
 * clock; KVN_SIM_SEED=n lives one, KVN_SIM_SEEDS=n the first n.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../kvwire/core/state.h"
#include "../kvwire/kv.h"
#include "nodes.h"

#define SEEDS     24u
#define STEPS     160u
#define NODES_MAX 4u
#define DESK      4u /* blocks */
#define DESKS     12u
#define PER       16u /* tokens of a block */
#define TOKENS    (DESK * PER)
#define LAYERS    3u
#define STAGES    32u
#define PULLS     16u
#define ROOM      (3ull * TOKENS * LAYERS * 2 * 2 * 64) /* three of the longest */

struct node {
    struct t_node sim; /* first: what a call of nodes.h names is found by it */
    struct t_state state;
    kvw_pool_id pool;
    bool taken[DESKS];
};

enum stage_state { NONE = 0, FILLING, READY, GONE };

struct stage { /* of GONE ones the reference is still tried */
    enum stage_state state;
    struct node *node;
    uint32_t life, desk, tokens, pushed, pulls, well;
    kvw_xfer_ref xfer;
    struct kvw_stage_ref ref;
    uint64_t what, until_ns;
};

struct pull {
    bool used, hopeless;
    struct node *node;
    struct stage of; /* as it was then */
    struct stage *stage;
    kvw_xfer_ref xfer;
    uint32_t desk, first;
};

struct world {
    struct t_nodes net;
    uint64_t count;
    uint32_t next_stage;
    struct node node[NODES_MAX];
    struct stage stages[STAGES];
    struct pull pulls[PULLS];
    bool aborts;
    uint64_t well, failed, full, expired;
};

static uint64_t well, failed, full, expired; /* of all lives */

static struct node *node_of(struct t_node *n)
{
    return (struct node *)n; /* sim is its first member */
}

static bool chance(struct world *w, uint32_t percent)
{
    return t_nodes_chance(&w->net, percent);
}

/* --- desks ------------------------------------------------------------------------------------ */

static void blocks_of(uint32_t desk, uint32_t blocks[DESK])
{
    for (uint32_t i = 0; i < DESK; ++i)
        blocks[i] = desk * DESK + i;
}

static void fill(struct node *n, uint32_t desk, uint32_t end, uint64_t what)
{
    uint32_t blocks[DESK];

    blocks_of(desk, blocks);
    t_state_fill(&n->state, 0, blocks, 0, 0, end, what);
}

static bool is(const struct node *n, uint32_t desk, uint32_t first, uint32_t end, uint64_t what)
{
    uint32_t blocks[DESK];

    blocks_of(desk, blocks);
    return t_state_is(&n->state, 0, blocks, 0, first, end, what);
}

/* DESKS: none is free. */
static uint32_t take_desk(struct world *w, struct node *n)
{
    const uint32_t from = t_below(&w->net.random, DESKS);

    for (uint32_t i = 0; i < DESKS; ++i) {
        const uint32_t d = (from + i) % DESKS;

        if (n->taken[d])
            continue;
        cr_assert(is(n, d, 0, TOKENS, FREED),
                  "seed %llu: node %u: a block that nobody lent changed",
                  (unsigned long long)w->net.seed, n->sim.at);
        n->taken[d] = true;
        return d;
    }
    return DESKS;
}

static void give_desk(struct node *n, uint32_t desk)
{
    fill(n, desk, TOKENS, FREED);
    n->taken[desk] = false;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static void node_open(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct node *n = node_of(sim);
    struct kvw_core_config core = {.codec = chance(w, 50) ? KVW_CODEC_RAW : 0,
                                   .chunk_raw_bytes = 4096 + t_below(&w->net.random, 8192),
                                   .slots = 1 + t_below(&w->net.random, 12),
                                   .stages = 1 + t_below(&w->net.random, 12),
                                   .stage_bytes = ROOM};
    char why[257];

    t_node_open(&w->net, sim, &core);
    cr_assert_eq(kvw_core_pool_add(sim->core, &n->state.desc, &n->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
    t_node_dial(&w->net, sim);
}

static void node_close(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct node *n = node_of(sim);

    t_node_close(&w->net, sim);
    for (uint32_t i = 0; i < STAGES; ++i) {
        struct stage *s = &w->stages[i];

        if (s->node != n || s->state == NONE || s->state == GONE)
            continue;
        if (s->state == FILLING)
            give_desk(n, s->desk);
        s->state = GONE;
    }
    for (uint32_t i = 0; i < PULLS; ++i)
        if (w->pulls[i].used && w->pulls[i].node == n) {
            give_desk(n, w->pulls[i].desk);
            w->pulls[i].used = false;
        }
}

/* --- events ----------------------------------------------------------------------------------- */

static void pull_done(struct world *w, struct pull *p, const struct kvw_core_event *ev)
{
    if (ev->err == KVW_OK) {
        ++w->well;
        cr_assert_not(p->hopeless, "seed %llu: a reference that can't be good was pulled",
                      (unsigned long long)w->net.seed);
        cr_assert(is(p->node, p->desk, p->first, p->of.tokens, p->of.what),
                  "seed %llu: other bytes than were staged", (unsigned long long)w->net.seed);
        cr_assert_eq(ev->note_bytes, sizeof(p->of.what));
        cr_assert_eq(memcmp(ev->note, &p->of.what, sizeof(p->of.what)), 0);
        if (p->stage->what == p->of.what)
            ++p->stage->well;
        /* Who loses a peer can't know whether its last words were heard. */
        if (!w->net.cuts && !w->net.restarts && !w->aborts)
            cr_assert_leq(p->stage->well, p->of.pulls, "seed %llu: pulled too often",
                          (unsigned long long)w->net.seed);
    } else {
        ++w->failed;
        w->expired += ev->err == KVW_E_DEADLINE;
        cr_assert_neq(ev->text[0], '\0');
    }
    give_desk(p->node, p->desk);
    p->used = false;
}

static void take_done(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < STAGES; ++i) {
        struct stage *s = &w->stages[i];

        if (s->state != FILLING || s->node != n || s->xfer.value != ev->xfer.value)
            continue;
        cr_assert(ev->err != KVW_OK || s->pushed == LAYERS);
        s->state = ev->err == KVW_OK ? READY : GONE;
        give_desk(n, s->desk); /* to other use at once */
        return;
    }
    for (uint32_t i = 0; i < PULLS; ++i)
        if (w->pulls[i].used && w->pulls[i].node == n && w->pulls[i].xfer.value == ev->xfer.value) {
            pull_done(w, &w->pulls[i], ev);
            return;
        }
    cr_assert_fail("seed %llu: an end of nothing that is open", (unsigned long long)w->net.seed);
}

static void take_gone(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < STAGES; ++i)
        if (w->stages[i].state == READY && w->stages[i].node == n &&
            w->stages[i].xfer.value == ev->xfer.value) {
            w->stages[i].state = GONE;
            return;
        }
    cr_assert_fail("seed %llu: what isn't staged is gone", (unsigned long long)w->net.seed);
}

static void take_event(void *self, struct t_node *n, const struct kvw_core_event *ev)
{
    if (ev->kind == KVW_CEV_XFER_DONE)
        take_done(self, node_of(n), ev);
    if (ev->kind == KVW_CEV_STAGE_GONE)
        take_gone(self, node_of(n), ev);
}

static const struct t_nodes_ops nodes_ops = {node_open, node_close, take_event};

/* --- work ------------------------------------------------------------------------------------- */

static void begin_stage(struct world *w)
{
    struct node *n = &w->node[t_below(&w->net.random, w->net.count)];
    struct stage *s = &w->stages[w->next_stage++ % STAGES];
    uint32_t blocks[DESK];
    const struct kvw_group_blocks groups = {0, DESK, blocks, 0, 0, 0};
    struct kvw_stage_args args = {.size = sizeof(args), .group_count = 1, .groups = &groups};
    char why[300] = "";
    kvw_err err;

    if (n->sim.t == NULL || (s->state != NONE && s->state != GONE))
        return;
    *s = (struct stage){.node = n, .life = n->sim.opened, .what = ++w->count * 7919};
    if ((s->desk = take_desk(w, n)) == DESKS)
        return;
    blocks_of(s->desk, blocks);
    s->tokens = 1 + t_below(&w->net.random, TOKENS);
    s->pulls = 1 + t_below(&w->net.random, 2);
    s->until_ns = kvn_sim_now(w->net.sim) + (20 + t_below(&w->net.random, 1000)) * MS;
    args.pool = n->pool;
    args.tokens = s->tokens;
    args.pulls = s->pulls;
    args.until_ns = s->until_ns;
    args.ref = &s->ref;
    memcpy(args.key.bytes, &(uint64_t){w->count % 5 + 1}, 8); /* the same keys again and again */
    err = kvw_core_stage(n->sim.core, &args, kvn_sim_now(w->net.sim), &s->xfer, why, sizeof(why));
    if (err == KVW_OK) {
        s->state = FILLING;
        return;
    }
    /* AGAIN: no room. INVALID: that key is being staged. */
    cr_assert(err == KVW_E_AGAIN || err == KVW_E_INVALID, "seed %llu: %s",
              (unsigned long long)w->net.seed, why);
    cr_assert_neq(why[0], '\0');
    w->full += err == KVW_E_AGAIN;
    give_desk(n, s->desk);
}

static void step_stage(struct world *w, struct stage *s)
{
    if (s->state == FILLING && (w->net.calm || chance(w, 70))) {
        if (s->pushed == 0)
            fill(s->node, s->desk, s->tokens, s->what);
        for (uint32_t more = 1 + t_below(&w->net.random, LAYERS); more > 0 && s->pushed < LAYERS;
             --more)
            if (kvw_core_push(s->node->sim.core, s->xfer, s->pushed++, s->tokens, NULL) != KVW_OK)
                return;          /* it ended, and its event is queued */
        if (s->pushed == LAYERS) /* again, if it waits for its last copies: refused then */
            (void)!kvw_core_commit(s->node->sim.core, s->xfer, &s->what, sizeof(s->what));
    }
    if (w->aborts && !w->net.calm && (s->state == FILLING || s->state == READY) && chance(w, 2))
        (void)!kvw_core_stage_drop(s->node->sim.core, &s->ref, kvn_sim_now(w->net.sim));
}

/* What the reference says, or what nobody gave. */
static void forge(struct world *w, struct pull *p)
{
    const struct stage *s = p->stage;

    p->hopeless = s->life != s->node->sim.opened || s->until_ns <= kvn_sim_now(w->net.sim);
    if (!w->net.cuts && !w->net.restarts && !w->aborts && s->well >= s->pulls)
        p->hopeless = true;
    if (chance(w, 90))
        return;
    p->of.ref.bytes[4 + t_below(&w->net.random, 2)] ^= 0x80; /* its number */
    p->hopeless = true;
}

/* More often than not one that is there. */
static struct stage *pick(struct world *w)
{
    const uint32_t from = t_below(&w->net.random, STAGES);
    const bool there = chance(w, 60);

    for (uint32_t i = 0; i < STAGES && there; ++i)
        if (w->stages[(from + i) % STAGES].state == READY)
            return &w->stages[(from + i) % STAGES];
    return &w->stages[from];
}

static void begin_pull(struct world *w)
{
    struct stage *s = pick(w);
    struct node *n = &w->node[t_below(&w->net.random, w->net.count)];
    uint32_t blocks[DESK];
    struct kvw_group_blocks groups = {0, DESK, blocks, 0, 0, 0};
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .lease_ns = 500 * MS, .take_by_ns = 300 * MS};
    struct kvw_offer_args args = {.size = sizeof(args),
                                  .group_count = 1,
                                  .groups = &groups,
                                  .source_count = 1,
                                  .terms = &terms};
    struct pull *p = NULL;
    char why[300] = "";

    for (uint32_t i = 0; i < PULLS && p == NULL; ++i)
        p = w->pulls[i].used ? NULL : &w->pulls[i];
    if (p == NULL || s->state == NONE || n->sim.t == NULL || s->node == n ||
        n->sim.peers[s->node->sim.at].value == 0)
        return;
    *p = (struct pull){.node = n, .of = *s, .stage = s};
    if ((p->desk = take_desk(w, n)) == DESKS)
        return;
    forge(w, p);
    blocks_of(p->desk, blocks);
    p->first = chance(w, 30) ? t_below(&w->net.random, s->tokens) : 0;
    groups.want_first = p->first;
    groups.want_end = s->tokens;
    args.pool = n->pool;
    args.tokens = s->tokens;
    args.sources = &n->sim.peers[s->node->sim.at];
    args.staged = &p->of.ref;
    if (kvw_core_offer(n->sim.core, &args, kvn_sim_now(w->net.sim), &p->xfer, why, sizeof(why)) ==
        KVW_OK) {
        p->used = true;
        return;
    }
    cr_assert_neq(why[0], '\0'); /* of another life, or that key is being pulled here */
    give_desk(n, p->desk);
}

/* --- faults ----------------------------------------------------------------------------------- */

static void step_faults(struct world *w)
{
    t_nodes_cuts(&w->net, 3);
    for (uint32_t i = 0; i < w->net.count; ++i)
        t_node_restarts(&w->net, &w->node[i].sim, 2, &nodes_ops, w);
    for (uint32_t i = 0; i < PULLS; ++i)
        if (w->aborts && !w->net.calm && w->pulls[i].used && chance(w, 3))
            (void)!kvw_core_abort(w->pulls[i].node->sim.core, w->pulls[i].xfer,
                                  "its user went away");
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin_world(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    t_nodes_begin(&w->net, seed, NODES_MAX);
    w->aborts = chance(w, 50);
    t_nodes_links(&w->net, false);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        struct node *n = &w->node[i];

        n->sim.at = i;
        w->net.node[i] = &n->sim;
        t_state_dense(&n->state, LAYERS, 2, 64, KVW_DTYPE_BF16, PER, DESKS * DESK);
        n->state.groups[0].rows_first = chance(w, 50);
        n->state.groups[0].packed = chance(w, 50);
        n->state.groups[0].own_tensors = chance(w, 50);
        t_state_make(&n->state);
        for (uint32_t d = 0; d < DESKS; ++d)
            fill(n, d, TOKENS, FREED);
        node_open(w, &n->sim);
    }
}

/* All have had their time: nothing is left. */
static void check_end(struct world *w)
{
    for (uint32_t i = 0; i < PULLS; ++i)
        cr_assert_not(w->pulls[i].used, "seed %llu: a pull never ended",
                      (unsigned long long)w->net.seed);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        struct kvw_core_stats s = {.size = sizeof(s)};

        kvw_core_stats(w->node[i].sim.core, &s);
        cr_assert_eq(s.staged, 0, "seed %llu: %u stages are left", (unsigned long long)w->net.seed,
                     s.staged);
        cr_assert_eq(s.staged_bytes, 0);
        cr_assert_eq(s.xfers_open, 0);
        for (uint32_t d = 0; d < DESKS; ++d)
            cr_assert(!w->node[i].taken[d] && is(&w->node[i], d, 0, TOKENS, FREED));
    }
}

static void live(uint64_t seed)
{
    static struct world life;
    struct world *w = &life;

    begin_world(w, seed);
    for (uint32_t step = 0; step < STEPS; ++step) {
        if (step == STEPS / 2)
            t_nodes_calm(&w->net);
        step_faults(w);
        if (step < STEPS - 20 && chance(w, 40))
            begin_stage(w);
        for (uint32_t i = 0; i < STAGES; ++i)
            step_stage(w, &w->stages[i]);
        for (uint32_t i = 0; i < 3 && step < STEPS - 20; ++i)
            begin_pull(w);
        t_nodes_run(&w->net, kvn_sim_now(w->net.sim) + (1 + t_below(&w->net.random, 20)) * MS,
                    &nodes_ops, w);
    }
    for (uint32_t k = 0; k < 100; ++k) {
        step_faults(w);
        for (uint32_t i = 0; i < STAGES; ++i)
            step_stage(w, &w->stages[i]);
        t_nodes_run(&w->net, kvn_sim_now(w->net.sim) + 50 * MS, &nodes_ops, w);
    }
    check_end(w);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        node_close(w, &w->node[i].sim);
        t_state_free(&w->node[i].state);
    }
    kvn_sim_close(w->net.sim);
    well += w->well;
    failed += w->failed;
    full += w->full;
    expired += w->expired;
}

Test(stage_world, random_lives)
{
    const uint64_t lives = t_nodes_lives(SEEDS, live);

    if (lives > 0) /* all of it has been seen, and most lives have pulled something */
        cr_expect(well > lives && failed > 0 && full > 0 && expired > 0, "%llu %llu %llu %llu",
                  (unsigned long long)well, (unsigned long long)failed, (unsigned long long)full,
                  (unsigned long long)expired);
}
