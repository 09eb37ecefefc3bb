/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches between nodes over the packet transport, whatever the network and the nodes do: every
 * post ends exactly once, what ends well is in place, no byte changes that no batch was given, a
 * note comes after its data and only once, and notes alone come in order.
 *
 * Every node's region is cells of CELL bytes; a job takes some here and some there. A cell that
 * nobody has holds FREED. A cell that a failed post may still write (until the owner has heard) is
 * kept apart until nothing of it can be under way. Random lives on a virtual clock; KVN_SIM_SEED=n
 * lives one, KVN_SIM_SEEDS=n the first n, KVN_SIM_NOTES=n counts to n notes (by hand).
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kvwire/kv.h"
#include "nodes.h"

#define SEEDS     200u
#define STEPS     150u
#define NODES_MAX 4u
#define JOBS      10u
#define CELL      512u
#define CELLS     256u
#define TAKES     40u     /* cells of a job, at most */
#define APART_NS  (4 * S) /* after that nothing of a failed post is under way */

enum cell_state { FREE = 0, TAKEN, APART };

struct node {
    struct t_node sim; /* first: what a call of nodes.h names is found by it */
    unsigned char mem[CELLS * CELL];
    kvw_region_id region;
    uint32_t heard[NODES_MAX]; /* the last note alone of that node */
    uint8_t cell[CELLS];
    uint64_t apart_until_ns[CELLS];
    uint64_t said;
};

struct job {
    bool used, posted, reads, noted, gone; /* gone: the owner's memory is no more what it was */
    struct node *poster, *owner;
    kvw_batch_id batch;
    uint64_t what;
    uint32_t count, here[TAKES], there[TAKES], posts, life, owner_life;
};

struct world {
    struct t_nodes net;
    uint64_t count;
    struct node node[NODES_MAX];
    struct job jobs[JOBS];
    bool releases, removals;
    uint64_t ok, failed, notes, alone;
};

static struct node *node_of(struct t_node *n)
{
    return (struct node *)n; /* sim is its first member */
}

static bool chance(struct world *w, uint32_t percent)
{
    return t_nodes_chance(&w->net, percent);
}

/* --- cells ------------------------------------------------------------------------------------ */

static void fill_cell(struct node *n, uint32_t cell, uint64_t what)
{
    for (uint32_t i = 0; i < CELL; i += 8)
        memcpy(n->mem + cell * CELL + i, &(uint64_t){what * 0x9e3779b97f4a7c15ull + i}, 8);
}

static bool cell_is(const struct node *n, uint32_t cell, uint64_t what)
{
    for (uint32_t i = 0; i < CELL; i += 8)
        if (memcmp(n->mem + cell * CELL + i, &(uint64_t){what * 0x9e3779b97f4a7c15ull + i}, 8) != 0)
            return false;
    return true;
}

static bool cell_is_freed(const struct node *n, uint32_t cell)
{
    static struct node freed; /* one cell of it is made, once: this is asked most of all */
    static bool made;

    if (!made)
        fill_cell(&freed, 0, FREED);
    made = true;
    return memcmp(n->mem + cell * CELL, freed.mem, CELL) == 0;
}

static void check_free(struct world *w, struct node *n)
{
    for (uint32_t i = 0; i < CELLS; ++i) {
        if (n->cell[i] == APART && kvn_sim_now(w->net.sim) >= n->apart_until_ns[i]) {
            fill_cell(n, i, FREED);
            n->cell[i] = FREE;
        }
        if (n->cell[i] == FREE)
            cr_assert(cell_is_freed(n, i),
                      "seed %llu: node %u: a byte of cell %u, which no batch has",
                      (unsigned long long)w->net.seed, n->sim.at, i);
    }
}

