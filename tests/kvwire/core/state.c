/* SPDX-License-Identifier: Apache-2.0 */
/* Pools of any layout for tests: made, filled and compared by what their bytes mean. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

static uint32_t rows_here(const struct t_part *p)
{
    return p->rows_here != 0 ? p->rows_here : p->rows;
}

/* Bytes of one block of one part of one layer. */
static uint64_t block_bytes(const struct t_group *g, const struct t_part *p)
{
    return (uint64_t)g->block_entries * rows_here(p) * p->row_bytes;
}

static struct kvw_mem *new_mem(struct t_state *s, uint64_t bytes)
{
    struct kvw_mem *m = &s->mems[s->mem_count++];

    *m = (struct kvw_mem){
        .base = calloc(1, bytes), .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    return m;
}

/* The planes of one layer, from `at` on: the parts of a block side by side, or a plane each. */
static void lay_layer(struct t_state *s, uint32_t group, uint32_t layer_at, unsigned char *at)
{
    const struct t_group *g = &s->groups[group];
    uint64_t all = 0;

    for (uint32_t p = 0; p < g->part_count; ++p)
        all += block_bytes(g, &g->parts[p]);
    for (uint32_t p = 0; p < g->part_count; ++p) {
        const struct t_part *part = &g->parts[p];
        const uint64_t row = part->row_bytes, entry = row * rows_here(part);

        s->planes[group][p][layer_at] = (struct kvw_plane){
            .base = at,
            .block_stride = g->packed ? all : block_bytes(g, part),
            .entry_stride = g->rows_first ? row : entry,
            .row_stride = g->rows_first ? row * g->block_entries : row,
        };
        at += g->packed ? block_bytes(g, part) : block_bytes(g, part) * g->blocks;
    }
}

static void make_group(struct t_state *s, uint32_t group)
{
    const struct t_group *g = &s->groups[group];
    uint64_t layer_bytes = 0;
    unsigned char *at = NULL;

    for (uint32_t p = 0; p < g->part_count; ++p)
        layer_bytes += block_bytes(g, &g->parts[p]) * g->blocks;
    if (!g->own_tensors)
        at = new_mem(s, layer_bytes * g->layer_count)->base;
    for (uint32_t l = 0; l < g->layer_count; ++l)
        lay_layer(s, group, l,
                  g->own_tensors ? new_mem(s, layer_bytes)->base : at + l * layer_bytes);
    for (uint32_t p = 0; p < g->part_count; ++p) {
        const struct t_part *part = &g->parts[p];

        s->part_descs[group][p] = (struct kvw_part_desc){
            .name = part->name,
            .dtype = part->dtype,
            .row_bytes = part->row_bytes,
            .rows = rows_here(part),
            .row_first = part->row_first,
            .rows_model = part->rows,
            .plane_bytes = sizeof(struct kvw_plane),
            .planes = s->planes[group][p],
        };
    }
    s->group_descs[group] = (struct kvw_group_desc){
        .kind = g->kind,
        .blocks = g->blocks,
        .block_entries = g->block_entries,
        .entry_tokens = g->entry_tokens,
        .window_tokens = g->window_tokens,
        .layer_count = g->layer_count,
        .layers = g->layers,
        .part_count = g->part_count,
        .part_bytes = sizeof(struct kvw_part_desc),
        .parts = s->part_descs[group],
    };
}

void t_state_make(struct t_state *s)
{
    s->mem_count = 0;
    for (uint32_t g = 0; g < s->group_count; ++g)
        make_group(s, g);
    s->desc = (struct kvw_pool_desc){
        .size = sizeof(s->desc),
        .model_layers = s->model_layers,
        .fingerprint = "fifteen letters",
        .name = "a model of the tests",
        .mem_count = s->mem_count,
        .mem_bytes = sizeof(s->mems[0]),
        .mems = s->mems,
        .group_count = s->group_count,
        .group_bytes = sizeof(s->group_descs[0]),
        .groups = s->group_descs,
    };
}

void t_state_free(struct t_state *s)
{
    for (uint32_t i = 0; i < s->mem_count; ++i)
        free(s->mems[i].base);
}

void t_state_dense(struct t_state *s, uint32_t layers, uint32_t heads, uint32_t head_bytes,
                   uint32_t dtype, uint32_t block_entries, uint32_t blocks)
{
    struct t_group *g = &s->groups[0];

    memset(s, 0, sizeof(*s));
    s->model_layers = layers;
    s->group_count = 1;
    *g = (struct t_group){
        .kind = KVW_GROUP_PAGED,
        .block_entries = block_entries,
        .entry_tokens = 1,
        .blocks = blocks,
        .layer_count = layers,
        .part_count = 2,
        .parts = {{"k", dtype, head_bytes, heads, 0, 0}, {"v", dtype, head_bytes, heads, 0, 0}},
    };
    for (uint32_t l = 0; l < layers; ++l)
        g->layers[l] = l;
}

/* splitmix64's output function over what names a byte's eight neighbours. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint64_t row_seed(uint64_t what, uint32_t layer, const char *part, uint32_t entry,
                         uint32_t row)
{
    uint64_t x = mix(what + 0x9e3779b97f4a7c15ull);

    for (; *part != '\0'; ++part)
        x = mix(x + (uint64_t)*part);
    return mix(mix(x + layer) + ((uint64_t)entry << 32 | row));
}

static void row_bytes(uint64_t seed, uint32_t n, unsigned char *to)
{
    for (uint32_t i = 0; i < n; ++i)
        to[i] = (unsigned char)(mix(seed + i / 8) >> 8 * (i % 8));
}

/* Call with every row of entries [first, end): its place, and the bytes that belong there. */
static bool each_row(const struct t_state *s, uint32_t group, const uint32_t *blocks, uint32_t base,
                     uint32_t first, uint32_t end, uint64_t what,
                     bool (*row)(unsigned char *at, const unsigned char *bytes, uint32_t n))
{
    const struct t_group *g = &s->groups[group];
    unsigned char bytes[4096];

    for (uint32_t l = 0; l < g->layer_count; ++l)
        for (uint32_t p = 0; p < g->part_count; ++p)
            for (uint32_t e = first; e < end; ++e)
                for (uint32_t r = 0; r < rows_here(&g->parts[p]); ++r) {
                    const struct kvw_plane *k = &s->planes[group][p][l];
                    const uint32_t at = e - base;

                    row_bytes(row_seed(what, g->layers[l], g->parts[p].name, e,
                                       g->parts[p].row_first + r),
                              g->parts[p].row_bytes, bytes);
                    if (!row((unsigned char *)k->base +
                                 blocks[at / g->block_entries] * k->block_stride +
                                 at % g->block_entries * k->entry_stride + r * k->row_stride,
                             bytes, g->parts[p].row_bytes))
                        return false;
                }
    return true;
}

static bool copy_row(unsigned char *at, const unsigned char *bytes, uint32_t n)
{
    memcpy(at, bytes, n);
    return true;
}

static bool same_row(unsigned char *at, const unsigned char *bytes, uint32_t n)
{
    return memcmp(at, bytes, n) == 0;
}

void t_state_fill(struct t_state *s, uint32_t group, const uint32_t *blocks, uint32_t base,
                  uint32_t first, uint32_t end, uint64_t what)
{
    (void)each_row(s, group, blocks, base, first, end, what, copy_row);
}

bool t_state_is(const struct t_state *s, uint32_t group, const uint32_t *blocks, uint32_t base,
                uint32_t first, uint32_t end, uint64_t what)
{
    return each_row(s, group, blocks, base, first, end, what, same_row);
}

bool t_state_is_zero(const struct t_state *s)
{
    for (uint32_t i = 0; i < s->mem_count; ++i) {
        const unsigned char *p = s->mems[i].base;

        for (uint64_t k = 0; k < s->mems[i].bytes; ++k)
            if (p[k] != 0)
                return false;
    }
    return true;
}
