/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - a pool's descriptor, handed to another process of the host. */
#include "share.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The abstract address of a token; its length. */
static socklen_t address_of(struct sockaddr_un *at, const uint8_t token[KVG_TOKEN_BYTES])
{
    char *to = at->sun_path + 1; /* a 0 first: no file */
    int n = snprintf(to, sizeof(at->sun_path) - 1, "kvwire-gpu-");

    for (uint32_t i = 0; i < KVG_TOKEN_BYTES; ++i)
        n += snprintf(to + n, sizeof(at->sun_path) - 1 - (size_t)n, "%02x", token[i]);
    at->sun_family = AF_UNIX;
    at->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* Whether the other end is this process's user. */
static bool is_own_user(int socket)
{
    struct ucred who = {.uid = (uid_t)-1};
    socklen_t bytes = sizeof(who);

    return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0 && who.uid == geteuid();
}

/* ---- who has it ------------------------------------------------------------------------------ */

/* A new socket's buffer has room for one byte, so this never waits. */
static void hand_out(int socket, int pool)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    char byte = 1;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pool, sizeof(pool));
    (void)sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT); /* who has gone asks no more */
}

static void *serve(void *arg)
{
    const struct kvg_share *s = arg;
    struct pollfd on[2] = {{.fd = s->listener, .events = POLLIN},
                           {.fd = s->stop, .events = POLLIN}};

    for (;;) {
        int socket;

        if (poll(on, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (on[1].revents != 0)
            return NULL;
        if ((socket = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
            continue; /* it has gone again */
        if (is_own_user(socket))
            hand_out(socket, s->pool);
        close(socket);
    }
}

static void close_all(struct kvg_share *s)
{
    if (s->listener >= 0)
        close(s->listener);
    if (s->stop >= 0)
        close(s->stop);
    if (s->pool >= 0)
        close(s->pool);
    memset(s, 0, sizeof(*s));
}

/* A socket that listens at the token's address. */
static bool listen_at(struct kvg_share *s)
{
    struct sockaddr_un at;
    const socklen_t bytes = address_of(&at, s->token);

    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return s->listener >= 0 && bind(s->listener, (struct sockaddr *)&at, bytes) == 0 &&
           listen(s->listener, 64) == 0;
}

kvw_err kvg_share_open(struct kvg_share *s, const struct kvg_pool *pool, char *text,
                       size_t text_bytes)
{
    kvw_err err;

    *s = (struct kvg_share){.listener = -1, .stop = -1, .pool = -1};
    if ((err = kvg_pool_export(pool, &s->pool)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its memory can't be exported",
                 pool->dev->ordinal);
        goto close;
    }
    err = KVW_E_IO;
    if (getrandom(s->token, sizeof(s->token), 0) != (ssize_t)sizeof(s->token) ||
        (s->stop = eventfd(0, EFD_CLOEXEC)) < 0 || !listen_at(s)) {
        snprintf(text, text_bytes, "a Unix socket for GPU memory: %s", strerror(errno));
        goto close;
    }
    if ((errno = pthread_create(&s->thread, NULL, serve, s)) != 0) {
        snprintf(text, text_bytes, "a thread for GPU memory: %s", strerror(errno));
        goto close;
    }
    s->on = true;
    return KVW_OK;

close:
    close_all(s);
    return err;
}

void kvg_share_close(struct kvg_share *s)
{
    const uint64_t one = 1;

    if (!s->on)
        return;
    while (write(s->stop, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_join(s->thread, NULL);
    close_all(s);
}

/* ---- who wants it ---------------------------------------------------------------------------- */

/* The descriptor that comes, -1: none did. */
static int receive(int socket)
{
    const struct timeval wait = {.tv_usec = KVG_REACH_MS * 1000};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    const struct cmsghdr *c;
    int fd = -1;

    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) != 0 ||
        recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != 1)
        return -1;
    c = CMSG_FIRSTHDR(&msg);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static kvw_err ask(int socket, const uint8_t token[KVG_TOKEN_BYTES], int *fd, char *text,
                   size_t text_bytes)
{
    struct sockaddr_un at;
    const socklen_t bytes = address_of(&at, token);

    if (connect(socket, (struct sockaddr *)&at, bytes) != 0) {
        if (errno == ECONNREFUSED) {
            snprintf(text, text_bytes, "the peer's GPU memory isn't on this host");
            return KVW_E_NOTFOUND;
        }
        snprintf(text, text_bytes, "the peer's GPU memory can't be asked for: %s", strerror(errno));
        return KVW_E_IO;
    }
    if (!is_own_user(socket)) {
        snprintf(text, text_bytes, "the peer's GPU memory is another user's");
        return KVW_E_UNSUPPORTED;
    }
    if ((*fd = receive(socket)) < 0) {
        snprintf(text, text_bytes, "the peer's process handed out no GPU memory within %d ms",
                 KVG_REACH_MS);
        return KVW_E_DEADLINE;
    }
    return KVW_OK;
}

kvw_err kvg_share_reach(struct kvg_pool *pool, const struct kvg_device *dev,
                        const uint8_t token[KVG_TOKEN_BYTES], uint64_t bytes, char *text,
                        size_t text_bytes)
{
    const int asking = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fd = -1;
    kvw_err err;

    memset(pool, 0, sizeof(*pool));
    if (asking < 0) {
        snprintf(text, text_bytes, "a Unix socket for GPU memory: %s", strerror(errno));
        return KVW_E_IO;
    }
    err = ask(asking, token, &fd, text, text_bytes);
    close(asking);
    if (err != KVW_OK)
        return err;
    err = kvg_pool_import(pool, dev, fd, bytes, text, text_bytes);
    close(fd);
    return err;
}