static bool take_cells(struct world *w, struct node *n, uint32_t *cells, uint32_t count)
{
    uint32_t at = t_below(&w->net.random, CELLS), got = 0;

    for (uint32_t i = 0; i < CELLS && got < count; ++i) {
        at = (at + 1 + (chance(w, 30) ? t_below(&w->net.random, 5) : 0)) % CELLS;
        if (n->cell[at] != FREE)
            continue;
        n->cell[at] = TAKEN;
        cells[got++] = at;
    }
    for (uint32_t i = 0; got < count && i < got; ++i)
        n->cell[cells[i]] = FREE;
    return got == count;
}

static void give_back(struct world *w, struct node *n, const uint32_t *cells, uint32_t count,
                      bool apart)
{
    for (uint32_t i = 0; i < count; ++i) {
        n->cell[cells[i]] = apart ? APART : FREE;
        n->apart_until_ns[cells[i]] = kvn_sim_now(w->net.sim) + APART_NS;
        if (!apart)
            fill_cell(n, cells[i], FREED);
    }
}

static void end_job(struct world *w, struct job *j, bool failed)
{
    /* What a failed WRITE may still place at its owner, and what a failed READ may not here. */
    give_back(w, j->poster, j->here, j->count, false);
    if (!j->gone)
        give_back(w, j->owner, j->there, j->count, failed && !j->reads);
    j->used = j->posted = false;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static void add_region(struct node *n)
{
    const struct kvw_mem mem = {
        .base = n->mem, .bytes = sizeof(n->mem), .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {.size = sizeof(args),
                                         .rights = KVW_REGION_READ | KVW_REGION_WRITE,
                                         .mem = &mem,
                                         .mem_bytes = sizeof(mem)};
    char why[200];

    cr_assert_eq(kvw_core_region_add(n->sim.core, &args, &n->region, why, sizeof(why)), KVW_OK,
                 "%s", why);
}

static void node_open(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct kvw_core_config core = {.chunk_raw_bytes = 4096 + t_below(&w->net.random, 8192),
                                   .slots = 1 + t_below(&w->net.random, 12),
                                   .stages = 1 + t_below(&w->net.random, 12)};

    t_node_open(&w->net, sim, &core);
    add_region(node_of(sim));
    t_node_dial(&w->net, sim);
}

/* All of a node's memory is its own again, whatever was under way. */
static void memory_is_free(struct world *w, struct node *n)
{
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &w->jobs[i];

        if (j->used && j->owner == n)
            j->gone = true;
    }
    for (uint32_t i = 0; i < CELLS; ++i) {
        bool here = false;

        for (uint32_t k = 0; k < JOBS && n->cell[i] == TAKEN; ++k)
            for (uint32_t c = 0; c < w->jobs[k].count && w->jobs[k].used; ++c)
                here = here || (w->jobs[k].poster == n && w->jobs[k].here[c] == i);
        if (here)
            continue;
        n->cell[i] = FREE;
        fill_cell(n, i, FREED);
    }
}

static void node_close(void *self, struct t_node *sim)
{
    struct world *w = self;
    struct node *n = node_of(sim);

    t_node_close(&w->net, sim);
    for (uint32_t i = 0; i < JOBS; ++i)
        if (w->jobs[i].used && w->jobs[i].poster == n)
            end_job(w, &w->jobs[i], true);
    memory_is_free(w, n);
    check_free(w, n);
}

/* --- events ----------------------------------------------------------------------------------- */

static void expect_in_place(struct world *w, const struct job *j, const char *when)
{
    for (uint32_t i = 0; i < j->count && !j->gone; ++i)
        cr_assert(cell_is(j->poster, j->here[i], j->what + i) &&
                      cell_is(j->owner, j->there[i], j->what + i),
                  "seed %llu: %s: piece %u isn't in place", (unsigned long long)w->net.seed, when,
                  i);
}

static void take_done(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &w->jobs[i];

        if (!j->used || j->poster != n || j->batch.value != ev->batch.value)
            continue;
        cr_assert(j->posted, "seed %llu: an end of nothing posted",
                  (unsigned long long)w->net.seed);
        j->posted = false;
        if (ev->err != KVW_OK) {
            ++w->failed;
            cr_assert_neq(ev->text[0], '\0');
            cr_assert_eq(kvw_core_batch_release(n->sim.core, j->batch, kvn_sim_now(w->net.sim)),
                         KVW_OK);
            end_job(w, j, true);
            return;
        }
        ++w->ok;
        expect_in_place(w, j, "it ended well");
        if (!j->reads && !j->gone)
            cr_assert(j->noted, "seed %llu: a WRITE ended without its note",
                      (unsigned long long)w->net.seed);
        return;
    }
    cr_assert_fail("seed %llu: an end of no batch", (unsigned long long)w->net.seed);
}

