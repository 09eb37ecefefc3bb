/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - memory with a shape, and the pool that describes it. */
#include "cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- sizes ------------------------------------------------------------------------------------ */

static const struct kvp_group *group_of(const struct kvp_cache *c, uint32_t group)
{
    return &c->cfg.geometry->groups[group];
}

static struct kvp_share share_of(const struct kvp_cache *c, uint32_t group, uint32_t part)
{
    return kvp_part_share(&group_of(c, group)->parts[part], c->cfg.shard,
                          c->cfg.shards > 0 ? c->cfg.shards : 1);
}

static uint64_t part_block_bytes(const struct kvp_cache *c, uint32_t group, uint32_t part)
{
    return (uint64_t)c->groups[group].block_entries * share_of(c, group, part).rows *
           group_of(c, group)->parts[part].row_bytes;
}

static uint32_t blocks_of(const struct kvp_cache *c, uint32_t group)
{
    return c->cfg.requests * c->groups[group].per_request;
}

/* The first entry of a request's table: a block begins there. */
static uint32_t table_base(const struct kvp_cache *c, uint32_t group, uint32_t tokens)
{
    uint32_t first, end;

    kvp_group_entries(group_of(c, group), tokens, &first, &end);
    return first - first % c->groups[group].block_entries;
}

static uint32_t blocks_needed(const struct kvp_cache *c, uint32_t group, uint32_t tokens)
{
    const uint32_t each = c->groups[group].block_entries;
    uint32_t first, end;

    kvp_group_entries(group_of(c, group), tokens, &first, &end);
    return (end - table_base(c, group, tokens) + each - 1) / each;
}

/* A window needs one block more when it begins inside a block. */
static uint32_t blocks_at_most(const struct kvp_cache *c, uint32_t group)
{
    const struct kvp_group *g = group_of(c, group);
    const uint32_t needed = blocks_needed(c, group, c->cfg.tokens);

    return g->kind == KVW_GROUP_WINDOW && c->cfg.tokens > g->window_tokens ? needed + 1 : needed;
}

/* --- making it -------------------------------------------------------------------------------- */

static bool make_tables(struct kvp_cache *c, uint32_t group, uint64_t seed)
{
    struct kvp_cache_group *to = &c->groups[group];
    const uint32_t n = blocks_of(c, group);

    to->in_order = malloc(n * sizeof(uint32_t));
    to->shuffled = malloc(n * sizeof(uint32_t));
    if (to->in_order == NULL || to->shuffled == NULL)
        return false;
    for (uint32_t i = 0; i < n; ++i)
        to->in_order[i] = to->shuffled[i] = i;
    for (uint32_t i = n; i > 1; --i) { /* Fisher and Yates */
        const uint32_t k = (uint32_t)(kvp_mix(seed + i) % i), id = to->shuffled[k];

        to->shuffled[k] = to->shuffled[i - 1];
        to->shuffled[i - 1] = id;
    }
    return true;
}

static bool make_group(struct kvp_cache *c, uint32_t group)
{
    const struct kvp_group *g = group_of(c, group);
    struct kvp_cache_group *to = &c->groups[group];

    to->block_entries = 1;
    if (g->kind != KVW_GROUP_ROW && c->cfg.block_tokens > g->entry_tokens)
        to->block_entries = c->cfg.block_tokens / g->entry_tokens;
    to->per_request = blocks_at_most(c, group);
    to->layers = malloc(c->cfg.geometry->layers * sizeof(uint32_t));
    if (to->layers == NULL || !make_tables(c, group, kvp_mix(c->cfg.seed + group)))
        return false;
    for (uint32_t l = 0; l < c->cfg.geometry->layers; ++l)
        if (kvp_group_has(g, l))
            to->layers[to->layer_count++] = l;
    for (uint32_t p = 0; p < g->part_count; ++p) {
        to->planes[p] = calloc(to->layer_count, sizeof(struct kvw_plane));
        if (to->planes[p] == NULL)
            return false;
        c->bytes += part_block_bytes(c, group, p) * blocks_of(c, group) * to->layer_count;
    }
    return true;
}

