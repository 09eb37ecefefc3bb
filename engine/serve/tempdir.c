/* SPDX-License-Identifier: Apache-2.0 */
/* tempdir.c - makes, locks and removes the link's private directory, and those left behind. */
#include "tempdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../gguf/gguf.h"

#define PREFIX    "kvserve-"
#define NAME_LEN  14 /* with mkdtemp's six letters */
#define BASE_MAX  60
#define TRIES_MAX 8

static const char *const own_files[] = {KVE_TEMPDIR_SOCKET, KVE_TEMPDIR_LOCK};

static bool is_own_file(const char *name)
{
    bool own = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;

    for (size_t i = 0; i < sizeof(own_files) / sizeof(own_files[0]); ++i)
        own |= strcmp(name, own_files[i]) == 0;
    return own;
}

/* Nothing but our files? A directory that can't be read isn't ours. */
static bool holds_only_ours(int fd)
{
    const int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
    bool ours = d != NULL;
    const struct dirent *e;

    if (d == NULL && copy >= 0)
        close(copy);
    while (ours && (e = readdir(d)) != NULL)
        ours = is_own_file(e->d_name);
    if (d != NULL)
        closedir(d);
    return ours;
}

static void remove_at(int base, const char *name, int fd)
{
    for (size_t i = 0; i < sizeof(own_files) / sizeof(own_files[0]); ++i)
        unlinkat(fd, own_files[i], 0);
    unlinkat(base, name, AT_REMOVEDIR);
}

/* The lock is free only where no living process holds it. */
static void sweep_one(int base, const char *name)
{
    const int fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
        holds_only_ours(fd))
        remove_at(base, name, fd);
    close(fd);
}

void kve_tempdir_sweep(const char *base)
{
    DIR *d = opendir(base);
    const struct dirent *e;

    if (d == NULL)
        return;
    while ((e = readdir(d)) != NULL)
        if (strlen(e->d_name) == NAME_LEN && strncmp(e->d_name, PREFIX, strlen(PREFIX)) == 0)
            sweep_one(dirfd(d), e->d_name);
    closedir(d);
}

/* Make and lock one. False with errno 0: another process's sweep came between the two. */
static bool make(struct kve_tempdir *d, const char *base)
{
    struct stat st;

    snprintf(d->path, sizeof(d->path), "%s/" PREFIX "XXXXXX", base);
    if (mkdtemp(d->path) == NULL)
        return false;
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (d->fd >= 0 && flock(d->fd, LOCK_EX | LOCK_NB) == 0 && stat(d->path, &st) == 0)
        return true;
    if (d->fd >= 0)
        close(d->fd);
    rmdir(d->path);
    errno = 0;
    return false;
}

kvw_err kve_tempdir_open(struct kve_tempdir *d, const char *base, char *why)
{
    if (base == NULL)
        base = getenv("XDG_RUNTIME_DIR");
    if (base == NULL || access(base, W_OK) != 0 || strlen(base) > BASE_MAX)
        base = "/tmp";
    kve_tempdir_sweep(base);
    for (int i = 0; i < TRIES_MAX; ++i) {
        if (make(d, base))
            return KVW_OK;
        if (errno != 0)
            break;
    }
    snprintf(why, KVE_WHY_BYTES, "can't make a directory for the link's socket in %s: %s", base,
             errno != 0 ? strerror(errno) : "each one vanishes");
    *d = (struct kve_tempdir){.fd = -1};
    return KVW_E_IO;
}

void kve_tempdir_close(struct kve_tempdir *d)
{
    if (d->path[0] == '\0')
        return;
    for (size_t i = 0; i < sizeof(own_files) / sizeof(own_files[0]); ++i)
        unlinkat(d->fd, own_files[i], 0);
    rmdir(d->path);
    close(d->fd);
    *d = (struct kve_tempdir){.fd = -1};
}