/* Notes: "j" job and post, or "a" from and number. */
static void take_note(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    char text[64] = "";
    unsigned at, post, from;
    unsigned long long number;

    memcpy(text, ev->note, ev->note_bytes);
    if (sscanf(text, "a %u %llu", &from, &number) == 2) {
        ++w->alone;
        cr_assert_gt(number, n->heard[from], "seed %llu: a note twice or out of order",
                     (unsigned long long)w->net.seed);
        n->heard[from] = (uint32_t)number;
        return;
    }
    cr_assert_eq(sscanf(text, "j %u %llu %u", &at, &number, &post), 3);
    ++w->notes;
    if (!w->jobs[at].used || w->jobs[at].what != number || w->jobs[at].owner != n)
        return; /* the job failed here or was released while its note was on its way */
    cr_assert_not(w->jobs[at].noted && w->jobs[at].posts == post, "seed %llu: a note twice",
                  (unsigned long long)w->net.seed);
    w->jobs[at].noted = true;
    expect_in_place(w, &w->jobs[at], "its note came");
}

static void take_event(void *self, struct t_node *n, const struct kvw_core_event *ev)
{
    if (ev->kind == KVW_CEV_BATCH_DONE)
        take_done(self, node_of(n), ev);
    if (ev->kind == KVW_CEV_NOTIFY)
        take_note(self, node_of(n), ev);
}

static const struct t_nodes_ops nodes_ops = {node_open, node_close, take_event};

/* --- work ------------------------------------------------------------------------------------- */

/* Fill what is read from, and post. */
static void post(struct world *w, struct job *j, uint32_t at)
{
    char note[64], why[257] = "";
    struct kvw_post_args args = {.size = sizeof(args), .note = note};
    kvw_err err;

    j->what = ++w->count * 7919;
    j->noted = false;
    ++j->posts;
    for (uint32_t i = 0; i < j->count; ++i)
        fill_cell(j->reads ? j->owner : j->poster, j->reads ? j->there[i] : j->here[i],
                  j->what + i);
    args.note_bytes = (uint32_t)snprintf(note, sizeof(note), "j %u %llu %u", at,
                                         (unsigned long long)j->what, j->posts);
    if (chance(w, 10))
        args.deadline_ns = kvn_sim_now(w->net.sim) + t_below(&w->net.random, 5000000);
    err = kvw_core_batch_post(j->poster->sim.core, j->batch, &args, kvn_sim_now(w->net.sim), why,
                              sizeof(why));
    j->posted = err == KVW_OK;
    if (err == KVW_OK)
        return;
    cr_assert(err == KVW_E_PEER_LOST || err == KVW_E_NOTFOUND || err == KVW_E_AGAIN,
              "seed %llu: %s", (unsigned long long)w->net.seed, why);
    cr_assert_eq(kvw_core_batch_release(j->poster->sim.core, j->batch, kvn_sim_now(w->net.sim)),
                 KVW_OK);
    end_job(w, j, false);
}

