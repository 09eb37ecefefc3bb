/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3.6: what a pool holds, checked once for everybody, and the POOL message. */
#include "layout.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "fields.h"

/* --- memory: one block, cut up by what each group has ---------------------------------------- */

struct counts {
    uint32_t layers, parts;
};

static struct kvw_layout *layout_new(uint32_t group_count, const struct counts *counts)
{
    size_t parts = 0, layers = 0;
    struct kvw_layout_part *part;
    struct kvw_layout *l;
    uint16_t *layer;

    for (uint32_t g = 0; g < group_count; ++g) {
        parts += counts[g].parts;
        layers += counts[g].layers;
    }
    l = calloc(1, sizeof(*l) + group_count * sizeof(l->groups[0]) + parts * sizeof(*part) +
                      layers * sizeof(*layer));
    if (l == NULL)
        return NULL;
    l->group_count = group_count;
    l->groups = (struct kvw_layout_group *)(l + 1);
    part = (struct kvw_layout_part *)(l->groups + group_count);
    layer = (uint16_t *)(part + parts);
    for (uint32_t g = 0; g < group_count; ++g) {
        l->groups[g].parts = part;
        l->groups[g].part_count = counts[g].parts;
        l->groups[g].layers = layer;
        l->groups[g].layer_count = counts[g].layers;
        part += counts[g].parts;
        layer += counts[g].layers;
    }
    return l;
}

void kvw_layout_free(struct kvw_layout *l)
{
    free(l);
}

/* --- what is allowed -------------------------------------------------------------------------- */

struct range {
    const char *name;
    uint64_t value, min, max;
};

static bool ranges_hold(const struct range *r, size_t n, const char *prefix, char *why, size_t size)
{
    for (size_t i = 0; i < n; ++i)
        if (r[i].value < r[i].min || r[i].value > r[i].max) {
            snprintf(why, size, "%s%s is %llu, not in %llu to %llu", prefix, r[i].name,
                     (unsigned long long)r[i].value, (unsigned long long)r[i].min,
                     (unsigned long long)r[i].max);
            return false;
        }
    return true;
}

static uint32_t unit_bytes(uint32_t dtype)
{
    return dtype == KVW_DTYPE_BYTES || dtype == KVW_DTYPE_U4X2 ? 1
                                                               : kvw_dtype_bytes((kvw_dtype)dtype);
}

static bool part_is_sound(const struct kvw_layout_part *p, const char *at, char *why, size_t size)
{
    const struct range ranges[] = {
        {"dtype", p->dtype, KVW_DTYPE_F32, KVW_DTYPE_U4X2},
        {"row_bytes", p->row_bytes, 1, KVW_ROW_BYTES_MAX},
        {"rows", p->rows, 1, KVW_ROWS_MAX},
        {"rows_model", p->rows_model, 1, KVW_ROWS_MAX},
        {"row_first", p->row_first, 0, KVW_ROWS_MAX},
    };

    if (p->name[0] == '\0') {
        snprintf(why, size, "%sname is empty", at);
        return false;
    }
    if (!ranges_hold(ranges, sizeof(ranges) / sizeof(ranges[0]), at, why, size))
        return false;
    if (p->row_first + p->rows > p->rows_model) {
        snprintf(why, size, "%srow_first %u and rows %u end beyond rows_model %u", at, p->row_first,
                 p->rows, p->rows_model);
        return false;
    }
    if (p->row_bytes % unit_bytes(p->dtype) != 0) {
        snprintf(why, size, "%srow_bytes %u is no multiple of the dtype's %u", at, p->row_bytes,
                 unit_bytes(p->dtype));
        return false;
    }
    if (p->row_bytes > KVW_CHUNK_RAW_MAX) {
        snprintf(why, size, "%srow_bytes %u is more than a chunk holds, %u", at, p->row_bytes,
                 KVW_CHUNK_RAW_MAX);
        return false;
    }
    return true;
}

static bool kind_is_sound(const struct kvw_layout_group *g, const char *at, char *why, size_t size)
{
    const bool row = g->kind == KVW_GROUP_ROW, window = g->kind == KVW_GROUP_WINDOW;
    const struct range ranges[] = {
        {"kind", g->kind, KVW_GROUP_PAGED, KVW_GROUP_ROW},
        {"blocks", g->blocks, 1, KVW_POOL_BLOCKS_MAX},
        {"block_entries", g->block_entries, 1, row ? 1 : KVW_BLOCK_TOKENS_MAX},
        {"entry_tokens", g->entry_tokens, row ? 0 : 1, row ? 0 : KVW_XFER_TOKENS_MAX},
        {"window_tokens", g->window_tokens, window ? 1 : 0, window ? KVW_XFER_TOKENS_MAX : 0},
    };

    return ranges_hold(ranges, sizeof(ranges) / sizeof(ranges[0]), at, why, size);
}

