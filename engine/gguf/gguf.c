/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf.c - map a GGUF file and check all of it before anyone looks at any of it.
 *
 * The parser is a cursor that only moves over bytes known to be there. What a count in the file
 * makes us allocate is bounded first by the bytes that so many entries must at least take.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf_impl.h"

enum limits {
    KEY_BYTES_MAX = 65535,       /* gguf.md */
    TENSOR_NAME_BYTES_MAX = 63,  /* ggml's 64 with a NUL */
    KEY_ENTRY_BYTES_MIN = 14,    /* length, one letter, type, a value of one byte */
    TENSOR_ENTRY_BYTES_MIN = 32, /* length, n_dims, one dim, type, offset */
    ALIGNMENT_DEFAULT = 32,      /* gguf.md */
    ALIGNMENT_MIN = 8,           /* gguf.md; it is what makes f32 tensors loadable */
    ALIGNMENT_MAX = 1 << 20,     /* ours */
    SHOWN_BYTES = 72,            /* of a name in an error */
    PATH_SHOWN = 120,            /* of the file's name in an error */
};

struct reader {
    struct kve_gguf *g;
    const char *path; /* for errors */
    char *why;
    uint64_t at; /* the cursor: bytes before it have been read */
    bool part;   /* it may be one of several files */
};

/* A name out of the file, made safe to print and cut to what an error has room for. */
static const char *shown(struct kve_str s, char out[SHOWN_BYTES])
{
    size_t n = 0;

    while (n < s.bytes && n < SHOWN_BYTES - 4) {
        out[n] = s.at[n] >= 0x20 && s.at[n] < 0x7f ? s.at[n] : '?';
        ++n;
    }
    strcpy(out + n, n < s.bytes ? "..." : "");
    return out;
}

/* One sentence: which file, what is wrong with it, where. */
static kvw_err KVW_PRINTF(3, 4) bad(const struct reader *r, uint64_t at, const char *format, ...)
{
    const size_t len = strlen(r->path);
    const char *tail = len > PATH_SHOWN ? r->path + (len - PATH_SHOWN) : r->path;
    int n = snprintf(r->why, KVE_WHY_BYTES, "%s%s: ", tail == r->path ? "" : "...", tail);
    va_list args;

    va_start(args, format);
    n += vsnprintf(r->why + n, (size_t)(KVE_WHY_BYTES - n), format, args);
    va_end(args);
    if (n < KVE_WHY_BYTES)
        snprintf(r->why + n, (size_t)(KVE_WHY_BYTES - n), ", at byte %" PRIu64, at);
    return KVW_E_FORMAT;
}

static kvw_err no_memory(const struct reader *r)
{
    (void)bad(r, r->at, "no memory for its index");
    return KVW_E_NOMEM;
}

static uint64_t left(const struct reader *r)
{
    return r->g->bytes_count - r->at;
}

/* n bytes at the cursor, which moves past them; what is for the error. */
static kvw_err take(struct reader *r, uint64_t n, const char *what, const uint8_t **p)
{
    if (n > left(r))
        return bad(r, r->at, "%s takes %" PRIu64 " bytes but the file has %" PRIu64 " left", what,
                   n, left(r));
    *p = r->g->bytes + r->at;
    r->at += n;
    return KVW_OK;
}

static kvw_err take32(struct reader *r, const char *what, uint32_t *v)
{
    const uint8_t *p = NULL;
    const kvw_err err = take(r, 4, what, &p);

    if (err == KVW_OK)
        *v = kve_load32(p);
    return err;
}

static kvw_err take64(struct reader *r, const char *what, uint64_t *v)
{
    const uint8_t *p = NULL;
    const kvw_err err = take(r, 8, what, &p);

    if (err == KVW_OK)
        *v = kve_load64(p);
    return err;
}

static kvw_err take_str(struct reader *r, const char *what, struct kve_str *s)
{
    const uint8_t *p = NULL;
    uint64_t n;
    kvw_err err = take64(r, what, &n);

    if (err == KVW_OK)
        err = take(r, n, what, &p);
    if (err == KVW_OK)
        *s = (struct kve_str){(const char *)p, n};
    return err;
}

