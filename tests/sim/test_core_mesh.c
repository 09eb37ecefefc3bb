/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eight senders and eight receivers, each a core over one port, all pairs at once, while nodes
 * join, leave, restart and die without a word: a transfer whose two nodes live is right on both
 * sides, any other ends once at whoever lives, nobody loses a peer that nothing happened to, and in
 * the end nothing is in use. tests/mesh is the same with processes over udp.
 *
 * Random lives on a virtual clock; KVN_SIM_SEED=n lives one, KVN_SIM_SEEDS=n the first n.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "../kvwire/core/state.h"
#include "../kvwire/kv.h"
#include "nodes.h"

#define SEEDS   6u
#define SIDE    8u
#define NODES   (2 * SIDE) /* 0 .. SIDE-1 send */
#define JOBS    48u
#define COUNT   64u /* transfers of a life: at first one for each pair */
#define FAULTS  8u
#define BLOCKS  48u
#define ENTRIES 16u
#define LAYERS  2u
#define TOKENS  90u
#define SLOTS   8u
#define STAGES  8u

struct node {
    struct t_node sim; /* first: what a call of nodes.h names is found by it */
    struct t_state state;
    kvw_pool_id pool;
    bool taken[BLOCKS];
};

struct part {
    struct node *node;
    uint32_t life, block_count, blocks[BLOCKS];
    bool open, ok;
    kvw_xfer_ref ref;
};

struct job {
    bool used;
    uint64_t what;
    uint32_t tokens, layer;
    struct part r, s;
};

struct mesh {
    struct t_nodes net;
    uint64_t made, right, ended, faults;
    struct node node[NODES];
    struct job jobs[JOBS];
    bool had[SIDE][SIDE];
};

static struct mesh m;
static uint64_t all_made, all_right, all_faults; /* of all lives */

static struct node *node_of(struct t_node *n)
{
    return (struct node *)n; /* sim is its first member */
}

static bool chance(uint32_t percent)
{
    return t_nodes_chance(&m.net, percent);
}

static bool is_sender(const struct node *n)
{
    return n->sim.at < SIDE;
}

