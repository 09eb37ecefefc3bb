/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - a folder of pieces: names, what is in one, and which go when there are too many. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#define NAME_DIGITS 32
#define SUFFIX      ".kv"

struct kve_store {
    struct kve_store_config cfg;
    char *folder, *path; /* path: the folder, and room for a name */
    size_t room;
    uint64_t bytes; /* in the folder, as of the last look, and what was put since */
    bool full;      /* a write has failed */
};

struct entry {
    char name[64];
    uint64_t bytes;
    struct timespec used;
};

struct list {
    struct entry *at;
    size_t count, room;
};

static kvw_err failed(const struct kve_store *s, const char *what, char *why)
{
    snprintf(why, KVE_WHY_BYTES, "%.140s: %s: %s", s->folder, what, strerror(errno));
    return KVW_E_IO;
}

/* Ours, those included that were being written when somebody died. */
static bool is_ours(const char *name)
{
    return strspn(name, "0123456789abcdef") == NAME_DIGITS &&
           strncmp(name + NAME_DIGITS, SUFFIX, strlen(SUFFIX)) == 0 &&
           strlen(name) < sizeof(((struct entry *)NULL)->name);
}

static bool add(struct list *l, const char *name, const struct stat *st)
{
    if (l->count == l->room) {
        const size_t room = l->room * 2 + 64;
        struct entry *at = realloc(l->at, room * sizeof(*at));

        if (at == NULL)
            return false;
        l->at = at;
        l->room = room;
    }
    const size_t bytes = strlen(name) + 1;
    struct entry *e = &l->at[l->count];

    if (bytes > sizeof(e->name))
        return true; /* no piece's name is so long */
    ++l->count;
    memcpy(e->name, name, bytes);
    e->bytes = (uint64_t)st->st_size;
    e->used = st->st_mtim;
    return true;
}

/* What lies in the folder; the sum of it to s->bytes. */
static kvw_err look(struct kve_store *s, struct list *l, char *why)
{
    DIR *d = opendir(s->folder);
    const struct dirent *e;
    bool ok = true;

    if (d == NULL)
        return failed(s, "open", why);
    s->bytes = 0;
    while (ok && (e = readdir(d)) != NULL) {
        struct stat st;

        if (!is_ours(e->d_name) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        s->bytes += (uint64_t)st.st_size;
        ok = add(l, e->d_name, &st);
    }
    closedir(d);
    return ok ? KVW_OK : KVW_E_NOMEM;
}

static int by_use(const void *a, const void *b)
{
    const struct timespec *x = &((const struct entry *)a)->used;
    const struct timespec *y = &((const struct entry *)b)->used;

    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

/* Those used longest ago go until the rest fits. */
static kvw_err shrink(struct kve_store *s, char *why)
{
    struct list l = {0};
    kvw_err err = KVW_OK;

    if (s->bytes <= s->cfg.bytes_max)
        return KVW_OK;
    err = look(s, &l, why);
    if (l.count > 0)
        qsort(l.at, l.count, sizeof(*l.at), by_use);
    for (size_t i = 0; i < l.count && s->bytes > s->cfg.bytes_max; ++i) {
        snprintf(s->path, s->room, "%s/%s", s->folder, l.at[i].name);
        if (unlink(s->path) == 0 || errno == ENOENT)
            s->bytes -= l.at[i].bytes;
    }
    free(l.at);
    return err;
}

kvw_err kve_store_open(struct kve_store **to, const struct kve_store_config *cfg,
                       char why[KVE_WHY_BYTES])
{
    struct kve_store *s = calloc(1, sizeof(*s));
    kvw_err err = KVW_OK;

    why[0] = '\0';
    if (s == NULL || (s->folder = strdup(cfg->folder)) == NULL ||
        (s->path = malloc(s->room = strlen(cfg->folder) + 80)) == NULL) {
        kve_store_close(s);
        return KVW_E_NOMEM;
    }
    s->cfg = *cfg;
    if (cfg->pool->mem.kind != KVW_MEM_HOST) {
        snprintf(why, KVE_WHY_BYTES, "K and V lie in a GPU's memory; only a CPU's go to a disk");
        err = KVW_E_UNSUPPORTED;
    } else if (mkdir(s->folder, 0700) != 0 && errno != EEXIST) {
        err = failed(s, "create", why);
    } else {
        struct list l = {0};

        err = look(s, &l, why);
        free(l.at);
    }
    if (err != KVW_OK) {
        kve_store_close(s);
        return err;
    }
    *to = s;
    return KVW_OK;
}

void kve_store_close(struct kve_store *s)
{
    if (s == NULL)
        return;
    free(s->folder);
    free(s->path);
    free(s);
}

/* s->path becomes that of the piece that ends before `end`. */
static void name_of(struct kve_store *s, const uint32_t *tokens, uint32_t end)
{
    const uint64_t seed = XXH3_64bits(&s->cfg.owner, sizeof(s->cfg.owner));
    const XXH128_hash_t h = XXH3_128bits_withSeed(tokens, end * sizeof(*tokens), seed);

    snprintf(s->path, s->room, "%s/%016llx%016llx" SUFFIX, s->folder, (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

kvw_err kve_store_get(struct kve_store *s, const uint32_t *tokens, uint32_t from,
                      const uint32_t *blocks, char why[KVE_WHY_BYTES])
{
    const uint32_t end = from + s->cfg.piece_tokens;
    struct kve_kvfile *f = NULL;

    name_of(s, tokens, end);
    kvw_err err = kve_kvfile_open(&f, s->path, why);
    if (err == KVW_OK) {
        const struct kve_head *h = kve_kvfile_head(f);

        if (h->tokens != end || h->first != from || h->budget != KVW_BUDGET_EXACT ||
            kve_kvfile_common(f, tokens, end) != end)
            err = KVW_E_NOTFOUND; /* equal hashes: another prompt's */
        else
            err = kve_kvfile_read(f, &s->cfg.owner, s->cfg.pool, blocks, why);
        kve_kvfile_close(f);
    }
    if (err == KVW_OK)
        utimensat(AT_FDCWD, s->path, NULL, 0);
    else if (err != KVW_E_NOTFOUND && err != KVW_E_NOMEM)
        unlink(s->path);
    return err;
}

kvw_err kve_store_put(struct kve_store *s, const uint32_t *tokens, uint32_t from,
                      const uint32_t *blocks, char why[KVE_WHY_BYTES])
{
    const struct kve_kvpart part = {
        .owner = &s->cfg.owner,
        .pool = s->cfg.pool,
        .blocks = blocks,
        .tokens = tokens,
        .count = from + s->cfg.piece_tokens,
        .first = from,
    };
    struct kve_kvsaved saved = {0};

    name_of(s, tokens, part.count);
    if (s->full || access(s->path, F_OK) == 0)
        return KVW_OK;
    kvw_err err = kve_kvfile_save(s->path, &part, &saved, why);
    s->bytes += err == KVW_OK ? saved.file_bytes : 0;
    if (err == KVW_OK)
        err = shrink(s, why);
    s->full = err != KVW_OK;
    return err;
}
