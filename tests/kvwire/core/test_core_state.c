/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any state goes between any two layouts of the same model: random models and shards on both sides,
 * several ranks that send to several ranks, every byte compared, and nothing else written. What
 * doesn't fit is refused, and the reason names the field.
 *
 * CORE_STATE_SEED=n runs one random model, CORE_STATE_SEEDS=n the first n.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kv.h"
#include "cores.h"

#define SEEDS     40u
#define WHAT      4711ull
#define FREED     0xf5
#define RANKS_MAX 8u
#define BLOCKS    700u

/* A group of the whole model. */
struct model_group {
    struct t_group g;               /* parts with all rows; blocks and block_entries are a side's */
    bool by_row[T_STATE_PARTS_MAX]; /* sharded by rows; else whole on every rank */
};

struct model {
    uint32_t layers, group_count;
    struct model_group groups[T_STATE_GROUPS_MAX];
};

struct side {
    uint32_t tp, pp;
    uint32_t block_entries[T_STATE_GROUPS_MAX];
    bool split; /* each part in a group of its own */
    bool rows_first, packed, own_tensors, backwards;
};

/* What one rank knows of its part of a sequence. */
struct rank {
    uint32_t node;
    struct kvw_group_blocks groups[T_STATE_GROUPS_MAX];
    uint32_t blocks[T_STATE_GROUPS_MAX][BLOCKS];
    uint32_t entry_first[T_STATE_GROUPS_MAX], entry_end[T_STATE_GROUPS_MAX]; /* wanted, or held */
    kvw_xfer_ref xfer;
};

struct run {
    uint64_t seed, random;
    struct t_cores *c;
    struct model m;
    struct side p, d;
    uint32_t tokens, have; /* the receiver has tokens below it */
    struct rank ps[RANKS_MAX], ds[RANKS_MAX];
};

static struct t_cores cores;
static struct run run;

static bool chance(struct run *r, uint32_t percent)
{
    return t_below(&r->random, 100) < percent;
}

/* --- models ----------------------------------------------------------------------------------- */

static struct model_group *add_group(struct model *m, uint32_t kind, uint32_t entry_tokens,
                                     uint32_t window)
{
    struct model_group *g = &m->groups[m->group_count++];

    *g = (struct model_group){
        .g = {.kind = kind, .entry_tokens = entry_tokens, .window_tokens = window}};
    return g;
}

static void add_part(struct model_group *g, const char *name, uint32_t dtype, uint32_t row_bytes,
                     uint32_t rows, bool by_row)
{
    g->by_row[g->g.part_count] = by_row;
    g->g.parts[g->g.part_count++] = (struct t_part){name, dtype, row_bytes, rows, 0, 0};
}

/* Every nth layer from `first` on, or all others. */
static void add_layers(struct model_group *g, uint32_t layers, uint32_t first, uint32_t nth,
                       bool others)
{
    for (uint32_t l = 0; l < layers; ++l)
        if ((l % nth == first) != others)
            g->g.layers[g->g.layer_count++] = l;
}

static void make_dense(struct run *r, struct model *m, uint32_t window)
{
    static const uint32_t dtypes[] = {KVW_DTYPE_BF16, KVW_DTYPE_F16, KVW_DTYPE_F8_E4M3,
                                      KVW_DTYPE_BYTES, KVW_DTYPE_U4X2};
    const uint32_t heads = 1 + t_below(&r->random, 8), dtype = dtypes[t_below(&r->random, 5)];
    struct model_group *g = add_group(m, KVW_GROUP_PAGED, 1, 0);
    const uint32_t head_bytes = 16u * (1 + t_below(&r->random, 4));

    add_layers(g, m->layers, 0, window != 0 ? 2 : 1, false);
    add_part(g, "k", dtype, head_bytes, heads, true);
    add_part(g, "v", dtype, head_bytes, heads, true);
    if (chance(r, 40))
        add_part(g, "k_scale", KVW_DTYPE_F32, 4, heads, true);
    if (window == 0 || m->layers < 2)
        return;
    g = add_group(m, KVW_GROUP_WINDOW, 1, window);
    add_layers(g, m->layers, 0, 2, true);
    add_part(g, "k", dtype, head_bytes, heads, true);
    add_part(g, "v", dtype, head_bytes, heads, true);
}