/* Magic, version, counts. */
static kvw_err read_head(struct reader *r)
{
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    uint64_t tensors = 0, keys = 0;
    kvw_err err;

    if ((err = take(r, 4, "the magic", &magic)) != KVW_OK)
        return err;
    if (memcmp(magic, "GGUF", 4) != 0)
        return bad(r, 0, "magic is %02x %02x %02x %02x, not that of a GGUF file (47 47 55 46)",
                   magic[0], magic[1], magic[2], magic[3]);
    if ((err = take32(r, "version", &version)) != KVW_OK)
        return err;
    if (version != 0 && (version & 0xffff) == 0)
        return bad(r, 4, "version is %" PRIu32 ": a big-endian file, which isn't read", version);
    if (version != 2 && version != 3)
        return bad(r, 4, "version is %" PRIu32 ", only 2 and 3 are read", version);
    if ((err = take64(r, "tensor_count", &tensors)) != KVW_OK ||
        (err = take64(r, "metadata_kv_count", &keys)) != KVW_OK)
        return err;
    if (tensors > left(r) / TENSOR_ENTRY_BYTES_MIN)
        return bad(r, 8, "tensor_count %" PRIu64 " can't fit in the %" PRIu64 " bytes left",
                   tensors, left(r));
    if (keys > left(r) / KEY_ENTRY_BYTES_MIN)
        return bad(r, 16, "metadata_kv_count %" PRIu64 " can't fit in the %" PRIu64 " bytes left",
                   keys, left(r));
    r->g->tensor_count = tensors;
    r->g->key_count = keys;
    return KVW_OK;
}

/* The elements of an array of strings, whose index is built. */
static kvw_err read_strings(struct reader *r, struct kve_key *k, const char *name)
{
    if (k->count > left(r) / 8)
        return bad(r, r->at,
                   "key \"%s\": %" PRIu64 " strings can't fit in the %" PRIu64 " bytes left", name,
                   k->count, left(r));
    k->string_at = malloc((size_t)(k->count == 0 ? 1 : k->count) * sizeof(*k->string_at));
    if (k->string_at == NULL)
        return no_memory(r);
    const uint64_t start = r->at;
    for (uint64_t i = 0; i < k->count; ++i) {
        struct kve_str s;

        k->string_at[i] = r->at - start;
        const kvw_err err = take_str(r, name, &s);
        if (err != KVW_OK)
            return err;
    }
    return KVW_OK;
}

static kvw_err read_array(struct reader *r, struct kve_key *k, const char *name)
{
    const uint64_t at = r->at;
    const uint8_t *p = NULL;
    kvw_err err;

    k->array = true;
    if ((err = take32(r, name, &k->type)) != KVW_OK || (err = take64(r, name, &k->count)) != KVW_OK)
        return err;
    k->at = r->g->bytes + r->at;
    if (k->type == KVE_META_ARRAY)
        return bad(r, at, "key \"%s\": an array of arrays (nested), which isn't read", name);
    if (k->type >= KVE_META_TYPES)
        return bad(r, at, "key \"%s\": element type %" PRIu32 " is unknown", name, k->type);
    if (k->type == KVE_META_STRING)
        return read_strings(r, k, name);
    const uint32_t each = kve_meta_bytes(k->type);
    if (k->count > left(r) / each)
        return bad(r, at,
                   "key \"%s\": %" PRIu64 " elements of %" PRIu32 " bytes can't fit in the %" PRIu64
                   " bytes left",
                   name, k->count, each, left(r));
    return take(r, k->count * each, name, &p);
}

static kvw_err read_key(struct reader *r, struct kve_key *k)
{
    const uint64_t at = r->at;
    char name[SHOWN_BYTES];
    struct kve_str s;
    kvw_err err;

    if ((err = take_str(r, "a key's name", &k->name)) != KVW_OK)
        return err;
    if (k->name.bytes == 0)
        return bad(r, at, "a key's name is empty");
    if (k->name.bytes > KEY_BYTES_MAX)
        return bad(r, at, "a key's name has %" PRIu64 " bytes, more than %d", k->name.bytes,
                   KEY_BYTES_MAX);
    shown(k->name, name);
    if ((err = take32(r, name, &k->type)) != KVW_OK)
        return err;
    k->at = r->g->bytes + r->at;
    k->count = 1;
    if (k->type >= KVE_META_TYPES)
        return bad(r, r->at - 4, "key \"%s\": value type %" PRIu32 " is unknown", name, k->type);
    if (k->type == KVE_META_ARRAY)
        return read_array(r, k, name);
    if (k->type == KVE_META_STRING)
        return take_str(r, name, &s);
    if ((err = take(r, kve_meta_bytes(k->type), name, &k->at)) != KVW_OK)
        return err;
    if (k->type == KVE_META_BOOL && k->at[0] > 1)
        return bad(r, r->at - 1, "key \"%s\": a bool is %u", name, k->at[0]);
    return KVW_OK;
}

