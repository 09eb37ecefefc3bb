/* SPDX-License-Identifier: Apache-2.0 */
/* A pool's planes: checked against the pool's memory once, so that no view can lead outside. */
#include "place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Element i of a caller's array whose structs may be shorter or longer than ours (pool.h). Longer
 * ones were refused by kvw_layout_of() if their tail isn't zero; planes and mems are looked at
 * here. */
static bool element(void *to, size_t known, const void *array, uint32_t bytes, uint32_t i)
{
    const unsigned char *from = (const unsigned char *)array + (size_t)i * bytes;

    memset(to, 0, known);
    memcpy(to, from, bytes < known ? bytes : known);
    for (size_t k = known; k < bytes; ++k)
        if (from[k] != 0)
            return false;
    return true;
}

/* *end += (count - 1) * stride; false when that leaves 64 bits. */
static bool extend(uint64_t *end, uint32_t count, uint64_t stride)
{
    uint64_t span;

    return !__builtin_mul_overflow((uint64_t)(count - 1), stride, &span) &&
           !__builtin_add_overflow(*end, span, end);
}

static bool inside(const struct kvw_place *p, const struct kvw_plane *plane,
                   const struct kvw_layout_group *g, const struct kvw_layout_part *part)
{
    const uint64_t at = (uint64_t)(uintptr_t)plane->base;
    uint64_t bytes = part->row_bytes;

    if (!extend(&bytes, g->blocks, plane->block_stride) ||
        !extend(&bytes, g->block_entries, plane->entry_stride) ||
        !extend(&bytes, part->rows, plane->row_stride))
        return false;
    for (uint32_t m = 0; m < p->mem_count; ++m) {
        const uint64_t base = (uint64_t)(uintptr_t)p->mems[m].base;

        if (at >= base && at - base <= p->mems[m].bytes && bytes <= p->mems[m].bytes - (at - base))
            return true;
    }
    return false;
}