static void make_latent(struct run *r, struct model *m)
{
    static const uint32_t tokens[] = {1, 4, 128};
    struct model_group *g = add_group(m, KVW_GROUP_PAGED, 1, 0);

    add_layers(g, m->layers, 0, 1, false);
    add_part(g, "latent", KVW_DTYPE_BF16, 576, 1, false);
    g = add_group(m, KVW_GROUP_PAGED, tokens[1 + t_below(&r->random, 2)], 0);
    add_layers(g, m->layers, 0, 1, false);
    add_part(g, "index", KVW_DTYPE_BYTES, 132, 1, false);
    if (!chance(r, 50))
        return;
    g = add_group(m, KVW_GROUP_WINDOW, tokens[t_below(&r->random, 2)],
                  1 + t_below(&r->random, 300));
    add_layers(g, m->layers, 0, 1, false);
    add_part(g, "recent", KVW_DTYPE_F8_E4M3, 64, 1, false);
}

static void make_hybrid(struct run *r, struct model *m)
{
    const uint32_t heads = 1 + t_below(&r->random, 4);
    struct model_group *g = add_group(m, KVW_GROUP_ROW, 0, 0);

    add_layers(g, m->layers, 0, 4, true);
    add_part(g, "state", KVW_DTYPE_F32, 4096, 1 + t_below(&r->random, 16), true);
    add_part(g, "conv", KVW_DTYPE_BYTES, 33, 3, false);
    if (g->g.layer_count == 0)
        add_layers(g, m->layers, 0, 1, false);
    g = add_group(m, KVW_GROUP_PAGED, 1, 0);
    add_layers(g, m->layers, 0, 4, false);
    add_part(g, "k", KVW_DTYPE_BF16, 64, heads, true);
    add_part(g, "v", KVW_DTYPE_BF16, 64, heads, true);
}

static void make_model(struct run *r)
{
    struct model *m = &r->m;

    m->layers = 1 + t_below(&r->random, 8);
    switch (t_below(&r->random, 4)) {
    case 0:
        make_dense(r, m, 0);
        break;
    case 1:
        make_dense(r, m, 1 + t_below(&r->random, 200));
        break;
    case 2:
        make_latent(r, m);
        break;
    default:
        make_hybrid(r, m);
    }
}

/* --- shards ----------------------------------------------------------------------------------- */

static void make_side(struct run *r, struct side *s)
{
    static const uint32_t entries[] = {1, 2, 3, 16, 17, 32, 64};
    uint32_t parts = 0;

    do {
        s->tp = 1 + t_below(&r->random, 8);
        s->pp = 1 + t_below(&r->random, 3);
    } while (s->tp * s->pp > RANKS_MAX || s->pp > r->m.layers);
    for (uint32_t g = 0; g < r->m.group_count; ++g) {
        s->block_entries[g] =
            r->m.groups[g].g.kind == KVW_GROUP_ROW ? 1 : entries[t_below(&r->random, 7)];
        parts += r->m.groups[g].g.part_count;
    }
    s->split = parts <= T_STATE_GROUPS_MAX && chance(r, 30);
    s->rows_first = chance(r, 50);
    s->packed = chance(r, 50);
    s->own_tensors = chance(r, 50);
    s->backwards = chance(r, 30);
}

/* The rows that tensor rank `at` of `of` holds: a share, or one of fewer rows than there are
 * ranks. */
static void shard(struct t_part *p, uint32_t at, uint32_t of)
{
    const uint32_t end = (at + 1) * p->rows / of;

    p->row_first = at * p->rows / of;
    p->rows_here = end > p->row_first ? end - p->row_first : 1;
}

/* The group as a rank has it; false: none of its layers are there. */
static bool cut_group(const struct run *r, const struct side *s, uint32_t rank, uint32_t group,
                      struct t_group *to)
{
    const uint32_t tp = rank % s->tp, pp = rank / s->tp;
    const uint32_t from = pp * r->m.layers / s->pp, end = (pp + 1) * r->m.layers / s->pp;
    const struct model_group *m = &r->m.groups[group];

    *to = m->g;
    to->layer_count = 0;
    for (uint32_t l = 0; l < m->g.layer_count; ++l)
        if (m->g.layers[l] >= from && m->g.layers[l] < end)
            to->layers[to->layer_count++] = m->g.layers[l];
    for (uint32_t p = 0; p < to->part_count; ++p)
        if (m->by_row[p])
            shard(&to->parts[p], tp, s->tp);
    to->block_entries = s->block_entries[group];
    to->rows_first = s->rows_first;
    to->packed = s->packed;
    to->own_tensors = s->own_tensors;
    return to->layer_count > 0;
}