static bool group_is_sound(const struct kvw_layout *l, uint32_t at, char *why, size_t size)
{
    const struct kvw_layout_group *g = &l->groups[at];
    char prefix[48];

    snprintf(prefix, sizeof(prefix), "groups[%u].", at);
    if (!kind_is_sound(g, prefix, why, size))
        return false;
    for (uint32_t i = 0; i < g->layer_count; ++i)
        if (g->layers[i] >= l->model_layers || (i > 0 && g->layers[i] <= g->layers[i - 1])) {
            snprintf(why, size, "%slayers[%u] is %u, not ascending below model_layers %u", prefix,
                     i, g->layers[i], l->model_layers);
            return false;
        }
    for (uint32_t p = 0; p < g->part_count; ++p) {
        snprintf(prefix, sizeof(prefix), "groups[%u].parts[%u].", at, p);
        if (!part_is_sound(&g->parts[p], prefix, why, size))
            return false;
        for (uint32_t q = 0; q < p; ++q)
            if (strcmp(g->parts[q].name, g->parts[p].name) == 0) {
                snprintf(why, size, "%sname \"%s\" is parts[%u]'s too", prefix, g->parts[p].name,
                         q);
                return false;
            }
    }
    return true;
}

/* Everything but the counts, which whoever made the layout has looked at. */
static bool layout_is_sound(const struct kvw_layout *l, char *why, size_t size)
{
    const struct range layers = {"model_layers", l->model_layers, 1, KVW_LAYERS_MAX};

    if (!ranges_hold(&layers, 1, "", why, size))
        return false;
    for (uint32_t g = 0; g < l->group_count; ++g)
        if (!group_is_sound(l, g, why, size))
            return false;
    return true;
}

/* --- from a description ----------------------------------------------------------------------- */

/* Element i of an array whose elements are `bytes` long for the caller, who may know a shorter or a
 * longer struct: zeros stand for what it doesn't know, and what we don't know must be zeros. */
static bool element(void *to, size_t known, const void *array, uint32_t bytes, uint32_t i)
{
    const uint8_t *from = (const uint8_t *)array + (size_t)i * bytes;

    memset(to, 0, known);
    memcpy(to, from, bytes < known ? bytes : known);
    return bytes <= known || kvw_field_zero(from + known, (uint32_t)(bytes - known));
}

static bool name_from(char to[KVW_NAME_MAX + 1], const char *from)
{
    const size_t n = from == NULL ? 0 : strnlen(from, KVW_NAME_MAX + 1);

    if (n > KVW_NAME_MAX)
        return false;
    kvw_field_text(to, (const uint8_t *)(from == NULL ? "" : from), (uint32_t)n);
    return from == NULL || strcmp(to, from) == 0;
}

static bool KVW_PRINTF(3, 4) fail(char *why, size_t size, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, size, format, args);
    va_end(args);
    return false;
}

static bool take_group_desc(struct kvw_group_desc *g, const struct kvw_pool_desc *desc, uint32_t at,
                            struct counts *counts, char *why, size_t size)
{
    char prefix[48];

    if (!element(g, sizeof(*g), desc->groups, desc->group_bytes, at))
        return fail(why, size, "groups[%u] has fields that this library doesn't know", at);
    const struct range ranges[] = {
        {"layer_count", g->layer_count, 1, KVW_LAYERS_MAX},
        {"layers", g->layers != NULL, 1, 1},
        {"part_count", g->part_count, 1, KVW_PARTS_MAX},
        {"part_bytes", g->part_bytes, 16, 4096},
        {"parts", g->parts != NULL, 1, 1},
    };

    snprintf(prefix, sizeof(prefix), "groups[%u].", at);
    *counts = (struct counts){g->layer_count, g->part_count};
    return ranges_hold(ranges, sizeof(ranges) / sizeof(ranges[0]), prefix, why, size);
}