static bool touched(const struct job *j)
{
    return j->r.life != j->r.node->sim.opened || j->s.life != j->s.node->sim.opened ||
           j->r.node->sim.t == NULL || j->s.node->sim.t == NULL;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static void mark_freed(struct node *n, uint32_t block)
{
    t_state_fill(&n->state, 0, &block, 0, 0, ENTRIES, FREED);
}

static bool is_freed(const struct node *n, uint32_t block)
{
    return t_state_is(&n->state, 0, &block, 0, 0, ENTRIES, FREED);
}

static void add_peers(struct node *n)
{
    for (uint32_t i = 0; i < NODES; ++i) {
        char address[32];
        kvw_peer_id id;

        if ((i < SIDE) == is_sender(n) || (i * 5 + n->sim.at * 5) % 7 < 3 * is_sender(n))
            continue; /* of most pairs both sides dial, of some the receiver alone */
        snprintf(address, sizeof(address), "10.0.0.%u:9000", i + 1);
        cr_assert_eq(kvw_core_peer_add(n->sim.core, 0, address, kvn_sim_now(m.net.sim), &id),
                     KVW_OK);
    }
}

static void node_open(void *self, struct t_node *sim)
{
    struct node *n = node_of(sim);
    struct kvw_core_config core = {.codec = chance(70) ? KVW_CODEC_RAW : 0,
                                   .chunk_raw_bytes = 4096,
                                   .slots = SLOTS,
                                   .stages = STAGES};
    char why[257];

    (void)self;
    t_node_open(&m.net, sim, &core);
    cr_assert_eq(kvw_core_pool_add(sim->core, &n->state.desc, &n->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
    memset(n->taken, 0, sizeof(n->taken));
    for (uint32_t b = 0; b < BLOCKS; ++b)
        mark_freed(n, b);
    add_peers(n);
}

static void set_links(uint32_t cut_off)
{
    for (uint32_t a = 0; a < NODES; ++a)
        for (uint32_t b = 0; b < NODES; ++b) {
            const struct kvn_sim_link link = {.delay_ns = 20000,
                                              .bytes_per_s = 1250000000ull,
                                              .loss = m.net.lossy ? 0.01 : 0,
                                              .cut = a == cut_off || b == cut_off};

            if (a != b)
                kvn_sim_link(m.net.sim, a, b, &link);
        }
}

/* silently: as kill -9 does it, nobody hears a farewell. */
static void node_close(struct node *n, bool silently)
{
    if (silently)
        set_links(n->sim.at);
    t_node_close(&m.net, &n->sim);
    if (silently)
        set_links(NODES);
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &m.jobs[i];

        if (j->used && j->r.node == n)
            j->r.open = false;
        if (j->used && j->s.node == n)
            j->s.open = false;
    }
}

/* --- events ----------------------------------------------------------------------------------- */

static void give_back(struct part *p)
{
    for (uint32_t i = 0; i < p->block_count; ++i) {
        p->node->taken[p->blocks[i]] = false;
        mark_freed(p->node, p->blocks[i]);
    }
    p->open = false;
}

static struct job *job_of(const struct node *n, const struct kvw_core_event *ev, struct part **part)
{
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &m.jobs[i];

        if (!j->used)
            continue;
        *part = j->r.node == n ? &j->r : &j->s;
        if ((*part)->node == n && (*part)->open && (*part)->ref.value == ev->xfer.value)
            return j;
    }
    return NULL;
}

static void take_done(struct node *n, const struct kvw_core_event *ev)
{
    struct part *p;
    struct job *j = job_of(n, ev, &p);

    cr_assert(j != NULL, "seed %llu: an end of nothing that is open",
              (unsigned long long)m.net.seed);
    p->ok = ev->err == KVW_OK;
    cr_assert(p->ok || touched(j), "seed %llu: failed, and nothing had happened to %u and %u: %s",
              (unsigned long long)m.net.seed, j->r.node->sim.at, j->s.node->sim.at, ev->text);
    cr_assert(p->ok || ev->text[0] != '\0', "seed %llu: failed without a sentence",
              (unsigned long long)m.net.seed);
    if (p->ok && p == &j->r)
        cr_assert(t_state_is(&n->state, 0, p->blocks, 0, 0, j->tokens, j->what),
                  "seed %llu: ended well with other bytes", (unsigned long long)m.net.seed);
    give_back(p);
}

static void take_lost(struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < NODES; ++i) {
        if (n->sim.peers[i].value == 0 || n->sim.peers[i].value != ev->peer.value)
            continue;
        n->sim.peers[i].value = 0;
        cr_assert(m.node[i].sim.opened != n->sim.lives[i] || m.node[i].sim.t == NULL,
                  "seed %llu: node %u lost node %u, to which nothing had happened: %s",
                  (unsigned long long)m.net.seed, n->sim.at, i, ev->text);
    }
}

static void take_event(void *self, struct t_node *n, const struct kvw_core_event *ev)
{
    (void)self;
    if (ev->kind == KVW_CEV_PEER_LOST)
        take_lost(node_of(n), ev);
    if (ev->kind == KVW_CEV_XFER_DONE)
        take_done(node_of(n), ev);
}

static const struct t_nodes_ops nodes_ops = {.open = node_open, .event = take_event};

static void run(uint64_t ns)
{
    t_nodes_run(&m.net, kvn_sim_now(m.net.sim) + ns, &nodes_ops, NULL);
}

/* --- work ------------------------------------------------------------------------------------- */

static bool take_blocks(struct part *p, uint32_t tokens)
{
    const uint32_t want = (tokens + ENTRIES - 1) / ENTRIES;
    struct node *n = p->node;

    p->block_count = 0;
    for (uint32_t b = 0; b < BLOCKS && p->block_count < want; ++b)
        if (!n->taken[b])
            p->blocks[p->block_count++] = b;
    if (p->block_count < want)
        return false;
    for (uint32_t i = 0; i < want; ++i) {
        cr_assert(is_freed(n, p->blocks[i]), "seed %llu: a block changed while nobody had it",
                  (unsigned long long)m.net.seed);
        n->taken[p->blocks[i]] = true;
    }
    p->life = n->sim.opened;
    return true;
}

