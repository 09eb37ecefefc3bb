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

#include "../../compress/compress.h"
#include "../../kvwire/core.h"
#include "../../net/packet/endpoint.h"
#include "../../net/port/sim/sim.h"
#include "../kvwire/kv.h"

#define SEEDS     200u
#define STEPS     150u
#define NODES_MAX 4u
#define JOBS      10u
#define CELL      512u
#define CELLS     256u
#define TAKES     40u /* cells of a job, at most */
#define SPINS     20000u
#define MS        1000000ull
#define S         1000000000ull
#define FREED     0xdeadull
#define APART_NS  (4 * S) /* after that nothing of a failed post is under way */

enum cell_state { FREE = 0, TAKEN, APART };

struct node {
    uint32_t at;
    struct kvw_transport *t; /* NULL: down */
    const struct kvn_port *port;
    struct kvw_core *core;
    unsigned char mem[CELLS * CELL];
    kvw_region_id region;
    kvw_peer_id peers[NODES_MAX];
    uint32_t heard[NODES_MAX]; /* the last note alone of that node */
    uint8_t cell[CELLS];
    uint64_t apart_until_ns[CELLS];
    uint64_t up_again_ns, said;
    uint32_t opened, regions;
};

struct job {
    bool used, posted, reads, noted, gone; /* gone: the owner's memory is no more what it was */
    struct node *poster, *owner;
    kvw_batch_id batch;
    uint64_t what;
    uint32_t count, here[TAKES], there[TAKES], posts, life, owner_life;
};

struct world {
    uint64_t seed, random, count;
    struct kvn_sim *sim;
    uint32_t nodes;
    struct node node[NODES_MAX];
    struct job jobs[JOBS];
    bool lossy, cuts, restarts, releases, removals, calm;
    uint64_t cut_until_ns;
    uint64_t ok, failed, notes, alone;
};

static bool chance(struct world *w, uint32_t percent)
{
    return t_below(&w->random, 100) < percent;
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
        if (n->cell[i] == APART && kvn_sim_now(w->sim) >= n->apart_until_ns[i]) {
            fill_cell(n, i, FREED);
            n->cell[i] = FREE;
        }
        if (n->cell[i] == FREE)
            cr_assert(cell_is_freed(n, i),
                      "seed %llu: node %u: a byte of cell %u, which no batch has",
                      (unsigned long long)w->seed, n->at, i);
    }
}