static bool fill_group(struct kvw_layout_group *to, const struct kvw_group_desc *g, uint32_t at,
                       char *why, size_t size)
{
    to->kind = g->kind;
    to->blocks = g->blocks;
    to->block_entries = g->block_entries;
    to->entry_tokens = g->entry_tokens;
    to->window_tokens = g->window_tokens;
    for (uint32_t i = 0; i < g->layer_count; ++i) {
        if (g->layers[i] >= KVW_LAYERS_MAX)
            return fail(why, size, "groups[%u].layers[%u] is %u, not below %u", at, i, g->layers[i],
                        KVW_LAYERS_MAX);
        to->layers[i] = (uint16_t)g->layers[i];
    }
    for (uint32_t i = 0; i < g->part_count; ++i) {
        struct kvw_layout_part *part = &to->parts[i];
        struct kvw_part_desc p;

        if (!element(&p, sizeof(p), g->parts, g->part_bytes, i))
            return fail(why, size, "groups[%u].parts[%u] has fields that this library doesn't know",
                        at, i);
        if (!name_from(part->name, p.name))
            return fail(why, size, "groups[%u].parts[%u].name is not 1 to %u printable characters",
                        at, i, KVW_NAME_MAX);
        part->dtype = p.dtype;
        part->row_bytes = p.row_bytes;
        part->rows = p.rows;
        part->row_first = p.row_first;
        part->rows_model = p.rows_model;
    }
    return true;
}

kvw_err kvw_layout_of(struct kvw_layout **out, const struct kvw_pool_desc *desc, char *why,
                      size_t size)
{
    struct kvw_group_desc groups[KVW_GROUPS_MAX];
    struct counts counts[KVW_GROUPS_MAX];
    const struct range ranges[] = {
        {"group_count", desc->group_count, 1, KVW_GROUPS_MAX},
        {"group_bytes", desc->group_bytes, 16, 4096},
        {"groups", desc->groups != NULL, 1, 1},
    };
    struct kvw_layout *l;
    bool sound = true;

    if (!ranges_hold(ranges, sizeof(ranges) / sizeof(ranges[0]), "", why, size))
        return KVW_E_INVALID;
    for (uint32_t g = 0; g < desc->group_count; ++g)
        if (!take_group_desc(&groups[g], desc, g, &counts[g], why, size))
            return KVW_E_INVALID;
    if ((l = layout_new(desc->group_count, counts)) == NULL) {
        snprintf(why, size, "no memory");
        return KVW_E_NOMEM;
    }
    l->model_layers = desc->model_layers;
    memcpy(l->fingerprint, desc->fingerprint, sizeof(l->fingerprint));
    if (desc->name != NULL) /* for messages only: cut, and made printable */
        kvw_field_text(l->name, (const uint8_t *)desc->name,
                       (uint32_t)strnlen(desc->name, KVW_NAME_MAX));
    for (uint32_t g = 0; g < desc->group_count && sound; ++g)
        sound = fill_group(&l->groups[g], &groups[g], g, why, size);
    if (!sound || !layout_is_sound(l, why, size)) {
        kvw_layout_free(l);
        return KVW_E_INVALID;
    }
    *out = l;
    return KVW_OK;
}

/* --- to and from a POOL message --------------------------------------------------------------- */

/* Where a reader stands in a message; at == NULL: it ended before its fields did. */
struct cursor {
    const uint8_t *at, *end;
};

static const uint8_t *take(struct cursor *c, uint32_t n)
{
    const uint8_t *p = c->at;

    if (p == NULL || (size_t)(c->end - p) < n)
        return c->at = NULL;
    c->at += n;
    return p;
}

/* Runs of layers: each (first, count), ascending, with a gap before the next. Writes to `layers`
 * unless it is NULL; returns how many there are, 0: none, or not as they should be. */
static uint32_t read_runs(struct cursor *c, uint32_t runs, uint16_t *layers)
{
    uint32_t n = 0, next = 0;

    for (uint32_t i = 0; i < runs; ++i) {
        const uint8_t *p = take(c, 4);
        const uint32_t first = p != NULL ? kvw_load_le16(p) : 0;
        const uint32_t count = p != NULL ? kvw_load_le16(p + 2) : 0;

        if (count == 0 || first + count > KVW_LAYERS_MAX || (i > 0 && first <= next))
            return 0;
        for (uint32_t k = 0; k < count && layers != NULL; ++k)
            layers[n + k] = (uint16_t)(first + k);
        n += count;
        next = first + count;
    }
    return n;
}

