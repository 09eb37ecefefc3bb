/* SPDX-License-Identifier: Apache-2.0 */
/* geometry_json.c - a geometry as JSON: for --geometry FILE, and for the server. README.md has an
 * example. What is read is checked field by field; it may come from a stranger. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "geometry.h"

#define FILE_MAX (1u << 20)

static const char *const kinds[] = {"", "paged", "window", "row"};

static cJSON *part_to_json(const struct kvp_part *p)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "name", p->name);
    cJSON_AddStringToObject(o, "dtype", kvp_dtype_name(p->dtype));
    cJSON_AddNumberToObject(o, "row_bytes", p->row_bytes);
    cJSON_AddNumberToObject(o, "rows", p->rows);
    return o;
}

cJSON *kvp_geometry_to_json(const struct kvp_geometry *g)
{
    cJSON *o = cJSON_CreateObject(), *groups;

    cJSON_AddStringToObject(o, "name", g->name);
    cJSON_AddNumberToObject(o, "layers", g->layers);
    cJSON_AddNumberToObject(o, "prefill_tok_s", g->prefill_tok_s);
    cJSON_AddStringToObject(o, "clock", g->clock);
    groups = cJSON_AddArrayToObject(o, "groups");
    for (uint32_t i = 0; i < g->group_count; ++i) {
        const struct kvp_group *from = &g->groups[i];
        cJSON *to = cJSON_CreateObject(), *parts;

        cJSON_AddStringToObject(to, "kind", kinds[from->kind]);
        cJSON_AddStringToObject(to, "pattern", from->pattern);
        cJSON_AddNumberToObject(to, "entry_tokens", from->entry_tokens);
        cJSON_AddNumberToObject(to, "window_tokens", from->window_tokens);
        parts = cJSON_AddArrayToObject(to, "parts");
        for (uint32_t p = 0; p < from->part_count; ++p)
            cJSON_AddItemToArray(parts, part_to_json(&from->parts[p]));
        cJSON_AddItemToArray(groups, to);
    }
    return o;
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool wrong(char *why, const char *field, const char *must)
{
    snprintf(why, KVP_WHY, "geometry: %s must be %s", field, must);
    return false;
}

/* One that isn't read would be one that changes nothing in silence. */
static bool knows_all(const cJSON *o, const char *of, const char *const *names, char *why)
{
    const cJSON *field;

    cJSON_ArrayForEach(field, o)
    {
        uint32_t i = 0;

        while (names[i] != NULL && (field->string == NULL || strcmp(field->string, names[i]) != 0))
            ++i;
        if (names[i] != NULL)
            continue;
        snprintf(why, KVP_WHY, "geometry: %.40s is no field of %s",
                 field->string != NULL ? field->string : "a list", of);
        return false;
    }
    return true;
}

/* A whole number; absent: what *to holds. */
static bool whole(const cJSON *o, const char *field, uint32_t *to, char *why)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, field);

    if (v == NULL)
        return true;
    if (!cJSON_IsNumber(v) || v->valuedouble < 0 || v->valuedouble > UINT32_MAX ||
        v->valuedouble != (double)(uint32_t)v->valuedouble)
        return wrong(why, field, "a whole number");
    *to = (uint32_t)v->valuedouble;
    return true;
}

/* A text that fits; absent: what *to holds. */
static bool text(const cJSON *o, const char *field, char *to, size_t size, char *why)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, field);

    if (v == NULL)
        return true;
    if (!cJSON_IsString(v) || strlen(v->valuestring) >= size)
        return wrong(why, field, "a text, and shorter");
    snprintf(to, size, "%s", v->valuestring);
    return true;
}

static bool take_part(struct kvp_part *p, const cJSON *o, char *why)
{
    static const char *const names[] = {"name", "dtype", "row_bytes", "rows", NULL};
    char dtype[16] = "bf16";

    if (!knows_all(o, "groups[].parts[]", names, why) ||
        !text(o, "name", p->name, sizeof(p->name), why) ||
        !text(o, "dtype", dtype, sizeof(dtype), why) ||
        !whole(o, "row_bytes", &p->row_bytes, why) || !whole(o, "rows", &p->rows, why))
        return false;
    for (uint32_t d = KVW_DTYPE_F32; d <= KVW_DTYPE_U4X2; ++d)
        if (strcmp(dtype, kvp_dtype_name(d)) == 0)
            p->dtype = d;
    return p->dtype != 0 || wrong(why, "groups[].parts[].dtype",
                                  "f32, f16, bf16, fp8_e4m3, fp8_e5m2, bytes or u4x2");
}