static uint32_t entries_of(const struct t_group *g, uint32_t tokens)
{
    return g->kind == KVW_GROUP_ROW ? 1 : (tokens + g->entry_tokens - 1) / g->entry_tokens;
}

static void add_to_state(struct run *r, struct t_state *s, struct t_group *g)
{
    const uint32_t need = (entries_of(g, r->tokens) + g->block_entries - 1) / g->block_entries;

    g->blocks = need + 2 + t_below(&r->random, 3);
    s->groups[s->group_count++] = *g;
}

static void make_rank(struct run *r, const struct side *s, uint32_t rank, struct t_state *state)
{
    memset(state, 0, sizeof(*state));
    state->model_layers = r->m.layers;
    for (uint32_t i = 0; i < r->m.group_count; ++i) {
        const uint32_t at = s->backwards ? r->m.group_count - 1 - i : i;
        struct t_group g, one;

        if (!cut_group(r, s, rank, at, &g))
            continue;
        for (uint32_t p = 0; s->split && p < g.part_count; ++p) {
            one = g;
            one.part_count = 1;
            one.parts[0] = g.parts[p];
            add_to_state(r, state, &one);
        }
        if (!s->split)
            add_to_state(r, state, &g);
    }
    t_state_make(state);
    for (uint32_t m = 0; m < state->mem_count; ++m)
        memset(state->mems[m].base, FREED, state->mems[m].bytes);
}

/* --- a sequence ------------------------------------------------------------------------------- */

/* Entries that are there (sender), or that are lacking beyond the first `have` tokens. */
static void entry_range(const struct t_group *g, uint32_t tokens, uint32_t have, uint32_t *first,
                        uint32_t *end)
{
    uint32_t from = have;

    *first = 0;
    *end = entries_of(g, tokens);
    if (g->kind == KVW_GROUP_WINDOW && tokens > g->window_tokens &&
        from < tokens - g->window_tokens)
        from = tokens - g->window_tokens;
    if (g->kind != KVW_GROUP_ROW)
        *first = from / g->entry_tokens;
    if (g->kind != KVW_GROUP_ROW && from >= tokens)
        *first = *end;
}

static void lay_blocks(struct run *r, struct rank *k, const struct t_state *s, uint32_t group,
                       bool receiver)
{
    const struct t_group *g = &s->groups[group];
    const uint32_t per = g->block_entries * g->entry_tokens;
    struct kvw_group_blocks *b = &k->groups[group];
    uint32_t at = t_below(&r->random, g->blocks), base, n;

    entry_range(g, r->tokens, receiver ? r->have : 0, &k->entry_first[group], &k->entry_end[group]);
    base = k->entry_first[group] / g->block_entries;
    if (g->kind == KVW_GROUP_PAGED && chance(r, 50))
        base = 0;
    n = (k->entry_end[group] + g->block_entries - 1) / g->block_entries;
    n = n > base ? n - base : 0;
    cr_assert_leq(n, BLOCKS);
    *b = (struct kvw_group_blocks){.group = group, .block_count = n, .blocks = k->blocks[group]};
    if (g->kind != KVW_GROUP_ROW) {
        b->token_first = base * per;
        if (b->token_first > r->tokens) /* only where nothing is lacking */
            b->token_first = 0;
        b->want_first = receiver ? r->have : 0;
        b->want_end = receiver ? r->tokens : 0;
    }
    for (uint32_t i = 0; i < n; ++i, at = (at + 1) % g->blocks) /* each block once, wrapping */
        k->blocks[group][i] = at;
}

static uint32_t base_entry(const struct t_group *g, const struct kvw_group_blocks *b)
{
    return g->kind == KVW_GROUP_ROW ? 0 : b->token_first / g->entry_tokens;
}

static void fill(const struct rank *k, struct t_state *s)
{
    for (uint32_t g = 0; g < s->group_count; ++g)
        t_state_fill(s, g, k->blocks[g], base_entry(&s->groups[g], &k->groups[g]),
                     k->entry_first[g], k->entry_end[g], WHAT);
}