static void open_parts(struct job *j)
{
    const struct kvw_group_blocks to = {
        .block_count = j->r.block_count, .blocks = j->r.blocks, .want_end = j->tokens};
    const struct kvw_group_blocks from = {.block_count = j->s.block_count, .blocks = j->s.blocks};
    struct kvw_offer_args offer = {.size = sizeof(offer),
                                   .pool = j->r.node->pool,
                                   .tokens = j->tokens,
                                   .group_count = 1,
                                   .groups = &to,
                                   .sources = &j->r.node->sim.peers[j->s.node->sim.at],
                                   .source_count = 1};
    struct kvw_stream_args stream = {.size = sizeof(stream),
                                     .pool = j->s.node->pool,
                                     .tokens = j->tokens,
                                     .group_count = 1,
                                     .groups = &from};
    const uint64_t now = kvn_sim_now(m.net.sim);
    char why[257] = "";

    memcpy(offer.key.bytes, &j->what, sizeof(j->what));
    stream.key = offer.key;
    t_state_fill(&j->s.node->state, 0, j->s.blocks, 0, 0, j->tokens, j->what);
    cr_assert_eq(kvw_core_offer(j->r.node->sim.core, &offer, now, &j->r.ref, why, sizeof(why)),
                 KVW_OK, "seed %llu: %s", (unsigned long long)m.net.seed, why);
    cr_assert_eq(kvw_core_stream(j->s.node->sim.core, &stream, now, &j->s.ref, why, sizeof(why)),
                 KVW_OK, "seed %llu: %s", (unsigned long long)m.net.seed, why);
    j->r.open = j->s.open = j->used = true;
}

/* A pair that knows each other's present life; those that had no transfer yet come first. */
static bool choose_pair(struct job *j)
{
    for (uint32_t tries = 0; tries < 200; ++tries) {
        struct node *s = &m.node[t_below(&m.net.random, SIDE)];
        struct node *r = &m.node[SIDE + t_below(&m.net.random, SIDE)];

        if (s->sim.t == NULL || r->sim.t == NULL || s->sim.peers[r->sim.at].value == 0 ||
            r->sim.peers[s->sim.at].value == 0 || s->sim.lives[r->sim.at] != r->sim.opened ||
            r->sim.lives[s->sim.at] != s->sim.opened)
            continue;
        if (m.had[s->sim.at][r->sim.at - SIDE] && m.made < COUNT - 8 && tries < 150)
            continue;
        j->s.node = s;
        j->r.node = r;
        return true;
    }
    return false;
}

static void begin_job(void)
{
    struct job *j = NULL;

    for (uint32_t i = 0; i < JOBS && j == NULL; ++i)
        if (!m.jobs[i].used)
            j = &m.jobs[i];
    if (j == NULL)
        return;
    memset(j, 0, sizeof(*j));
    if (!choose_pair(j))
        return;
    j->what = (m.net.seed << 20) + m.made + 1;
    j->tokens = 1 + t_below(&m.net.random, TOKENS);
    if (!take_blocks(&j->r, j->tokens))
        return;
    if (!take_blocks(&j->s, j->tokens)) {
        give_back(&j->r);
        return;
    }
    ++m.made;
    m.had[j->s.node->sim.at][j->r.node->sim.at - SIDE] = true;
    open_parts(j);
}

/* Push a layer, commit behind the last; see whether it is over. */
static void step_job(struct job *j)
{
    struct node *n = j->s.node;

    if (j->s.open && j->layer < LAYERS &&
        kvw_core_push(n->sim.core, j->s.ref, j->layer, j->tokens, NULL) == KVW_OK &&
        ++j->layer == LAYERS)
        (void)!kvw_core_commit(n->sim.core, j->s.ref, NULL, 0); /* ended: its event comes */
    if (j->r.open || j->s.open)
        return;
    j->used = false;
    ++m.ended;
    m.right += j->r.ok && j->s.ok;
}

