/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf_split.c - a model in several files: NAME-00001-of-0000N.gguf has the keys, each file has
 * some of the tensors. Every part is checked as a file of its own before it is joined.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "gguf_impl.h"

#define PARTS_MAX  1024u
#define TAIL_BYTES 20u /* "-00001-of-00003.gguf" */
#define SHOWN      100 /* bytes of a path in an error */

struct join {
    struct kve_gguf *g; /* part 1, which becomes the whole */
    const char *path;
    uint64_t count;
    char *why;
};

static const char *shown(const char *path)
{
    const size_t n = strlen(path);

    return n > SHOWN ? path + (n - SHOWN) : path;
}

static kvw_err check_name(const struct join *j)
{
    const size_t n = strlen(j->path);
    char tail[TAIL_BYTES + 8];

    snprintf(tail, sizeof(tail), "-00001-of-%05u.gguf", (unsigned)j->count);
    if (j->count <= PARTS_MAX && n > TAIL_BYTES && strcmp(j->path + n - TAIL_BYTES, tail) == 0)
        return KVW_OK;
    if (j->count > PARTS_MAX)
        snprintf(j->why, KVE_WHY_BYTES, "%s: split.count is %" PRIu64 ", more than %u",
                 shown(j->path), j->count, PARTS_MAX);
    else
        snprintf(j->why, KVE_WHY_BYTES,
                 "%s: split.count is %" PRIu64 ", so the first part's name must end in \"%s\"",
                 shown(j->path), j->count, tail);
    return KVW_E_FORMAT;
}

/* A part says which it is, and of how many. */
static kvw_err check_part(const struct join *j, const struct kve_gguf *part, const char *path,
                          uint64_t number)
{
    uint64_t no = UINT64_MAX, count = 0;

    if (kve_gguf_u64(part, "split.no", &no) != KVW_OK || no != number) {
        snprintf(j->why, KVE_WHY_BYTES, "%s: split.no is %" PRIi64 ", not %" PRIu64, shown(path),
                 (int64_t)no, number);
        return KVW_E_FORMAT;
    }
    if (kve_gguf_u64(part, "split.count", &count) != KVW_OK || count != j->count) {
        snprintf(j->why, KVE_WHY_BYTES, "%s: split.count is %" PRIu64 ", the first part's %" PRIu64,
                 shown(path), count, j->count);
        return KVW_E_FORMAT;
    }
    return KVW_OK;
}

/* Parts 2 and later, opened into g->others. */
static kvw_err open_others(const struct join *j)
{
    const size_t n = strlen(j->path);
    char *path = malloc(n + 1);
    kvw_err err = KVW_OK;

    j->g->others = calloc(j->count, sizeof(struct kve_gguf *));
    if (path == NULL || j->g->others == NULL) {
        snprintf(j->why, KVE_WHY_BYTES, "no memory for %" PRIu64 " parts", j->count);
        err = KVW_E_NOMEM;
    }
    for (uint64_t i = 1; i < j->count && err == KVW_OK; ++i) {
        struct kve_gguf *part = NULL;

        memcpy(path, j->path, n + 1);
        snprintf(path + n - TAIL_BYTES, TAIL_BYTES + 1, "-%05u-of-%05u.gguf", (unsigned)i + 1,
                 (unsigned)j->count);
        err = kve_gguf_open_part(&part, path, j->why);
        if (err == KVW_OK) {
            j->g->others[j->g->other_count++] = part;
            err = check_part(j, part, path, i);
        }
    }
    free(path);
    return err;
}

/* All parts' tensors in one table, and that sorted by name. */
static kvw_err join_tensors(const struct join *j)
{
    struct kve_gguf *g = j->g;
    uint64_t total = g->tensor_count, said = 0, at = g->tensor_count;

    for (uint64_t i = 0; i < g->other_count; ++i)
        total += g->others[i]->tensor_count;
    if (kve_gguf_u64(g, "split.tensors.count", &said) != KVW_OK || said != total) {
        snprintf(j->why, KVE_WHY_BYTES,
                 "%s: split.tensors.count is %" PRIu64 ", the parts have %" PRIu64, shown(j->path),
                 said, total);
        return KVW_E_FORMAT;
    }

    struct kve_tensor *tensors = calloc(total + 1, sizeof(*tensors));
    const struct kve_tensor **by_name = calloc(total + 1, sizeof(struct kve_tensor *));

    if (tensors == NULL || by_name == NULL) {
        free(tensors);
        free((void *)by_name);
        snprintf(j->why, KVE_WHY_BYTES, "no memory for an index of %" PRIu64 " tensors", total);
        return KVW_E_NOMEM;
    }
    memcpy(tensors, g->tensors, g->tensor_count * sizeof(*tensors));
    for (uint64_t i = 0; i < g->other_count; ++i) {
        const struct kve_gguf *part = g->others[i];

        memcpy(tensors + at, part->tensors, part->tensor_count * sizeof(*tensors));
        at += part->tensor_count;
    }
    free(g->tensors);
    free((void *)g->by_name);
    g->tensors = tensors;
    g->by_name = by_name;
    g->tensor_count = total;

    const uint64_t twice = kve_gguf_sort_tensors(g);

    if (twice == 0)
        return KVW_OK;
    snprintf(j->why, KVE_WHY_BYTES, "%s: tensor \"%.*s\" is in two parts", shown(j->path),
             (int)g->by_name[twice]->name.bytes, g->by_name[twice]->name.at);
    kve_why_clean(j->why);
    return KVW_E_FORMAT;
}

/* Joins the other parts to the first one, if it is one of several. */
static kvw_err join(struct kve_gguf *g, const char *path, char why[KVE_WHY_BYTES])
{
    struct join j = {.g = g, .path = path, .why = why};
    kvw_err err;

    if (kve_gguf_u64(g, "split.count", &j.count) != KVW_OK || j.count < 2)
        return KVW_OK;
    if ((err = check_name(&j)) != KVW_OK || (err = check_part(&j, g, path, 0)) != KVW_OK ||
        (err = open_others(&j)) != KVW_OK)
        return err;
    return join_tensors(&j);
}

kvw_err kve_gguf_open(struct kve_gguf **out, const char *path, char why[KVE_WHY_BYTES])
{
    struct kve_gguf *g = NULL;
    kvw_err err = kve_gguf_open_part(&g, path, why);

    if (err == KVW_OK && (err = join(g, path, why)) != KVW_OK)
        kve_gguf_close(g);
    if (err == KVW_OK)
        *out = g;
    return err;
}