static void open_offer(struct run *r, struct rank *k, uint32_t sources)
{
    struct t_core *n = &r->c->node[k->node];
    kvw_peer_id peers[RANKS_MAX];
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = n->pool,
                                        .key = kvw_key_of("any"),
                                        .tokens = r->tokens,
                                        .group_count = n->state.group_count,
                                        .groups = k->groups,
                                        .sources = peers,
                                        .source_count = sources};
    char why[257] = "";

    for (uint32_t s = 0; s < sources; ++s)
        peers[s] = t_core_peer(r->c, k->node, r->ps[s].node);
    cr_assert_eq(kvw_core_offer(n->core, &args, t_cores_now(r->c), &k->xfer, why, sizeof(why)),
                 KVW_OK, "seed %llu: %s", (unsigned long long)r->seed, why);
}

static void open_stream(struct run *r, struct rank *k, uint32_t receivers)
{
    struct t_core *n = &r->c->node[k->node];
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = n->pool,
                                         .key = kvw_key_of("any"),
                                         .tokens = r->tokens,
                                         .group_count = n->state.group_count,
                                         .groups = k->groups,
                                         .receivers = receivers};
    char why[257] = "";

    cr_assert_eq(kvw_core_stream(n->core, &args, t_cores_now(r->c), &k->xfer, why, sizeof(why)),
                 KVW_OK, "seed %llu: %s", (unsigned long long)r->seed, why);
}

static bool has_layer(const struct t_state *s, uint32_t layer)
{
    for (uint32_t g = 0; g < s->group_count; ++g)
        for (uint32_t l = 0; l < s->groups[g].layer_count; ++l)
            if (s->groups[g].layers[l] == layer)
                return true;
    return false;
}

static void push_all(struct run *r, struct rank *k)
{
    struct t_core *n = &r->c->node[k->node];

    for (uint32_t l = 0; l < r->m.layers; ++l) {
        const uint32_t part = 1 + t_below(&r->random, r->tokens);

        if (!has_layer(&n->state, l))
            continue;
        cr_assert_eq(kvw_core_push(n->core, k->xfer, l, part, NULL), KVW_OK);
        if (chance(r, 30))
            t_cores_run(r->c, 100000);
        cr_assert_eq(kvw_core_push(n->core, k->xfer, l, r->tokens, NULL), KVW_OK);
    }
    cr_assert_eq(kvw_core_commit(n->core, k->xfer, "n", 1), KVW_OK);
}

/* What is in the receiver's memory is what was wanted over what had been there, byte for byte. */
static void check_rank(const struct run *r, const struct rank *k)
{
    struct t_state *s = &r->c->node[k->node].state;
    unsigned char *got[T_STATE_GROUPS_MAX * T_STATE_LAYERS_MAX];

    for (uint32_t m = 0; m < s->mem_count; ++m) {
        got[m] = malloc(s->mems[m].bytes);
        memcpy(got[m], s->mems[m].base, s->mems[m].bytes);
        memset(s->mems[m].base, FREED, s->mems[m].bytes);
    }
    fill(k, s);
    for (uint32_t m = 0; m < s->mem_count; ++m) {
        cr_assert_eq(memcmp(got[m], s->mems[m].base, s->mems[m].bytes), 0,
                     "seed %llu: node %u holds other bytes", (unsigned long long)r->seed, k->node);
        free(got[m]);
    }
}

/* What the receiver lacks, each byte once: no source is asked for what another is asked for. */
static uint64_t wanted_bytes(const struct run *r, const struct rank *k)
{
    const struct t_state *s = &r->c->node[k->node].state;
    uint64_t bytes = 0;

    for (uint32_t g = 0; g < s->group_count; ++g)
        for (uint32_t p = 0; p < s->groups[g].part_count; ++p)
            bytes += (uint64_t)(k->entry_end[g] - k->entry_first[g]) * s->groups[g].layer_count *
                     s->part_descs[g][p].rows * s->part_descs[g][p].row_bytes;
    return bytes;
}

/* --- a life ----------------------------------------------------------------------------------- */

