/* SPDX-License-Identifier: Apache-2.0 */
/* geometry.c - how many bytes a model's state has, and whether a geometry makes sense. */
#include "geometry.h"

#include <stdio.h>
#include <string.h>

bool kvp_group_has(const struct kvp_group *g, uint32_t layer)
{
    return g->pattern[layer % strlen(g->pattern)] == '1';
}

void kvp_group_entries(const struct kvp_group *g, uint32_t tokens, uint32_t *first, uint32_t *end)
{
    uint32_t from = 0;

    *first = 0;
    *end = 1;
    if (g->kind == KVW_GROUP_ROW)
        return;
    if (g->kind == KVW_GROUP_WINDOW && tokens > g->window_tokens)
        from = tokens - g->window_tokens;
    *first = from / g->entry_tokens;
    *end = (tokens - 1) / g->entry_tokens + 1;
}

uint64_t kvp_part_entry_bytes(const struct kvp_part *p)
{
    return (uint64_t)p->rows * p->row_bytes;
}

uint64_t kvp_geometry_layer_bytes(const struct kvp_geometry *g, uint32_t layer, uint32_t tokens)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < g->group_count; ++i) {
        const struct kvp_group *group = &g->groups[i];
        uint32_t first, end;

        if (!kvp_group_has(group, layer))
            continue;
        kvp_group_entries(group, tokens, &first, &end);
        for (uint32_t p = 0; p < group->part_count; ++p)
            bytes += kvp_part_entry_bytes(&group->parts[p]) * (end - first);
    }
    return bytes;
}

uint64_t kvp_geometry_bytes(const struct kvp_geometry *g, uint32_t tokens)
{
    uint64_t bytes = 0;

    for (uint32_t l = 0; l < g->layers; ++l)
        bytes += kvp_geometry_layer_bytes(g, l, tokens);
    return bytes;
}

static bool in_range(const char *field, double value, double min, double max, char *why)
{
    if (value >= min && value <= max)
        return true;
    snprintf(why, KVP_WHY, "geometry: %s is %g, not %g to %g", field, value, min, max);
    return false;
}

static bool group_is_sound(const struct kvp_geometry *g, uint32_t i, char *why)
{
    const struct kvp_group *group = &g->groups[i];
    const bool row = group->kind == KVW_GROUP_ROW;
    const bool window = group->kind == KVW_GROUP_WINDOW;
    uint32_t held = 0;

    if (!in_range("groups[].kind", group->kind, KVW_GROUP_PAGED, KVW_GROUP_ROW, why) ||
        !in_range("groups[].entry_tokens", group->entry_tokens, row ? 0 : 1, row ? 0 : 1024, why) ||
        !in_range("groups[].window_tokens", group->window_tokens, window, window ? 1 << 22 : 0,
                  why) ||
        !in_range("the number of groups[].parts", group->part_count, 1, KVP_PARTS_MAX, why))
        return false;
    if (group->pattern[0] == '\0' ||
        strspn(group->pattern, "01") != strnlen(group->pattern, sizeof(group->pattern))) {
        snprintf(why, KVP_WHY, "geometry: groups[].pattern is '%s', not zeros and ones",
                 group->pattern);
        return false;
    }
    for (uint32_t l = 0; l < g->layers; ++l)
        held += kvp_group_has(group, l);
    if (!in_range("the number of layers that a groups[].pattern names", held, 1, g->layers, why))
        return false;
    for (uint32_t p = 0; p < group->part_count; ++p) {
        const struct kvp_part *part = &group->parts[p];

        if (part->name[0] == '\0') {
            snprintf(why, KVP_WHY, "geometry: groups[].parts[].name is empty");
            return false;
        }
        if (!in_range("groups[].parts[].rows", part->rows, 1, KVW_ROWS_MAX, why) ||
            !in_range("groups[].parts[].row_bytes", part->row_bytes, 1, KVW_ROW_BYTES_MAX, why))
            return false;
    }
    return true;
}

bool kvp_geometry_check(const struct kvp_geometry *g, char why[KVP_WHY])
{
    if (!in_range("layers", g->layers, 1, KVW_LAYERS_MAX, why) ||
        !in_range("prefill_tok_s", g->prefill_tok_s, 1e-3, 1e12, why) ||
        !in_range("the number of groups", g->group_count, 1, KVP_GROUPS_MAX, why))
        return false;
    for (uint32_t i = 0; i < g->group_count; ++i)
        if (!group_is_sound(g, i, why))
            return false;
    for (uint32_t l = 0; l < g->layers; ++l)
        if (kvp_geometry_layer_bytes(g, l, 1) == 0) {
            snprintf(why, KVP_WHY, "geometry: layer %u is in no group", l);
            return false;
        }
    return true;
}