/* One group; g NULL: only its counts. False: it isn't as it should be, or ends too early. */
static bool read_group(struct cursor *c, struct kvw_layout_group *g, struct counts *counts)
{
    const uint8_t *p = take(c, KVW_WIRE_GROUP_LEN);

    if (p == NULL)
        return false;
    if (g != NULL) {
        g->kind = p[0];
        g->block_entries = kvw_load_le32(p + 4);
        g->entry_tokens = kvw_load_le32(p + 8);
        g->window_tokens = kvw_load_le32(p + 12);
        g->blocks = kvw_load_le32(p + 16);
    }
    counts->parts = p[1];
    counts->layers = read_runs(c, kvw_load_le16(p + 2), g != NULL ? g->layers : NULL);
    if (counts->layers == 0 || counts->parts < 1 || counts->parts > KVW_PARTS_MAX)
        return false;
    for (uint32_t i = 0; i < counts->parts; ++i) {
        const uint8_t *q = take(c, KVW_WIRE_PART_LEN);
        const uint8_t *name = q != NULL ? take(c, q[0]) : NULL;

        if (name == NULL || q[0] > KVW_NAME_MAX || !kvw_field_zero(q + 2, 2))
            return false;
        if (g == NULL)
            continue;
        kvw_field_text(g->parts[i].name, name, q[0]);
        g->parts[i].dtype = q[1];
        g->parts[i].row_bytes = kvw_load_le32(q + 4);
        g->parts[i].rows = kvw_load_le32(q + 8);
        g->parts[i].row_first = kvw_load_le32(q + 12);
        g->parts[i].rows_model = kvw_load_le32(q + 16);
    }
    return true;
}

static bool read_groups(struct cursor c, struct kvw_layout *l, struct counts *counts, uint32_t n,
                        bool *left_over)
{
    for (uint32_t g = 0; g < n; ++g)
        if (!read_group(&c, l != NULL ? &l->groups[g] : NULL, &counts[g]))
            return false;
    *left_over = c.at != c.end;
    return true;
}

kvw_err kvw_layout_decode(struct kvw_layout **out, uint16_t *number, const uint8_t *msg,
                          uint32_t bytes, char *why, size_t size)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_POOL, KVW_WIRE_POOL_LEN);
    struct cursor c = {msg + KVW_WIRE_POOL_LEN, msg + bytes};
    struct counts counts[KVW_GROUPS_MAX];
    struct kvw_layout *l;
    bool left_over = false;

    snprintf(why, size, "POOL is malformed");
    if (err != KVW_OK)
        return err;
    if (msg[1] != 0 || msg[24] > KVW_NAME_MAX || msg[25] < 1 || msg[25] > KVW_GROUPS_MAX ||
        !kvw_field_zero(msg + 26, 2))
        return KVW_E_PROTOCOL;
    if (take(&c, msg[24]) == NULL)
        return KVW_E_TRUNCATED;
    if (!read_groups(c, NULL, counts, msg[25], &left_over) || left_over)
        return KVW_E_PROTOCOL;
    if ((l = layout_new(msg[25], counts)) == NULL)
        return KVW_E_NOMEM;
    l->model_layers = kvw_load_le32(msg + 4);
    memcpy(l->fingerprint, msg + 8, sizeof(l->fingerprint));
    kvw_field_text(l->name, msg + KVW_WIRE_POOL_LEN, msg[24]);
    if (!read_groups(c, l, counts, msg[25], &left_over) || !layout_is_sound(l, why, size)) {
        kvw_layout_free(l);
        return KVW_E_PROTOCOL;
    }
    *number = kvw_load_le16(msg + 2);
    *out = l;
    return KVW_OK;
}

static uint32_t count_runs(const struct kvw_layout_group *g)
{
    uint32_t runs = 1;

    for (uint32_t i = 1; i < g->layer_count; ++i)
        runs += g->layers[i] != g->layers[i - 1] + 1;
    return runs;
}

static uint8_t *write_runs(uint8_t *to, const struct kvw_layout_group *g)
{
    for (uint32_t i = 0, n; i < g->layer_count; i += n) {
        n = 1;
        while (i + n < g->layer_count && g->layers[i + n] == g->layers[i] + n)
            ++n;
        kvw_store_le16(to, g->layers[i]);
        kvw_store_le16(to + 2, (uint16_t)n);
        to += 4;
    }
    return to;
}