static void fault(void)
{
    struct node *n = &m.node[t_below(&m.net.random, NODES)];

    if (n->sim.t == NULL)
        return;
    node_close(n, chance(60));
    n->sim.up_again_ns =
        kvn_sim_now(m.net.sim) + (chance(50) ? 0 : t_below(&m.net.random, 1500) * MS);
    ++m.faults;
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin_mesh(uint64_t seed)
{
    memset(&m, 0, sizeof(m));
    m.net.seed = seed;
    m.net.random = seed * 977 + 11;
    m.net.sim = kvn_sim_open(seed, 1400 + t_below(&m.net.random, 3) * 3000);
    m.net.lossy = chance(50);
    m.net.count = NODES;
    set_links(NODES);
    for (uint32_t i = 0; i < NODES; ++i) {
        struct node *n = &m.node[i];

        n->sim.at = i;
        m.net.node[i] = &n->sim;
        t_state_dense(&n->state, LAYERS, 2, 64, KVW_DTYPE_BF16, ENTRIES, BLOCKS);
        n->state.groups[0].rows_first = i % 2 != 0;
        n->state.groups[0].packed = i % 3 == 0;
        t_state_make(&n->state);
        if (i % SIDE == SIDE - 1)
            n->sim.up_again_ns = 30 * MS; /* joins later */
        else
            node_open(NULL, &n->sim);
    }
}

static void step_all(void)
{
    for (uint32_t i = 0; i < NODES; ++i)
        if (m.node[i].sim.t == NULL && kvn_sim_now(m.net.sim) >= m.node[i].sim.up_again_ns)
            node_open(NULL, &m.node[i].sim);
    for (uint32_t i = 0; i < JOBS; ++i)
        if (m.jobs[i].used)
            step_job(&m.jobs[i]);
}

static void nothing_is_left(const struct node *n)
{
    struct kvw_core_stats s = {.size = sizeof(s)};

    kvw_core_stats(n->sim.core, &s);
    cr_assert(s.xfers_open == 0 && s.slots_free == SLOTS && s.stages_free == STAGES,
              "seed %llu: node %u still has %u transfers, %u of %u landing, %u of %u staging slots",
              (unsigned long long)m.net.seed, n->sim.at, s.xfers_open, s.slots_free, SLOTS,
              s.stages_free, STAGES);
    cr_assert_eq(s.peers_up, SIDE, "seed %llu: node %u has %u peers",
                 (unsigned long long)m.net.seed, n->sim.at, s.peers_up);
    for (uint32_t b = 0; b < BLOCKS; ++b)
        cr_assert(!n->taken[b] && is_freed(n, b), "seed %llu: node %u, block %u",
                  (unsigned long long)m.net.seed, n->sim.at, b);
}

static void live(uint64_t seed)
{
    uint64_t until_ns;

    begin_mesh(seed);
    until_ns = 60 * S;
    while ((m.made < COUNT || m.ended < m.made) && kvn_sim_now(m.net.sim) < until_ns) {
        step_all();
        for (uint32_t i = 0; i < 4 && m.made < COUNT; ++i)
            begin_job();
        if (m.faults < FAULTS && m.made * FAULTS >= (m.faults + 1) * (COUNT - 4) && chance(50))
            fault();
        run((1 + t_below(&m.net.random, 5)) * MS);
    }
    cr_assert(m.made == COUNT && m.ended == m.made, "seed %llu: %llu made, %llu ended",
              (unsigned long long)seed, (unsigned long long)m.made, (unsigned long long)m.ended);
    cr_assert_gt(m.right, COUNT / 3, "seed %llu: %llu right", (unsigned long long)seed,
                 (unsigned long long)m.right);
    all_made += m.made;
    all_right += m.right;
    all_faults += m.faults;
    for (uint32_t i = 0; i < 40; ++i) { /* all are up again, and idle peers' slots came back */
        step_all();
        run(100 * MS);
    }
    for (uint32_t i = 0; i < NODES; ++i) {
        nothing_is_left(&m.node[i]);
        node_close(&m.node[i], false);
        t_state_free(&m.node[i].state);
    }
    kvn_sim_close(m.net.sim);
}

Test(core_mesh, random_lives)
{
    const uint64_t lives = t_nodes_lives(SEEDS, live);

    printf("# %llu lives, %llu transfers, %llu right, %llu nodes killed or gone\n",
           (unsigned long long)lives, (unsigned long long)all_made, (unsigned long long)all_right,
           (unsigned long long)all_faults);
    fflush(stdout); /* the test's process ends without it */
}