/* --- element types ---------------------------------------------------------------------------- */

static bool retype_fp8(struct kvp_part *p)
{
    if (p->dtype == KVW_DTYPE_BF16 || p->dtype == KVW_DTYPE_F16) {
        p->dtype = KVW_DTYPE_F8_E4M3;
        p->row_bytes /= 2;
    }
    return true;
}

/* Values of four bits, and a scale of a byte for each 16 of them in a part beside. */
static bool retype_nvfp4(struct kvp_group *g, uint32_t at, char *why)
{
    struct kvp_part *p = &g->parts[at], *scale;
    char name[sizeof(p->name)];

    if (p->dtype != KVW_DTYPE_BF16 && p->dtype != KVW_DTYPE_F16)
        return true;
    if (p->row_bytes % 32 != 0 || g->part_count == KVP_PARTS_MAX) {
        snprintf(why, KVP_WHY,
                 "--dtype nvfp4: a row of part %s has %u values, not a multiple of 16", p->name,
                 p->row_bytes / 2);
        return false;
    }
    snprintf(name, sizeof(name), "%.16s_scale", p->name);
    scale = &g->parts[g->part_count++];
    *scale = *p;
    memcpy(scale->name, name, sizeof(name));
    scale->dtype = KVW_DTYPE_BYTES;
    scale->row_bytes = p->row_bytes / 32;
    p->dtype = KVW_DTYPE_U4X2;
    p->row_bytes /= 4;
    return true;
}

bool kvp_geometry_retype(struct kvp_geometry *g, const char *dtype, char why[KVP_WHY])
{
    const bool fp8 = strcmp(dtype, "fp8") == 0, nvfp4 = strcmp(dtype, "nvfp4") == 0;
    bool ok = true;

    if (!fp8 && !nvfp4 && strcmp(dtype, "bf16") != 0) {
        snprintf(why, KVP_WHY, "--dtype %s: it is bf16, fp8 or nvfp4", dtype);
        return false;
    }
    for (uint32_t i = 0; i < g->group_count; ++i) {
        const uint32_t parts = g->groups[i].part_count;

        if (g->groups[i].kind == KVW_GROUP_ROW) /* recurrent state stays as wide as it is */
            continue;
        for (uint32_t p = 0; p < parts && ok; ++p) {
            if (fp8)
                ok = retype_fp8(&g->groups[i].parts[p]);
            else if (nvfp4)
                ok = retype_nvfp4(&g->groups[i], p, why);
        }
    }
    return ok;
}

struct kvp_share kvp_part_share(const struct kvp_part *p, uint32_t of, uint32_t shards)
{
    if (p->rows >= shards)
        return (struct kvp_share){of * (p->rows / shards), p->rows / shards};
    return (struct kvp_share){of * p->rows / shards, 1};
}

bool kvp_geometry_shares(const struct kvp_geometry *g, uint32_t shards, char why[KVP_WHY])
{
    for (uint32_t i = 0; i < g->group_count; ++i)
        for (uint32_t k = 0; k < g->groups[i].part_count; ++k) {
            const struct kvp_part *p = &g->groups[i].parts[k];

            if (p->rows % shards == 0 || shards % p->rows == 0)
                continue;
            snprintf(why, KVP_WHY,
                     "--tp %u: part %s of %.60s has %u rows, neither a multiple nor a "
                     "divisor of that",
                     shards, p->name, g->name, p->rows);
            return false;
        }
    return true;
}

bool kvp_geometry_meet(const struct kvp_geometry *g, uint32_t a, uint32_t as, uint32_t b,
                       uint32_t bs)
{
    for (uint32_t i = 0; i < g->group_count; ++i)
        for (uint32_t k = 0; k < g->groups[i].part_count; ++k) {
            const struct kvp_share x = kvp_part_share(&g->groups[i].parts[k], a, as);
            const struct kvp_share y = kvp_part_share(&g->groups[i].parts[k], b, bs);

            if (x.first < y.first + y.rows && y.first < x.first + x.rows)
                return true;
        }
    return false;
}

const char *kvp_dtype_name(uint32_t dtype)
{
    static const char *const names[] = {"?",        "f32",      "f16",   "bf16",
                                        "fp8_e4m3", "fp8_e5m2", "bytes", "u4x2"};

    return dtype < sizeof(names) / sizeof(names[0]) ? names[dtype] : names[0];
}