static bool make(struct world *w, struct job *j)
{
    struct kvw_batch_piece pieces[TAKES];
    const struct kvw_batch_args args = {.size = sizeof(args),
                                        .op = j->reads ? KVW_BATCH_READ : KVW_BATCH_WRITE,
                                        .peer = j->poster->sim.peers[j->owner->sim.at],
                                        .piece_count = j->count,
                                        .pieces = pieces};
    char why[257] = "";
    kvw_err err;

    for (uint32_t i = 0; i < j->count; ++i)
        pieces[i] = (struct kvw_batch_piece){(uintptr_t)j->poster->mem + j->here[i] * CELL,
                                             (uintptr_t)j->owner->mem + j->there[i] * CELL, CELL};
    err = kvw_core_batch_make(j->poster->sim.core, &args, &j->batch, why, sizeof(why));
    cr_assert(err == KVW_OK || err == KVW_E_PEER_LOST || err == KVW_E_AGAIN ||
                  err == KVW_E_NOTFOUND,
              "seed %llu: %s", (unsigned long long)w->net.seed, why);
    return err == KVW_OK;
}

static void begin_job(struct world *w)
{
    const uint32_t a = t_below(&w->net.random, w->net.count);
    const uint32_t b = (a + 1 + t_below(&w->net.random, w->net.count - 1)) % w->net.count;
    struct job *j = NULL;
    uint32_t at = 0;

    for (; at < JOBS && w->jobs[at].used; ++at)
        ;
    if (at == JOBS || w->node[a].sim.t == NULL || w->node[a].sim.peers[b].value == 0)
        return;
    j = &w->jobs[at];
    *j = (struct job){.poster = &w->node[a], .owner = &w->node[b], .reads = chance(w, 50)};
    j->count = 1 + t_below(&w->net.random, TAKES);
    if (!take_cells(w, j->poster, j->here, j->count))
        return;
    if (!take_cells(w, j->owner, j->there, j->count)) {
        give_back(w, j->poster, j->here, j->count, false);
        return;
    }
    j->used = true;
    if (make(w, j))
        post(w, j, at);
    else
        end_job(w, j, false);
}

static void step_job(struct world *w, struct job *j)
{
    if (j->posted && w->releases && !w->net.calm && chance(w, 5)) {
        cr_assert_eq(kvw_core_batch_release(j->poster->sim.core, j->batch, kvn_sim_now(w->net.sim)),
                     KVW_OK);
        end_job(w, j, true);
        return;
    }
    if (j->posted)
        return;
    if (!j->gone && j->posts < 4 && chance(w, 60)) {
        post(w, j, (uint32_t)(j - w->jobs));
        return;
    }
    cr_assert_eq(kvw_core_batch_release(j->poster->sim.core, j->batch, kvn_sim_now(w->net.sim)),
                 KVW_OK);
    end_job(w, j, false);
}

static void say_alone(struct world *w)
{
    struct node *n = &w->node[t_below(&w->net.random, w->net.count)];
    const uint32_t to = t_below(&w->net.random, w->net.count);
    char note[64];

    if (n->sim.t == NULL || n->sim.peers[to].value == 0)
        return;
    (void)!kvw_core_notify(n->sim.core, n->sim.peers[to], note,
                           (uint32_t)snprintf(note, sizeof(note), "a %u %llu", n->sim.at,
                                              (unsigned long long)++n->said));
}

/* --- faults ----------------------------------------------------------------------------------- */

static void step_faults(struct world *w)
{
    t_nodes_cuts(&w->net, 3);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        struct node *n = &w->node[i];

        if (!t_node_restarts(&w->net, &n->sim, 1, &nodes_ops, w) && n->sim.t != NULL &&
            w->removals && !w->net.calm && chance(w, 2)) {
            cr_assert_eq(kvw_core_region_remove(n->sim.core, n->region, kvn_sim_now(w->net.sim)),
                         KVW_OK);
            memory_is_free(w, n);
            t_node_events(&n->sim, &nodes_ops, w); /* its own posts have ended */
            add_region(n);
        }
        check_free(w, n);
    }
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin_world(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    t_nodes_begin(&w->net, seed, NODES_MAX);
    w->net.jitters = true;
    w->releases = chance(w, 50);
    w->removals = chance(w, 40);
    t_nodes_links(&w->net, false);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        w->node[i].sim.at = i;
        w->net.node[i] = &w->node[i].sim;
        for (uint32_t c = 0; c < CELLS; ++c)
            fill_cell(&w->node[i], c, FREED);
        node_open(w, &w->node[i].sim);
    }
}