static uint8_t *write_group(uint8_t *to, const struct kvw_layout_group *g)
{
    to[0] = (uint8_t)g->kind;
    to[1] = (uint8_t)g->part_count;
    kvw_store_le16(to + 2, (uint16_t)count_runs(g));
    kvw_store_le32(to + 4, g->block_entries);
    kvw_store_le32(to + 8, g->entry_tokens);
    kvw_store_le32(to + 12, g->window_tokens);
    kvw_store_le32(to + 16, g->blocks);
    to = write_runs(to + KVW_WIRE_GROUP_LEN, g);
    for (uint32_t i = 0; i < g->part_count; ++i) {
        const struct kvw_layout_part *p = &g->parts[i];

        to[0] = (uint8_t)kvw_field_put_text(to + KVW_WIRE_PART_LEN, p->name, KVW_NAME_MAX);
        to[1] = (uint8_t)p->dtype;
        kvw_store_le16(to + 2, 0);
        kvw_store_le32(to + 4, p->row_bytes);
        kvw_store_le32(to + 8, p->rows);
        kvw_store_le32(to + 12, p->row_first);
        kvw_store_le32(to + 16, p->rows_model);
        to += KVW_WIRE_PART_LEN + to[0];
    }
    return to;
}

static uint64_t message_bytes(const struct kvw_layout *l)
{
    uint64_t bytes = KVW_WIRE_POOL_LEN + strlen(l->name);

    for (uint32_t g = 0; g < l->group_count; ++g) {
        bytes += KVW_WIRE_GROUP_LEN + 4ull * count_runs(&l->groups[g]);
        for (uint32_t p = 0; p < l->groups[g].part_count; ++p)
            bytes += KVW_WIRE_PART_LEN + strlen(l->groups[g].parts[p].name);
    }
    return bytes;
}

uint32_t kvw_layout_encode(uint8_t to[KVW_MSG_BYTES_MAX], uint16_t number,
                           const struct kvw_layout *l)
{
    uint8_t *end;

    if (message_bytes(l) > KVW_MSG_BYTES_MAX)
        return 0;
    memset(to, 0, KVW_WIRE_POOL_LEN);
    to[0] = KVW_WIRE_POOL;
    kvw_store_le16(to + 2, number);
    kvw_store_le32(to + 4, l->model_layers);
    memcpy(to + 8, l->fingerprint, sizeof(l->fingerprint));
    to[24] = (uint8_t)kvw_field_put_text(to + KVW_WIRE_POOL_LEN, l->name, KVW_NAME_MAX);
    to[25] = (uint8_t)l->group_count;
    end = to + KVW_WIRE_POOL_LEN + to[24];
    for (uint32_t g = 0; g < l->group_count; ++g)
        end = write_group(end, &l->groups[g]);
    assert((uint64_t)(end - to) == message_bytes(l));
    return (uint32_t)(end - to);
}

kvw_err kvw_pool_gone_decode(uint16_t *number, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_POOL, KVW_WIRE_POOL_GONE_LEN);

    if (err != KVW_OK)
        return err;
    if (msg[1] != 1)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_POOL_GONE_LEN)) != KVW_OK)
        return err;
    *number = kvw_load_le16(msg + 2);
    return KVW_OK;
}

uint32_t kvw_pool_gone_encode(uint8_t *to, uint16_t number)
{
    to[0] = KVW_WIRE_POOL;
    to[1] = 1;
    kvw_store_le16(to + 2, number);
    return KVW_WIRE_POOL_GONE_LEN;
}

/* --- what others ask of a layout -------------------------------------------------------------- */

uint32_t kvw_layout_layer(const struct kvw_layout_group *g, uint32_t layer)
{
    uint32_t low = 0, high = g->layer_count;

    while (low < high) {
        const uint32_t mid = (low + high) / 2;

        if (g->layers[mid] < layer)
            low = mid + 1;
        else
            high = mid;
    }
    return low < g->layer_count && g->layers[low] == layer ? low : KVW_LAYERS_MAX;
}

void kvw_layout_entries(const struct kvw_layout_group *g, uint32_t tokens, uint32_t token_first,
                        uint32_t token_end, uint32_t *first, uint32_t *end)
{
    if (g->kind == KVW_GROUP_ROW) {
        *first = 0;
        *end = 1;
        return;
    }
    if (g->kind == KVW_GROUP_WINDOW && tokens > g->window_tokens &&
        token_first < tokens - g->window_tokens)
        token_first = tokens - g->window_tokens;
    if (token_first >= token_end) {
        *first = *end = 0;
        return;
    }
    *first = token_first / g->entry_tokens;
    *end = (token_end - 1) / g->entry_tokens + 1;
}