static bool take_cells(struct world *w, struct node *n, uint32_t *cells, uint32_t count)
{
    uint32_t at = t_below(&w->random, CELLS), got = 0;

    for (uint32_t i = 0; i < CELLS && got < count; ++i) {
        at = (at + 1 + (chance(w, 30) ? t_below(&w->random, 5) : 0)) % CELLS;
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
        n->apart_until_ns[cells[i]] = kvn_sim_now(w->sim) + APART_NS;
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

    cr_assert_eq(kvw_core_region_add(n->core, &args, &n->region, why, sizeof(why)), KVW_OK, "%s",
                 why);
}

static void node_open(struct world *w, struct node *n)
{
    struct kvn_packet_config cfg = {.seed = w->seed * 1000 + n->at * 100 + ++n->opened};
    char why[KVN_WHY_BYTES], name[16], address[32];
    struct kvw_core_path path = {.name = "sim", .listen = 1};
    struct kvw_core_config core = {.size = sizeof(core),
                                   .path_count = 1,
                                   .paths = &path,
                                   .instance = t_random(&w->random) | 1,
                                   .name = name,
                                   .codecs = kvc_codecs,
                                   .chunk_raw_bytes = 4096 + t_below(&w->random, 8192),
                                   .slots = 1 + t_below(&w->random, 12),
                                   .stages = 1 + t_below(&w->random, 12)};
    const char *field = "";
    struct kvn_port *port;
    kvw_peer_id id;

    snprintf(name, sizeof(name), "node %u", n->at);
    cr_assert_eq(kvn_sim_port_open(&port, w->sim, n->at), KVW_OK);
    n->port = port;
    cr_assert_eq(kvn_packet_open(&n->t, port, &cfg, why), KVW_OK, "%s", why);
    path.transport = n->t;
    cr_assert_eq(kvw_core_open(&n->core, &core, kvn_sim_now(w->sim), &field), KVW_OK, "%s", field);
    memset(n->peers, 0, sizeof(n->peers));
    add_region(n);
    for (uint32_t i = 0; i < w->nodes; ++i) {
        if (i == n->at || (i < n->at && chance(w, 50)))
            continue;
        snprintf(address, sizeof(address), "10.0.0.%u:9000", i + 1);
        cr_assert_eq(kvw_core_peer_add(n->core, 0, address, kvn_sim_now(w->sim), &id), KVW_OK);
    }
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

static void node_close(struct world *w, struct node *n)
{
    kvw_core_close(n->core, kvn_sim_now(w->sim));
    n->t->ops->close(n->t);
    n->t = NULL;
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
                  "seed %llu: %s: piece %u isn't in place", (unsigned long long)w->seed, when, i);
}

static void take_done(struct world *w, struct node *n, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < JOBS; ++i) {
        struct job *j = &w->jobs[i];

        if (!j->used || j->poster != n || j->batch.value != ev->batch.value)
            continue;
        cr_assert(j->posted, "seed %llu: an end of nothing posted", (unsigned long long)w->seed);
        j->posted = false;
        if (ev->err != KVW_OK) {
            ++w->failed;
            cr_assert_neq(ev->text[0], '\0');
            cr_assert_eq(kvw_core_batch_release(n->core, j->batch, kvn_sim_now(w->sim)), KVW_OK);
            end_job(w, j, true);
            return;
        }
        ++w->ok;
        expect_in_place(w, j, "it ended well");
        if (!j->reads && !j->gone)
            cr_assert(j->noted, "seed %llu: a WRITE ended without its note",
                      (unsigned long long)w->seed);
        return;
    }
    cr_assert_fail("seed %llu: an end of no batch", (unsigned long long)w->seed);
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
                     (unsigned long long)w->seed);
        n->heard[from] = (uint32_t)number;
        return;
    }
    cr_assert_eq(sscanf(text, "j %u %llu %u", &at, &number, &post), 3);
    ++w->notes;
    if (!w->jobs[at].used || w->jobs[at].what != number || w->jobs[at].owner != n)
        return; /* the job failed here or was released while its note was on its way */
    cr_assert_not(w->jobs[at].noted && w->jobs[at].posts == post, "seed %llu: a note twice",
                  (unsigned long long)w->seed);
    w->jobs[at].noted = true;
    expect_in_place(w, &w->jobs[at], "its note came");
}

static void take_events(struct world *w, struct node *n)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    unsigned at;

    while (kvw_core_next_event(n->core, &ev)) {
        struct kvw_peer_info info = {.size = sizeof(info)};

        if (ev.kind == KVW_CEV_PEER_UP && kvw_core_peer_info(n->core, ev.peer, &info) == KVW_OK &&
            sscanf(info.name, "node %u", &at) == 1)
            n->peers[at] = ev.peer;
        if (ev.kind == KVW_CEV_BATCH_DONE)
            take_done(w, n, &ev);
        if (ev.kind == KVW_CEV_NOTIFY)
            take_note(w, n, &ev);
    }
}

static uint64_t due_ns(const struct node *n)
{
    const uint64_t port = n->port->ops->deadline_ns(n->port);
    const uint64_t core = kvw_core_deadline_ns(n->core);

    return port < core ? port : core;
}

static void run(struct world *w, uint64_t until_ns)
{
    while (kvn_sim_now(w->sim) < until_ns) {
        const uint64_t now = kvn_sim_now(w->sim);
        uint64_t next = until_ns;

        for (uint32_t i = 0; i < w->nodes; ++i) {
            struct node *n = &w->node[i];

            for (uint32_t spins = 0; n->t != NULL && due_ns(n) <= now; ++spins) {
                cr_assert_lt(spins, SPINS, "seed %llu: node %u spins", (unsigned long long)w->seed,
                             i);
                while (kvw_core_poll(n->core, now))
                    ;
                take_events(w, n);
            }
        }
        for (uint32_t i = 0; i < w->nodes; ++i)
            if (w->node[i].t != NULL && due_ns(&w->node[i]) < next)
                next = due_ns(&w->node[i]);
        kvn_sim_advance(w->sim, next > now ? next : now + 1);
    }
}

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
        args.deadline_ns = kvn_sim_now(w->sim) + t_below(&w->random, 5000000);
    err = kvw_core_batch_post(j->poster->core, j->batch, &args, kvn_sim_now(w->sim), why,
                              sizeof(why));
    j->posted = err == KVW_OK;
    if (err == KVW_OK)
        return;
    cr_assert(err == KVW_E_PEER_LOST || err == KVW_E_NOTFOUND || err == KVW_E_AGAIN,
              "seed %llu: %s", (unsigned long long)w->seed, why);
    cr_assert_eq(kvw_core_batch_release(j->poster->core, j->batch, kvn_sim_now(w->sim)), KVW_OK);
    end_job(w, j, false);
}