static int compare_keys(const void *a, const void *b)
{
    return kve_str_compare(((const struct kve_key *)a)->name, ((const struct kve_key *)b)->name);
}

static kvw_err read_keys(struct reader *r)
{
    struct kve_gguf *g = r->g;
    char name[SHOWN_BYTES];

    g->keys = calloc(g->key_count + 1, sizeof(*g->keys));
    if (g->keys == NULL)
        return no_memory(r);
    for (uint64_t i = 0; i < g->key_count; ++i) {
        const kvw_err err = read_key(r, &g->keys[i]);
        if (err != KVW_OK)
            return err;
    }
    qsort(g->keys, g->key_count, sizeof(*g->keys), compare_keys);
    for (uint64_t i = 1; i < g->key_count; ++i)
        if (kve_str_compare(g->keys[i - 1].name, g->keys[i].name) == 0)
            return bad(r, (uint64_t)((const uint8_t *)g->keys[i].name.at - g->bytes),
                       "key \"%s\" is there twice (duplicate)", shown(g->keys[i].name, name));
    return KVW_OK;
}

/* The keys that change how the rest of the file is read. */
static kvw_err read_layout_keys(struct reader *r, uint32_t *alignment)
{
    const struct kve_str align_name = {"general.alignment", 17}, split_name = {"split.count", 11};
    const struct kve_key *k = kve_gguf_key(r->g, split_name);
    uint64_t splits;

    if (k != NULL) {
        const uint64_t at = (uint64_t)(k->at - r->g->bytes);
        if (k->array || !kve_meta_u64(k->type, k->at, &splits))
            return bad(r, at, "split.count is not a count");
        if (splits > 1 && !r->part)
            return bad(r, at,
                       "split.count is %" PRIu64
                       ": one part of a split model, whose other files aren't here",
                       splits);
    }
    *alignment = ALIGNMENT_DEFAULT;
    k = kve_gguf_key(r->g, align_name);
    if (k == NULL)
        return KVW_OK;
    const uint64_t at = (uint64_t)(k->at - r->g->bytes);
    if (k->array || k->type != KVE_META_U32)
        return bad(r, at, "general.alignment is not a u32");
    *alignment = kve_load32(k->at);
    if (*alignment < ALIGNMENT_MIN || *alignment > ALIGNMENT_MAX ||
        (*alignment & (*alignment - 1)) != 0)
        return bad(r, at, "general.alignment is %" PRIu32 ", not a power of two in %d .. %d",
                   *alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
    return KVW_OK;
}

/* t->ne and t->type are read; sets t->bytes. Nothing here can wrap. */
static kvw_err size_tensor(struct reader *r, struct kve_tensor *t, uint32_t type, const char *name)
{
    const struct kve_type_info *info = kve_type_info(type);
    const uint64_t at = r->at;
    uint64_t values = 1;

    for (uint32_t i = 0; i < t->dims; ++i) {
        if (t->ne[i] == 0)
            return bad(r, at, "tensor \"%s\": dimension %" PRIu32 " is zero", name, i);
        if (t->ne[i] > INT64_MAX || values > INT64_MAX / t->ne[i])
            return bad(r, at,
                       "tensor \"%s\": element count overflows at dimension %" PRIu32
                       " of %" PRIu64,
                       name, i, t->ne[i]);
        values *= t->ne[i];
    }
    if (info->name == NULL) {
        const char *known = kve_type_name(type);
        return bad(r, at, "tensor \"%s\": type %" PRIu32 " (%s) isn't one that is read", name, type,
                   known == NULL ? "unknown" : known);
    }
    if (t->ne[0] % info->block_values != 0)
        return bad(r, at,
                   "tensor \"%s\": row of %" PRIu64 " values isn't a multiple of %s's block "
                   "of %" PRIu32,
                   name, t->ne[0], info->name, info->block_values);
    const uint64_t blocks = values / info->block_values;
    if (blocks > r->g->bytes_count / info->block_bytes)
        return bad(r, at,
                   "tensor \"%s\": %" PRIu64 " %s values can't fit in a file of %" PRIu64 " bytes",
                   name, values, info->name, r->g->bytes_count);
    t->type = (kve_type)type;
    t->bytes = blocks * info->block_bytes;
    return KVW_OK;
}

/* *next: where the tensor must start, relative to the blob; moves to where its successor must. */
static kvw_err read_tensor(struct reader *r, struct kve_tensor *t, uint32_t alignment,
                           uint64_t *next)
{
    const uint64_t at = r->at;
    char name[SHOWN_BYTES];
    uint32_t type = 0;
    uint64_t offset = 0;
    kvw_err err;

    if ((err = take_str(r, "a tensor's name", &t->name)) != KVW_OK)
        return err;
    shown(t->name, name);
    if (t->name.bytes > TENSOR_NAME_BYTES_MAX)
        return bad(r, at, "tensor name \"%s\" has %" PRIu64 " bytes, more than %d", name,
                   t->name.bytes, TENSOR_NAME_BYTES_MAX);
    if ((err = take32(r, name, &t->dims)) != KVW_OK)
        return err;
    if (t->dims < 1 || t->dims > KVE_DIMS_MAX)
        return bad(r, r->at - 4, "tensor \"%s\": n_dims is %" PRIu32 ", not 1 .. %d", name, t->dims,
                   KVE_DIMS_MAX);
    for (uint32_t i = 0; i < KVE_DIMS_MAX; ++i) {
        t->ne[i] = 1;
        if (i < t->dims && (err = take64(r, name, &t->ne[i])) != KVW_OK)
            return err;
    }
    if ((err = take32(r, name, &type)) != KVW_OK || (err = take64(r, name, &offset)) != KVW_OK ||
        (err = size_tensor(r, t, type, name)) != KVW_OK)
        return err;
    if (offset != *next)
        return bad(r, r->at - 8,
                   "tensor \"%s\": offset is %" PRIu64 ", not %" PRIu64
                   " where the tensors before it end",
                   name, offset, *next);
    if (offset > r->g->bytes_count) /* keeps the sum far from wrapping */
        return bad(r, r->at - 8, "tensor \"%s\": offset %" PRIu64 " is past the end of the file",
                   name, offset);
    *next = (offset + t->bytes + alignment - 1) & ~(uint64_t)(alignment - 1);
    return KVW_OK;
}

static int compare_tensors(const void *a, const void *b)
{
    return kve_str_compare((*(const struct kve_tensor *const *)a)->name,
                           (*(const struct kve_tensor *const *)b)->name);
}

uint64_t kve_gguf_sort_tensors(struct kve_gguf *g)
{
    for (uint64_t i = 0; i < g->tensor_count; ++i)
        g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, g->tensor_count, sizeof(struct kve_tensor *), compare_tensors);
    for (uint64_t i = 1; i < g->tensor_count; ++i)
        if (kve_str_compare(g->by_name[i - 1]->name, g->by_name[i]->name) == 0)
            return i;
    return 0;
}