/* Planes of one group from *at on. */
static void lay_out(struct kvp_cache *c, uint32_t group, unsigned char **at)
{
    const struct kvp_group *g = group_of(c, group);
    struct kvp_cache_group *to = &c->groups[group];
    uint64_t all = 0;

    for (uint32_t p = 0; p < g->part_count; ++p)
        all += part_block_bytes(c, group, p);
    for (uint32_t l = 0; l < to->layer_count; ++l)
        for (uint32_t p = 0; p < g->part_count; ++p) {
            const uint64_t row = g->parts[p].row_bytes, block = part_block_bytes(c, group, p);
            const bool together = c->cfg.layout == KVP_LAYOUT_BLOCK;
            const bool heads = c->cfg.layout == KVP_LAYOUT_HEAD;

            to->planes[p][l] = (struct kvw_plane){
                .base = *at,
                .block_stride = together ? all * to->layer_count : block,
                .entry_stride = heads ? row : row * share_of(c, group, p).rows,
                .row_stride = heads ? row * to->block_entries : row,
            };
            *at += together ? block : block * blocks_of(c, group);
        }
    if (c->cfg.layout == KVP_LAYOUT_BLOCK)
        *at += all * to->layer_count * (blocks_of(c, group) - 1);
}

bool kvp_cache_make(struct kvp_cache *c, const struct kvp_cache_config *cfg, char why[KVP_WHY])
{
    unsigned char *at;

    memset(c, 0, sizeof(*c));
    c->cfg = *cfg;
    for (uint32_t g = 0; g < cfg->geometry->group_count; ++g)
        if (!make_group(c, g)) {
            snprintf(why, KVP_WHY, "no memory for the block tables");
            kvp_cache_free(c);
            return false;
        }
    c->memory = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->memory == MAP_FAILED) {
        c->memory = NULL;
        snprintf(why, KVP_WHY, "no memory for %.2f GB of KV cache: fewer --tokens or --parallel",
                 (double)c->bytes / 1e9);
        kvp_cache_free(c);
        return false;
    }
    (void)madvise(c->memory, c->bytes, MADV_HUGEPAGE);
    at = c->memory;
    for (uint32_t g = 0; g < cfg->geometry->group_count; ++g)
        lay_out(c, g, &at);
    return true;
}

void kvp_cache_free(struct kvp_cache *c)
{
    for (uint32_t g = 0; g < KVP_GROUPS_MAX; ++g) {
        free(c->groups[g].in_order);
        free(c->groups[g].shuffled);
        free(c->groups[g].layers);
        for (uint32_t p = 0; p < KVP_PARTS_MAX; ++p)
            free(c->groups[g].planes[p]);
    }
    if (c->memory != NULL)
        munmap(c->memory, c->bytes);
    memset(c, 0, sizeof(*c));
}