static kvw_err take_plane(struct kvw_place *p, const struct kvw_part_desc *d, uint32_t group,
                          uint32_t part, uint32_t layer, char *why, size_t size)
{
    const struct kvw_layout_group *g = &p->layout->groups[group];
    struct kvw_plane *to = &p->planes[group][part * g->layer_count + layer];

    if (!element(to, sizeof(*to), d->planes, d->plane_bytes, layer)) {
        snprintf(why, size,
                 "groups[%u].parts[%u].planes[%u] has fields that this library doesn't know", group,
                 part, layer);
        return KVW_E_INVALID;
    }
    if (to->value_stride != 0) {
        snprintf(why, size,
                 "groups[%u].parts[%u].planes[%u].value_stride is %llu: values that don't lie side "
                 "by side are not mapped by this version",
                 group, part, layer, (unsigned long long)to->value_stride);
        return KVW_E_UNSUPPORTED;
    }
    if (to->base == NULL || !inside(p, to, g, &g->parts[part])) {
        snprintf(why, size, "groups[%u].parts[%u].planes[%u] leads outside of mems", group, part,
                 layer);
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

static kvw_err take_planes(struct kvw_place *p, const struct kvw_pool_desc *desc, char *why,
                           size_t size)
{
    for (uint32_t g = 0; g < p->layout->group_count; ++g) {
        struct kvw_group_desc group;

        (void)element(&group, sizeof(group), desc->groups, desc->group_bytes, g);
        for (uint32_t i = 0; i < group.part_count; ++i) {
            struct kvw_part_desc part;
            kvw_err err = KVW_OK;

            (void)element(&part, sizeof(part), group.parts, group.part_bytes, i);
            if (part.planes == NULL || part.plane_bytes < 16 || part.plane_bytes > 4096) {
                snprintf(why, size, "groups[%u].parts[%u].%s", g, i,
                         part.planes == NULL ? "planes is NULL" : "plane_bytes is not a plane's");
                return KVW_E_INVALID;
            }
            for (uint32_t l = 0; l < group.layer_count && err == KVW_OK; ++l)
                err = take_plane(p, &part, g, i, l, why, size);
            if (err != KVW_OK)
                return err;
        }
    }
    return KVW_OK;
}

static kvw_err take_mems(struct kvw_place *p, const struct kvw_pool_desc *desc, char *why,
                         size_t size)
{
    for (uint32_t m = 0; m < p->mem_count; ++m) {
        if (!element(&p->mems[m], sizeof(p->mems[m]), desc->mems, desc->mem_bytes, m) ||
            p->mems[m].base == NULL || p->mems[m].bytes == 0) {
            snprintf(why, size, "mems[%u] is empty, or has fields that this library doesn't know",
                     m);
            return KVW_E_INVALID;
        }
        if (p->mems[m].kind != p->mems[0].kind) {
            snprintf(why, size, "mems[%u].kind differs from mems[0].kind", m);
            return KVW_E_UNSUPPORTED;
        }
    }
    p->kind = p->mems[0].kind;
    if (p->kind == KVW_MEM_HOST || p->kind == KVW_MEM_CUDA)
        return KVW_OK;
    snprintf(why, size, "mems[0].kind is %u", p->kind);
    return KVW_E_INVALID;
}

/* One block: the struct, the table of groups, mems, planes. */
static struct kvw_place *place_new(struct kvw_layout *l, uint32_t mem_count)
{
    size_t planes = 0;
    struct kvw_plane *plane;
    struct kvw_place *p;

    for (uint32_t g = 0; g < l->group_count; ++g)
        planes += (size_t)l->groups[g].layer_count * l->groups[g].part_count;
    p = calloc(1, sizeof(*p) + l->group_count * sizeof(p->planes[0]) +
                      mem_count * sizeof(p->mems[0]) + planes * sizeof(*plane));
    if (p == NULL)
        return NULL;
    p->planes = (struct kvw_plane **)(p + 1);
    p->mems = (struct kvw_mem *)(p->planes + l->group_count);
    p->mem_count = mem_count;
    p->layout = l;
    plane = (struct kvw_plane *)(p->mems + mem_count);
    for (uint32_t g = 0; g < l->group_count; ++g) {
        p->planes[g] = plane;
        plane += (size_t)l->groups[g].layer_count * l->groups[g].part_count;
    }
    return p;
}

kvw_err kvw_place_make(struct kvw_place **out, const struct kvw_pool_desc *caller, char *why,
                       size_t size)
{
    struct kvw_pool_desc desc;
    struct kvw_layout *l;
    struct kvw_place *p;
    kvw_err err;

    if (caller->size < 64 || caller->size > 4096 ||
        !element(&desc, sizeof(desc), caller, caller->size, 0)) {
        snprintf(why, size, "size %u is not that of a description this library knows",
                 caller->size);
        return KVW_E_INVALID;
    }
    if (desc.mems == NULL || desc.mem_count < 1 || desc.mem_count > KVW_MEMS_MAX ||
        desc.mem_bytes < 16 || desc.mem_bytes > 4096) {
        snprintf(why, size, "mem_count is %u, not 1 to %u, or mems or mem_bytes is missing",
                 desc.mem_count, KVW_MEMS_MAX);
        return KVW_E_INVALID;
    }
    if ((err = kvw_layout_of(&l, &desc, why, size)) != KVW_OK)
        return err;
    if ((p = place_new(l, desc.mem_count)) == NULL) {
        snprintf(why, size, "no memory");
        kvw_layout_free(l);
        return KVW_E_NOMEM;
    }
    if ((err = take_mems(p, &desc, why, size)) != KVW_OK ||
        (err = take_planes(p, &desc, why, size)) != KVW_OK) {
        kvw_place_free(p);
        return err;
    }
    *out = p;
    return KVW_OK;
}

void kvw_place_free(struct kvw_place *p)
{
    if (p == NULL)
        return;
    kvw_layout_free(p->layout);
    free(p);
}

/* --- flat ------------------------------------------------------------------------------------- */

#define PLANE_ALIGN 64u

static uint64_t plane_bytes(const struct kvw_layout_part *part, uint32_t entries)
{
    const uint64_t bytes = (uint64_t)entries * part->rows * part->row_bytes;

    return (bytes + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
}

uint64_t kvw_place_flat_bytes(const struct kvw_layout *l, const uint32_t *entries)
{
    uint64_t bytes = 0;

    for (uint32_t g = 0; g < l->group_count; ++g)
        for (uint32_t p = 0; p < l->groups[g].part_count; ++p)
            bytes += l->groups[g].layer_count * plane_bytes(&l->groups[g].parts[p], entries[g]);
    return bytes;
}

struct kvw_place *kvw_place_flat(const struct kvw_place *like, const uint32_t *entries,
                                 unsigned char *mem)
{
    struct kvw_place *to = place_new(like->layout, 0);

    if (to == NULL)
        return NULL;
    to->kind = KVW_MEM_HOST;
    for (uint32_t g = 0; g < to->layout->group_count; ++g) {
        const struct kvw_layout_group *group = &to->layout->groups[g];

        for (uint32_t i = 0; i < group->part_count * group->layer_count; ++i) {
            const struct kvw_layout_part *part = &group->parts[i / group->layer_count];
            const uint64_t entry_bytes = (uint64_t)part->rows * part->row_bytes;

            to->planes[g][i] =
                (struct kvw_plane){.base = mem,
                                   .block_stride = group->block_entries * entry_bytes,
                                   .entry_stride = entry_bytes,
                                   .row_stride = part->row_bytes};
            mem += plane_bytes(part, entries[g]);
        }
    }
    return to;
}

void kvw_place_flat_free(struct kvw_place *p)
{
    free(p);
}

struct kvw_view kvw_place_view(const struct kvw_place *p, const struct kvw_piece *piece)
{
    const struct kvw_layout_group *g = &p->layout->groups[piece->group];
    const struct kvw_layout_part *part = &g->parts[piece->part];
    const struct kvw_plane *plane =
        &p->planes[piece->group][piece->part * g->layer_count + piece->layer_at];

    return (struct kvw_view){
        .base = (unsigned char *)plane->base + piece->row_at * plane->row_stride,
        .blocks = piece->blocks,
        .block_tokens = g->block_entries,
        .first_token = piece->entry_first,
        .tokens = piece->entries,
        .heads = piece->rows,
        .head_bytes = part->row_bytes,
        .dtype = (kvw_dtype)part->dtype,
        .block_stride = plane->block_stride,
        .token_stride = plane->entry_stride,
        .head_stride = plane->row_stride,
    };
}