static void end_world(struct world *w)
{
    for (uint32_t k = 0; k < 160; ++k) { /* in the last five seconds all must end */
        if (k < 60)
            begin_job(w);
        for (uint32_t i = 0; i < JOBS; ++i)
            if (w->jobs[i].used && !w->jobs[i].posted)
                step_job(w, &w->jobs[i]);
        step_faults(w);
        t_nodes_run(&w->net, kvn_sim_now(w->net.sim) + 50 * MS, &nodes_ops, w);
    }
    for (uint32_t i = 0; i < JOBS; ++i)
        cr_assert_not(w->jobs[i].posted, "seed %llu: a post never ended",
                      (unsigned long long)w->net.seed);
    cr_expect_gt(w->ok, 0, "seed %llu: nothing went well", (unsigned long long)w->net.seed);
    for (uint32_t i = 0; i < w->net.count; ++i) {
        struct kvw_core_stats s = {.size = sizeof(s)};

        kvw_core_stats(w->node[i].sim.core, &s);
        cr_expect_eq(s.chunks_rejected, 0, "seed %llu", (unsigned long long)w->net.seed);
        node_close(w, &w->node[i].sim);
    }
    kvn_sim_close(w->net.sim);
}

static void live(uint64_t seed)
{
    static struct world w;

    begin_world(&w, seed);
    for (uint32_t step = 0; step < STEPS; ++step) {
        if (step > STEPS * 3 / 4 && !w.net.calm)
            t_nodes_calm(&w.net);
        step_faults(&w);
        if (chance(&w, 70))
            begin_job(&w);
        if (chance(&w, 50))
            say_alone(&w);
        for (uint32_t i = 0; i < JOBS; ++i)
            if (w.jobs[i].used)
                step_job(&w, &w.jobs[i]);
        t_nodes_run(&w.net, kvn_sim_now(w.net.sim) + (1 + t_below(&w.net.random, 400)) * MS / 10,
                    &nodes_ops, &w);
    }
    end_world(&w);
}

Test(batch_world, random_lives)
{
    t_nodes_lives(SEEDS, live);
}

/* Reordered, lossy, never calm: notes of WRITEs and READs until so many have come. Each is checked
 * against its data when it comes. */
Test(batch_world, no_note_before_its_data)
{
    const char *many = getenv("KVN_SIM_NOTES");
    const uint64_t notes = many != NULL ? strtoull(many, NULL, 10) : 2000;
    static struct world w;

    begin_world(&w, 4242);
    w.net.lossy = true;
    w.net.cuts = w.net.restarts = w.releases = w.removals = false;
    t_nodes_links(&w.net, false);
    while (w.notes < notes) {
        for (uint32_t i = 0; i < JOBS; ++i) {
            if (!w.jobs[i].used)
                begin_job(&w);
            else
                step_job(&w, &w.jobs[i]);
        }
        for (uint32_t i = 0; i < w.net.count; ++i)
            check_free(&w, &w.node[i]);
        t_nodes_run(&w.net, kvn_sim_now(w.net.sim) + MS / 4, &nodes_ops, &w);
    }
    printf("# %llu notes after their data, %llu posts ended well, %llu failed\n",
           (unsigned long long)w.notes, (unsigned long long)w.ok, (unsigned long long)w.failed);
    fflush(stdout); /* the test's process ends without it */
    t_nodes_calm(&w.net);
    end_world(&w);
}