kvw_err kvp_cache_add(const struct kvp_cache *c, struct kvw_node *node, kvw_pool_id *pool,
                      char why[KVP_WHY])
{
    const struct kvp_geometry *g = c->cfg.geometry;
    struct kvw_part_desc parts[KVP_GROUPS_MAX][KVP_PARTS_MAX] = {0};
    struct kvw_group_desc groups[KVP_GROUPS_MAX] = {0};
    const struct kvw_mem mem = {
        .base = c->memory, .bytes = c->bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    struct kvw_pool_desc desc = {.size = sizeof(desc),
                                 .model_layers = g->layers,
                                 .name = g->name,
                                 .mem_count = 1,
                                 .mem_bytes = sizeof(mem),
                                 .mems = &mem,
                                 .group_count = g->group_count,
                                 .group_bytes = sizeof(groups[0]),
                                 .groups = groups};
    const kvw_key name = kvw_key_of(g->name);

    memcpy(desc.fingerprint, name.bytes, sizeof(desc.fingerprint));
    for (uint32_t i = 0; i < g->group_count; ++i) {
        const struct kvp_group *from = &g->groups[i];

        for (uint32_t p = 0; p < from->part_count; ++p)
            parts[i][p] = (struct kvw_part_desc){.name = from->parts[p].name,
                                                 .dtype = from->parts[p].dtype,
                                                 .row_bytes = from->parts[p].row_bytes,
                                                 .rows = share_of(c, i, p).rows,
                                                 .row_first = share_of(c, i, p).first,
                                                 .rows_model = from->parts[p].rows,
                                                 .plane_bytes = sizeof(struct kvw_plane),
                                                 .planes = c->groups[i].planes[p]};
        groups[i] = (struct kvw_group_desc){.kind = from->kind,
                                            .blocks = blocks_of(c, i),
                                            .block_entries = c->groups[i].block_entries,
                                            .entry_tokens = from->entry_tokens,
                                            .window_tokens = from->window_tokens,
                                            .layer_count = c->groups[i].layer_count,
                                            .layers = c->groups[i].layers,
                                            .part_count = from->part_count,
                                            .part_bytes = sizeof(struct kvw_part_desc),
                                            .parts = parts[i]};
    }
    return kvw_node_pool_add(node, &desc, pool, why, KVP_WHY);
}

uint32_t kvp_cache_blocks(const struct kvp_cache *c, uint32_t request, uint32_t tokens,
                          bool shuffled, bool wants, struct kvw_group_blocks *rows)
{
    const uint32_t count = c->cfg.geometry->group_count;

    for (uint32_t g = 0; g < count; ++g) {
        const struct kvp_cache_group *from = &c->groups[g];
        const bool row = group_of(c, g)->kind == KVW_GROUP_ROW;

        rows[g] = (struct kvw_group_blocks){
            .group = g,
            .block_count = blocks_needed(c, g, tokens),
            .blocks = (shuffled ? from->shuffled : from->in_order) + request * from->per_request,
            .token_first = row ? 0 : table_base(c, g, tokens) * group_of(c, g)->entry_tokens,
            .want_end = wants && !row ? tokens : 0,
        };
    }
    return count;
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* One entry of one part of one layer, where it lies. */
struct spot {
    struct kvp_entry_id id;
    const struct kvp_part *part;
    struct kvp_share rows;
    unsigned char *at;
    uint64_t row_stride;
};

typedef void each_fn(const struct spot *s, void *arg);

/* Call with each entry of a request. */
static void each_entry(const struct kvp_cache *c, uint32_t request, uint32_t tokens, bool shuffled,
                       each_fn *call, void *arg)
{
    struct kvw_group_blocks rows[KVP_GROUPS_MAX];
    const uint32_t count = kvp_cache_blocks(c, request, tokens, shuffled, false, rows);

    for (uint32_t g = 0; g < count; ++g) {
        const struct kvp_cache_group *of = &c->groups[g];
        const uint32_t base = table_base(c, g, tokens);
        uint32_t first, end;

        kvp_group_entries(group_of(c, g), tokens, &first, &end);
        for (uint32_t l = 0; l < of->layer_count; ++l)
            for (uint32_t p = 0; p < group_of(c, g)->part_count; ++p)
                for (uint32_t e = first; e < end; ++e) {
                    const struct kvw_plane *plane = &of->planes[p][l];
                    const struct spot s = {
                        .id = {request, g, p, of->layers[l], e},
                        .part = &group_of(c, g)->parts[p],
                        .rows = share_of(c, g, p),
                        .at = (unsigned char *)plane->base +
                              rows[g].blocks[(e - base) / of->block_entries] * plane->block_stride +
                              (e - base) % of->block_entries * plane->entry_stride,
                        .row_stride = plane->row_stride};

                    call(&s, arg);
                }
    }
}

struct filling {
    const struct kvp_payload *payload;
    unsigned char *entry; /* room for the longest */
    struct kvp_check found;
};

static void fill_entry(const struct spot *s, void *arg)
{
    const struct filling *f = arg;

    if (s->row_stride == s->part->row_bytes && s->rows.rows == s->part->rows) {
        kvp_payload_entry(f->payload, s->id, s->at);
        return;
    }
    kvp_payload_entry(f->payload, s->id, f->entry);
    for (uint32_t r = 0; r < s->rows.rows; ++r)
        memcpy(s->at + r * s->row_stride,
               f->entry + (uint64_t)(s->rows.first + r) * s->part->row_bytes, s->part->row_bytes);
}

static float value16(const unsigned char *at, uint32_t dtype)
{
    uint32_t bits = (uint32_t)(at[0] | at[1] << 8);
    float f;

    if (dtype == KVW_DTYPE_F16)
        bits = (bits & 0x8000) << 16 | (((bits & 0x7fff) << 13) + ((127u - 15u) << 23));
    else
        bits <<= 16;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Rows that differ: how many bytes do, and how much noise that is. */
static void look_closer(struct kvp_check *found, const struct kvp_part *part,
                        const unsigned char *is, const unsigned char *was)
{
    for (uint32_t i = 0; i < part->row_bytes; ++i)
        found->wrong += is[i] != was[i];
    if (part->dtype != KVW_DTYPE_BF16 && part->dtype != KVW_DTYPE_F16)
        return;
    for (uint32_t i = 0; i + 2 <= part->row_bytes; i += 2) {
        const double a = value16(is + i, part->dtype), b = value16(was + i, part->dtype);

        found->noise += (a - b) * (a - b);
        found->signal += b * b;
    }
}

static void check_entry(const struct spot *s, void *arg)
{
    struct filling *f = arg;

    kvp_payload_entry(f->payload, s->id, f->entry);
    for (uint32_t r = 0; r < s->rows.rows; ++r) {
        const unsigned char *was = f->entry + (uint64_t)(s->rows.first + r) * s->part->row_bytes;
        const unsigned char *is = s->at + r * s->row_stride;

        f->found.bytes += s->part->row_bytes;
        if (memcmp(is, was, s->part->row_bytes) != 0)
            look_closer(&f->found, s->part, is, was);
    }
}

static uint64_t longest_entry(const struct kvp_geometry *g)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < g->group_count; ++i)
        for (uint32_t p = 0; p < g->groups[i].part_count; ++p)
            if (kvp_part_entry_bytes(&g->groups[i].parts[p]) > most)
                most = kvp_part_entry_bytes(&g->groups[i].parts[p]);
    return most;
}

void kvp_cache_fill(struct kvp_cache *c, const struct kvp_payload *p, uint32_t request,
                    uint32_t tokens, bool shuffled)
{
    struct filling f = {.payload = p, .entry = malloc(longest_entry(c->cfg.geometry))};

    if (f.entry != NULL)
        each_entry(c, request, tokens, shuffled, fill_entry, &f);
    free(f.entry);
}

static void spoil_entry(const struct spot *s, void *arg)
{
    (void)arg;
    for (uint32_t r = 0; r < s->rows.rows; ++r)
        memset(s->at + r * s->row_stride, 0xa5, s->part->row_bytes);
}

void kvp_cache_spoil(struct kvp_cache *c, uint32_t request, uint32_t tokens, bool shuffled)
{
    each_entry(c, request, tokens, shuffled, spoil_entry, NULL);
}

struct kvp_check kvp_cache_check(const struct kvp_cache *c, const struct kvp_payload *p,
                                 uint32_t request, uint32_t tokens, bool shuffled)
{
    struct filling f = {.payload = p, .entry = malloc(longest_entry(c->cfg.geometry))};

    if (p->kind == KVP_PAYLOAD_FILE || f.entry == NULL) {
        free(f.entry);
        return (struct kvp_check){0};
    }
    each_entry(c, request, tokens, shuffled, check_entry, &f);
    free(f.entry);
    return f.found;
}

static void flip_first(const struct spot *s, void *arg)
{
    bool *done = arg;

    if (!*done)
        s->at[s->part->row_bytes / 2] ^= 0x10;
    *done = true;
}

void kvp_cache_flip(struct kvp_cache *c, uint32_t request, uint32_t tokens, bool shuffled)
{
    bool done = false;

    each_entry(c, request, tokens, shuffled, flip_first, &done);
}