static void begin(struct run *r, uint64_t seed)
{
    const struct kvw_core_config quick = {.chunk_raw_bytes = 4096 << seed % 3,
                                          .slots = 2 + (uint32_t)seed % 30};
    uint32_t p, d;

    memset(r, 0, sizeof(*r));
    r->seed = seed;
    r->random = seed * 31 + 7;
    r->c = &cores;
    make_model(r);
    r->tokens = 1 + t_below(&r->random, 300);
    r->have = chance(r, 40) ? t_below(&r->random, r->tokens + 1) : 0;
    make_side(r, &r->p);
    make_side(r, &r->d);
    p = r->p.tp * r->p.pp;
    d = r->d.tp * r->d.pp;
    t_cores_init(r->c, p + d, seed);
    for (uint32_t i = 0; i < p + d; ++i) {
        struct rank *k = i < p ? &r->ps[i] : &r->ds[i - p];
        struct t_state *s = &r->c->node[i].state;

        k->node = i;
        make_rank(r, i < p ? &r->p : &r->d, i < p ? i : i - p, s);
        for (uint32_t g = 0; g < s->group_count; ++g)
            lay_blocks(r, k, s, g, i >= p);
        t_core_open(r->c, i, &quick);
        t_core_add_pool(r->c, i);
    }
    for (uint32_t i = 0; i < p; ++i)
        for (uint32_t k = 0; k < d; ++k)
            if (chance(r, 50))
                t_core_join(r->c, i, p + k);
            else
                t_core_join(r->c, p + k, i);
}

static void open_all(struct run *r)
{
    const uint32_t p = r->p.tp * r->p.pp, d = r->d.tp * r->d.pp;
    const bool first = chance(r, 50);

    for (uint32_t i = 0; i < d && first; ++i)
        open_offer(r, &r->ds[i], p);
    if (chance(r, 50))
        t_cores_run(r->c, T_MS);
    for (uint32_t i = 0; i < p; ++i) {
        fill(&r->ps[i], &r->c->node[i].state);
        open_stream(r, &r->ps[i], d);
    }
    if (chance(r, 50))
        t_cores_run(r->c, T_MS);
    for (uint32_t i = 0; i < d && !first; ++i)
        open_offer(r, &r->ds[i], p);
}

static void live(uint64_t seed)
{
    struct run *r = &run;
    uint32_t p, d;

    begin(r, seed);
    p = r->p.tp * r->p.pp;
    d = r->d.tp * r->d.pp;
    open_all(r);
    for (uint32_t i = 0; i < p; ++i)
        push_all(r, &r->ps[i]);
    t_cores_run(r->c, 100 * T_MS);
    for (uint32_t i = 0; i < p + d; ++i) {
        const struct rank *k = i < p ? &r->ps[i] : &r->ds[i - p];
        const struct kvw_core_event *ev = t_core_done(&r->c->node[i], k->xfer);

        cr_assert_not_null(ev, "seed %llu: node %u hasn't ended", (unsigned long long)seed, i);
        cr_assert_eq(ev->err, KVW_OK, "seed %llu: node %u: %s", (unsigned long long)seed, i,
                     ev->text);
        if (i >= p) {
            check_rank(r, k);
            cr_expect_eq(ev->raw_bytes, wanted_bytes(r, k),
                         "seed %llu: node %u: %llu bytes, not %llu", (unsigned long long)seed, i,
                         (unsigned long long)ev->raw_bytes, (unsigned long long)wanted_bytes(r, k));
        }
        cr_expect_eq(r->c->node[i].lost, 0, "%s", r->c->node[i].lost_text);
    }
    t_cores_end(r->c);
}

/* The comparison above sees a single byte that is elsewhere: a plane that lies one row further. */
Test(core_state, a_shifted_plane_is_seen)
{
    static struct t_state s;
    const uint32_t blocks[] = {3, 1};

    t_state_dense(&s, 2, 2, 32, KVW_DTYPE_BF16, 4, 5);
    t_state_make(&s);
    t_state_fill(&s, 0, blocks, 0, 0, 7, WHAT);
    cr_expect(t_state_is(&s, 0, blocks, 0, 0, 7, WHAT));
    cr_expect_not(t_state_is(&s, 0, blocks, 0, 0, 8, WHAT), "an entry that nobody wrote");
    s.planes[0][1][1].base = (unsigned char *)s.planes[0][1][1].base + 32;
    cr_expect_not(t_state_is(&s, 0, blocks, 0, 0, 7, WHAT));
    t_state_free(&s);
}

Test(core_state, random_models_and_shards)
{
    const char *one = getenv("CORE_STATE_SEED"), *many = getenv("CORE_STATE_SEEDS");
    const uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : SEEDS;

    if (one != NULL) {
        live(strtoull(one, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= seeds; ++seed)
        live(seed);
}