static bool take_group(struct kvp_group *g, const cJSON *o, char *why)
{
    static const char *const names[] = {"kind",          "pattern", "entry_tokens",
                                        "window_tokens", "parts",   NULL};
    const cJSON *parts = cJSON_GetObjectItemCaseSensitive(o, "parts"), *part;
    char kind[16] = "paged";

    snprintf(g->pattern, sizeof(g->pattern), "1");
    if (!knows_all(o, "groups[]", names, why) || !text(o, "kind", kind, sizeof(kind), why))
        return false;
    for (uint32_t k = KVW_GROUP_PAGED; k <= KVW_GROUP_ROW; ++k)
        if (strcmp(kind, kinds[k]) == 0)
            g->kind = k;
    if (g->kind == 0)
        return wrong(why, "groups[].kind", "paged, window or row");
    g->entry_tokens = g->kind == KVW_GROUP_ROW ? 0 : 1;
    if (!text(o, "pattern", g->pattern, sizeof(g->pattern), why) ||
        !whole(o, "entry_tokens", &g->entry_tokens, why) ||
        !whole(o, "window_tokens", &g->window_tokens, why))
        return false;
    if (!cJSON_IsArray(parts))
        return wrong(why, "groups[].parts", "a list");
    cJSON_ArrayForEach(part, parts)
    {
        if (g->part_count == KVP_PARTS_MAX)
            return wrong(why, "groups[].parts", "at most 8");
        if (!take_part(&g->parts[g->part_count++], part, why))
            return false;
    }
    return true;
}

bool kvp_geometry_from_json(struct kvp_geometry *g, const cJSON *json, char why[KVP_WHY])
{
    static const char *const names[] = {"name", "layers", "prefill_tok_s", "clock", "groups", NULL};
    const cJSON *groups = cJSON_GetObjectItemCaseSensitive(json, "groups"), *group;
    const cJSON *rate = cJSON_GetObjectItemCaseSensitive(json, "prefill_tok_s");

    memset(g, 0, sizeof(*g));
    snprintf(g->name, sizeof(g->name), "unnamed");
    snprintf(g->clock, sizeof(g->clock), "as stated");
    if (!knows_all(json, "a geometry", names, why) ||
        !text(json, "name", g->name, sizeof(g->name), why) ||
        !text(json, "clock", g->clock, sizeof(g->clock), why) ||
        !whole(json, "layers", &g->layers, why))
        return false;
    if (!cJSON_IsNumber(rate))
        return wrong(why, "prefill_tok_s", "a number");
    g->prefill_tok_s = rate->valuedouble;
    if (!cJSON_IsArray(groups))
        return wrong(why, "groups", "a list");
    cJSON_ArrayForEach(group, groups)
    {
        if (g->group_count == KVP_GROUPS_MAX)
            return wrong(why, "groups", "at most 6");
        if (!take_group(&g->groups[g->group_count++], group, why))
            return false;
    }
    return kvp_geometry_check(g, why);
}

bool kvp_geometry_from_file(struct kvp_geometry *g, const char *path, char why[KVP_WHY])
{
    FILE *f = fopen(path, "r");
    char *bytes = f != NULL ? malloc(FILE_MAX + 1) : NULL;
    cJSON *json = NULL;
    char inner[KVP_WHY];
    size_t n = 0;
    bool ok = false;

    if (bytes == NULL) {
        snprintf(why, KVP_WHY, "--geometry %s: %s", path, strerror(errno));
    } else {
        n = fread(bytes, 1, FILE_MAX, f);
        bytes[n] = '\0';
        json = cJSON_ParseWithOpts(bytes, NULL, true);
        if (json == NULL || strlen(bytes) != n)
            snprintf(why, KVP_WHY, "--geometry %s: it is not JSON", path);
        else if (!(ok = kvp_geometry_from_json(g, json, inner)))
            snprintf(why, KVP_WHY, "--geometry %.80s: %.150s", path, inner);
    }
    cJSON_Delete(json);
    free(bytes);
    if (f != NULL)
        fclose(f);
    return ok;
}