static kvw_err index_tensors(struct reader *r)
{
    struct kve_gguf *g = r->g;
    const uint64_t twice = kve_gguf_sort_tensors(g);
    char name[SHOWN_BYTES];

    if (twice == 0)
        return KVW_OK;
    return bad(r, (uint64_t)((const uint8_t *)g->by_name[twice]->name.at - g->bytes),
               "tensor \"%s\" is there twice (duplicate)", shown(g->by_name[twice]->name, name));
}

static kvw_err read_tensors(struct reader *r, uint32_t alignment)
{
    struct kve_gguf *g = r->g;
    uint64_t offset = 0;

    g->tensors = calloc(g->tensor_count + 1, sizeof(*g->tensors));
    g->by_name = calloc(g->tensor_count + 1, sizeof(struct kve_tensor *));
    if (g->tensors == NULL || g->by_name == NULL)
        return no_memory(r);
    for (uint64_t i = 0; i < g->tensor_count; ++i) {
        const kvw_err err = read_tensor(r, &g->tensors[i], alignment, &offset);
        if (err != KVW_OK)
            return err;
    }
    /* Now the blob's start is known, and with it where each tensor lies. */
    uint64_t at = (r->at + alignment - 1) & ~(uint64_t)(alignment - 1);
    for (uint64_t i = 0; i < g->tensor_count; ++i) {
        struct kve_tensor *t = &g->tensors[i];
        char name[SHOWN_BYTES];

        if (at > g->bytes_count || t->bytes > g->bytes_count - at)
            return bad(r, at,
                       "tensor \"%s\" of %" PRIu64 " bytes goes past the file's %" PRIu64
                       " (truncated?)",
                       shown(t->name, name), t->bytes, g->bytes_count);
        t->at = g->bytes + at;
        at = (at + t->bytes + alignment - 1) & ~(uint64_t)(alignment - 1);
    }
    return index_tensors(r);
}

