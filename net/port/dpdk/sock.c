/* SPDX-License-Identifier: Apache-2.0 */
#include "sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOCK_PATH_BYTES (KVN_DPDK_PATH_BYTES + 8)
/* Processes with more descriptors than this are not searched further (kvn_dpdk_sock_break). */
#define BREAK_FDS_MAX 65536u

_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == KVN_DPDK_PATH_BYTES, "sun_path");

static void lock_path(char text[LOCK_PATH_BYTES], const char *path)
{
    snprintf(text, LOCK_PATH_BYTES, "%s.lock", path);
}

kvw_err kvn_dpdk_sock_check(const char *path, bool listener, char why[KVN_WHY_BYTES])
{
    char dir[KVN_DPDK_PATH_BYTES];
    struct stat st;

    if (path == NULL || path[0] == '\0') {
        snprintf(why, KVN_WHY_BYTES, "dpdk: the link needs the path of a Unix socket");
        return KVW_E_ADDRESS;
    }
    if (strlen(path) >= KVN_DPDK_PATH_BYTES) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: the socket path %.40s... has %zu bytes, %d is the most",
                 path, strlen(path), KVN_DPDK_PATH_BYTES - 1);
        return KVW_E_ADDRESS;
    }
    for (const char *p = path; *p != '\0'; ++p)
        if ((unsigned char)*p < ' ' || strchr(",[]()\"'", *p) != NULL) {
            snprintf(why, KVN_WHY_BYTES,
                     "dpdk: the socket path %s holds %s, which DPDK's options can't", path,
                     (unsigned char)*p < ' ' ? "a control character" : (char[]){*p, '\0'});
            return KVW_E_ADDRESS;
        }

    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        snprintf(dir, sizeof(dir), ".");
    else
        snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if (stat(dir, &st) != 0) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: the socket's directory %s: %s", dir, strerror(errno));
        return KVW_E_ADDRESS;
    }
    if (!S_ISDIR(st.st_mode) || access(dir, listener ? W_OK | X_OK : X_OK) != 0) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: the socket's directory %s: %s", dir,
                 strerror(S_ISDIR(st.st_mode) ? errno : ENOTDIR));
        return KVW_E_ADDRESS;
    }
    return KVW_OK;
}

/* A line of /proc/net/unix: slot, references, protocol, flags, type, state, inode, path. */
static bool someone_listens(const char *path)
{
    FILE *f = fopen("/proc/net/unix", "re");
    char line[512];
    bool found = false;

    if (f == NULL)
        return false;
    while (!found && fgets(line, sizeof(line), f) != NULL) {
        unsigned flags;
        int at = 0;

        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %n", &flags, &at) == 1 && at > 0)
            found = (flags & 0x10000u /* __SO_ACCEPTCON */) != 0 && strcmp(line + at, path) == 0;
    }
    fclose(f);
    return found;
}

/*
 * Lock the file that is at the lock path now. Its last holder may have removed the one we opened
 * just before we got the lock; then it is made anew. The file holds the holder's process id.
 */
static kvw_err take_lock(const char *path, int *lock_fd, char why[KVN_WHY_BYTES])
{
    char lock[LOCK_PATH_BYTES], holder[16] = "";
    struct stat ours, there;

    lock_path(lock, path);
    for (int tries = 0; tries < 100; ++tries) {
        const int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
            break;
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            const ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);

            close(fd);
            snprintf(why, KVN_WHY_BYTES, "dpdk: %s is already in use by a running process%s%s",
                     path, n > 0 ? ", " : "", n > 0 ? holder : "");
            return KVW_E_ADDRESS;
        }
        if (fstat(fd, &ours) == 0 && stat(lock, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev) {
            if (ftruncate(fd, 0) == 0)
                (void)!dprintf(fd, "%d", (int)getpid());
            *lock_fd = fd;
            return KVW_OK;
        }
        close(fd);
    }
    snprintf(why, KVN_WHY_BYTES, "dpdk: the lock file %s: %s", lock, strerror(errno));
    return KVW_E_IO;
}

kvw_err kvn_dpdk_sock_claim(const char *path, int *lock_fd, char why[KVN_WHY_BYTES])
{
    char lock[LOCK_PATH_BYTES];
    struct stat st;
    kvw_err err;
    int fd;

    if ((err = take_lock(path, &fd, why)) != KVW_OK)
        return err;
    *lock_fd = fd;
    if (lstat(path, &st) != 0)
        return KVW_OK;
    if (!S_ISSOCK(st.st_mode))
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s exists and is not a socket", path);
    else if (someone_listens(path))
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s is already in use by a running process", path);
    else if (unlink(path) != 0)
        snprintf(why, KVN_WHY_BYTES, "dpdk: the left-over socket %s can't be removed: %s", path,
                 strerror(errno));
    else
        return KVW_OK;
    *lock_fd = -1;
    lock_path(lock, path);
    (void)unlink(lock);
    close(fd);
    return KVW_E_ADDRESS;
}

void kvn_dpdk_sock_release(const char *path, int lock_fd)
{
    char lock[LOCK_PATH_BYTES];

    lock_path(lock, path);
    (void)unlink(path);
    (void)unlink(lock);
    close(lock_fd);
}

bool kvn_dpdk_sock_exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

void kvn_dpdk_sock_break(const char *path)
{
    struct rlimit limit = {.rlim_cur = 1024};

    (void)getrlimit(RLIMIT_NOFILE, &limit);
    for (unsigned fd = 0; fd < limit.rlim_cur && fd < BREAK_FDS_MAX; ++fd) {
        struct sockaddr_un un = {0};
        socklen_t bytes = sizeof(un);

        if (getsockname((int)fd, (struct sockaddr *)&un, &bytes) == 0 && un.sun_family == AF_UNIX &&
            strncmp(un.sun_path, path, sizeof(un.sun_path)) == 0)
            (void)shutdown((int)fd, SHUT_RDWR);
    }
}