static bool make(struct world *w, struct job *j)
{
    struct kvw_batch_piece pieces[TAKES];
    const struct kvw_batch_args args = {.size = sizeof(args),
                                        .op = j->reads ? KVW_BATCH_READ : KVW_BATCH_WRITE,
                                        .peer = j->poster->peers[j->owner->at],
                                        .piece_count = j->count,
                                        .pieces = pieces};
    char why[257] = "";
    kvw_err err;

    for (uint32_t i = 0; i < j->count; ++i)
        pieces[i] = (struct kvw_batch_piece){(uintptr_t)j->poster->mem + j->here[i] * CELL,
                                             (uintptr_t)j->owner->mem + j->there[i] * CELL, CELL};
    err = kvw_core_batch_make(j->poster->core, &args, &j->batch, why, sizeof(why));
    cr_assert(err == KVW_OK || err == KVW_E_PEER_LOST || err == KVW_E_AGAIN ||
                  err == KVW_E_NOTFOUND,
              "seed %llu: %s", (unsigned long long)w->seed, why);
    return err == KVW_OK;
}

static void begin_job(struct world *w)
{
    const uint32_t a = t_below(&w->random, w->nodes);
    const uint32_t b = (a + 1 + t_below(&w->random, w->nodes - 1)) % w->nodes;
    struct job *j = NULL;
    uint32_t at = 0;

    for (; at < JOBS && w->jobs[at].used; ++at)
        ;
    if (at == JOBS || w->node[a].t == NULL || w->node[a].peers[b].value == 0)
        return;
    j = &w->jobs[at];
    *j = (struct job){.poster = &w->node[a], .owner = &w->node[b], .reads = chance(w, 50)};
    j->count = 1 + t_below(&w->random, TAKES);
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
    if (j->posted && w->releases && !w->calm && chance(w, 5)) {
        cr_assert_eq(kvw_core_batch_release(j->poster->core, j->batch, kvn_sim_now(w->sim)),
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
    cr_assert_eq(kvw_core_batch_release(j->poster->core, j->batch, kvn_sim_now(w->sim)), KVW_OK);
    end_job(w, j, false);
}

static void say_alone(struct world *w)
{
    struct node *n = &w->node[t_below(&w->random, w->nodes)];
    const uint32_t to = t_below(&w->random, w->nodes);
    char note[64];

    if (n->t == NULL || n->peers[to].value == 0)
        return;
    (void)!kvw_core_notify(
        n->core, n->peers[to], note,
        (uint32_t)snprintf(note, sizeof(note), "a %u %llu", n->at, (unsigned long long)++n->said));
}

/* --- faults ----------------------------------------------------------------------------------- */

static void set_links(struct world *w, bool cut)
{
    for (uint32_t a = 0; a < w->nodes; ++a)
        for (uint32_t b = 0; b < w->nodes; ++b) {
            struct kvn_sim_link link = {.delay_ns = 20000, .bytes_per_s = 1250000000ull};

            if (a == b)
                continue;
            link.jitter_ns = 30000; /* reordering, always */
            if (w->lossy && !w->calm) {
                link.loss = 0.02;
                link.dup = 0.01;
                link.corrupt = 0.005;
            }
            link.cut = cut && !w->calm && (a == 0 || b == 0);
            kvn_sim_link(w->sim, a, b, &link);
        }
}

static void step_faults(struct world *w)
{
    const uint64_t now = kvn_sim_now(w->sim);

    if (w->cuts && w->cut_until_ns == 0 && chance(w, 3)) {
        w->cut_until_ns = now + (1 + t_below(&w->random, 2500)) * MS;
        set_links(w, true);
    }
    if (w->cut_until_ns != 0 && now >= w->cut_until_ns) {
        w->cut_until_ns = 0;
        set_links(w, false);
    }
    for (uint32_t i = 0; i < w->nodes; ++i) {
        struct node *n = &w->node[i];

        if (n->t == NULL && now >= n->up_again_ns) {
            node_open(w, n);
        } else if (n->t != NULL && w->restarts && !w->calm && chance(w, 1)) {
            node_close(w, n);
            n->up_again_ns = now + t_below(&w->random, 1500) * MS;
        } else if (n->t != NULL && w->removals && !w->calm && chance(w, 2)) {
            cr_assert_eq(kvw_core_region_remove(n->core, n->region, now), KVW_OK);
            memory_is_free(w, n);
            take_events(w, n); /* its own posts have ended */
            add_region(n);
        }
        check_free(w, n);
    }
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin_world(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->random = seed * 977 + 5;
    w->sim = kvn_sim_open(seed, 1400 + t_below(&w->random, 3) * 3000);
    w->nodes = 2 + t_below(&w->random, NODES_MAX - 1);
    w->lossy = chance(w, 50);
    w->cuts = chance(w, 40);
    w->restarts = chance(w, 50);
    w->releases = chance(w, 50);
    w->removals = chance(w, 40);
    set_links(w, false);
    for (uint32_t i = 0; i < w->nodes; ++i) {
        w->node[i].at = i;
        for (uint32_t c = 0; c < CELLS; ++c)
            fill_cell(&w->node[i], c, FREED);
        node_open(w, &w->node[i]);
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
        run(w, kvn_sim_now(w->sim) + 50 * MS);
    }
    for (uint32_t i = 0; i < JOBS; ++i)
        cr_assert_not(w->jobs[i].posted, "seed %llu: a post never ended",
                      (unsigned long long)w->seed);
    cr_expect_gt(w->ok, 0, "seed %llu: nothing went well", (unsigned long long)w->seed);
    for (uint32_t i = 0; i < w->nodes; ++i) {
        struct kvw_core_stats s = {.size = sizeof(s)};

        kvw_core_stats(w->node[i].core, &s);
        cr_expect_eq(s.chunks_rejected, 0, "seed %llu", (unsigned long long)w->seed);
        node_close(w, &w->node[i]);
    }
    kvn_sim_close(w->sim);
}

static void live(uint64_t seed)
{
    static struct world w;

    begin_world(&w, seed);
    for (uint32_t step = 0; step < STEPS; ++step) {
        if (step > STEPS * 3 / 4 && !w.calm) {
            w.calm = true;
            w.cut_until_ns = 0;
            set_links(&w, false);
        }
        step_faults(&w);
        if (chance(&w, 70))
            begin_job(&w);
        if (chance(&w, 50))
            say_alone(&w);
        for (uint32_t i = 0; i < JOBS; ++i)
            if (w.jobs[i].used)
                step_job(&w, &w.jobs[i]);
        run(&w, kvn_sim_now(w.sim) + (1 + t_below(&w.random, 400)) * MS / 10);
    }
    end_world(&w);
}

Test(batch_world, random_lives)
{
    const char *one = getenv("KVN_SIM_SEED"), *many = getenv("KVN_SIM_SEEDS");
    const uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : SEEDS;

    if (one != NULL) {
        live(strtoull(one, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= seeds; ++seed)
        live(seed);
}

/* Reordered, lossy, never calm: notes of WRITEs and READs until so many have come. Each is checked
 * against its data when it comes. */
Test(batch_world, no_note_before_its_data)
{
    const char *many = getenv("KVN_SIM_NOTES");
    const uint64_t notes = many != NULL ? strtoull(many, NULL, 10) : 2000;
    static struct world w;

    begin_world(&w, 4242);
    w.lossy = true;
    w.cuts = w.restarts = w.releases = w.removals = false;
    set_links(&w, false);
    while (w.notes < notes) {
        for (uint32_t i = 0; i < JOBS; ++i) {
            if (!w.jobs[i].used)
                begin_job(&w);
            else
                step_job(&w, &w.jobs[i]);
        }
        for (uint32_t i = 0; i < w.nodes; ++i)
            check_free(&w, &w.node[i]);
        run(&w, kvn_sim_now(w.sim) + MS / 4);
    }
    printf("# %llu notes after their data, %llu posts ended well, %llu failed\n",
           (unsigned long long)w.notes, (unsigned long long)w.ok, (unsigned long long)w.failed);
    fflush(stdout); /* the test's process ends without it */
    w.calm = true;
    set_links(&w, false);
    end_world(&w);
}