static kvw_err read_all(struct reader *r)
{
    uint32_t alignment = ALIGNMENT_DEFAULT;
    kvw_err err = read_head(r);

    if (err == KVW_OK)
        err = read_keys(r);
    if (err == KVW_OK)
        err = read_layout_keys(r, &alignment);
    if (err == KVW_OK)
        err = read_tensors(r, alignment);
    return err;
}

/* Takes the map over, on failure too. */
static kvw_err open_over(struct kve_gguf **out, const void *bytes, size_t n, const char *path,
                         bool mapped, char why[KVE_WHY_BYTES])
{
    struct kve_gguf *g = calloc(1, sizeof(*g));

    if (g == NULL) {
        if (mapped)
            munmap((void *)(uintptr_t)bytes, n);
        snprintf(why, KVE_WHY_BYTES, "no memory to open a GGUF file");
        return KVW_E_NOMEM;
    }
    *g = (struct kve_gguf){.bytes = bytes, .bytes_count = n, .mapped = mapped};
    struct reader r = {.g = g, .path = path, .why = why, .part = mapped};
    const kvw_err err = read_all(&r);
    if (err != KVW_OK) {
        kve_gguf_close(g);
        return err;
    }
    *out = g;
    return KVW_OK;
}

static kvw_err io_error(const char *path, const char *what, char why[KVE_WHY_BYTES])
{
    snprintf(why, KVE_WHY_BYTES, "%.200s: can't %s: %s", path, what, strerror(errno));
    return KVW_E_IO;
}

kvw_err kve_gguf_open_part(struct kve_gguf **g, const char *path, char why[KVE_WHY_BYTES])
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    kvw_err err;

    if (fd < 0)
        return io_error(path, "open it", why);
    if (fstat(fd, &st) != 0) {
        err = io_error(path, "read its size", why);
        goto close_fd;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(why, KVE_WHY_BYTES, "%.200s: not a regular file", path);
        err = KVW_E_IO;
        goto close_fd;
    }
    if (st.st_size == 0) {
        snprintf(why, KVE_WHY_BYTES, "%.200s: the file is empty, 0 bytes", path);
        err = KVW_E_FORMAT;
        goto close_fd;
    }
    const size_t n = (size_t)st.st_size;
    void *map = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        err = io_error(path, "map it", why);
        goto close_fd;
    }
    err = open_over(g, map, n, path, true, why);
close_fd:
    close(fd);
    return err;
}

kvw_err kve_gguf_open_bytes(struct kve_gguf **g, const void *bytes, size_t n,
                            char why[KVE_WHY_BYTES])
{
    if ((uintptr_t)bytes % ALIGNMENT_MIN != 0) {
        snprintf(why, KVE_WHY_BYTES, "bytes at %p: not aligned to %d", bytes, ALIGNMENT_MIN);
        return KVW_E_INVALID;
    }
    return open_over(g, bytes, n, "GGUF in memory", false, why);
}

void kve_gguf_close(struct kve_gguf *g)
{
    if (g == NULL)
        return;
    for (uint64_t i = 0; g->keys != NULL && i < g->key_count; ++i)
        free(g->keys[i].string_at);
    free(g->keys);
    free(g->tensors);
    free((void *)g->by_name);
    for (uint64_t i = 0; i < g->other_count; ++i)
        kve_gguf_close(g->others[i]);
    free((void *)g->others);
    if (g->mapped)
        munmap((void *)(uintptr_t)g->bytes, g->bytes_count);
    free(g);
}
